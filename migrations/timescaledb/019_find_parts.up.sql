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

-- Whatever calls it need not have the search_path of now.
DO $$
BEGIN
    EXECUTE (SELECT format('ALTER FUNCTION usage_parts(timestamptz, timestamptz) SET search_path = pg_catalog, %I, %I, pg_temp',
                           current_schema(), nspname)
               FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'timescaledb');
END
$$;

COMMENT ON FUNCTION usage_parts(timestamptz, timestamptz) IS
    'The chunks of usage_events that reach into a span of time, with their own spans';
