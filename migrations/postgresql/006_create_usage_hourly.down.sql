DROP VIEW IF EXISTS usage_hourly;
