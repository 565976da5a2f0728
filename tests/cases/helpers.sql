-- What the cases share; run before each of them.

-- Half an hour off UTC: whoever buckets by the session's zone is caught.
SET TimeZone = 'Asia/Kolkata';

-- Organizations are named by letters a to f, api keys by digits.
CREATE FUNCTION id_of(name text) RETURNS uuid LANGUAGE sql IMMUTABLE
AS $$ SELECT ('00000000-0000-0000-0000-' || lpad(name, 12, '0'))::uuid $$;
CREATE FUNCTION name_of(id uuid) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT ltrim(right(id::text, 12), '0') $$;

-- Partitions for days of long ago, where there are partitions.
CREATE PROCEDURE ensure_days(from_day date, to_day date)
LANGUAGE plpgsql
AS $$
BEGIN
    IF to_regprocedure('usage_ensure_partitions(date, date)') IS NOT NULL THEN
        PERFORM usage_ensure_partitions(from_day, to_day);
    END IF;
END
$$;

-- Writes one event.
CREATE PROCEDURE add_event(event_time timestamptz, organization text, api_key text, endpoint text, status_code integer,
                           response_time_ms integer, billable boolean DEFAULT true, weight integer DEFAULT 1,
                           request_id text DEFAULT gen_random_uuid()::text, method text DEFAULT 'GET')
LANGUAGE plpgsql
AS $$
BEGIN
    CALL ensure_days((event_time AT TIME ZONE 'UTC')::date, (event_time AT TIME ZONE 'UTC')::date);
    INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                              response_time_ms, billable, weight)
    VALUES (event_time, request_id, id_of(organization), id_of(api_key), endpoint, method, status_code,
            response_time_ms, billable, weight);
END
$$;

-- Announces a bound: a step as long as that.
CREATE PROCEDURE announce(bound timestamptz)
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE usage_bounds
       SET fold_step = make_interval(secs => extract(epoch FROM bound - CASE WHEN isfinite(folded_until) THEN folded_until
                                                                             ELSE (SELECT min(time) FROM usage_events) END));
    PERFORM usage_begin_fold(bound);
    IF (SELECT folding_until FROM usage_bounds) <> bound THEN
        RAISE EXCEPTION 'the bound announced is %', (SELECT folding_until FROM usage_bounds);
    END IF;
END
$$;

-- The views as text, every column: where, who | requests, billable ones, units | ms, their mean | 2xx, 4xx, 5xx | uniques.
CREATE FUNCTION hourly() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), name_of(organization_id), name_of(api_key_id),
                     '|', total_requests, billable_requests, billable_units, '|', response_time_ms_sum,
                     round(avg_response_time_ms, 3), '|', success_count, client_error_count, error_count, '|', unique_endpoints)
      FROM usage_hourly ORDER BY bucket, organization_id, api_key_id
$$;
CREATE FUNCTION endpoint_hourly() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), name_of(organization_id), method, endpoint,
                     '|', total_requests, billable_requests, billable_units, '|', response_time_ms_sum,
                     round(avg_response_time_ms, 3), '|', success_count, client_error_count, error_count)
      FROM usage_endpoint_hourly ORDER BY bucket, organization_id, endpoint, method
$$;
CREATE FUNCTION daily() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), name_of(organization_id),
                     '|', total_requests, billable_requests, billable_units, '|', response_time_ms_sum,
                     round(avg_response_time_ms, 3), '|', success_count, client_error_count, error_count, '|', unique_api_keys)
      FROM usage_daily ORDER BY bucket, organization_id
$$;
CREATE FUNCTION monthly() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), name_of(organization_id),
                     '|', total_requests, billable_requests, billable_units, '|', response_time_ms_sum,
                     round(avg_response_time_ms, 3), '|', success_count, client_error_count, error_count, '|', unique_api_keys)
      FROM usage_monthly ORDER BY bucket, organization_id
$$;

-- How many cells of the views differ from what the rows of usage_events add up to. Only while no row is dropped.
CREATE FUNCTION differences() RETURNS text LANGUAGE sql
AS $$
    WITH facts AS (
        SELECT time, organization_id AS o, api_key_id AS k, endpoint AS e, method AS m, 1 AS n, billable::integer AS b,
               CASE WHEN billable THEN weight ELSE 0 END AS w, response_time_ms AS ms,
               (status_code / 100 = 2)::integer AS good, (status_code / 100 = 4)::integer AS bad,
               (status_code / 100 = 5)::integer AS failed
          FROM usage_events
    ), truth AS (
        SELECT 'hourly' AS level, date_trunc('hour', time, 'UTC') AS at, concat_ws(' ', o, k) AS who, sum(n) AS n,
               sum(b) AS b, sum(w) AS w, sum(ms) AS ms, sum(good) AS good, sum(bad) AS bad, sum(failed) AS failed,
               count(DISTINCT e) AS uniques FROM facts GROUP BY 2, 3
        UNION ALL
        SELECT 'endpoint', date_trunc('hour', time, 'UTC'), concat_ws(' ', o, m, e), sum(n), sum(b), sum(w), sum(ms), sum(good),
               sum(bad), sum(failed), 0 FROM facts GROUP BY 2, 3
        UNION ALL
        SELECT 'daily', date_trunc('day', time, 'UTC'), o::text, sum(n), sum(b), sum(w), sum(ms), sum(good), sum(bad), sum(failed),
               count(DISTINCT k) FROM facts GROUP BY 2, 3
        UNION ALL
        SELECT 'monthly', date_trunc('month', time, 'UTC'), o::text, sum(n), sum(b), sum(w), sum(ms), sum(good), sum(bad),
               sum(failed), count(DISTINCT k) FROM facts GROUP BY 2, 3
    ), views AS (
        SELECT 'hourly' AS level, bucket AS at, concat_ws(' ', organization_id, api_key_id) AS who, total_requests AS n,
               billable_requests AS b, billable_units AS w, response_time_ms_sum AS ms, success_count AS good,
               client_error_count AS bad, error_count AS failed, unique_endpoints AS uniques FROM usage_hourly
        UNION ALL
        SELECT 'endpoint', bucket, concat_ws(' ', organization_id, method, endpoint), total_requests, billable_requests,
               billable_units, response_time_ms_sum, success_count, client_error_count, error_count, 0
          FROM usage_endpoint_hourly
        UNION ALL
        SELECT 'daily', bucket, organization_id::text, total_requests, billable_requests, billable_units,
               response_time_ms_sum, success_count, client_error_count, error_count, unique_api_keys FROM usage_daily
        UNION ALL
        SELECT 'monthly', bucket, organization_id::text, total_requests, billable_requests, billable_units,
               response_time_ms_sum, success_count, client_error_count, error_count, unique_api_keys FROM usage_monthly
    )
    SELECT count(*)::text FROM truth FULL JOIN views USING (level, at, who)
     WHERE ROW (truth.n, truth.b, truth.w, truth.ms, truth.good, truth.bad, truth.failed, truth.uniques)
           IS DISTINCT FROM ROW (views.n, views.b, views.w, views.ms, views.good, views.bad, views.failed, views.uniques)
$$;
