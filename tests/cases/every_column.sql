-- Every column of the four views, worked out by hand, whatever is announced and folded, in a session half an hour off UTC.
--
-- Organization a, key 1, 10:00 to 10:59 UTC on 31 March 2025: 200 in 10 ms, 1 unit; 404 in 20 ms, 3 units; 500 in 31 ms, not
-- billable. So 3 requests, 2 billable, 1 + 3 = 4 units, 10 + 20 + 31 = 61 ms, mean 20.333, one each of 2xx, 4xx and 5xx.
-- Key 2, at 23:59:59.999999: 302 in 40 ms, 2 units: in none of the three classes.
-- Key 1, on 1 April at 00:00: 201 in 9 ms, 5 units. In Kolkata it is 1 April for both.
-- Organization b, key 2: 299 in 5 ms, not billable, by POST; 599 in 8 ms, 4 units.
CALL add_event('2025-03-31 10:00:00Z', 'a', '1', '/a', 200, 10, true, 1);
CALL add_event('2025-03-31 10:30:00Z', 'a', '1', '/b', 404, 20, true, 3);
CALL add_event('2025-03-31 10:59:59.999999Z', 'a', '1', '/a', 500, 31, false, 7);
CALL add_event('2025-03-31 23:59:59.999999Z', 'a', '2', '/a', 302, 40, true, 2);
CALL add_event('2025-04-01 00:00:00Z', 'a', '1', '/a', 201, 9, true, 5);
CALL add_event('2025-03-31 10:00:00Z', 'b', '2', '/a', 299, 5, false, 1, method => 'POST');
CALL add_event('2025-03-31 10:59:59Z', 'b', '2', '/a', 599, 8, true, 4);

SELECT * FROM hourly();
-- = 2025-03-31 10:00 a 1 | 3 2 4 | 61 20.333 | 1 1 1 | 2
-- = 2025-03-31 10:00 b 2 | 2 1 4 | 13 6.500 | 1 0 1 | 1
-- = 2025-03-31 23:00 a 2 | 1 1 2 | 40 40.000 | 0 0 0 | 1
-- = 2025-04-01 00:00 a 1 | 1 1 5 | 9 9.000 | 1 0 0 | 1
SELECT * FROM endpoint_hourly();
-- = 2025-03-31 10:00 a GET /a | 2 1 1 | 41 20.500 | 1 0 1
-- = 2025-03-31 10:00 a GET /b | 1 1 3 | 20 20.000 | 0 1 0
-- = 2025-03-31 10:00 b GET /a | 1 1 4 | 8 8.000 | 0 0 1
-- = 2025-03-31 10:00 b POST /a | 1 0 0 | 5 5.000 | 1 0 0
-- = 2025-03-31 23:00 a GET /a | 1 1 2 | 40 40.000 | 0 0 0
-- = 2025-04-01 00:00 a GET /a | 1 1 5 | 9 9.000 | 1 0 0
SELECT * FROM daily();
-- = 2025-03-31 00:00 a | 4 3 6 | 101 25.250 | 1 1 1 | 2
-- = 2025-03-31 00:00 b | 2 1 4 | 13 6.500 | 1 0 1 | 1
-- = 2025-04-01 00:00 a | 1 1 5 | 9 9.000 | 1 0 0 | 1
SELECT * FROM monthly();
-- = 2025-03-01 00:00 a | 4 3 6 | 101 25.250 | 1 1 1 | 2
-- = 2025-03-01 00:00 b | 2 1 4 | 13 6.500 | 1 0 1 | 1
-- = 2025-04-01 00:00 a | 1 1 5 | 9 9.000 | 1 0 0 | 1

-- From here on the figures may lie elsewhere, and must stay the same: what changes would be a row.
CREATE FUNCTION shown() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT 'hourly ' || hourly() UNION ALL SELECT 'endpoint ' || endpoint_hourly()
    UNION ALL SELECT 'daily ' || daily() UNION ALL SELECT 'monthly ' || monthly()
$$;
CREATE TABLE by_hand AS SELECT shown() AS line;
CREATE FUNCTION changes() RETURNS SETOF text LANGUAGE sql
AS $$
    (SELECT 'new: ' || line FROM (SELECT shown() EXCEPT ALL SELECT line FROM by_hand) AS t (line))
    UNION ALL
    (SELECT 'gone: ' || line FROM (SELECT line FROM by_hand EXCEPT ALL SELECT shown()) AS t (line))
$$;

-- The bound lies within the hour of 10:00, on one of its events: that one is not before it.
CALL announce('2025-03-31 10:30:00Z');
SELECT changes();
SELECT usage_fold()::text;
-- = 2
SELECT concat_ws(' ', (SELECT count(*) FROM usage_hourly_figures), (SELECT count(*) FROM usage_unfolded));
-- = 2 5
SELECT changes();

CALL announce('2025-03-31 23:59:59.999999Z');
SELECT changes();
SELECT usage_fold()::text;
-- = 3
SELECT changes();

CALL announce('2025-04-02 00:00:00Z');
SELECT changes();
SELECT usage_fold()::text;
-- = 2
SELECT changes();
SELECT usage_fold()::text;
-- = 0
SELECT concat_ws(' ', (SELECT count(*) FROM usage_hourly_figures), (SELECT count(*) FROM usage_endpoint_hourly_figures),
                 (SELECT count(*) FROM usage_daily_figures), (SELECT count(*) FROM usage_unfolded));
-- = 4 6 4 0
SELECT changes();

-- The session's zone changes nothing.
SET TimeZone = 'Pacific/Kiritimati';
SELECT changes();
SELECT concat_ws(' ', row_count, difference_count) FROM usage_prove_figures('2025-03-31 00:00Z', '2025-04-02 00:00Z');
-- = 7 0
