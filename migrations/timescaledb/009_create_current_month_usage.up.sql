-- What an organization has used since the UTC month began: always one row, zeros where there was nothing.
CREATE OR REPLACE FUNCTION get_current_month_usage(org_id uuid)
RETURNS TABLE (total_requests bigint, billable_units bigint, avg_response_time_ms numeric)
LANGUAGE sql
STABLE
AS $$
    SELECT
        coalesce(sum(hourly.total_requests), 0)::bigint,
        coalesce(sum(hourly.billable_units), 0)::bigint,
        coalesce(sum(hourly.response_time_ms_sum) / sum(hourly.total_requests), 0)
    FROM usage_hourly AS hourly
    WHERE hourly.organization_id = org_id
      AND hourly.bucket >= date_trunc('month', now(), 'UTC')
      AND hourly.bucket < date_trunc('month', now() AT TIME ZONE 'UTC' + INTERVAL '1 month') AT TIME ZONE 'UTC'
$$;

COMMENT ON FUNCTION get_current_month_usage(uuid) IS
    'Requests, billable units and mean response time of an organization in the current UTC month; one row';
