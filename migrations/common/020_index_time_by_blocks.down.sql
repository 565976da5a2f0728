ALTER FUNCTION usage_fold() RESET enable_seqscan;
DROP TRIGGER IF EXISTS usage_summarize_times ON usage_bounds;
DROP FUNCTION IF EXISTS usage_summarize_times();
ALTER TABLE usage_bounds DROP COLUMN IF EXISTS summarize_after;
CREATE INDEX IF NOT EXISTS usage_events_time_idx ON usage_events (time DESC);
DROP INDEX IF EXISTS usage_events_time_blocks_idx;
