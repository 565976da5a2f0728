-- Late events, three hours, three days and 89 days old, at every point of the fold's cycle: exact at once and ever after, in
-- the hours, the endpoints, the day and the month.
--
-- The newest event is of 30 June 2025, 12:00; so the late ones are of 30 June 09:00, 27 June 12:00 and 2 April 12:00.
-- Those written first have 1 unit, then 10, 100 and so on: each digit of a figure is one point of the cycle.
CREATE PROCEDURE add_late(weight integer)
LANGUAGE plpgsql
AS $$
BEGIN
    CALL add_event('2025-06-30 09:00Z', 'a', '1', '/', 200, 1, true, weight);
    CALL add_event('2025-06-27 12:00Z', 'a', '1', '/', 200, 1, true, weight);
    CALL add_event('2025-04-02 12:00Z', 'a', '1', '/', 200, 1, true, weight);
END
$$;
CREATE FUNCTION units() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT 'hours: ' || string_agg(to_char(bucket AT TIME ZONE 'UTC', 'MM-DD HH24 ') || billable_units, ', ' ORDER BY bucket)
      FROM usage_hourly
    UNION ALL
    SELECT 'endpoints: ' || string_agg(to_char(bucket AT TIME ZONE 'UTC', 'MM-DD HH24 ') || billable_units, ', ' ORDER BY bucket)
      FROM usage_endpoint_hourly
    UNION ALL
    SELECT 'days: ' || string_agg(to_char(bucket AT TIME ZONE 'UTC', 'MM-DD ') || billable_units, ', ' ORDER BY bucket)
      FROM usage_daily
    UNION ALL
    SELECT 'months: ' || string_agg(to_char(bucket AT TIME ZONE 'UTC', 'MM ') || billable_units, ', ' ORDER BY bucket)
      FROM usage_monthly
    UNION ALL
    SELECT 'differences: ' || differences()
$$;

-- Before the first fold.
CALL add_event('2025-06-30 12:00Z', 'a', '1', '/', 200, 1, true, 1);
CALL add_late(1);
SELECT units();
-- = hours: 04-02 12 1, 06-27 12 1, 06-30 09 1, 06-30 12 1
-- = endpoints: 04-02 12 1, 06-27 12 1, 06-30 09 1, 06-30 12 1
-- = days: 04-02 1, 06-27 1, 06-30 2
-- = months: 04 1, 06 3
-- = differences: 0

-- Announced and not folded: the fold sees them as rows.
CALL announce('2025-06-30 12:30Z');
CALL add_late(10);
SELECT units();
-- = hours: 04-02 12 11, 06-27 12 11, 06-30 09 11, 06-30 12 1
-- = endpoints: 04-02 12 11, 06-27 12 11, 06-30 09 11, 06-30 12 1
-- = days: 04-02 11, 06-27 11, 06-30 12
-- = months: 04 11, 06 23
-- = differences: 0
SELECT usage_fold()::text;
-- = 7
SELECT units();
-- = hours: 04-02 12 11, 06-27 12 11, 06-30 09 11, 06-30 12 1
-- = endpoints: 04-02 12 11, 06-27 12 11, 06-30 09 11, 06-30 12 1
-- = days: 04-02 11, 06-27 11, 06-30 12
-- = months: 04 11, 06 23
-- = differences: 0

-- Folded, and nothing announced.
CALL add_late(100);
SELECT units();
-- = hours: 04-02 12 111, 06-27 12 111, 06-30 09 111, 06-30 12 1
-- = endpoints: 04-02 12 111, 06-27 12 111, 06-30 09 111, 06-30 12 1
-- = days: 04-02 111, 06-27 111, 06-30 112
-- = months: 04 111, 06 223
-- = differences: 0

