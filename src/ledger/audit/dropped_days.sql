-- A day whose rows retention has dropped still has as many requests as it had rows.
WITH dropped AS (
    SELECT event_day, sum(rows_dropped) AS events FROM usage_retention_drops GROUP BY 1
), counted AS (
    SELECT (bucket AT TIME ZONE 'UTC')::date AS event_day, sum(total_requests) AS events
      FROM usage_daily_figures GROUP BY 1
)
SELECT true, format('%s: retention dropped %s rows, but the figures say %s requests',
                    event_day, dropped.events, coalesce(counted.events, 0))
  FROM dropped LEFT JOIN counted USING (event_day)
 WHERE dropped.events IS DISTINCT FROM coalesce(counted.events, 0)
