DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        PERFORM cron.unschedule(jobid) FROM cron.job WHERE jobname = 'usage-maintain' AND database = current_database();
    END IF;
END
$$;
DROP FUNCTION IF EXISTS usage_maintain();
