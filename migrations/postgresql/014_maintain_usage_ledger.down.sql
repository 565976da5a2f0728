DROP FUNCTION IF EXISTS usage_apply_retention();
DROP FUNCTION IF EXISTS usage_fold_ledger();
DROP TABLE IF EXISTS usage_retention_drops;
