-- Retention: rows go when their figures are proven, figures stay, and nothing that comes later can change them.
-- The usual 90 days; time is moved by the events.

-- Ten events of two organizations at ten hours of a day.
CREATE PROCEDURE ten_events(day date, name text) LANGUAGE plpgsql AS $$
BEGIN
    CALL ensure_days(day, day);
    INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                              response_time_ms, billable, weight)
    SELECT (day::timestamp AT TIME ZONE 'UTC') + n * INTERVAL '2 hours', name || ' ' || n,
           ('00000000-0000-0000-0000-00000000000' || n % 2)::uuid, ('00000000-0000-0000-0000-00000000001' || n % 3)::uuid,
           '/' || n % 4, 'GET', (ARRAY[200, 404, 500])[n % 3 + 1], n, n % 5 > 0, n
      FROM generate_series(0, 9) AS n;
END
$$;

CREATE PROCEDURE fold_all() LANGUAGE plpgsql AS $$
BEGIN
    WHILE usage_begin_fold() LOOP
        PERFORM usage_fold();
    END LOOP;
    PERFORM usage_fold();
END
$$;

-- Where rows are, and what the figures and views of all levels say of them.
CREATE VIEW rows_by_day AS
SELECT format('%s: %s rows', (time AT TIME ZONE 'UTC')::date, count(*)) AS line
  FROM usage_events GROUP BY (time AT TIME ZONE 'UTC')::date;
CREATE VIEW units_by_day AS
SELECT format('%s: %s %s %s', day, hours.units, endpoints.units, days.units) AS line
  FROM (SELECT (bucket AT TIME ZONE 'UTC')::date AS day, sum(billable_units) AS units FROM usage_hourly GROUP BY 1) AS hours
  JOIN (SELECT (bucket AT TIME ZONE 'UTC')::date AS day, sum(billable_units) AS units
          FROM usage_endpoint_hourly GROUP BY 1) AS endpoints USING (day)
  JOIN (SELECT (bucket AT TIME ZONE 'UTC')::date AS day, sum(billable_units) AS units
          FROM usage_daily GROUP BY 1) AS days USING (day);

-- Nothing is dropped before anything has been folded, or moves the limit.
SELECT usage_apply_retention()::text;
-- = 0
SELECT retained_since::text FROM usage_bounds;
-- = -infinity

DO $$
BEGIN
    FOR n IN 1..9 LOOP
        CALL ten_events(('2025-01-0' || n)::date, 'day ' || n);
        CALL fold_all();
    END LOOP;
END
$$;
SELECT usage_apply_retention()::text;
-- = 0
SELECT concat_ws(' ', (folded_until AT TIME ZONE 'UTC')::date, (retained_since AT TIME ZONE 'UTC')::date) FROM usage_bounds;
-- = 2025-01-09 2024-10-11
-- Rows alone do not move the limit, nor what is announced and not folded.
CALL ten_events('2025-04-07', 'later');
SELECT usage_apply_retention()::text;
-- = 0
SELECT (usage_begin_fold() IS NOT NULL)::text;
-- = true
SELECT (retained_since AT TIME ZONE 'UTC')::date::text FROM usage_bounds;
-- = 2024-10-11
CALL fold_all();
SELECT concat_ws(' ', (folded_until AT TIME ZONE 'UTC')::date, (retained_since AT TIME ZONE 'UTC')::date) FROM usage_bounds;
-- = 2025-04-07 2024-10-11

-- The first call moves the limit, so that writers know; the second drops.
SELECT usage_apply_retention()::text;
-- = 0
SELECT (retained_since AT TIME ZONE 'UTC')::text FROM usage_bounds;
-- = 2025-01-07 00:00:00
SELECT count(*)::text FROM usage_events;
-- = 100

-- One figure of three days is wrong, of another day one is missing, of another there is one too many.
UPDATE usage_hourly_figures SET billable_units = billable_units + 1
 WHERE bucket = '2025-01-01 08:00Z';
UPDATE usage_endpoint_hourly_figures SET response_time_ms_sum = response_time_ms_sum - 1
 WHERE bucket = '2025-01-02 08:00Z';
UPDATE usage_daily_figures SET error_count = error_count + 1
 WHERE bucket = '2025-01-03 00:00Z' AND error_count > 0;
DELETE FROM usage_endpoint_hourly_figures WHERE bucket = '2025-01-04 08:00Z';
INSERT INTO usage_daily_figures
SELECT bucket, month, organization_id, '00000000-0000-0000-0000-0000000000ff', 0, 0, 0, 0, 0, 0, 0
  FROM usage_daily_figures WHERE bucket = '2025-01-05 00:00Z' LIMIT 1;
