-- Drops the figures, also those whose events are gone: nothing can make these anew.
DROP TABLE IF EXISTS usage_adjustments, usage_invoice_basis, usage_closed_months, usage_arrivals, usage_late_figures,
    usage_daily_figures, usage_endpoint_hourly_figures, usage_hourly_figures, usage_bounds;
DROP FUNCTION IF EXISTS usage_refuse_change();
DROP FUNCTION IF EXISTS usage_order_adjustments();
DROP FUNCTION IF EXISTS usage_refuse_addition();
