DROP FUNCTION IF EXISTS get_current_month_usage(uuid);
