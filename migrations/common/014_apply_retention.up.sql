-- Rows that retention drops are counted by day before they go, so that every row that was ever written stays
-- accounted for.
CREATE TABLE IF NOT EXISTS usage_retention_drops (
    event_day    date        NOT NULL,
    rows_dropped bigint      NOT NULL,
    dropped_at   timestamptz NOT NULL DEFAULT now()
);

-- Compares the figures between two UTC midnights with the rows: hours, endpoints and days, every column. Returns how many
-- rows there are, how many late increments are still to be folded, and how many figures differ.
CREATE OR REPLACE FUNCTION usage_prove_figures(range_start timestamptz, range_end timestamptz, OUT row_count bigint,
                                               OUT unfolded_count bigint, OUT difference_count bigint)
LANGUAGE plpgsql
AS $$
BEGIN
    -- Literals, so that no other chunk is planned for.
    EXECUTE format($prove$
        WITH cells AS MATERIALIZED (
            SELECT date_trunc('hour', time, 'UTC') AS bucket, organization_id, api_key_id, endpoint, method,
                   count(*) AS requests, count(*) FILTER (WHERE billable) AS billable,
                   coalesce(sum(weight) FILTER (WHERE billable), 0) AS units, sum(response_time_ms) AS ms,
                   count(*) FILTER (WHERE status_code BETWEEN 200 AND 299) AS good,
                   count(*) FILTER (WHERE status_code BETWEEN 400 AND 499) AS bad,
                   count(*) FILTER (WHERE status_code BETWEEN 500 AND 599) AS failed
              FROM usage_events WHERE time >= %1$L AND time < %2$L
             GROUP BY 1, 2, 3, 4, 5
        ), hours AS (
            SELECT bucket, organization_id, api_key_id, sum(requests) AS requests, sum(billable) AS billable,
                   sum(units) AS units, sum(ms) AS ms, sum(good) AS good, sum(bad) AS bad, sum(failed) AS failed,
                   array_agg(DISTINCT hashtextextended(endpoint, 0)) AS hashes
              FROM cells GROUP BY 1, 2, 3
        ), endpoints AS (
            SELECT bucket, organization_id, endpoint, method, sum(requests) AS requests, sum(billable) AS billable,
                   sum(units) AS units, sum(ms) AS ms, sum(good) AS good, sum(bad) AS bad, sum(failed) AS failed
              FROM cells GROUP BY 1, 2, 3, 4
        ), days AS (
            SELECT date_trunc('day', bucket, 'UTC') AS bucket, organization_id, api_key_id, sum(requests) AS requests,
                   sum(billable) AS billable, sum(units) AS units, sum(ms) AS ms, sum(good) AS good, sum(bad) AS bad,
                   sum(failed) AS failed
              FROM cells GROUP BY 1, 2, 3
        ), hourly_figures AS (
            SELECT * FROM usage_hourly_figures WHERE bucket >= %1$L AND bucket < %2$L
        ), endpoint_figures AS (
            SELECT * FROM usage_endpoint_hourly_figures WHERE bucket >= %1$L AND bucket < %2$L
        ), daily_figures AS (
            SELECT * FROM usage_daily_figures WHERE bucket >= %1$L AND bucket < %2$L
        )
        SELECT (SELECT coalesce(sum(requests), 0) FROM cells),
               (SELECT count(*) FROM usage_late_figures WHERE bucket >= %1$L AND bucket < %2$L),
               (SELECT count(*) FROM hours AS r FULL JOIN hourly_figures AS f USING (bucket, organization_id, api_key_id)
                 WHERE ROW (r.requests, r.billable, r.units, r.ms, r.good, r.bad, r.failed)
                       IS DISTINCT FROM ROW (f.total_requests, f.billable_requests, f.billable_units, f.response_time_ms_sum,
                                             f.success_count, f.client_error_count, f.error_count)
                    OR r.hashes IS DISTINCT FROM f.endpoint_hashes)
             + (SELECT count(*) FROM endpoints AS r
                  FULL JOIN endpoint_figures AS f USING (bucket, organization_id, endpoint, method)
                 WHERE ROW (r.requests, r.billable, r.units, r.ms, r.good, r.bad, r.failed)
                       IS DISTINCT FROM ROW (f.total_requests, f.billable_requests, f.billable_units, f.response_time_ms_sum,
                                             f.success_count, f.client_error_count, f.error_count))
             + (SELECT count(*) FROM days AS r FULL JOIN daily_figures AS f USING (bucket, organization_id, api_key_id)
                 WHERE ROW (r.requests, r.billable, r.units, r.ms, r.good, r.bad, r.failed)
                       IS DISTINCT FROM ROW (f.total_requests, f.billable_requests, f.billable_units, f.response_time_ms_sum,
                                             f.success_count, f.client_error_count, f.error_count))
        $prove$, range_start, range_end)
    INTO row_count, unfolded_count, difference_count;
