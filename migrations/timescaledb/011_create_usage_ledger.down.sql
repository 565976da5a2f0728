DROP TABLE IF EXISTS usage_ledger_days, usage_ledger_starts, usage_ledger;
