-- Events of `usage-processor smoke` are removed without a trace in the figures, at every point of the fold's cycle: run "b" is
-- removed, and run "a" and a customer's events stay as they were.
CREATE PROCEDURE add_smoke(event_time timestamptz, run text, is_billable boolean DEFAULT false)
LANGUAGE plpgsql
AS $$
BEGIN
    CALL ensure_days((event_time AT TIME ZONE 'UTC')::date, (event_time AT TIME ZONE 'UTC')::date);
    INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms, billable)
    SELECT event_time, concat_ws('-', 'smoke', run, n), '7a2222c5-cb31-8a16-845e-50f6ad0b6feb',
           '8a2c9cb9-8771-8245-9608-9d82c8f579dd', '/usage-processor/smoke', 'GET', 200, 7, is_billable
      FROM generate_series(1, 5) AS n;
    INSERT INTO usage_ledger_days (event_day, source, written) VALUES ((event_time AT TIME ZONE 'UTC')::date, 'kafka', 5);
END
$$;
CREATE FUNCTION smoke() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', 'hour', to_char(bucket AT TIME ZONE 'UTC', 'MM-DD HH24:MI'), total_requests, billable_requests, unique_endpoints)
      FROM usage_hourly WHERE organization_id = '7a2222c5-cb31-8a16-845e-50f6ad0b6feb'
    UNION ALL
    SELECT concat_ws(' ', 'month', to_char(bucket AT TIME ZONE 'UTC', 'MM'), total_requests, billable_requests, unique_api_keys)
      FROM usage_monthly WHERE organization_id = '7a2222c5-cb31-8a16-845e-50f6ad0b6feb'
    UNION ALL
    SELECT concat_ws(' ', 'rows and booked', (SELECT count(*) FROM usage_events WHERE organization_id <> id_of('c')),
                     sum(written)) FROM usage_ledger_days
    UNION ALL
    SELECT 'differences: ' || differences()
$$;
UPDATE usage_bounds SET retention = '100 years';
CALL add_event('2025-06-30 10:00Z', 'c', '1', '/', 200, 1);

-- Read as rows.
CALL add_smoke('2025-06-30 10:10Z', 'a');
CALL add_smoke('2025-06-30 10:20Z', 'b');
SELECT usage_remove_smoke_events('b')::text;
-- = 5
SELECT smoke();
-- = hour 06-30 10:00 5 0 1
-- = month 06 5 0 1
-- = rows and booked 5 5
-- = differences: 0

-- Announced and not folded; the fold is done by the removal.
CALL add_smoke('2025-06-30 10:20Z', 'b');
CALL announce('2025-06-30 10:30Z');
CALL add_smoke('2025-06-30 10:25Z', 'b2');
SELECT usage_remove_smoke_events('b')::text;
-- = 5
SELECT smoke();
-- = hour 06-30 10:00 10 0 1
-- = month 06 10 0 1
-- = rows and booked 10 10
-- = differences: 0
SELECT folded_until::text FROM usage_bounds;
-- = 2025-06-30 16:00:00+05:30

-- Folded; with a late one that no fold has taken yet, of this run and of another, and one beyond the bound.
CALL add_smoke('2025-06-30 10:05Z', 'b2-late');
CALL add_smoke('2025-06-30 10:06Z', 'd');
CALL add_smoke('2025-06-30 11:00Z', 'b2');
SELECT usage_remove_smoke_events('b2')::text;
-- = 15
SELECT smoke();
-- = hour 06-30 10:00 10 0 1
-- = month 06 10 0 1
-- = rows and booked 10 10
-- = differences: 0
SELECT count(*)::text FROM usage_late_figures;
-- = 0

-- All runs, but nothing that is billable, from that day on.
CALL add_smoke('2025-06-29 10:00Z', 'old');
CALL add_smoke('2025-06-30 12:00Z', 'paid', true);
SELECT usage_remove_smoke_events(NULL, '2025-06-30 00:00Z')::text;
-- = 10
SELECT smoke();
-- = hour 06-29 10:00 5 0 1
-- = hour 06-30 12:00 5 5 1
-- = month 06 10 5 1
-- = rows and booked 10 10
-- = differences: 0
SELECT usage_remove_smoke_events('nobody')::text;
-- = 0

-- A removed run that is read from Kafka once more is there again, and is removed again.
CALL add_smoke('2025-06-30 10:20Z', 'b');
SELECT usage_remove_smoke_events('b')::text;
-- = 5
SELECT concat_ws(' ', event_day, source, sum(written)) FROM usage_ledger_days GROUP BY event_day, source ORDER BY 1;
-- = 2025-06-29 kafka 5
-- = 2025-06-30 kafka 45
-- = 2025-06-30 removed -40

-- What a closed month was frozen with stays in it.
CALL announce('2025-07-04 00:00Z');
SELECT usage_close_month('2025-06-01')::text;
-- = 2
SELECT usage_remove_smoke_events(NULL)::text;
-- = 0

-- And what retention may be about to drop.
CALL add_smoke('2025-07-02 10:00Z', 'e');
UPDATE usage_bounds SET retention = '1 day';
SELECT usage_remove_smoke_events('e')::text;
-- = 0
UPDATE usage_bounds SET retention = '100 years';
SELECT usage_remove_smoke_events('e')::text;
-- = 5

-- Only the owner; and every removal is one.
SELECT has_function_privilege('public', 'usage_remove_smoke_events(text, timestamptz)', 'EXECUTE')::text;
-- = false
INSERT INTO usage_ledger_days (event_day, source, written) VALUES ('2025-06-30', 'removed', 5);
-- ! 23514
