-- The chunks of usage_events that reach into a span of time, and when they begin and end.
CREATE OR REPLACE FUNCTION usage_parts(since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT 'infinity')
RETURNS TABLE (part regclass, range_start timestamptz, range_end timestamptz, is_compressed boolean)
LANGUAGE sql STABLE
AS $$
    SELECT to_regclass(format('%I.%I', chunk_schema, chunk_name)), chunk.range_start, chunk.range_end, chunk.is_compressed
      FROM timescaledb_information.chunks AS chunk
     WHERE to_regclass(format('%I.%I', chunk.hypertable_schema, chunk.hypertable_name)) = 'usage_events'::regclass
       AND chunk.range_start <= until AND chunk.range_end > since
$$;

-- Chunks that end before are compressed by a policy within a day.
CREATE OR REPLACE FUNCTION usage_compressed_soon()
RETURNS timestamptz
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(now() - min((config->>'compress_after')::interval) + INTERVAL '1 day', '-infinity')
      FROM timescaledb_information.jobs
     WHERE proc_name = 'policy_compression'
       AND to_regclass(format('%I.%I', hypertable_schema, hypertable_name)) = 'usage_events'::regclass
$$;

-- Whatever calls them need not have the search_path of now.
DO $$
DECLARE
    names constant text := (SELECT format('pg_catalog, %I, %I, pg_temp', current_schema(), nspname)
                              FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                             WHERE extname = 'timescaledb');
BEGIN
    EXECUTE 'ALTER FUNCTION usage_parts(timestamptz, timestamptz) SET search_path = ' || names;
    EXECUTE 'ALTER FUNCTION usage_compressed_soon() SET search_path = ' || names;
END
$$;

COMMENT ON FUNCTION usage_parts(timestamptz, timestamptz) IS
    'The chunks of usage_events that reach into a span of time, with their own spans';
COMMENT ON FUNCTION usage_compressed_soon() IS
    'Chunks that end before are compressed by a policy within a day, -infinity if there is none';
