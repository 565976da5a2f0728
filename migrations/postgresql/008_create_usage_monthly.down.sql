DROP VIEW IF EXISTS usage_monthly;
