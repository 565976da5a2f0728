-- The present hour, day and month are included, and get_current_month_usage() is always one row.
--
-- One transaction, so that now() stands still: no hour ends in the middle.
BEGIN;
CREATE FUNCTION month_of(organization text) RETURNS text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', total_requests, pg_typeof(total_requests), billable_units, pg_typeof(billable_units),
                     round(avg_response_time_ms, 1), pg_typeof(avg_response_time_ms))
      FROM get_current_month_usage(id_of(organization))
$$;
SELECT month_of('a');
-- = 0 bigint 0 bigint 0.0 numeric
-- Not the scale of a rounded zero, but zero.
SELECT avg_response_time_ms::text FROM get_current_month_usage(id_of('a'));
-- = 0

-- In this hour: 10 ms, 2 units. The first moment of the month: 11 ms, not billable. The last one of the month before does not count,
-- although in Kolkata it lies in this month. 2 requests, 2 units, (10 + 11) / 2 = 10.5 ms.
CALL add_event(date_trunc('hour', now(), 'UTC'), 'a', '1', '/', 200, 10, true, 2);
CALL add_event(date_trunc('month', now(), 'UTC'), 'a', '2', '/', 200, 11, false, 4);
CALL add_event(date_trunc('month', now(), 'UTC') - INTERVAL '1 microsecond', 'a', '1', '/', 200, 999, true, 100);
SELECT month_of('a');
-- = 2 bigint 2 bigint 10.5 numeric
SELECT month_of('b');
-- = 0 bigint 0 bigint 0.0 numeric

-- Organization c has two requests in this hour: 200 in 100 ms, 5 units, and 503 in 201 ms, not billable.
CALL add_event(date_trunc('hour', now(), 'UTC'), 'c', '1', '/c', 200, 100, true, 5);
CALL add_event(date_trunc('hour', now(), 'UTC'), 'c', '1', '/c', 503, 201, false, 9);
CREATE FUNCTION present_of(organization text) RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', 'hour', total_requests, billable_requests, billable_units, avg_response_time_ms::float, success_count,
                     client_error_count, error_count, unique_endpoints)
      FROM usage_hourly WHERE bucket = date_trunc('hour', now(), 'UTC') AND organization_id = id_of(organization)
    UNION ALL
    SELECT concat_ws(' ', 'endpoint', endpoint, method, total_requests, billable_requests, billable_units,
                     avg_response_time_ms::float, success_count, client_error_count, error_count)
      FROM usage_endpoint_hourly WHERE bucket = date_trunc('hour', now(), 'UTC') AND organization_id = id_of(organization)
    UNION ALL
    SELECT concat_ws(' ', 'day', total_requests, billable_requests, billable_units, avg_response_time_ms::float, success_count,
                     client_error_count, error_count, unique_api_keys)
      FROM usage_daily WHERE bucket = date_trunc('day', now(), 'UTC') AND organization_id = id_of(organization)
    UNION ALL
    SELECT concat_ws(' ', 'month', total_requests, billable_requests, billable_units, avg_response_time_ms::float, success_count,
                     client_error_count, error_count, unique_api_keys)
      FROM usage_monthly WHERE bucket = date_trunc('month', now(), 'UTC') AND organization_id = id_of(organization)
$$;
SELECT present_of('c');
-- = hour 2 1 5 150.5 1 0 1 1
-- = endpoint /c GET 2 1 5 150.5 1 0 1
-- = day 2 1 5 150.5 1 0 1 1
-- = month 2 1 5 150.5 1 0 1 1

-- Folded up to now: what comes for this hour's beginning is late.
CALL announce(now());
SELECT usage_fold()::text;
-- = 5
SELECT month_of('a');
-- = 2 bigint 2 bigint 10.5 numeric
CALL add_event(date_trunc('hour', now(), 'UTC'), 'c', '2', '/d', 404, 2, true, 1);
SELECT present_of('c');
-- = hour 2 1 5 150.5 1 0 1 1
-- = hour 1 1 1 2 0 1 0 1
-- = endpoint /c GET 2 1 5 150.5 1 0 1
-- = endpoint /d GET 1 1 1 2 0 1 0
-- = day 3 2 6 101 1 1 1 2
-- = month 3 2 6 101 1 1 1 2
SELECT month_of('c');
-- = 3 bigint 6 bigint 101.0 numeric
SELECT differences();
-- = 0
COMMIT;
SELECT differences();
-- = 0
