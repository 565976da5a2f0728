DROP FUNCTION IF EXISTS usage_compressed_soon();
DROP FUNCTION IF EXISTS usage_parts(timestamptz, timestamptz);
