-- What retention drops at a time: all chunks of one range of time.
CREATE OR REPLACE FUNCTION usage_ranges_before(boundary timestamptz)
RETURNS TABLE (range_start timestamptz, range_end timestamptz)
LANGUAGE sql STABLE
AS $$
    SELECT DISTINCT chunk.range_start, chunk.range_end
      FROM timescaledb_information.chunks AS chunk
     WHERE to_regclass(format('%I.%I', chunk.hypertable_schema, chunk.hypertable_name)) = 'usage_events'::regclass
       AND chunk.range_end <= boundary
     ORDER BY 1
$$;

CREATE OR REPLACE FUNCTION usage_drop_range(range_start timestamptz, range_end timestamptz)
RETURNS void
LANGUAGE sql
AS $$ SELECT drop_chunks('usage_events', older_than => range_end, newer_than => range_start) $$;

-- Jobs run with their owner's search_path, which need not be the one of now.
DO $$
DECLARE
    names constant text := (SELECT format('pg_catalog, %I, %I, pg_temp', current_schema(), nspname)
                              FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                             WHERE extname = 'timescaledb');
BEGIN
    EXECUTE 'ALTER FUNCTION usage_ranges_before(timestamptz) SET search_path = ' || names;
    EXECUTE 'ALTER FUNCTION usage_drop_range(timestamptz, timestamptz) SET search_path = ' || names;
END
$$;
REVOKE EXECUTE ON FUNCTION usage_drop_range(timestamptz, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION usage_ranges_before(timestamptz) IS 'Ranges of usage_events that end before a time, oldest first';
COMMENT ON FUNCTION usage_drop_range(timestamptz, timestamptz) IS
    'Drops one range of usage_events without any check: usage_apply_retention() is what to call';
