-- A view against the rows, bucket by bucket, for buckets of which no row has been dropped.
WITH raw AS (
    SELECT date_trunc('{unit}', time, 'UTC') AS bucket, {keys},
           concat_ws(' ', count(*), count(*) FILTER (WHERE billable), coalesce(sum(weight) FILTER (WHERE billable), 0),
                     sum(response_time_ms), count(*) FILTER (WHERE status_code BETWEEN 200 AND 299),
                     count(*) FILTER (WHERE status_code BETWEEN 400 AND 499),
                     count(*) FILTER (WHERE status_code BETWEEN 500 AND 599), {distinct_rows}) AS figures
      FROM usage_events GROUP BY bucket, {keys}
), viewed AS (
    SELECT bucket, {keys},
           concat_ws(' ', sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum),
                     sum(success_count), sum(client_error_count), sum(error_count), {distinct}) AS figures
      FROM {view} GROUP BY bucket, {keys}
)
SELECT true,
       format('{view} %s, {keys} %s: requests, billable, units, ms, 2xx, 4xx, 5xx, distinct are %s, but the rows say %s',
              to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), to_json(concat_ws(' ', {keys})),
              coalesce(viewed.figures, 'absent'), coalesce(raw.figures, 'nothing'))
  FROM raw FULL JOIN viewed USING (bucket, {keys})
 WHERE raw.figures IS DISTINCT FROM viewed.figures
   AND bucket NOT IN (SELECT date_trunc('{unit}', event_day + n * INTERVAL '1 hour') AT TIME ZONE 'UTC'
                        FROM usage_retention_drops, generate_series(0, 23) AS n)
