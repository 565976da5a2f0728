DROP VIEW IF EXISTS usage_daily;
