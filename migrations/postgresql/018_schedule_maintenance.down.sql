DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        RETURN;
    ELSIF has_schema_privilege('cron', 'USAGE') THEN
        PERFORM cron.unschedule(jobid) FROM cron.job WHERE jobname = 'usage-maintain' AND database = current_database();
    END IF;
END
$$;
