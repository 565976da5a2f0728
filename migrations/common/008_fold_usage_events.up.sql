-- Moves events from "read as they are" into the figures: usage_begin_fold() announces how far, and in a later
-- transaction usage_fold() does it. Both may be called by anybody at any time; who comes second does nothing.

-- No chunk older than this is planned for when the tail is read. Each time up to folded_until is right, then and for
-- ever after: so the function may be called immutable although a fold replaces it once a day. It takes effect in snapshots
-- older than that fold, too, where folded_until is what it was: hence an hour later, and usage_check_tail() for what is older.
CREATE OR REPLACE FUNCTION usage_tail_floor()
RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '-infinity'::timestamptz $$;

-- Announces the next bound. While events arrive, it is what nearly all of the latest have passed (slow partitions hold it
-- back, a few late events do not); once none arrive, the newest of all; and `idle_until` in any case, for a topic that
-- has gone silent. From the commit on, writers enter events before the bound as late; the exclusive lock is granted when
-- all that have not seen it have ended. Returns whether more than one step is due.
CREATE OR REPLACE FUNCTION usage_begin_fold(idle_until timestamptz DEFAULT '-infinity')
RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    bounds  usage_bounds;
    due     timestamptz;
    reached timestamptz;
    newest  timestamptz;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('usage_fold'), 'usage_bounds'::regclass::oid::integer) THEN
        RETURN false;
    END IF;
    SELECT * INTO STRICT bounds FROM usage_bounds;
    IF bounds.announce_after > now() THEN
        RETURN false;
    END IF;
    IF bounds.folding_until > bounds.folded_until THEN
        RETURN bounds.due_until > bounds.folding_until; -- Announced already, and still to be folded.
    END IF;
    WITH taken AS (
        DELETE FROM usage_arrivals RETURNING *
    ), ranked AS (
        SELECT low_time, newest_time, sum(events) OVER (ORDER BY low_time) AS older, sum(events) OVER () AS total FROM taken
    )
    SELECT min(low_time) FILTER (WHERE older > total * 0.05), greatest(max(newest_time), bounds.newest_time)
      INTO due, newest FROM ranked;
    -- What claims to lie in the future may wait there.
    due := greatest(least(greatest(coalesce(due, newest), idle_until), now()), bounds.due_until);
    UPDATE usage_bounds SET due_until = due, newest_time = newest WHERE (due_until, newest_time) <> (due, newest);
    IF due <= bounds.folded_until THEN
        RETURN false;
    END IF;
    reached := bounds.folded_until;
    IF NOT isfinite(reached) THEN
        SELECT min(time) INTO reached FROM usage_events;
        IF reached IS NULL THEN
            RETURN false; -- The first events, however old, are none too late.
        END IF;
    END IF;
    reached := least(due, reached + bounds.fold_step);
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtext('usage_bounds'), 'usage_bounds'::regclass::oid::integer);
    EXCEPTION WHEN lock_not_available THEN
        -- Nobody else should be stuck for its sake: not before ten seconds have passed, however many there are to try.
        UPDATE usage_bounds SET announce_after = now() + INTERVAL '10 seconds';
        RAISE WARNING 'events cannot be folded beyond %: a transaction that has written events does not end', bounds.folded_until
            USING HINT = 'pg_stat_activity shows it by its xact_start.';
        RETURN false;
    END;
    UPDATE usage_bounds SET folding_until = reached;
    -- Writers wait for this commit, but need not wait for the disk: what they commit is flushed behind it.
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN reached < due;
END
$$;

-- Adds to the figures what lies before the announced bound, and late events, and takes the bound as reached. One
-- statement, and so one snapshot: an event that it sees as a row is not added as a late one too, and a late one that it
-- does not see stays for the next time. Returns how many events it added.
CREATE OR REPLACE FUNCTION usage_fold()
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    namespace   constant name := (SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                  WHERE c.oid = 'usage_bounds'::regclass);
    started_at  constant timestamptz := clock_timestamp();
    bounds      usage_bounds;
    event_count bigint;
