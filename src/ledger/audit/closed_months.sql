-- What was frozen is as it was, and with its adjustments it is what the figures say now.
WITH billed AS (
    SELECT month, organization_id, sum(requests) AS requests, sum(billable) AS billable, sum(units) AS units
      FROM (SELECT month, organization_id, total_requests AS requests, billable_requests AS billable, billable_units AS units
              FROM usage_invoice_basis
            UNION ALL
            SELECT month, organization_id, total_requests, billable_requests, billable_units FROM usage_adjustments) AS lines
     GROUP BY 1, 2
), figures AS (
    SELECT month, organization_id, sum(total_requests) AS requests, sum(billable_requests) AS billable,
           sum(billable_units) AS units
      FROM usage_daily_figures WHERE month IN (SELECT month FROM usage_closed_months) GROUP BY 1, 2
)
SELECT true, format('%s: the frozen figures of %s organizations do not have the checksum that they were closed with',
                    to_char(month AT TIME ZONE 'UTC', 'YYYY-MM'), organizations)
  FROM usage_closed_months
 WHERE checksum <> usage_month_checksum(month)
UNION ALL
SELECT true, format('%s, organization %s: the statement says %s requests, %s billable, %s units, but the figures %s, %s, %s',
                    to_char(month AT TIME ZONE 'UTC', 'YYYY-MM'), organization_id,
                    coalesce(billed.requests, 0), coalesce(billed.billable, 0), coalesce(billed.units, 0),
                    coalesce(figures.requests, 0), coalesce(figures.billable, 0), coalesce(figures.units, 0))
  FROM billed FULL JOIN figures USING (month, organization_id)
 WHERE (coalesce(billed.requests, 0), coalesce(billed.billable, 0), coalesce(billed.units, 0))
       <> (coalesce(figures.requests, 0), coalesce(figures.billable, 0), coalesce(figures.units, 0))
