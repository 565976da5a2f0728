-- An aggregate against the raw rows, by bucket and organization, for buckets whose raw rows are all there. A difference
-- is in progress while the bucket's newest row is younger than the refresh may take.
WITH whole AS (
    SELECT coalesce((max(event_day) + 1)::timestamp AT TIME ZONE 'UTC', '-infinity') AS since FROM usage_retention_drops
), raw AS (
    SELECT date_trunc('{unit}', time, 'UTC') AS bucket, organization_id, count(*) AS requests,
           count(*) FILTER (WHERE billable) AS billable,
           coalesce(sum(weight) FILTER (WHERE billable), 0)::bigint AS units, max(created_at) AS newest
      FROM usage_events GROUP BY 1, 2
), aggregated AS (
    SELECT bucket, organization_id, sum(total_requests)::bigint AS requests, sum(billable_requests)::bigint AS billable,
           sum(billable_units)::bigint AS units
      FROM {aggregate} GROUP BY 1, 2
)
SELECT coalesce(raw.newest < now() - INTERVAL '{refreshed_within}', true),
       format('{aggregate} %s, organization %s: %s requests, %s billable, %s units, but the rows say %s, %s, %s',
              to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), organization_id,
              coalesce(aggregated.requests, 0), coalesce(aggregated.billable, 0), coalesce(aggregated.units, 0),
              coalesce(raw.requests, 0), coalesce(raw.billable, 0), coalesce(raw.units, 0))
  FROM raw FULL JOIN aggregated USING (bucket, organization_id)
 WHERE bucket >= (SELECT since FROM whole)
   AND (raw.requests, raw.billable, raw.units)
       IS DISTINCT FROM (aggregated.requests, aggregated.billable, aggregated.units)