BEGIN
    -- A snapshot from before the lock would not show what was folded, or which month was closed, until it was granted.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'usage events must be folded in a READ COMMITTED transaction, not %',
            current_setting('transaction_isolation') USING ERRCODE = 'feature_not_supported';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtext('usage_fold'), 'usage_bounds'::regclass::oid::integer) THEN
        RETURN 0;
    END IF;
    SELECT * INTO STRICT bounds FROM usage_bounds;
    -- The bounds as literals, so that no other chunk is planned for.
    EXECUTE format($fold$
        WITH late AS (
            DELETE FROM usage_late_figures RETURNING *
        ), increments AS (
            SELECT NULL::timestamptz AS counts_from, date_bin('1 hour', time, '1970-01-01 00:00:00+00') AS bucket,
                   organization_id, api_key_id, endpoint, method, count(*) AS total_requests, count(*) FILTER (WHERE billable) AS billable_requests,
                   coalesce(sum(weight) FILTER (WHERE billable), 0) AS billable_units,
                   sum(response_time_ms) AS response_time_ms_sum,
                   count(*) FILTER (WHERE status_code BETWEEN 200 AND 299) AS success_count,
                   count(*) FILTER (WHERE status_code BETWEEN 400 AND 499) AS client_error_count,
                   count(*) FILTER (WHERE status_code BETWEEN 500 AND 599) AS error_count
              FROM usage_events WHERE time >= %1$L AND time < %2$L
             GROUP BY 2, 3, 4, 5, 6
            UNION ALL
            SELECT * FROM late WHERE counts_from <= %1$L
        ), hours AS (
            INSERT INTO usage_hourly_figures AS f
            SELECT bucket, organization_id, api_key_id, sum(total_requests), sum(billable_requests), sum(billable_units),
                   sum(response_time_ms_sum), sum(success_count), sum(client_error_count), sum(error_count),
                   array_agg(DISTINCT hashtextextended(endpoint, 0))
              FROM increments GROUP BY 1, 2, 3 ORDER BY organization_id, bucket, api_key_id
            ON CONFLICT (organization_id, bucket, api_key_id) DO UPDATE SET
                total_requests       = f.total_requests       + excluded.total_requests,
                billable_requests    = f.billable_requests    + excluded.billable_requests,
                billable_units       = f.billable_units       + excluded.billable_units,
                response_time_ms_sum = f.response_time_ms_sum + excluded.response_time_ms_sum,
                success_count        = f.success_count        + excluded.success_count,
                client_error_count   = f.client_error_count   + excluded.client_error_count,
                error_count          = f.error_count          + excluded.error_count,
                endpoint_hashes      =
                    ARRAY(SELECT DISTINCT unnest(f.endpoint_hashes || excluded.endpoint_hashes) ORDER BY 1)
        ), endpoints AS (
            INSERT INTO usage_endpoint_hourly_figures AS f
            SELECT bucket, organization_id, endpoint, method, sum(total_requests), sum(billable_requests),
                   sum(billable_units), sum(response_time_ms_sum), sum(success_count), sum(client_error_count),
                   sum(error_count)
              FROM increments GROUP BY 1, 2, 3, 4 ORDER BY organization_id, bucket, endpoint, method
            ON CONFLICT (organization_id, bucket, endpoint, method) DO UPDATE SET
                total_requests       = f.total_requests       + excluded.total_requests,
                billable_requests    = f.billable_requests    + excluded.billable_requests,
                billable_units       = f.billable_units       + excluded.billable_units,
                response_time_ms_sum = f.response_time_ms_sum + excluded.response_time_ms_sum,
                success_count        = f.success_count        + excluded.success_count,
                client_error_count   = f.client_error_count   + excluded.client_error_count,
                error_count          = f.error_count          + excluded.error_count
        ), days AS (
            INSERT INTO usage_daily_figures AS f
            SELECT date_trunc('day', bucket, 'UTC'), min(date_trunc('month', bucket, 'UTC')), organization_id, api_key_id,
                   sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum),
                   sum(success_count), sum(client_error_count), sum(error_count)
              FROM increments GROUP BY 1, 3, 4 ORDER BY 3, 1, 4
            ON CONFLICT (organization_id, bucket, api_key_id) DO UPDATE SET
                total_requests       = f.total_requests       + excluded.total_requests,
                billable_requests    = f.billable_requests    + excluded.billable_requests,
                billable_units       = f.billable_units       + excluded.billable_units,
                response_time_ms_sum = f.response_time_ms_sum + excluded.response_time_ms_sum,
                success_count        = f.success_count        + excluded.success_count,
                client_error_count   = f.client_error_count   + excluded.client_error_count,
                error_count          = f.error_count          + excluded.error_count
        ), adjustments AS (
            INSERT INTO usage_adjustments (month, organization_id, total_requests, billable_requests, billable_units,
                                           response_time_ms_sum, success_count, client_error_count, error_count, reason,
                                           is_by_hand)
            SELECT month, organization_id, sum(total_requests), sum(billable_requests), sum(billable_units),
                   sum(response_time_ms_sum), sum(success_count), sum(client_error_count), sum(error_count), 'late events',
                   false
              FROM increments JOIN usage_closed_months ON month = date_trunc('month', bucket, 'UTC')
             WHERE counts_from IS DISTINCT FROM '-infinity' -- Those are of a rebuild, which enters the difference.
             GROUP BY 1, 2
        )
        SELECT coalesce(sum(total_requests), 0) FROM increments $fold$, bounds.folded_until, bounds.folding_until)
    INTO event_count;
    IF bounds.folding_until > bounds.folded_until THEN
        UPDATE usage_bounds
           SET folded_until = folding_until,
               fold_step = CASE WHEN clock_timestamp() - started_at > INTERVAL '4 seconds'
                                THEN greatest(fold_step / 2, INTERVAL '1 second')
                                WHEN clock_timestamp() - started_at < INTERVAL '1 second'
                                THEN least(fold_step * 2, INTERVAL '1 day') ELSE fold_step END;
    END IF;
    IF bounds.next_floor_at < now() - INTERVAL '1 hour' THEN
        IF usage_tail_floor() < bounds.next_floor THEN
            EXECUTE format('CREATE OR REPLACE FUNCTION %I.usage_tail_floor() RETURNS timestamptz '
                           'LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $floor$ SELECT %L::timestamptz $floor$',
                           namespace, bounds.next_floor);
        END IF;
        UPDATE usage_bounds SET next_floor = date_trunc('day', folded_until, 'UTC'), next_floor_at = now();
    END IF;
    RETURN event_count;
