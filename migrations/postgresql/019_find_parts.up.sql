-- The partitions of usage_events that reach into a span of time, and when their UTC day begins and ends.
CREATE OR REPLACE FUNCTION usage_parts(since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT 'infinity')
RETURNS TABLE (part regclass, range_start timestamptz, range_end timestamptz, is_compressed boolean)
LANGUAGE sql STABLE
AS $$
    SELECT relid::regclass, day AT TIME ZONE 'UTC', (day + INTERVAL '1 day') AT TIME ZONE 'UTC', false
      FROM (SELECT pg_class.oid AS relid, to_date(right(relname, 8), 'YYYYMMDD')::timestamp AS day
              FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
             WHERE inhparent = 'usage_events'::regclass AND relname ~ '^usage_events_[0-9]{8}$') AS days
     WHERE day AT TIME ZONE 'UTC' <= until AND (day + INTERVAL '1 day') AT TIME ZONE 'UTC' > since
$$;

-- Nothing is compressed in this profile.
CREATE OR REPLACE FUNCTION usage_compressed_soon() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT timestamptz '-infinity' $$;

-- Whatever calls it need not have the search_path of now.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION usage_parts(timestamptz, timestamptz) SET search_path = pg_catalog, %I, pg_temp',
                   current_schema());
END
$$;

COMMENT ON FUNCTION usage_parts(timestamptz, timestamptz) IS
    'The partitions of usage_events that reach into a span of time, with their own spans';
COMMENT ON FUNCTION usage_compressed_soon() IS 'Always -infinity: nothing is compressed in this profile';
