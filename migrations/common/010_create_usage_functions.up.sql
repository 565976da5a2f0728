-- Questions that bills and dashboards ask, answered from the views. A day, an hour, a month is a UTC one; `since` counts
-- from the start of the hour that it lies in.

-- What an organization has used since the UTC month began: always one row, zeros where there was nothing.
CREATE OR REPLACE FUNCTION get_current_month_usage(org_id uuid)
RETURNS TABLE (total_requests bigint, billable_units bigint, avg_response_time_ms numeric)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT coalesce(sum(monthly.total_requests), 0)::bigint, coalesce(sum(monthly.billable_units), 0)::bigint,
           coalesce(sum(monthly.response_time_ms_sum) / sum(monthly.total_requests), 0)
      FROM usage_monthly AS monthly
     WHERE monthly.organization_id = org_id AND monthly.bucket = date_trunc('month', now(), 'UTC')
$$;

-- One row a day from `from_day` to `to_day`, both included.
CREATE OR REPLACE FUNCTION usage_by_day(org_id uuid, from_day date, to_day date)
RETURNS TABLE (day date, total_requests bigint, billable_requests bigint, billable_units bigint,
               avg_response_time_ms numeric, success_count bigint, client_error_count bigint, error_count bigint)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT days.day::date, coalesce(daily.total_requests, 0), coalesce(daily.billable_requests, 0),
           coalesce(daily.billable_units, 0), coalesce(daily.avg_response_time_ms, 0), coalesce(daily.success_count, 0),
           coalesce(daily.client_error_count, 0), coalesce(daily.error_count, 0)
      FROM generate_series(from_day::timestamp, to_day::timestamp, INTERVAL '1 day') AS days (day)
      LEFT JOIN (SELECT * FROM usage_daily
                  WHERE organization_id = org_id
                    AND bucket >= from_day::timestamp AT TIME ZONE 'UTC' AND bucket <= to_day::timestamp AT TIME ZONE 'UTC'
           ) AS daily ON daily.bucket = days.day AT TIME ZONE 'UTC'
     ORDER BY days.day
$$;

-- The endpoints with the most requests, most first.
CREATE OR REPLACE FUNCTION usage_top_endpoints(org_id uuid, since timestamptz, max_rows integer DEFAULT 10)
RETURNS TABLE (endpoint text, method text, total_requests bigint, billable_units bigint, avg_response_time_ms numeric,
               client_error_count bigint, error_count bigint)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT hourly.endpoint::text, hourly.method::text, sum(hourly.total_requests)::bigint,
           sum(hourly.billable_units)::bigint, sum(hourly.response_time_ms_sum) / sum(hourly.total_requests),
           sum(hourly.client_error_count)::bigint, sum(hourly.error_count)::bigint
      FROM usage_endpoint_hourly AS hourly
     WHERE hourly.organization_id = org_id AND hourly.bucket >= date_trunc('hour', since, 'UTC')
     GROUP BY hourly.endpoint, hourly.method
     ORDER BY 3 DESC, 1, 2
     LIMIT max_rows
$$;

-- Shares of requests that ended with 4xx and 5xx, 0 to 1: always one row, zeros where there was nothing.
CREATE OR REPLACE FUNCTION usage_error_rate(org_id uuid, since timestamptz)
RETURNS TABLE (total_requests bigint, client_error_count bigint, error_count bigint, client_error_rate numeric,
               error_rate numeric)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT coalesce(sum(hourly.total_requests), 0)::bigint, coalesce(sum(hourly.client_error_count), 0)::bigint,
           coalesce(sum(hourly.error_count), 0)::bigint,
           coalesce(sum(hourly.client_error_count) / sum(hourly.total_requests), 0),
           coalesce(sum(hourly.error_count) / sum(hourly.total_requests), 0)
      FROM usage_hourly AS hourly
     WHERE hourly.organization_id = org_id AND hourly.bucket >= date_trunc('hour', since, 'UTC')
$$;

COMMENT ON FUNCTION get_current_month_usage(uuid) IS
    'Requests, billable units and mean response time of an organization in the current UTC month; one row';
COMMENT ON FUNCTION usage_by_day(uuid, date, date) IS
    'Usage of an organization by UTC day, both days included, zeros where there was nothing';
COMMENT ON FUNCTION usage_top_endpoints(uuid, timestamptz, integer) IS
    'Endpoints of an organization with the most requests since the UTC hour of a time, most first';
COMMENT ON FUNCTION usage_error_rate(uuid, timestamptz) IS
    'Shares (0 to 1) of an organization''s requests that ended with 4xx and 5xx since the UTC hour of a time; one row';
