-- Everything that must be done now and then, in one transaction. Called hourly by whoever is there to do it, any number of
-- them: who comes second does nothing. Returns what it did, and whether calling it again at once would do more.
CREATE OR REPLACE FUNCTION usage_maintain(OUT ledger_rows_saved bigint, OUT events_folded bigint, OUT rows_dropped bigint,
                                          OUT partitions_made bigint, OUT is_more_due boolean)
LANGUAGE plpgsql
AS $$
DECLARE
    proven    jsonb;
    has_moved boolean;
BEGIN
    ledger_rows_saved := 0; events_folded := 0; rows_dropped := 0; partitions_made := 0; is_more_due := false;
    IF NOT pg_try_advisory_xact_lock(hashtext('usage_maintain'), 'usage_bounds'::regclass::oid::integer) THEN
        RETURN;
    END IF;
    -- What takes long first: from a fold on no other can run, from a dropped chunk on nobody can read it, and from a moved
    -- bound on writers wait until the end.
    proven := usage_prove_expired();
    ledger_rows_saved := usage_fold_ledger();
    events_folded := usage_fold();
    rows_dropped := usage_drop_proven(proven);
    has_moved := usage_advance_retention();
    -- Of a topic that has been silent for a day everything is folded, so that its months can be closed. By whole hours, or
    -- more would be due after every call.
    is_more_due := usage_begin_fold(date_trunc('hour', now() - INTERVAL '1 day', 'UTC'));
    is_more_due := is_more_due OR has_moved OR (SELECT folding_until > folded_until FROM usage_bounds);
END
$$;
REVOKE EXECUTE ON FUNCTION usage_maintain() FROM PUBLIC;

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
    EXECUTE 'ALTER FUNCTION usage_maintain() SET search_path = ' || names;
    EXECUTE 'ALTER PROCEDURE usage_maintain_job(integer, jsonb) SET search_path = ' || names;
    IF NOT EXISTS (SELECT FROM timescaledb_information.jobs
                    WHERE proc_name = 'usage_maintain_job' AND proc_schema = current_schema()) THEN
        PERFORM add_job('usage_maintain_job', INTERVAL '1 hour');
    END IF;
END
$$;
SELECT add_compression_policy('usage_events', compress_after => INTERVAL '7 days', if_not_exists => true);

COMMENT ON FUNCTION usage_maintain() IS
    'Folds what is due and applies retention; returns what it did; a job calls it every hour';
COMMENT ON PROCEDURE usage_maintain_job(integer, jsonb) IS 'The job that calls usage_maintain()';
