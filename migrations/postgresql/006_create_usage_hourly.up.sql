-- Usage by UTC hour, organization and api key. A plain view: always right, at the price of reading the raw events.
CREATE OR REPLACE VIEW usage_hourly AS
SELECT
    date_trunc('hour', time, 'UTC')                             AS bucket,
    organization_id,
    api_key_id,
    count(*)                                                    AS total_requests,
    count(*) FILTER (WHERE billable)                            AS billable_requests,
    coalesce(sum(weight) FILTER (WHERE billable), 0)            AS billable_units,
    sum(response_time_ms)                                       AS response_time_ms_sum,
    sum(response_time_ms)::numeric / count(*)                   AS avg_response_time_ms,
    count(*) FILTER (WHERE status_code BETWEEN 200 AND 299)     AS success_count,
    count(*) FILTER (WHERE status_code BETWEEN 400 AND 499)     AS client_error_count,
    count(*) FILTER (WHERE status_code BETWEEN 500 AND 599)     AS error_count,
    count(DISTINCT endpoint)                                    AS unique_endpoints
FROM usage_events
GROUP BY 1, 2, 3;

COMMENT ON VIEW usage_hourly IS 'Usage by UTC hour, organization and api key; the current hour included';
