-- A job is a procedure of this shape.
CREATE OR REPLACE PROCEDURE usage_maintain_job(job_id integer, config jsonb)
LANGUAGE sql AS 'SELECT usage_maintain()';

-- A job runs with its owner's search_path, which need not be the one of now.
DO $$
DECLARE
    names constant text := (SELECT format('pg_catalog, %I, %I, pg_temp', current_schema(), nspname)
                              FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                             WHERE extname = 'timescaledb');
BEGIN
    EXECUTE 'ALTER PROCEDURE usage_maintain_job(integer, jsonb) SET search_path = ' || names;
    IF NOT EXISTS (SELECT FROM timescaledb_information.jobs
                    WHERE proc_name = 'usage_maintain_job' AND proc_schema = current_schema()) THEN
        PERFORM add_job('usage_maintain_job', INTERVAL '1 hour');
    END IF;
END
$$;
SELECT add_compression_policy('usage_events', compress_after => INTERVAL '7 days', if_not_exists => true);

COMMENT ON PROCEDURE usage_maintain_job(integer, jsonb) IS 'The job that calls usage_maintain()';