END
$$;

-- Computes the figures of a UTC day anew from its rows, after rows or figures were changed by hand. Refuses a day whose rows
-- are gone, or some of them: dropped by retention or by anything else, or fewer than were written by the ledger, unless
-- `rows_are_right`. The difference to what was billed is an adjustment. Returns the day's events before folded_until.
CREATE OR REPLACE FUNCTION usage_rebuild_day(day date, rows_are_right boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    bounds        usage_bounds;
    day_start     constant timestamptz := day::timestamp AT TIME ZONE 'UTC';
    day_end       constant timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
    row_count     bigint;
    written_count bigint;
    event_count   bigint;
BEGIN
    -- Nobody drops the day's rows between the question whether they are there and their use.
    PERFORM pg_advisory_xact_lock(hashtext('usage_drop_expired'), 'usage_bounds'::regclass::oid::integer);
    PERFORM pg_advisory_xact_lock(hashtext('usage_fold'), 'usage_bounds'::regclass::oid::integer);
    SELECT * INTO STRICT bounds FROM usage_bounds;
    IF EXISTS (SELECT FROM usage_retention_drops WHERE event_day = day)
       OR NOT EXISTS (SELECT FROM usage_ranges_before('infinity') WHERE range_start <= day_start AND range_end >= day_end)
          AND (day_start < bounds.retained_since OR EXISTS (SELECT FROM usage_daily_figures WHERE bucket = day_start)) THEN
        RAISE EXCEPTION 'the figures of % cannot be rebuilt: its rows are gone', day
            USING ERRCODE = 'UP001', HINT = 'Its figures are all that is left of its events.';
    END IF;
    EXECUTE format('SELECT count(*) FROM usage_events WHERE time >= %L AND time < %L', day_start, day_end) INTO row_count;
    SELECT coalesce(sum(written), 0) INTO written_count FROM usage_ledger_days WHERE event_day = day;
    IF row_count < written_count AND NOT rows_are_right THEN
        RAISE EXCEPTION '% has % rows, but % were written', day, row_count, written_count
            USING ERRCODE = 'UP001',
                  HINT = format('If they were deleted on purpose: SELECT usage_rebuild_day(%L, rows_are_right => true)', day);
    END IF;
    EXECUTE format($rebuild$
        WITH hours AS (
            DELETE FROM usage_hourly_figures WHERE bucket >= %1$L AND bucket < %2$L
        ), endpoints AS (
            DELETE FROM usage_endpoint_hourly_figures WHERE bucket >= %1$L AND bucket < %2$L
        ), days AS (
            DELETE FROM usage_daily_figures WHERE bucket = %1$L
        ), late AS (
            DELETE FROM usage_late_figures WHERE bucket >= %1$L AND bucket < %2$L AND counts_from <= %3$L
        ), rebuilt AS (
            INSERT INTO usage_late_figures
            SELECT '-infinity', date_bin('1 hour', time, '1970-01-01 00:00:00+00'), organization_id, api_key_id, endpoint, method,
                   count(*), count(*) FILTER (WHERE billable), coalesce(sum(weight) FILTER (WHERE billable), 0),
                   sum(response_time_ms), count(*) FILTER (WHERE status_code BETWEEN 200 AND 299),
                   count(*) FILTER (WHERE status_code BETWEEN 400 AND 499),
                   count(*) FILTER (WHERE status_code BETWEEN 500 AND 599)
              FROM usage_events WHERE time >= %1$L AND time < least(%2$L::timestamptz, %3$L::timestamptz)
             GROUP BY 2, 3, 4, 5, 6
            RETURNING *
        )
        SELECT coalesce(sum(total_requests), 0) FROM rebuilt $rebuild$, day_start, day_end, bounds.folded_until)
    INTO event_count;
    PERFORM usage_fold();
    -- By what was billed and not by the figures of before: those that were wrong may never have been billed.
    INSERT INTO usage_adjustments (month, organization_id, total_requests, billable_requests, billable_units,
                                   response_time_ms_sum, success_count, client_error_count, error_count, reason, is_by_hand)
    SELECT month, organization_id, sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum),
           sum(success_count), sum(client_error_count), sum(error_count), 'rebuilt from the rows of ' || day, false
      FROM (SELECT month, organization_id, total_requests, billable_requests, billable_units, response_time_ms_sum,
                   success_count, client_error_count, error_count
              FROM usage_daily_figures
            UNION ALL
            SELECT month, organization_id, -total_requests, -billable_requests, -billable_units, -response_time_ms_sum,
                   -success_count, -client_error_count, -error_count
              FROM usage_invoice_basis
            UNION ALL
            SELECT month, organization_id, -total_requests, -billable_requests, -billable_units, -response_time_ms_sum,
                   -success_count, -client_error_count, -error_count
              FROM usage_adjustments WHERE NOT is_by_hand) AS lines
      JOIN usage_closed_months USING (month)
     WHERE month = date_trunc('month', day_start, 'UTC')
     GROUP BY month, organization_id
    HAVING (sum(total_requests), sum(billable_requests), sum(billable_units), sum(response_time_ms_sum), sum(success_count),
            sum(client_error_count), sum(error_count)) <> (0, 0, 0, 0, 0, 0, 0);
    RETURN event_count;
