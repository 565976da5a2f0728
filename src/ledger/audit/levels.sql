-- For ever, with rows or without: a day is the sum of its hours, and an hour has the same requests by endpoint as by api key.
WITH sums AS (
    SELECT bucket, organization_id, api_key_id,
           concat_ws(' ', total_requests, billable_requests, billable_units, response_time_ms_sum, success_count,
                     client_error_count, error_count) AS figures
      FROM usage_daily_figures
), hours AS (
    SELECT date_trunc('day', bucket, 'UTC') AS bucket, organization_id, api_key_id,
           concat_ws(' ', sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum),
                     sum(success_count), sum(client_error_count), sum(error_count)) AS figures
      FROM usage_hourly_figures GROUP BY 1, 2, 3
), keys AS (
    SELECT bucket, organization_id,
           concat_ws(' ', sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum),
                     sum(success_count), sum(client_error_count), sum(error_count)) AS figures
      FROM usage_hourly_figures GROUP BY 1, 2
), endpoints AS (
    SELECT bucket, organization_id,
           concat_ws(' ', sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum),
                     sum(success_count), sum(client_error_count), sum(error_count)) AS figures
      FROM usage_endpoint_hourly_figures GROUP BY 1, 2
)
SELECT true, format('%s, organization %s, api key %s: the day has %s, its hours %s',
                    (bucket AT TIME ZONE 'UTC')::date, organization_id, api_key_id, sums.figures, hours.figures)
  FROM sums FULL JOIN hours USING (bucket, organization_id, api_key_id)
 WHERE sums.figures IS DISTINCT FROM hours.figures
UNION ALL
SELECT true, format('%s, organization %s: the hour has %s by api key, %s by endpoint',
                    to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), organization_id, keys.figures, endpoints.figures)
  FROM keys FULL JOIN endpoints USING (bucket, organization_id)
 WHERE keys.figures IS DISTINCT FROM endpoints.figures
