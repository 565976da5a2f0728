-- Rows of the table are those that were written and not dropped by retention.
WITH counts AS (
    SELECT (time AT TIME ZONE 'UTC')::date AS event_day, count(*) AS found, 0 AS written, 0 AS dropped
      FROM usage_events GROUP BY 1
    UNION ALL
    SELECT event_day, 0, sum(written), 0 FROM usage_ledger_days GROUP BY 1
    UNION ALL
    SELECT event_day, 0, 0, sum(rows_dropped) FROM usage_retention_drops GROUP BY 1
)
SELECT true, format('%s: %s rows in usage_events, but %s written - %s dropped by retention',
                    event_day, sum(found), sum(written), sum(dropped))
  FROM counts
 GROUP BY event_day
HAVING sum(found) <> sum(written) - sum(dropped)
