-- A view against the rows, by bucket and organization, for buckets whose rows are all there.
WITH whole AS (
    SELECT coalesce((max(event_day) + 1)::timestamp AT TIME ZONE 'UTC', '-infinity') AS since FROM usage_retention_drops
), raw AS (
    SELECT date_trunc('{unit}', time, 'UTC') AS bucket, organization_id,
           concat_ws(' ', count(*), count(*) FILTER (WHERE billable), coalesce(sum(weight) FILTER (WHERE billable), 0),
                     sum(response_time_ms), count(*) FILTER (WHERE status_code BETWEEN 200 AND 299),
                     count(*) FILTER (WHERE status_code BETWEEN 400 AND 499),
                     count(*) FILTER (WHERE status_code BETWEEN 500 AND 599)) AS figures
      FROM usage_events GROUP BY 1, 2
), aggregated AS (
    SELECT bucket, organization_id,
           concat_ws(' ', sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum),
                     sum(success_count), sum(client_error_count), sum(error_count)) AS figures
      FROM {aggregate} GROUP BY 1, 2
)
SELECT true,
       format('{aggregate} %s, organization %s: requests, billable, units, ms, 2xx, 4xx, 5xx are %s, but the rows say %s',
              to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), organization_id,
              coalesce(aggregated.figures, 'absent'), coalesce(raw.figures, 'nothing'))
  FROM raw FULL JOIN aggregated USING (bucket, organization_id)
 WHERE bucket >= (SELECT since FROM whole) AND raw.figures IS DISTINCT FROM aggregated.figures
