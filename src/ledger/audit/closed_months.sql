-- What was frozen is as it was, and with the adjustments that events explain it is what the figures say now.
WITH billed AS (
    SELECT month, organization_id,
           concat_ws(' ', sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum),
                     sum(success_count), sum(client_error_count), sum(error_count)) AS figures
      FROM (SELECT month, organization_id, total_requests, billable_requests, billable_units, response_time_ms_sum,
                   success_count, client_error_count, error_count FROM usage_invoice_basis
            UNION ALL
            SELECT month, organization_id, total_requests, billable_requests, billable_units, response_time_ms_sum,
                   success_count, client_error_count, error_count FROM usage_adjustments WHERE NOT is_by_hand) AS lines
     GROUP BY 1, 2
), folded AS (
    SELECT month, organization_id,
           concat_ws(' ', sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum),
                     sum(success_count), sum(client_error_count), sum(error_count)) AS figures
      FROM usage_daily_figures WHERE month IN (SELECT month FROM usage_closed_months) GROUP BY 1, 2
)
SELECT true, format('%s: the frozen figures of %s organizations do not have the checksum that they were closed with',
                    to_char(month AT TIME ZONE 'UTC', 'YYYY-MM'), organizations)
  FROM usage_closed_months
 WHERE checksum <> usage_month_checksum(month)
UNION ALL
SELECT true, format('%s, organization %s: requests, billable, units, ms, 2xx, 4xx, 5xx are %s with adjustments, but the figures say %s',
                    to_char(month AT TIME ZONE 'UTC', 'YYYY-MM'), organization_id,
                    coalesce(billed.figures, nothing), coalesce(folded.figures, nothing))
  FROM billed FULL JOIN folded USING (month, organization_id),
       (VALUES ('0 0 0 0 0 0 0')) AS zeros (nothing) -- What is corrected away is as good as never there.
 WHERE coalesce(billed.figures, nothing) <> coalesce(folded.figures, nothing)
