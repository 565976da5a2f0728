-- Takes away again what `usage-processor smoke` has sent: events of one organization that is nobody's, none of them billable.
-- The removal is booked like any other change of what there is: a day's `removed` is negative, and figures are computed anew
-- from the rows of that organization that are left. So everything still adds up, and no other organization is touched.
ALTER TABLE usage_ledger_days DROP CONSTRAINT IF EXISTS usage_ledger_days_source_check;
ALTER TABLE usage_ledger_days ADD CONSTRAINT usage_ledger_days_source_check
    CHECK (source IN ('kafka', 'replay', 'adopted') OR source = 'removed' AND written < 0);

-- Of one run, or of all (NULL); not before `since`, which spares planning for older days. Events of a closed month stay: it was
-- frozen with them. So do those whose time is nearly over: their day may be about to be counted and dropped, and whoever does that
-- would have to be waited for, for as long as a day's proof takes. Returns how many rows it has removed.
CREATE OR REPLACE FUNCTION usage_remove_smoke_events(run text, since timestamptz DEFAULT '-infinity')
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    -- Of SHA-256('usage-processor smoke organization'), as UUIDv8: src/smoke.rs.
    smoke constant uuid := '7a2222c5-cb31-8a16-845e-50f6ad0b6feb';
    bounds        usage_bounds;
    days          jsonb;
    removed       record;
    removed_count bigint := 0;
BEGIN
    -- Nobody moves the bound meanwhile, or closes a month.
    PERFORM pg_advisory_xact_lock(hashtext('usage_fold'), 'usage_bounds'::regclass::oid::integer);
    SELECT * INTO STRICT bounds FROM usage_bounds;
    EXECUTE format($remove$
        WITH removed AS (
            DELETE FROM usage_events
             WHERE organization_id = %1$L AND time >= %2$L AND NOT billable
               AND (%3$L::text IS NULL OR starts_with(request_id, 'smoke-' || %3$L || '-'))
               AND date_trunc('month', time, 'UTC') NOT IN (SELECT month FROM usage_closed_months)
            RETURNING time
        ), days AS (
            SELECT (time AT TIME ZONE 'UTC')::date AS event_day, count(*) AS row_count FROM removed GROUP BY 1
        )
        SELECT coalesce(jsonb_agg(days), '[]') FROM days
        $remove$, smoke, greatest(since, bounds.retained_since, now() - bounds.retention + INTERVAL '1 hour'), run)
    INTO days;
    FOR removed IN SELECT * FROM jsonb_to_recordset(days) AS day (event_day date, row_count bigint) LOOP
        removed_count := removed_count + removed.row_count;
        INSERT INTO usage_ledger_days (event_day, source, written) VALUES (removed.event_day, 'removed', -removed.row_count);
        -- Rows, and late increments of rows, are seen by one snapshot, or not yet and then they come later.
        EXECUTE format($rebuild$
            WITH hours AS (
                DELETE FROM usage_hourly_figures WHERE organization_id = %1$L AND bucket >= %2$L AND bucket < %3$L
            ), endpoints AS (
                DELETE FROM usage_endpoint_hourly_figures WHERE organization_id = %1$L AND bucket >= %2$L AND bucket < %3$L
            ), days AS (
                DELETE FROM usage_daily_figures WHERE organization_id = %1$L AND bucket = %2$L
            ), late AS (
                DELETE FROM usage_late_figures
                 WHERE organization_id = %1$L AND bucket >= %2$L AND bucket < %3$L AND counts_from <= %4$L
            )
            INSERT INTO usage_late_figures
            SELECT '-infinity', date_bin('1 hour', time, '1970-01-01 00:00:00+00'), organization_id, api_key_id, endpoint, method,
                   count(*), count(*) FILTER (WHERE billable), coalesce(sum(weight) FILTER (WHERE billable), 0),
                   sum(response_time_ms), count(*) FILTER (WHERE status_code BETWEEN 200 AND 299),
                   count(*) FILTER (WHERE status_code BETWEEN 400 AND 499),
                   count(*) FILTER (WHERE status_code BETWEEN 500 AND 599)
              FROM usage_events
             WHERE organization_id = %1$L AND time >= %2$L AND time < least(%3$L::timestamptz, %4$L::timestamptz)
             GROUP BY 2, 3, 4, 5, 6
            $rebuild$, smoke, removed.event_day::timestamp AT TIME ZONE 'UTC',
            (removed.event_day + 1)::timestamp AT TIME ZONE 'UTC', bounds.folded_until);
    END LOOP;
    IF removed_count > 0 THEN
        PERFORM usage_fold(); -- Or what is left would be missing from the figures' levels until the next one.
    END IF;
    RETURN removed_count;
END
$$;

DO $$
BEGIN
    -- Times become text and times again (008), and names are found wherever it is called from.
    EXECUTE format('ALTER FUNCTION usage_remove_smoke_events(text, timestamptz) SET DateStyle = ISO SET TimeZone = UTC '
                   'SET jit = off SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$;
REVOKE EXECUTE ON FUNCTION usage_remove_smoke_events(text, timestamptz) FROM PUBLIC;

COMMENT ON COLUMN usage_ledger_days.source IS
    'Where rows came from: kafka, replay, adopted; removed (negative): what usage_remove_smoke_events() has taken away';
COMMENT ON FUNCTION usage_remove_smoke_events(text, timestamptz) IS
    'Removes the events of a run of `usage-processor smoke`, or of all runs, books it, and returns how many there were';
