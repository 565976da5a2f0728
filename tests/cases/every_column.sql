-- Every column of the four views, worked out by hand: before the first fold, between announcement and fold, and after each.
--
-- Organization a, 10:00 to 10:59 UTC, key 1 on 31 March 2025:  200/10 ms, billable 1;  404/20 ms, billable 3;
--   500/31 ms, not billable 7.  So 3 requests, 2 billable, 1 + 3 = 4 units, 61 ms, mean 20.333, one each of 2xx, 4xx, 5xx,
--   endpoints /a and /b.
-- At 23:59:59.999999, key 2: 302/40 ms, billable 2: in none of the three classes.
-- On 1 April at 00:00, key 1: 201/9 ms, billable 5. In Kolkata both are 1 April at 05:30.
-- Organization b at 10:00, key 2: POST, 299/5 ms, not billable 1.
CALL add_event('2025-03-31 10:00:00Z', 'a', '1', '/a', 200, 10, true, 1);
CALL add_event('2025-03-31 10:30:00Z', 'a', '1', '/b', 404, 20, true, 3);
CALL add_event('2025-03-31 10:59:59.999999Z', 'a', '1', '/a', 500, 31, false, 7);
CALL add_event('2025-03-31 23:59:59.999999Z', 'a', '2', '/a', 302, 40, true, 2);
CALL add_event('2025-04-01 00:00:00Z', 'a', '1', '/a', 201, 9, true, 5);
CALL add_event('2025-03-31 10:00:00Z', 'b', '2', '/a', 299, 5, false, 1, method => 'POST');
SELECT * FROM hourly();
-- = 2025-03-31 10:00 a 1 | 3 2 4 | 61 20.333 | 1 1 1 | 2
-- = 2025-03-31 10:00 b 2 | 1 0 0 | 5 5.000 | 1 0 0 | 1
-- = 2025-03-31 23:00 a 2 | 1 1 2 | 40 40.000 | 0 0 0 | 1
-- = 2025-04-01 00:00 a 1 | 1 1 5 | 9 9.000 | 1 0 0 | 1
