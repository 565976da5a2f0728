-- Sums and means roll up exactly from each level to the next, over a thousand events of a hundred days, folded step by step.
--
-- Event n (0 to 999) lies n * 8641 seconds (2 h 24 min and 1 s) after 1 January 2025: the last one 99 days 21 h 36 min 39 s
-- later, on 10 April. Weights are n % 7, and every fifth event is not billable. So:
--   requests 1000; billable 1000 - 200 = 800;
--   units: of all, 142 full rounds of 0..6 (21 each: 2982) and n = 994..999 (0..5: 15) make 2997; of every fifth, n = 5k with
--     k = 0..199: 5k % 7 is a round of 0..6 in some order, 28 full rounds (588) and k = 196..199 (0, 5, 3, 1: 9) make 597;
--     2997 - 597 = 2400;
--   ms: n % 100, ten rounds of 4950: 49500; status by n % 4: 250 each of 200, 302, 404, 500.
CALL ensure_days('2025-01-01', '2025-04-11');
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms, billable,
                          weight)
SELECT '2025-01-01 00:00Z'::timestamptz + n * INTERVAL '8641 seconds', 'r' || n, id_of((ARRAY['a', 'b', 'c'])[1 + n % 3]),
       id_of((n % 2)::text), '/' || n % 11, 'GET', (ARRAY[200, 302, 404, 500])[1 + n % 4], n % 100, n % 5 <> 0, n % 7
  FROM generate_series(0, 999) AS n;
CREATE FUNCTION levels() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT DISTINCT concat_ws(' ', total, billable, units, ms, (ms / total)::float, good, bad, failed)
      FROM (
        SELECT sum(total_requests) AS total, sum(billable_requests) AS billable, sum(billable_units) AS units,
               sum(response_time_ms_sum) AS ms, sum(success_count) AS good, sum(client_error_count) AS bad,
               sum(error_count) AS failed FROM usage_hourly
        UNION ALL
        SELECT sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum), sum(success_count),
               sum(client_error_count), sum(error_count) FROM usage_endpoint_hourly
        UNION ALL
        SELECT sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum), sum(success_count),
               sum(client_error_count), sum(error_count) FROM usage_daily
        UNION ALL
        SELECT sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum), sum(success_count),
               sum(client_error_count), sum(error_count) FROM usage_monthly
      ) AS t
$$;
-- Buckets of a level that are not the sum of the level below, or whose mean is not that of their sums.
CREATE FUNCTION strays() RETURNS text LANGUAGE sql
AS $$
    WITH hours AS (
        SELECT date_trunc('day', bucket, 'UTC') AS bucket, organization_id, sum(total_requests) AS n, sum(billable_units) AS w,
               sum(response_time_ms_sum) AS ms FROM usage_hourly GROUP BY 1, 2
    ), endpoints AS (
        SELECT date_trunc('day', bucket, 'UTC') AS bucket, organization_id, sum(total_requests) AS n, sum(billable_units) AS w,
               sum(response_time_ms_sum) AS ms FROM usage_endpoint_hourly GROUP BY 1, 2
    ), days AS (
        SELECT date_trunc('month', bucket, 'UTC') AS bucket, organization_id, sum(total_requests) AS n,
               sum(billable_units) AS w, sum(response_time_ms_sum) AS ms FROM usage_daily GROUP BY 1, 2
    )
    SELECT concat_ws(' ',
        (SELECT count(*) FROM hours FULL JOIN usage_daily AS d USING (bucket, organization_id)
          WHERE (n, w, ms, ms / n) IS DISTINCT FROM (total_requests, billable_units, response_time_ms_sum, avg_response_time_ms)),
        (SELECT count(*) FROM endpoints FULL JOIN usage_daily AS d USING (bucket, organization_id)
          WHERE (n, w, ms, ms / n) IS DISTINCT FROM (total_requests, billable_units, response_time_ms_sum, avg_response_time_ms)),
        (SELECT count(*) FROM days FULL JOIN usage_monthly AS m USING (bucket, organization_id)
          WHERE (n, w, ms, ms / n) IS DISTINCT FROM (total_requests, billable_units, response_time_ms_sum, avg_response_time_ms)))
$$;
SELECT levels();
-- = 1000 800 2400 49500 49.5 250 250 250
SELECT strays();
-- = 0 0 0

-- Folded in four steps, of which the second ends within an hour and within a day.
CALL announce('2025-01-20 00:00Z');
SELECT usage_fold()::text;
-- = 190
SELECT levels() || ' ' || strays() || ' ' || differences();
-- = 1000 800 2400 49500 49.5 250 250 250 0 0 0 0
CALL announce('2025-02-28 13:17:11.5Z');
SELECT (usage_fold() > 0)::text;
-- = true
SELECT levels() || ' ' || strays() || ' ' || differences();
-- = 1000 800 2400 49500 49.5 250 250 250 0 0 0 0
CALL announce('2025-03-31 23:30Z');
SELECT (usage_fold() > 0)::text;
-- = true
SELECT levels() || ' ' || strays() || ' ' || differences();
-- = 1000 800 2400 49500 49.5 250 250 250 0 0 0 0
CALL announce('2025-05-01 00:00Z');
SELECT (usage_fold() > 0)::text;
-- = true
SELECT levels() || ' ' || strays() || ' ' || differences();
-- = 1000 800 2400 49500 49.5 250 250 250 0 0 0 0
SELECT concat_ws(' ', row_count, difference_count) FROM usage_prove_figures('2025-01-01 00:00Z', '2025-05-01 00:00Z');
-- = 1000 0
