DROP FUNCTION IF EXISTS usage_grant_writer(name);
DO $$
BEGIN
    IF to_regprocedure('usage_ensure_partitions(date, date)') IS NOT NULL THEN
        ALTER FUNCTION usage_ensure_partitions(date, date) SECURITY INVOKER RESET search_path;
        GRANT EXECUTE ON FUNCTION usage_ensure_partitions(date, date) TO PUBLIC;
    END IF;
END
$$;
