-- Nothing here runs by itself: `usage-processor run` does it if it is given the owner's MAINTENANCE_DATABASE_URL, `usage-processor
-- maintain` under a timer, or pg_cron where this database has it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        RETURN;
    ELSIF has_schema_privilege('cron', 'USAGE') THEN
        PERFORM cron.schedule('usage-maintain', '7 * * * *', format('SELECT %I.usage_maintain()', current_schema()));
    ELSE
        RAISE WARNING 'pg_cron is not used: the role % may not use the schema cron', current_user;
    END IF;
END
$$;
