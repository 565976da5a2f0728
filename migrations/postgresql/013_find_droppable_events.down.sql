DROP FUNCTION IF EXISTS usage_drop_range(timestamptz, timestamptz);
DROP FUNCTION IF EXISTS usage_ranges_before(timestamptz);