-- Announced again: before the former bound, and one (12:40, 10,000 units) between the two bounds.
CALL announce('2025-06-30 13:00Z');
CALL add_late(1000);
CALL add_event('2025-06-30 12:40Z', 'a', '1', '/', 200, 1, true, 10000);
SELECT units();
-- = hours: 04-02 12 1111, 06-27 12 1111, 06-30 09 1111, 06-30 12 10001
-- = endpoints: 04-02 12 1111, 06-27 12 1111, 06-30 09 1111, 06-30 12 10001
-- = days: 04-02 1111, 06-27 1111, 06-30 11112
-- = months: 04 1111, 06 12223
-- = differences: 0
-- One between the bounds, three of 100 and three of 1,000.
SELECT usage_fold()::text;
-- = 7
SELECT count(*)::text FROM usage_unfolded;
-- = 0
SELECT units();
-- = hours: 04-02 12 1111, 06-27 12 1111, 06-30 09 1111, 06-30 12 10001
-- = endpoints: 04-02 12 1111, 06-27 12 1111, 06-30 09 1111, 06-30 12 10001
-- = days: 04-02 1111, 06-27 1111, 06-30 11112
-- = months: 04 1111, 06 12223
-- = differences: 0

-- Late ones are folded also when no bound is to be moved.
CALL add_late(100000);
SELECT usage_fold()::text;
-- = 3
SELECT units();
-- = hours: 04-02 12 101111, 06-27 12 101111, 06-30 09 101111, 06-30 12 10001
-- = endpoints: 04-02 12 101111, 06-27 12 101111, 06-30 09 101111, 06-30 12 10001
-- = days: 04-02 101111, 06-27 101111, 06-30 111112
-- = months: 04 101111, 06 212223
-- = differences: 0

-- One statement with a late one, one exactly at the bound and one beyond it: only the first is late. A microsecond decides.
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms, weight)
SELECT time, time::text, id_of('a'), id_of('1'), '/', 'GET', 200, 1, 1000000
  FROM (VALUES ('2025-06-30 12:59:59.999999Z'::timestamptz), ('2025-06-30 13:00Z'), ('2025-06-30 13:30Z')) AS t (time);
SELECT concat_ws(' ', to_char(counts_from AT TIME ZONE 'UTC', 'HH24:MI'), to_char(bucket AT TIME ZONE 'UTC', 'HH24:MI'),
                 total_requests) FROM usage_late_figures;
-- = 13:00 12:00 1
SELECT units();
-- = hours: 04-02 12 101111, 06-27 12 101111, 06-30 09 101111, 06-30 12 1010001, 06-30 13 2000000
-- = endpoints: 04-02 12 101111, 06-27 12 101111, 06-30 09 101111, 06-30 12 1010001, 06-30 13 2000000
-- = days: 04-02 101111, 06-27 101111, 06-30 3111112
-- = months: 04 101111, 06 3212223
-- = differences: 0
CALL announce('2025-07-01 00:00Z');
SELECT usage_fold()::text;
-- = 3
SELECT units();
-- = hours: 04-02 12 101111, 06-27 12 101111, 06-30 09 101111, 06-30 12 1010001, 06-30 13 2000000
-- = endpoints: 04-02 12 101111, 06-27 12 101111, 06-30 09 101111, 06-30 12 1010001, 06-30 13 2000000
-- = days: 04-02 101111, 06-27 101111, 06-30 3111112
-- = months: 04 101111, 06 3212223
-- = differences: 0

-- A bucket that nobody had used: another organization, key and endpoint, 89 days late.
CALL add_event('2025-04-02 23:00Z', 'b', '2', '/new', 500, 3, false, 1);
SELECT concat_ws(' ', to_char(bucket AT TIME ZONE 'UTC', 'MM-DD HH24'), total_requests, billable_units, error_count, unique_api_keys)
  FROM usage_monthly WHERE organization_id = id_of('b');
-- = 04-01 00 1 0 1 1
SELECT usage_fold()::text;
-- = 1
SELECT differences();
-- = 0
