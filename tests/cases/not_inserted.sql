-- Only rows that are there are counted: not those that were there already, not those that were rolled back. Written before
-- the bound and after it, as rows of the tail and as late ones.
CREATE FUNCTION total() RETURNS text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', (SELECT count(*) FROM usage_events), (SELECT sum(total_requests) FROM usage_hourly),
                     (SELECT sum(billable_units) FROM usage_endpoint_hourly), (SELECT sum(billable_units) FROM usage_daily),
                     (SELECT sum(total_requests) FROM usage_monthly), differences())
$$;
-- Four requests, of 10:00, 10:01, 10:02 and 11:00, those that are there already left out.
CREATE PROCEDURE add_four(first integer)
LANGUAGE sql
AS $$
    INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
    SELECT time, 'r' || first + row_number() OVER (), id_of('a'), id_of('1'), '/', 'GET', 200, 1
      FROM (VALUES ('2025-05-05 10:00Z'::timestamptz), ('2025-05-05 10:01Z'), ('2025-05-05 10:02Z'),
                   ('2025-05-05 11:00Z')) AS t (time)
    ON CONFLICT DO NOTHING
$$;
CALL ensure_days('2025-05-05', '2025-05-05');
CALL add_four(0);
SELECT total();
-- = 4 4 4 4 4 0
CALL add_four(0);
SELECT total();
-- = 4 4 4 4 4 0

-- A fold lies between: the three of 10:00 are late now, the one of 11:00 is not.
CALL announce('2025-05-05 10:30Z');
CALL add_four(0);
SELECT total();
-- = 4 4 4 4 4 0
SELECT usage_fold()::text;
-- = 3
CALL add_four(0);
SELECT count(*)::text FROM usage_late_figures;
-- = 0
SELECT total();
-- = 4 4 4 4 4 0
-- Four others at the same times, twice: r11 to r14.
CALL add_four(10);
CALL add_four(10);
SELECT total();
-- = 8 8 8 8 8 0
-- Two are there, and two are not: r13, r14 as other times' requests, which they are.
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
SELECT time, request_id, id_of('a'), id_of('1'), '/', 'GET', 200, 1
  FROM (VALUES ('2025-05-05 10:00Z'::timestamptz, 'r1'), ('2025-05-05 11:00Z', 'r14'), ('2025-05-05 10:00Z', 'r2'),
               ('2025-05-05 11:00Z', 'r1')) AS t (time, request_id)
ON CONFLICT DO NOTHING;
SELECT total();
-- = 10 10 10 10 10 0

-- A statement that fails counts nothing, not even what it wrote before it failed.
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
SELECT time, request_id, id_of('a'), id_of('1'), '/', 'GET', 200, 1
  FROM (VALUES ('2025-05-05 10:00Z'::timestamptz, 'never'), ('2025-05-05 10:00Z', 'r1')) AS t (time, request_id);
-- ! 23505
SELECT total();
-- = 10 10 10 10 10 0

-- Rolled back, whole or from a savepoint on: late, and in the tail. Until then the transaction itself sees them.
BEGIN;
CALL add_four(20);
SELECT total();
-- = 14 14 14 14 14 0
ROLLBACK;
SELECT total();
-- = 10 10 10 10 10 0
BEGIN;
CALL add_four(30);
SAVEPOINT here;
CALL add_four(40);
ROLLBACK TO here;
CALL add_four(50);
COMMIT;
SELECT total();
-- = 18 18 18 18 18 0
-- 10:00 to 10:02: 3 of r11.., r2, 3 of r31.. and 3 of r51.. are late: 10. The rest lies beyond the bound.
SELECT usage_fold()::text;
-- = 10
SELECT total();
-- = 18 18 18 18 18 0
CALL announce('2025-05-06 00:00Z');
SELECT usage_fold()::text;
-- = 5
SELECT total();
-- = 18 18 18 18 18 0
SELECT concat_ws(' ', row_count, difference_count) FROM usage_prove_figures('2025-05-05 00:00Z', '2025-05-06 00:00Z');
-- = 18 0

-- A fold that is rolled back has not been.
CALL add_four(60);
BEGIN;
SELECT usage_fold()::text;
-- = 4
ROLLBACK;
SELECT total();
-- = 22 22 22 22 22 0
SELECT usage_fold()::text;
-- = 4
SELECT total();
-- = 22 22 22 22 22 0

-- A writer must see the bounds as they are once it has the lock, not as they were when it began.
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL add_event('2025-05-05 10:00Z', 'a', '1', '/', 200, 1);
-- ! 0A000
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL add_event('2025-05-05 10:00Z', 'a', '1', '/', 200, 1);
-- ! 0A000
ROLLBACK;
SELECT total();
-- = 22 22 22 22 22 0
