SELECT remove_retention_policy('usage_events', if_exists => true);
SELECT remove_compression_policy('usage_events', if_exists => true);
SELECT remove_continuous_aggregate_policy('usage_monthly', if_exists => true);
SELECT remove_continuous_aggregate_policy('usage_daily', if_exists => true);
SELECT remove_continuous_aggregate_policy('usage_hourly', if_exists => true);
