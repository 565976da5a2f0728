DROP FUNCTION IF EXISTS usage_remove_smoke_events(text, timestamptz);
COMMENT ON COLUMN usage_ledger_days.source IS NULL;
-- Rows that were removed stay booked, under the source that nothing else is compared with.
ALTER TABLE usage_ledger_days DROP CONSTRAINT IF EXISTS usage_ledger_days_source_check;
UPDATE usage_ledger_days SET source = 'replay' WHERE source = 'removed';
ALTER TABLE usage_ledger_days ADD CONSTRAINT usage_ledger_days_source_check CHECK (source IN ('kafka', 'replay', 'adopted'));
