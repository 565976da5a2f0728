DROP FUNCTION IF EXISTS usage_rebuild_day(date, boolean);
DROP FUNCTION IF EXISTS usage_begin_fold(timestamptz);
DROP FUNCTION IF EXISTS usage_fold();
DROP FUNCTION IF EXISTS usage_tail_floor();
