-- What retention drops at a time: the partition of one UTC day.
CREATE OR REPLACE FUNCTION usage_ranges_before(boundary timestamptz)
RETURNS TABLE (range_start timestamptz, range_end timestamptz)
LANGUAGE sql STABLE
AS $$
    SELECT day AT TIME ZONE 'UTC', (day + INTERVAL '1 day') AT TIME ZONE 'UTC'
      FROM (SELECT to_date(right(relname, 8), 'YYYYMMDD')::timestamp AS day
              FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
             WHERE inhparent = 'usage_events'::regclass AND relname ~ '^usage_events_[0-9]{8}$') AS days
     WHERE (day + INTERVAL '1 day') AT TIME ZONE 'UTC' <= boundary
     ORDER BY 1
$$;

CREATE OR REPLACE FUNCTION usage_drop_range(range_start timestamptz, range_end timestamptz)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('DROP TABLE %I.%I',
                   (SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE c.oid = 'usage_events'::regclass),
                   'usage_events_' || to_char(range_start AT TIME ZONE 'UTC', 'YYYYMMDD'));
END
$$;

-- Whatever calls them need not have the search_path of now.
DO $$
DECLARE
    names constant text := format('pg_catalog, %I, pg_temp', current_schema());
BEGIN
    EXECUTE 'ALTER FUNCTION usage_ranges_before(timestamptz) SET search_path = ' || names;
    EXECUTE 'ALTER FUNCTION usage_drop_range(timestamptz, timestamptz) SET search_path = ' || names;
END
$$;
REVOKE EXECUTE ON FUNCTION usage_drop_range(timestamptz, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION usage_ranges_before(timestamptz) IS 'Ranges of usage_events that end before a time, oldest first';
COMMENT ON FUNCTION usage_drop_range(timestamptz, timestamptz) IS
    'Drops one range of usage_events without any check: usage_apply_retention() is what to call';
