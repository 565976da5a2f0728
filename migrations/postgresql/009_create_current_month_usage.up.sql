-- What an organization has used since the UTC month began: always one row, zeros where there was nothing.
-- Reads the raw events itself, so that only this month's partitions are opened.
CREATE OR REPLACE FUNCTION get_current_month_usage(org_id uuid)
RETURNS TABLE (total_requests bigint, billable_units bigint, avg_response_time_ms numeric)
LANGUAGE sql
STABLE
AS $$
    SELECT
        count(*),
        coalesce(sum(event.weight) FILTER (WHERE event.billable), 0),
        coalesce(sum(event.response_time_ms)::numeric / nullif(count(*), 0), 0)
    FROM usage_events AS event
    WHERE event.organization_id = org_id
      AND event.time >= date_trunc('month', now(), 'UTC')
      AND event.time < date_trunc('month', now() AT TIME ZONE 'UTC' + INTERVAL '1 month') AT TIME ZONE 'UTC'
$$;

COMMENT ON FUNCTION get_current_month_usage(uuid) IS
    'Requests, billable units and mean response time of an organization in the current UTC month; one row';