END
$$;

-- Every instance of `usage-processor run` folds, with the rights of the tables' owner. A writer that is stuck holds up an
-- announcement, and with it the other writers, for no longer than the lock timeout. Times become text and times again, which
-- must not depend on the caller: 'IST' is written for Kolkata and read as Jerusalem. Compiling their queries takes longer
-- than running them.
DO $$
DECLARE
    names    constant text := format('pg_catalog, %I, pg_temp', current_schema());
    settings constant text := 'SET DateStyle = ISO SET TimeZone = UTC SET jit = off ';
BEGIN
    EXECUTE 'ALTER FUNCTION usage_begin_fold(timestamptz) SECURITY DEFINER SET lock_timeout = 500 ' || settings ||
            'SET search_path = ' || names;
    EXECUTE 'ALTER FUNCTION usage_fold() SECURITY DEFINER ' || settings || 'SET search_path = ' || names;
    EXECUTE 'ALTER FUNCTION usage_rebuild_day(date, boolean) ' || settings || 'SET search_path = ' || names;
END
$$;
REVOKE EXECUTE ON FUNCTION usage_begin_fold(timestamptz), usage_fold(), usage_rebuild_day(date, boolean) FROM PUBLIC;

COMMENT ON FUNCTION usage_tail_floor() IS 'A time before which everything is folded; a planner''s hint, not the bound itself';
COMMENT ON FUNCTION usage_begin_fold(timestamptz) IS
    'Announces how far events are to be folded next; returns whether more than that is due';
COMMENT ON FUNCTION usage_fold() IS 'Adds events up to the announced bound, and late ones, to the figures; returns how many';
COMMENT ON FUNCTION usage_rebuild_day(date, boolean) IS
    'Computes the figures of a retained UTC day anew from its rows; returns how many events it holds';
