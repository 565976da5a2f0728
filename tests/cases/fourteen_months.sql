-- Fourteen months from January 2024 on, day by day: events, late ones, redelivered ones, folds, maintenance, compression and
-- closings. In the end every figure must be what a plain table says, which holds a copy of each event for ever.
--
-- The functions see the simulated clock instead of now(): it is found before pg_catalog's.
SET client_min_messages = warning;
CREATE SCHEMA simulated;
CREATE TABLE simulated.clock AS SELECT '2024-01-01 00:00Z'::timestamptz AS time;
CREATE FUNCTION simulated.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT time FROM simulated.clock';
DO $$
DECLARE
    name regprocedure;
BEGIN
    FOREACH name IN ARRAY ARRAY['usage_begin_fold(timestamptz)', 'usage_fold()', 'usage_advance_retention()',
                                'usage_maintain()']::regprocedure[]
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = simulated, pg_catalog, %I, pg_temp', name, current_schema());
    END LOOP;
END
$$;

CREATE TABLE truth (
    time timestamptz, request_id text, organization_id uuid, api_key_id uuid, endpoint text, method text, status_code integer,
    response_time_ms integer, billable boolean, weight integer, written_on date
);

-- A number that looks like chance, the same in every run.
CREATE FUNCTION dice(seed bigint, sides integer) RETURNS integer LANGUAGE sql IMMUTABLE
AS $$ SELECT (((seed * 7919 + 104729) % 1000003) * ((seed + sides) % 997 + 1) % 999983 % sides)::integer $$;

-- Event n of a day: five organizations, three api keys each, six endpoints. TimescaleDB has two chunks a day of these
-- organizations, which makes this bearable in WebAssembly.
CREATE FUNCTION event(day date, n integer, event_time timestamptz) RETURNS truth LANGUAGE sql IMMUTABLE
AS $$
    SELECT event_time, format('%s-%s', day, n), id_of((ARRAY['a', 'c', 'd', 'c3', 'f1'])[1 + dice(seed, 4 + n % 2)]),
           id_of((10 + dice(seed + 1, 3))::text), '/' || dice(seed + 2, 6),
           CASE WHEN dice(seed + 3, 4) = 0 THEN 'POST' ELSE 'GET' END,
           (ARRAY[200, 200, 200, 201, 299, 302, 404, 499, 500, 599, 100])[1 + dice(seed + 4, 11)],
           dice(seed + 5, 3000), dice(seed + 6, 10) > 0, 1 + dice(seed + 7, 50), day
      FROM (SELECT (day - '2024-01-01')::bigint * 1000 + n AS seed) AS s
$$;

-- Writes events n to m: spread over the day so far, or late: by hours, by days, by 88 and 89 days.
CREATE PROCEDURE write(day date, from_n integer, to_n integer, is_late boolean)
LANGUAGE plpgsql
AS $$
DECLARE
    day_start constant timestamptz := day::timestamp AT TIME ZONE 'UTC';
BEGIN
    WITH times AS (
        SELECT n, CASE WHEN is_late THEN (SELECT time FROM simulated.clock)
                            - (ARRAY['3 hours', '10 hours', '1 day', '5 days', '33 days', '61 days', '88 days',
                                     '89 days 23:59:59.999999'])[1 + dice(n + day::date - DATE '2024-01-01', 8)]::interval
                       ELSE day_start + n * INTERVAL '19 minutes' + dice(n, 59) * INTERVAL '1.000001 seconds' END AS event_time
          FROM generate_series(from_n, to_n) AS n
    ), events AS (
        INSERT INTO truth SELECT e.* FROM times, event(day, n, event_time) AS e WHERE event_time >= '2024-01-01 00:00Z'
        RETURNING *
    )
    INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms,
                              billable, weight)
    SELECT time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms, billable, weight
      FROM events ORDER BY time;
    -- What Kafka delivers twice is written once.
    INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms,
                              billable, weight)
    SELECT time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms, billable, weight
      FROM truth WHERE written_on = day AND is_late AND dice(weight, 3) > 0
    ON CONFLICT DO NOTHING;
END
$$;

