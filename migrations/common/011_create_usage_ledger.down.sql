DROP FUNCTION IF EXISTS usage_fold_ledger();
DROP TABLE IF EXISTS usage_ledger_days, usage_ledger_starts, usage_ledger;