END
$$;

-- Finds the ranges before retained_since whose figures are proven, and warns of those whose are not. No writer can add to
-- such a range, and no fold changes it once its late events are in: in the same transaction it may be dropped later.
-- Returns an array of {"range_start", "range_end", "row_count", "days": [{"event_day", "rows_dropped"}]}, oldest first.
CREATE OR REPLACE FUNCTION usage_prove_expired()
RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    droppable  record;
    proof      record;
    is_dropped boolean;
    days       jsonb;
    proven     jsonb := '[]';
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('usage_drop_expired'), 'usage_bounds'::regclass::oid::integer) THEN
        RETURN proven;
    END IF;
    FOR droppable IN SELECT * FROM usage_ranges_before((SELECT retained_since FROM usage_bounds)) LOOP
        SELECT * INTO proof FROM usage_prove_figures(droppable.range_start, droppable.range_end);
        is_dropped := EXISTS (SELECT FROM usage_retention_drops
                               WHERE event_day >= (droppable.range_start AT TIME ZONE 'UTC')::date
                                 AND event_day < (droppable.range_end AT TIME ZONE 'UTC')::date);
        IF proof.unfolded_count > 0 THEN
            CONTINUE; -- The next fold adds them.
        ELSIF proof.difference_count > 0 AND NOT (proof.row_count = 0 AND is_dropped) THEN
            RAISE WARNING 'events of % are kept beyond their time: % figures differ from the % rows that they were made of',
                (droppable.range_start AT TIME ZONE 'UTC')::date, proof.difference_count, proof.row_count
                USING HINT = 'If the rows are right, usage_rebuild_day() mends the figures, and they can be dropped.';
            CONTINUE;
        END IF;
        EXECUTE format('SELECT coalesce(jsonb_agg(day), ''[]'') '
                       'FROM (SELECT (time AT TIME ZONE ''UTC'')::date AS event_day, count(*) AS rows_dropped '
                       'FROM usage_events WHERE time >= %L AND time < %L GROUP BY 1) AS day',
                       droppable.range_start, droppable.range_end) INTO days;
        proven := proven || jsonb_build_object('range_start', droppable.range_start, 'range_end', droppable.range_end,
                                               'row_count', proof.row_count, 'days', days);
    END LOOP;
    RETURN proven;
END
$$;

-- Drops ranges that usage_prove_expired() has returned in the same transaction. From the first one on, with partitions,
-- nobody reads or writes usage_events until that ends: not much may come after it. Returns how many rows it dropped.
CREATE OR REPLACE FUNCTION usage_drop_proven(proven jsonb)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    expired       record;
    dropped_count bigint := 0;
