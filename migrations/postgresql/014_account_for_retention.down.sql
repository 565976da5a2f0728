DROP FUNCTION IF EXISTS usage_apply_retention();
DROP TABLE IF EXISTS usage_retention_drops;
