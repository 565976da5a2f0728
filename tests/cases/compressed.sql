-- A compressed chunk keeps the unique key, and what is late or comes again into it is counted once.
-- only: timescaledb
--
-- 1,000 requests of one second each from 10:00:01 to 10:16:40 on 1 April 2025, 1 unit each, folded and compressed.
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
SELECT '2025-04-01 10:00Z'::timestamptz + n * INTERVAL '1 second', 'r' || n, id_of('a'), id_of('1'), '/', 'GET', 200, 1
  FROM generate_series(1, 1000) AS n;
CALL announce('2025-06-30 00:00Z');
SELECT usage_fold()::text;
-- = 1000
SELECT count(compress_chunk(chunk))::text FROM show_chunks('usage_events') AS chunk;
-- = 1
CREATE FUNCTION figures() RETURNS text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', (SELECT count(*) FROM usage_events), (SELECT sum(billable_units) FROM usage_hourly),
                     (SELECT sum(billable_units) FROM usage_endpoint_hourly), (SELECT sum(billable_units) FROM usage_daily),
                     (SELECT sum(billable_units) FROM usage_monthly), differences())
$$;
SELECT figures();
-- = 1000 1000 1000 1000 1000 0

-- Late, with 7 units: 1,001 rows, 1,007 units.
CALL add_event('2025-04-01 10:00:30.5Z', 'a', '1', '/late', 404, 9, true, 7, 'late');
SELECT figures();
-- = 1001 1007 1007 1007 1007 0
-- The chunk that took it is a compressed one.
SELECT string_agg(is_compressed::text, ' ') FROM timescaledb_information.chunks WHERE hypertable_name = 'usage_events';
-- = true

-- Redelivered: one that is compressed, the late one, which lies beside, and one that is new (3 units).
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms, weight)
SELECT time, request_id, id_of('a'), id_of('1'), '/', 'GET', 200, 1, 3
  FROM (VALUES ('2025-04-01 10:00:01Z'::timestamptz, 'r1'), ('2025-04-01 10:00:30.5Z', 'late'),
               ('2025-04-01 10:16:40Z', 'r1000'), ('2025-04-01 10:16:40Z', 'new')) AS t (time, request_id)
ON CONFLICT DO NOTHING;
SELECT figures();
-- = 1002 1010 1010 1010 1010 0
-- The whole of it again: nothing is new.
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
SELECT '2025-04-01 10:00Z'::timestamptz + n * INTERVAL '1 second', 'r' || n, id_of('a'), id_of('1'), '/', 'GET', 200, 1
  FROM generate_series(1, 1000) AS n
ON CONFLICT DO NOTHING;
SELECT figures();
-- = 1002 1010 1010 1010 1010 0

-- A plain duplicate is refused, of the compressed ones and of those beside.
CALL add_event('2025-04-01 10:00:02Z', 'a', '1', '/', 200, 1, true, 1, 'r2');
-- ! 23505
CALL add_event('2025-04-01 10:00:30.5Z', 'a', '1', '/', 200, 1, true, 1, 'late');
-- ! 23505
SELECT figures();
-- = 1002 1010 1010 1010 1010 0

-- Folded, and compressed again with what has come.
SELECT usage_fold()::text;
-- = 2
SELECT figures();
-- = 1002 1010 1010 1010 1010 0
SELECT count(compress_chunk(chunk))::text FROM show_chunks('usage_events') AS chunk;
-- = 1
CALL add_event('2025-04-01 10:00:30.5Z', 'a', '1', '/', 200, 1, true, 1, 'late');
-- ! 23505
SELECT figures();
-- = 1002 1010 1010 1010 1010 0
SELECT concat_ws(' ', row_count, difference_count) FROM usage_prove_figures('2025-04-01 00:00Z', '2025-04-02 00:00Z');
-- = 1002 0
-- The hour has the endpoints / and /late.
SELECT unique_endpoints::text FROM usage_hourly;
-- = 2

-- Compressed before it is folded, too.
CALL add_event('2025-07-01 10:00Z', 'b', '1', '/', 200, 1, true, 1, 'unfolded');
SELECT count(compress_chunk(chunk, if_not_compressed => true))::text FROM show_chunks('usage_events') AS chunk;
-- = 2
CALL add_event('2025-07-01 11:00Z', 'b', '1', '/', 200, 1, true, 2, 'beside');
SELECT figures();
-- = 1004 1013 1013 1013 1013 0
CALL announce('2025-07-02 00:00Z');
SELECT usage_fold()::text;
-- = 2
SELECT figures();
-- = 1004 1013 1013 1013 1013 0