BEGIN
    FOR expired IN SELECT * FROM jsonb_to_recordset(proven) AS ranges (range_start timestamptz, range_end timestamptz,
                                                                       row_count bigint, days jsonb) LOOP
        BEGIN
            PERFORM usage_drop_range(expired.range_start, expired.range_end);
            INSERT INTO usage_retention_drops (event_day, rows_dropped)
            SELECT * FROM jsonb_to_recordset(expired.days) AS day (event_day date, rows_dropped bigint);
            dropped_count := dropped_count + expired.row_count;
        EXCEPTION WHEN lock_not_available THEN
            RAISE WARNING 'events of % could not be dropped: somebody has been reading usage_events for too long',
                (expired.range_start AT TIME ZONE 'UTC')::date;
            EXIT; -- Whoever waits behind us waits once.
        END;
    END LOOP;
    RETURN dropped_count;
END
$$;

-- Moves retained_since on to the UTC day that `retention` before the last folded event lies in: events before it are refused
-- from then on, and what is there can be dropped by the next transaction, when every writer knows. Returns whether it moved.
CREATE OR REPLACE FUNCTION usage_advance_retention()
RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    bounds usage_bounds;
    since  timestamptz;
BEGIN
    SELECT * INTO STRICT bounds FROM usage_bounds;
    since := date_trunc('day', least(now(), bounds.folded_until) - bounds.retention, 'UTC');
    IF NOT isfinite(since) OR since <= bounds.retained_since THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('usage_bounds'), 'usage_bounds'::regclass::oid::integer);
    UPDATE usage_bounds SET retained_since = since WHERE retained_since < since;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false; -- A writer is stuck. Nobody else should be for its sake: another time.
END
$$;

-- Both, for a person: drops what the last call has let go of. Returns how many rows it dropped.
CREATE OR REPLACE FUNCTION usage_apply_retention()
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    dropped_count constant bigint := usage_drop_proven(usage_prove_expired());
BEGIN
    PERFORM usage_advance_retention();
    RETURN dropped_count;
END
$$;

-- Whatever calls them need not have the search_path of now, nor write times in a way that is read as the same time (008).
DO $$
DECLARE
    settings constant text := format('SET DateStyle = ISO SET TimeZone = UTC SET jit = off SET search_path = pg_catalog, %I, pg_temp',
                                     current_schema());
BEGIN
    EXECUTE 'ALTER FUNCTION usage_prove_figures(timestamptz, timestamptz) ' || settings;
    EXECUTE 'ALTER FUNCTION usage_prove_expired() ' || settings;
    -- Others wait behind whoever waits for a lock: not for long.
    EXECUTE 'ALTER FUNCTION usage_drop_proven(jsonb) SET lock_timeout = 500 ' || settings;
    EXECUTE 'ALTER FUNCTION usage_advance_retention() SET lock_timeout = 500 ' || settings;
    EXECUTE 'ALTER FUNCTION usage_apply_retention() ' || settings;
END
$$;
REVOKE EXECUTE ON FUNCTION usage_apply_retention(), usage_advance_retention(), usage_drop_proven(jsonb),
    usage_prove_expired(), usage_prove_figures(timestamptz, timestamptz) FROM PUBLIC;

COMMENT ON TABLE usage_retention_drops IS 'How many rows of usage_events retention has dropped, by UTC day';
COMMENT ON FUNCTION usage_prove_figures(timestamptz, timestamptz) IS
    'Compares figures with the rows between two UTC midnights; returns rows, late increments, and how many figures differ';
COMMENT ON FUNCTION usage_prove_expired() IS
    'Finds usage events before retained_since whose figures are proven, and warns of others; for usage_drop_proven()';
COMMENT ON FUNCTION usage_drop_proven(jsonb) IS
    'Drops usage events that usage_prove_expired() returned in the same transaction; returns how many rows it dropped';
COMMENT ON FUNCTION usage_advance_retention() IS 'Moves retained_since on as events are folded; returns whether it moved';
COMMENT ON FUNCTION usage_apply_retention() IS
    'Drops usage events before retained_since whose figures are proven, then moves that limit on; returns rows dropped';
