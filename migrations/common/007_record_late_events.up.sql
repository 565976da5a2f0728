-- Runs in the transaction of whoever writes events, whichever way they come in.
--
-- The shared lock is held until that transaction ends, and whoever moves a bound takes it exclusively: when a bound has
-- been moved, everybody who has not seen it has committed. The bounds are read after the lock is granted, which needs
-- a snapshot of its own: hence READ COMMITTED.
CREATE OR REPLACE FUNCTION usage_note_events()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    bounds      usage_bounds;
    event_count bigint;
    oldest      timestamptz;
    newest      timestamptz;
    low         timestamptz;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'usage events must be written in a READ COMMITTED transaction, not %',
            current_setting('transaction_isolation') USING ERRCODE = 'feature_not_supported';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtext('usage_bounds'), 'usage_bounds'::regclass::oid::integer);
    SELECT * INTO STRICT bounds FROM usage_bounds;
    SELECT count(*), min(time), max(time) INTO event_count, oldest, newest FROM inserted;
    IF event_count = 0 THEN
        RETURN NULL;
    END IF;
    IF oldest < bounds.retained_since THEN
        RAISE EXCEPTION 'an event of % is older than what is retained, which begins at %', oldest, bounds.retained_since
            USING ERRCODE = 'UP001', HINT = 'Its day has been dropped, or is about to be: its row would be alone there.';
    END IF;
    IF oldest < bounds.folding_until THEN
        INSERT INTO usage_late_figures
        SELECT CASE WHEN time < bounds.folded_until THEN bounds.folded_until ELSE bounds.folding_until END,
               date_bin('1 hour', time, '1970-01-01 00:00:00+00'), organization_id, api_key_id, endpoint, method,
               count(*), count(*) FILTER (WHERE billable), coalesce(sum(weight) FILTER (WHERE billable), 0),
               sum(response_time_ms), count(*) FILTER (WHERE status_code BETWEEN 200 AND 299),
               count(*) FILTER (WHERE status_code BETWEEN 400 AND 499),
               count(*) FILTER (WHERE status_code BETWEEN 500 AND 599)
          FROM inserted
         WHERE time < bounds.folding_until
         GROUP BY 1, 2, 3, 4, 5, 6;
    END IF;
    -- Of many events a sample of 250 tells enough. Late ones are late wherever the next bound lies.
    SELECT percentile_disc(0.05) WITHIN GROUP (ORDER BY time) INTO low
      FROM inserted WHERE time >= bounds.folding_until AND (event_count <= 500 OR random() < 250.0 / event_count);
    IF low IS NOT NULL THEN
        INSERT INTO usage_arrivals VALUES (low, newest, event_count);
    END IF;
    RETURN NULL;
END
$$;

-- With the rights of the tables' owner: writers cannot touch the figures by themselves.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION usage_note_events() SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
                   current_schema());
END
$$;
REVOKE EXECUTE ON FUNCTION usage_note_events() FROM PUBLIC;

DROP TRIGGER IF EXISTS usage_note_events ON usage_events;
CREATE TRIGGER usage_note_events AFTER INSERT ON usage_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION usage_note_events();

COMMENT ON FUNCTION usage_note_events() IS
    'Trigger: refuses events older than what is retained (SQLSTATE UP001) and enters late ones into usage_late_figures';
