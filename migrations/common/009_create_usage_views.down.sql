DROP VIEW IF EXISTS usage_monthly, usage_daily, usage_endpoint_hourly, usage_hourly, usage_unfolded;
DROP AGGREGATE IF EXISTS usage_count_distinct_of(bigint[]);
DROP FUNCTION IF EXISTS usage_count_distinct(bigint[]);
DROP FUNCTION IF EXISTS usage_check_tail(timestamptz, timestamptz);