-- One day: two batches and two folds, with late events before, during and after a fold; then what the hourly job does.
CREATE PROCEDURE live_through(day date)
LANGUAGE plpgsql
AS $$
DECLARE
    day_start constant timestamptz := day::timestamp AT TIME ZONE 'UTC';
    is_more_due boolean;
BEGIN
    UPDATE simulated.clock SET time = day_start + INTERVAL '12 hours';
    CALL ensure_days(day, day);
    CALL write(day, 0, 36, false);
    PERFORM usage_begin_fold();
    CALL write(day, 100, 101, true);
    COMMIT;
    PERFORM usage_fold();
    COMMIT;
    UPDATE simulated.clock SET time = day_start + INTERVAL '1 day';
    CALL write(day, 37, 74, false);
    -- Now and then many of them.
    CALL write(day, 102, CASE WHEN extract(day FROM day) = 14 THEN 140 ELSE 103 END, true);
    COMMIT;
    LOOP
        SELECT maintained.is_more_due INTO is_more_due FROM usage_maintain() AS maintained;
        COMMIT;
        EXIT WHEN NOT is_more_due;
    END LOOP;
    IF extract(day FROM day) = 5 AND day > '2024-02-01' THEN
        PERFORM usage_close_month((date_trunc('month', day::timestamp) - INTERVAL '1 month')::date);
        COMMIT;
    END IF;
    -- The policy of TimescaleDB runs on its own schedule.
    IF extract(day FROM day) IN (10, 25) AND EXISTS (SELECT FROM pg_proc WHERE proname = 'compress_chunk') THEN
        EXECUTE format('SELECT compress_chunk(chunk, true) '
                       'FROM show_chunks(''usage_events'', %L::timestamptz, %L::timestamptz) AS chunk',
                       day_start - INTERVAL '7 days', day_start - INTERVAL '40 days');
        COMMIT;
    END IF;
END
$$;
CREATE PROCEDURE live_through(from_day date, to_day date)
LANGUAGE plpgsql
AS $$
BEGIN
    FOR n IN 0 .. to_day - from_day LOOP
        CALL live_through(from_day + n);
    END LOOP;
END
$$;

-- To the fifth of March 2025, when February is closed.
CALL live_through('2024-01-01', '2025-03-05');
SELECT concat_ws(' ', count(*), count(DISTINCT organization_id), sum(weight) FILTER (WHERE billable)) FROM truth;
-- = 34293 5 785470

-- Every figure of every level, retained or not: how many there are, and how many differ.
CREATE FUNCTION sums(level text) RETURNS text LANGUAGE sql IMMUTABLE
AS $$
    SELECT 'count(*), count(*) FILTER (WHERE billable), coalesce(sum(weight) FILTER (WHERE billable), 0), sum(response_time_ms), '
           'count(*) FILTER (WHERE status_code / 100 = 2), count(*) FILTER (WHERE status_code / 100 = 4), '
           'count(*) FILTER (WHERE status_code / 100 = 5)'
           || CASE level WHEN 'hourly' THEN ', count(DISTINCT endpoint)' WHEN 'endpoint_hourly' THEN ''
                         ELSE ', count(DISTINCT api_key_id)' END
$$;
CREATE FUNCTION compare(level text, unit text, keys text) RETURNS text LANGUAGE plpgsql
AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE format('WITH raw AS (SELECT date_trunc(%1$L, time, ''UTC'') AS bucket, concat_ws('' '', %2$s) AS who, '
                   'concat_ws('' '', %3$s) AS figures FROM truth GROUP BY bucket, %2$s), '
                   'viewed AS (SELECT bucket, concat_ws('' '', %2$s) AS who, concat_ws('' '', total_requests, billable_requests, '
                   'billable_units, response_time_ms_sum, success_count, client_error_count, error_count%5$s) AS figures '
                   'FROM usage_%4$s) '
                   'SELECT concat_ws('' '', count(*), count(*) FILTER (WHERE raw.figures IS DISTINCT FROM viewed.figures)) '
                   'FROM raw FULL JOIN viewed USING (bucket, who)',
                   unit, keys, sums(level), level,
                   CASE level WHEN 'hourly' THEN ', unique_endpoints' WHEN 'endpoint_hourly' THEN '' ELSE ', unique_api_keys' END)
       INTO answer;
    RETURN answer;
