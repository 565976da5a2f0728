DROP FUNCTION IF EXISTS usage_parts(timestamptz, timestamptz);