SELECT usage_apply_retention()::text;
-- = 10
SELECT line FROM rows_by_day ORDER BY 1;
-- = 2025-01-01: 10 rows
-- = 2025-01-02: 10 rows
-- = 2025-01-03: 10 rows
-- = 2025-01-04: 10 rows
-- = 2025-01-05: 10 rows
-- = 2025-01-07: 10 rows
-- = 2025-01-08: 10 rows
-- = 2025-01-09: 10 rows
-- = 2025-04-07: 10 rows
SELECT concat_ws(' ', event_day, rows_dropped) FROM usage_retention_drops ORDER BY 1;
-- = 2025-01-06 10
-- Asked again, it keeps them again.
SELECT usage_apply_retention()::text;
-- = 0

-- An hour's distinct endpoints are proven too.
UPDATE usage_hourly_figures SET endpoint_hashes = endpoint_hashes || 1::bigint
 WHERE bucket = '2025-01-01 10:00Z';
SELECT usage_rebuild_day('2025-01-02')::text;
-- = 10
SELECT usage_rebuild_day('2025-01-03')::text;
-- = 10
SELECT usage_rebuild_day('2025-01-04')::text;
-- = 10
SELECT usage_rebuild_day('2025-01-05')::text;
-- = 10
UPDATE usage_hourly_figures SET billable_units = billable_units - 1
 WHERE bucket = '2025-01-01 08:00Z';
SELECT usage_apply_retention()::text;
-- = 40
SELECT line FROM rows_by_day ORDER BY 1 LIMIT 2;
-- = 2025-01-01: 10 rows
-- = 2025-01-07: 10 rows
SELECT usage_rebuild_day('2025-01-01')::text;
-- = 10
SELECT usage_apply_retention()::text;
-- = 10
SELECT count(*)::text FROM usage_ranges_before('2025-01-07 00:00Z');
-- = 0

-- What is gone cannot be computed anew: not a day that was dropped, and not one that never had a row.
SELECT usage_rebuild_day('2025-01-01')::text;
-- ! UP001
SELECT usage_rebuild_day('2025-01-06')::text;
-- ! UP001
SELECT usage_rebuild_day('2024-12-01')::text;
-- ! UP001
-- Not even if its partition is there again.
CALL ensure_days('2025-01-06', '2025-01-06');
SELECT usage_rebuild_day('2025-01-06')::text;
-- ! UP001

-- An event that is older than the limit is refused, and its row does not come back; whole statements are.
CALL ensure_days('2025-01-01', '2025-01-01');
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
VALUES ('2025-01-06 23:59:59.999999Z', 'too late', '00000000-0000-0000-0000-000000000000',
        '00000000-0000-0000-0000-000000000010', '/', 'GET', 200, 1);
-- ! UP001
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
SELECT time, 'too late', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000010', '/', 'GET', 200, 1
  FROM unnest(ARRAY['2025-04-07 00:00Z', '2025-01-01 00:00Z', '2025-01-07 00:00Z']::timestamptz[]) AS time;
-- ! UP001
SELECT count(*)::text FROM usage_events WHERE request_id = 'too late';
-- = 0
SELECT count(*)::text FROM usage_late_figures;
-- = 0
-- An empty partition goes again, and is no dropped day of its own.
SELECT usage_apply_retention()::text;
-- = 0
SELECT count(*)::text FROM usage_ranges_before('2025-01-07 00:00Z');
-- = 0
SELECT concat_ws(' ', event_day, rows_dropped) FROM usage_retention_drops ORDER BY 1;
-- = 2025-01-01 10
-- = 2025-01-02 10
-- = 2025-01-03 10
-- = 2025-01-04 10
-- = 2025-01-05 10
-- = 2025-01-06 10

-- The first moment that is retained is taken, and counts in its day alone.
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms,
                          weight)
VALUES ('2025-01-07 00:00Z', 'just in time', '00000000-0000-0000-0000-000000000000',
        '00000000-0000-0000-0000-000000000010', '/', 'GET', 200, 1, 1000);