END
$$;
SELECT compare('hourly', 'hour', 'organization_id, api_key_id');
-- = 31383 0
SELECT compare('endpoint_hourly', 'hour', 'organization_id, endpoint, method');
-- = 33131 0
SELECT compare('daily', 'day', 'organization_id');
-- = 2148 0
SELECT compare('monthly', 'month', 'organization_id');
-- = 75 0

-- Fourteen months are closed and unchanged; what came later is in adjustments, and both together are the truth.
SELECT concat_ws(' ', count(*), bool_and(checksum = usage_month_checksum(month))) FROM usage_closed_months;
-- = 14 t
CREATE VIEW billed AS
SELECT month, organization_id, sum(line.total_requests) AS requests, sum(line.billable_requests) AS billable,
       sum(line.billable_units) AS units, count(*) FILTER (WHERE line = 'adjustment') AS adjustments
  FROM (SELECT month, organization_id FROM usage_closed_months, (SELECT DISTINCT organization_id FROM truth) AS known) AS months,
       usage_statement(organization_id, (month AT TIME ZONE 'UTC')::date) AS line
 GROUP BY month, organization_id;
SELECT concat_ws(' ', count(*), count(*) FILTER (WHERE adjustments > 0), count(*) FILTER (WHERE
           ROW (billed.requests, billed.billable, billed.units) IS DISTINCT FROM ROW (told.requests, told.billable, told.units)))
  FROM billed
  LEFT JOIN (SELECT date_trunc('month', time, 'UTC') AS month, organization_id, count(*) AS requests,
                    count(*) FILTER (WHERE billable) AS billable, sum(weight) FILTER (WHERE billable) AS units
               FROM truth GROUP BY 1, 2) AS told USING (month, organization_id);
-- = 70 65 0
-- What was frozen is what had been written by the day of closing.
SELECT count(*)::text
  FROM (SELECT month, organization_id, total_requests, billable_units, unique_api_keys FROM usage_invoice_basis) AS basis
  FULL JOIN (SELECT date_trunc('month', time, 'UTC') AS month, organization_id, count(*) AS requests,
                    sum(weight) FILTER (WHERE billable) AS units, count(DISTINCT api_key_id) AS keys
               FROM truth
              WHERE written_on <= (date_trunc('month', time, 'UTC') AT TIME ZONE 'UTC' + INTERVAL '1 month 4 days')::date
                AND time < '2025-03-01 00:00Z'
              GROUP BY 1, 2) AS told USING (month, organization_id)
 WHERE ROW (total_requests, billable_units, unique_api_keys) IS DISTINCT FROM ROW (requests, units, keys);
-- = 0

-- Ninety days of rows are there, all of them and no other; every other row was counted when it was dropped.
SELECT concat_ws(' ', (retained_since AT TIME ZONE 'UTC')::date, (folded_until AT TIME ZONE 'UTC')::date,
                 folded_until = (SELECT max(time) FROM truth)) FROM usage_bounds;
-- = 2024-12-05 2025-03-05 t
SELECT count(*)::text FROM usage_ranges_before((SELECT retained_since FROM usage_bounds));
-- = 0
SELECT concat_ws(' ', count(*), count(*) FILTER (WHERE written.request_id IS NULL),
                 count(*) FILTER (WHERE told.request_id IS NULL))
  FROM usage_events AS written
  FULL JOIN (SELECT * FROM truth WHERE time >= (SELECT retained_since FROM usage_bounds)) AS told
       USING (organization_id, time, request_id);
-- = 7099 0 0
SELECT concat_ws(' ', sum(rows_dropped), count(*) FILTER (WHERE rows_dropped IS DISTINCT FROM written))
  FROM usage_retention_drops
  FULL JOIN (SELECT (time AT TIME ZONE 'UTC')::date AS event_day, count(*) AS written
               FROM truth WHERE time < (SELECT retained_since FROM usage_bounds) GROUP BY 1) AS told USING (event_day);
-- = 27194 0
