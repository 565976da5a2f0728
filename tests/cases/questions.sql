-- The functions that dashboards ask: usage_by_day, usage_top_endpoints, usage_error_rate; before and after folding.
--
-- Organization a, 2025-03-31: GET /a at 10:05 (200, 10 ms, 1 unit) and 10:50 (500, 20 ms, not billable); GET /b at 10:10
-- (404, 30 ms, 2 units) and 12:00 (404, 50 ms, 2 units); POST /a at 12:30 (201, 7 ms, 4 units); GET /c at 09:59 (429, 3 ms,
-- 1 unit). 2025-04-02, 23:59: GET /a (200, 8 ms, 3 units). Organization b must not be seen.
CALL add_event('2025-03-31 10:05Z', 'a', '1', '/a', 200, 10, true, 1);
CALL add_event('2025-03-31 10:50Z', 'a', '1', '/a', 500, 20, false, 9);
CALL add_event('2025-03-31 10:10Z', 'a', '2', '/b', 404, 30, true, 2);
CALL add_event('2025-03-31 12:00Z', 'a', '1', '/b', 404, 50, true, 2);
CALL add_event('2025-03-31 12:30Z', 'a', '1', '/a', 201, 7, true, 4, method => 'POST');
CALL add_event('2025-03-31 09:59Z', 'a', '1', '/c', 429, 3, true, 1);
CALL add_event('2025-04-02 23:59Z', 'a', '1', '/a', 200, 8, true, 3);
CALL add_event('2025-03-31 10:05Z', 'b', '1', '/a', 500, 1000, true, 1000);

CREATE FUNCTION days(organization text, from_day date, to_day date) RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', day, total_requests, billable_requests, billable_units, avg_response_time_ms::float, success_count,
                     client_error_count, error_count)
      FROM usage_by_day(id_of(organization), from_day, to_day)
$$;
CREATE FUNCTION top(organization text, since timestamptz, max_rows integer) RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', method, endpoint, total_requests, billable_units, avg_response_time_ms::float, client_error_count,
                     error_count)
      FROM usage_top_endpoints(id_of(organization), since, max_rows)
$$;
CREATE FUNCTION errors(organization text, since timestamptz) RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', total_requests, client_error_count, error_count, client_error_rate::float, error_rate::float)
      FROM usage_error_rate(id_of(organization), since)
$$;

-- 31 March: 6 requests, 5 billable, 1 + 2 + 2 + 4 + 1 = 10 units, 10 + 20 + 30 + 50 + 7 + 3 = 120 ms / 6 = 20. Empty days are
-- rows of zeros, also where one end lies far from any event.
SELECT days('a', '2025-03-30', '2025-04-02');
-- = 2025-03-30 0 0 0 0 0 0 0
-- = 2025-03-31 6 5 10 20 2 3 1
-- = 2025-04-01 0 0 0 0 0 0 0
-- = 2025-04-02 1 1 3 8 1 0 0
SELECT days('c', '2025-03-31', '2025-03-31');
-- = 2025-03-31 0 0 0 0 0 0 0
SELECT days('a', '2025-04-02', '2025-03-31');

-- Since 10:40, which counts from 10:00: GET /a 3 requests (10:05, 10:50, 2 April), GET /b 2, POST /a 1; not GET /c of 09:59.
-- GET /a: 1 + 3 = 4 units, (10 + 20 + 8) / 3 ms. GET /b: 4 units, 80 / 2 = 40 ms, 2 client errors.
SELECT top('a', '2025-03-31 10:40Z', 10);
-- = GET /a 3 4 12.666666666666666 0 1
-- = GET /b 2 4 40 2 0
-- = POST /a 1 4 7 0 0
-- Equals come by name.
SELECT top('a', '2025-03-31 00:00Z', 3);
-- = GET /a 3 4 12.666666666666666 0 1
-- = GET /b 2 4 40 2 0
-- = POST /a 1 4 7 0 0
SELECT top('a', '2025-04-03 00:00Z', 10);
SELECT count(*)::text FROM usage_top_endpoints(id_of('a'), '2025-03-31 00:00Z');
-- = 4

-- Since 10:00: 6 requests, 2 client errors, 1 error. Since 12:59, which counts from 12:00: 3 requests, 1 client error.
SELECT errors('a', '2025-03-31 10:00Z');
-- = 6 2 1 0.3333333333333333 0.16666666666666666
SELECT errors('a', '2025-03-31 12:59Z');
-- = 3 1 0 0.3333333333333333 0
SELECT errors('a', '2025-04-03 00:00Z');
-- = 0 0 0 0 0
SELECT errors('c', '2025-03-31 00:00Z');
-- = 0 0 0 0 0

-- The same with half of it folded, and with all of it.
CALL announce('2025-03-31 10:10Z');
SELECT usage_fold()::text;
-- = 3
SELECT days('a', '2025-03-31', '2025-03-31');
-- = 2025-03-31 6 5 10 20 2 3 1
SELECT top('a', '2025-03-31 10:40Z', 1);
-- = GET /a 3 4 12.666666666666666 0 1
SELECT errors('a', '2025-03-31 10:00Z');
-- = 6 2 1 0.3333333333333333 0.16666666666666666
CALL announce('2025-04-03 00:00Z');
SELECT usage_fold()::text;
-- = 5
SELECT days('a', '2025-03-31', '2025-04-02');
-- = 2025-03-31 6 5 10 20 2 3 1
-- = 2025-04-01 0 0 0 0 0 0 0
-- = 2025-04-02 1 1 3 8 1 0 0
SELECT top('a', '2025-03-31 10:40Z', 2);
-- = GET /a 3 4 12.666666666666666 0 1
-- = GET /b 2 4 40 2 0
SELECT errors('a', '2025-03-31 10:00Z');
-- = 6 2 1 0.3333333333333333 0.16666666666666666

-- What the planner may assume of them, and that the catalogue says what they are.
SELECT concat_ws(' ', proname, provolatile, proparallel) FROM pg_proc
 WHERE proname IN ('get_current_month_usage', 'usage_by_day', 'usage_top_endpoints', 'usage_error_rate') ORDER BY proname;
-- = get_current_month_usage s s
-- = usage_by_day s s
-- = usage_error_rate s s
-- = usage_top_endpoints s s
SELECT proname::text FROM pg_proc
 WHERE pronamespace = 'public'::regnamespace AND proname ~ '^(usage_|get_current)' AND obj_description(oid, 'pg_proc') IS NULL;
SELECT relname::text FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relname ~ '^usage_' AND relkind IN ('r', 'p', 'v') AND NOT relispartition
   AND relname <> 'usage_schema_migrations' AND obj_description(oid, 'pg_class') IS NULL;
