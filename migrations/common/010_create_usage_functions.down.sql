DROP FUNCTION IF EXISTS usage_error_rate(uuid, timestamptz);
DROP FUNCTION IF EXISTS usage_top_endpoints(uuid, timestamptz, integer);
DROP FUNCTION IF EXISTS usage_by_day(uuid, date, date);
DROP FUNCTION IF EXISTS get_current_month_usage(uuid);
