SELECT remove_compression_policy('usage_events', if_exists => true)
 WHERE to_regclass('usage_events') IS NOT NULL;
SELECT delete_job(job_id) FROM timescaledb_information.jobs
 WHERE proc_name = 'usage_maintain_job' AND proc_schema = current_schema();
DROP PROCEDURE IF EXISTS usage_maintain_job(integer, jsonb);
