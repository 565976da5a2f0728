DROP FUNCTION IF EXISTS usage_statement(uuid, date);
DROP FUNCTION IF EXISTS usage_close_month(date, interval);
DROP FUNCTION IF EXISTS usage_month_checksum(timestamptz);
