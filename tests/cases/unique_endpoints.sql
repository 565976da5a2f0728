-- unique_endpoints and unique_api_keys stay exact when what is late, or still to be folded, brings a known one or a new one.
CREATE FUNCTION uniques() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', 'endpoints', total_requests, unique_endpoints) FROM usage_hourly WHERE api_key_id = id_of('1')
    UNION ALL
    SELECT concat_ws(' ', 'keys', total_requests, unique_api_keys) FROM usage_daily
$$;
CALL add_event('2025-05-05 10:00Z', 'a', '1', '/a', 200, 1);
CALL add_event('2025-05-05 10:10Z', 'a', '1', '/b', 200, 1);
CALL add_event('2025-05-05 10:20Z', 'a', '1', '/b', 200, 1, method => 'POST');
-- Another method is no other endpoint.
SELECT uniques();
-- = endpoints 3 2
-- = keys 3 1

-- The hour is folded in two parts: /a and /b in the first, /b again and /c in the second.
CALL announce('2025-05-05 10:15Z');
SELECT usage_fold()::text;
-- = 2
CALL add_event('2025-05-05 10:30Z', 'a', '1', '/c', 200, 1);
SELECT uniques();
-- = endpoints 4 3
-- = keys 4 1
CALL announce('2025-05-05 11:00Z');
SELECT usage_fold()::text;
-- = 2
SELECT uniques();
-- = endpoints 4 3
-- = keys 4 1

-- Late: a known one, then a new one twice, then a known key's and a new key's event.
CALL add_event('2025-05-05 10:40Z', 'a', '1', '/a', 200, 1);
SELECT uniques();
-- = endpoints 5 3
-- = keys 5 1
CALL add_event('2025-05-05 10:40Z', 'a', '1', '/d', 200, 1);
CALL add_event('2025-05-05 10:41Z', 'a', '1', '/d', 200, 1);
SELECT uniques();
-- = endpoints 7 4
-- = keys 7 1
CALL add_event('2025-05-05 10:42Z', 'a', '2', '/d', 200, 1);
SELECT uniques();
-- = endpoints 7 4
-- = keys 8 2
SELECT usage_fold()::text;
-- = 4
SELECT uniques();
-- = endpoints 7 4
-- = keys 8 2
-- The hashes that are kept are those of the four endpoints, each once.
SELECT cardinality(endpoint_hashes)::text FROM usage_hourly_figures WHERE api_key_id = id_of('1');
-- = 4
-- Case and spaces make another endpoint.
CALL add_event('2025-05-05 10:50Z', 'a', '1', '/D', 200, 1);
CALL add_event('2025-05-05 10:51Z', 'a', '1', '/d ', 200, 1);
SELECT uniques();
-- = endpoints 9 6
-- = keys 10 2
SELECT usage_fold()::text;
-- = 2
SELECT uniques();
-- = endpoints 9 6
-- = keys 10 2
SELECT differences();
-- = 0
SELECT concat_ws(' ', row_count, difference_count) FROM usage_prove_figures('2025-05-05 00:00Z', '2025-05-06 00:00Z');
-- = 10 0
