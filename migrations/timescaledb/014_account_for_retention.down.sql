SELECT delete_job(job_id) FROM timescaledb_information.jobs
 WHERE proc_name = 'usage_apply_retention_job';
DROP PROCEDURE IF EXISTS usage_apply_retention_job(integer, jsonb);
DROP FUNCTION IF EXISTS usage_apply_retention();
DROP TABLE IF EXISTS usage_retention_drops;
-- The way back leads to the policy that drops without counting; 010 removes it when the way goes on.
DO $$
BEGIN
    IF to_regclass('usage_events') IS NOT NULL THEN
        PERFORM add_retention_policy('usage_events', drop_after => INTERVAL '90 days', if_not_exists => true);
    END IF;
END
$$;
