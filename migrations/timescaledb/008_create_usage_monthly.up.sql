-- Usage by UTC month and organization, rolled up from the hours: sums of sums, so no figure depends on how it was reached.
CREATE MATERIALIZED VIEW IF NOT EXISTS usage_monthly
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '1 month', bucket)             AS bucket,
    organization_id,
    sum(total_requests)::bigint                         AS total_requests,
    sum(billable_requests)::bigint                      AS billable_requests,
    sum(billable_units)::bigint                         AS billable_units,
    sum(response_time_ms_sum)::bigint                   AS response_time_ms_sum,
    sum(response_time_ms_sum) / sum(total_requests)     AS avg_response_time_ms,
    sum(success_count)::bigint                          AS success_count,
    sum(client_error_count)::bigint                     AS client_error_count,
    sum(error_count)::bigint                            AS error_count,
    count(DISTINCT api_key_id)                          AS unique_api_keys
FROM usage_hourly
GROUP BY 1, 2
WITH NO DATA;

COMMENT ON VIEW usage_monthly IS 'Usage by UTC month and organization; the current month included';
