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
    -- What takes long first: from a fold on no other can run, from a dropped partition on nobody can read or write the
    -- table, and from a moved bound on writers wait until the end.
    proven := usage_prove_expired();
    ledger_rows_saved := usage_fold_ledger();
    events_folded := usage_fold();
    IF to_regprocedure('usage_ensure_partitions(date, date)') IS NOT NULL THEN -- Chunks are made by TimescaleDB.
        partitions_made := usage_ensure_partitions((now() AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date + 14);
    END IF;
    rows_dropped := usage_drop_proven(proven);
    has_moved := usage_advance_retention();
    -- Of a topic that has been silent for a day everything is folded, so that its months can be closed. By whole hours, or
    -- more would be due after every call.
    is_more_due := usage_begin_fold(date_trunc('hour', now() - INTERVAL '1 day', 'UTC'));
    is_more_due := is_more_due OR has_moved OR (SELECT folding_until > folded_until FROM usage_bounds);
END
$$;
REVOKE EXECUTE ON FUNCTION usage_maintain() FROM PUBLIC;

-- Whatever calls it need not have the search_path of now.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION usage_maintain() SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$;

COMMENT ON FUNCTION usage_maintain() IS
    'Folds what is due, makes partitions ahead where there are any, applies retention; returns what it did; for every hour';
