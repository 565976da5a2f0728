-- Usage by UTC hour, organization and api key. Kept for ever: the daily and monthly figures are made of it, and an
-- hour lies wholly inside one chunk of a day, so that retention never leaves half of one behind.
-- Real-time: hours that are not materialized yet, the current one included, are read from the raw events.
CREATE MATERIALIZED VIEW IF NOT EXISTS usage_hourly
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '1 hour', time)                        AS bucket,
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
GROUP BY 1, 2, 3
WITH NO DATA;

COMMENT ON VIEW usage_hourly IS 'Usage by UTC hour, organization and api key; the current hour included';