SELECT line FROM units_by_day ORDER BY 1;
-- = 2025-01-01: 40 40 40
-- = 2025-01-02: 40 40 40
-- = 2025-01-03: 40 40 40
-- = 2025-01-04: 40 40 40
-- = 2025-01-05: 40 40 40
-- = 2025-01-06: 40 40 40
-- = 2025-01-07: 1040 1040 1040
-- = 2025-01-08: 40 40 40
-- = 2025-01-09: 40 40 40
-- = 2025-04-07: 40 40 40
CALL fold_all();
SELECT usage_rebuild_day('2025-01-07')::text;
-- = 11
SELECT concat_ws(' ', (bucket AT TIME ZONE 'UTC')::date, sum(billable_units), sum(total_requests))
  FROM usage_monthly GROUP BY bucket ORDER BY bucket;
-- = 2025-01-01 1360 91
-- = 2025-04-01 40 10

-- A limit that has been announced can wait for its drop through any number of late events.
CALL ten_events('2025-04-09', 'two days later');
CALL fold_all();
SELECT usage_apply_retention()::text;
-- = 0
SELECT (retained_since AT TIME ZONE 'UTC')::date::text FROM usage_bounds;
-- = 2025-01-09
CALL ten_events('2025-01-09', 'late');
SELECT usage_apply_retention()::text;
-- = 21
CALL ten_events('2025-01-08', 'too late');
-- ! UP001
SELECT line FROM units_by_day WHERE line >= '2025-01-07' ORDER BY 1;
-- = 2025-01-07: 1040 1040 1040
-- = 2025-01-08: 40 40 40
-- = 2025-01-09: 80 80 80
-- = 2025-04-07: 40 40 40
-- = 2025-04-09: 40 40 40

-- A shorter retention moves the limit, a longer one does not bring anything back.
UPDATE usage_bounds SET retention = '30 days';
SELECT usage_apply_retention()::text;
-- = 0
UPDATE usage_bounds SET retention = '3 years';
-- Rows stay as long as late events of their day are not folded.
SELECT usage_apply_retention()::text;
-- = 0
SELECT usage_fold()::text;
-- = 10
SELECT usage_apply_retention()::text;
-- = 20
SELECT (retained_since AT TIME ZONE 'UTC')::date::text FROM usage_bounds;
-- = 2025-03-10
UPDATE usage_bounds SET retention = '90 days';

-- What claims to lie in the future does not push it, nor does a caller who names a time to come.
DO $$
DECLARE
    day date := (now() + INTERVAL '1 year') AT TIME ZONE 'UTC';
BEGIN
    CALL ensure_days(day, day);
END
$$;
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
SELECT now() + INTERVAL '1 year', n::text, '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000010',
       '/', 'GET', 200, 1 FROM generate_series(1, 100) AS n;
UPDATE usage_bounds SET fold_step = '100 years';
CALL fold_all();
SELECT usage_begin_fold('infinity')::text;
-- = false
SELECT usage_fold()::text;
-- = 0
SELECT usage_apply_retention()::text;
-- = 0
SELECT (folded_until <= now() AND retained_since <= now() - INTERVAL '90 days'
        AND retained_since > now() - INTERVAL '92 days')::text FROM usage_bounds;
-- = true
SELECT usage_apply_retention()::text;
-- = 20
SELECT sum(total_requests)::text FROM usage_daily;
-- = 221

-- Rows that went by any other way than retention's: their figures stay, and no bill is corrected for them.
SET client_min_messages = warning;
INSERT INTO usage_ledger_days (event_day, source, written)
SELECT (bucket AT TIME ZONE 'UTC')::date, 'replay', total_requests FROM usage_daily_figures
 WHERE bucket = (SELECT max(bucket) FROM usage_daily_figures);
DELETE FROM usage_events WHERE time >= (SELECT max(bucket) FROM usage_daily_figures)
                           AND time < (SELECT max(bucket) + INTERVAL '1 day' FROM usage_daily_figures);
SELECT usage_rebuild_day((SELECT (max(bucket) AT TIME ZONE 'UTC')::date FROM usage_daily_figures))::text;
-- ! UP001
SELECT sum(total_requests)::text FROM usage_daily;
-- = 221
DO $$
BEGIN
    PERFORM usage_drop_range(range_start, range_end) FROM usage_ranges_before('infinity')
      WHERE range_start <= (SELECT max(bucket) FROM usage_daily_figures)
        AND range_end > (SELECT max(bucket) FROM usage_daily_figures);
END
$$;
SELECT usage_rebuild_day((SELECT (max(bucket) AT TIME ZONE 'UTC')::date FROM usage_daily_figures), true)::text;
-- ! UP001
SELECT sum(total_requests)::text FROM usage_daily;
-- = 221
