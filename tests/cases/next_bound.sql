-- Which bound usage_begin_fold() announces: what nearly all of the latest events have passed, so that a slow partition holds
-- it back and a few late events do not; the newest once nothing arrives; never beyond the present, never back.
CREATE PROCEDURE add_run(first timestamptz, events integer, late integer DEFAULT 0)
LANGUAGE plpgsql
AS $$
BEGIN
    CALL ensure_days((first AT TIME ZONE 'UTC')::date, (first AT TIME ZONE 'UTC')::date);
    INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
    SELECT time, gen_random_uuid()::text, id_of('a'), id_of('1'), '/', 'GET', 200, 1
      FROM (SELECT first + n * INTERVAL '1 second' FROM generate_series(0, events - 1) AS n
            UNION ALL
            SELECT '2025-06-27 10:00Z'::timestamptz + n * INTERVAL '1 second' FROM generate_series(1, late) AS n) AS t (time);
END
$$;
CREATE FUNCTION bounds() RETURNS text LANGUAGE sql
AS $$
    SELECT to_char(folded_until AT TIME ZONE 'UTC', 'HH24:MI:SS ') || to_char(folding_until AT TIME ZONE 'UTC', 'HH24:MI:SS')
      FROM usage_bounds
$$;
CALL ensure_days('2025-06-27', '2025-06-27');
CALL add_run('2025-06-30 07:00Z', 1);
CALL announce('2025-06-30 07:30Z');
SELECT usage_fold()::text;
-- = 1

-- Two partitions: one has come to 12:00, the other to 08:00. Each statement is measured by the time that 5 % of its events have
-- not reached: of 100 events a second apart the fifth, 08:00:04. Before it lie four.
UPDATE usage_bounds SET fold_step = INTERVAL '1 day';
CALL add_run('2025-06-30 12:00Z', 100);
CALL add_run('2025-06-30 08:00Z', 100);
SELECT usage_begin_fold()::text;
-- = false
SELECT bounds();
-- = 07:30:00 08:00:04
-- Announced again before it is folded: nothing moves.
SELECT usage_begin_fold()::text;
-- = false
SELECT bounds();
-- = 07:30:00 08:00:04
SELECT usage_fold()::text;
-- = 4
SELECT bounds();
-- = 08:00:04 08:00:04

-- Nothing has arrived since: up to the newest, which is 12:01:39 and not before itself. 96 of the slow and 99 of the fast.
SELECT usage_begin_fold()::text;
-- = false
SELECT bounds();
-- = 08:00:04 12:01:39
SELECT usage_fold()::text;
-- = 195
SELECT usage_begin_fold()::text;
-- = false
SELECT usage_fold()::text;
-- = 0
SELECT bounds();
-- = 12:01:39 12:01:39

-- Three of 203 events are three days late, in a statement of their own: the tenth of the other 200 decides. Before it lie nine,
-- the one of 12:01:39, and the late ones.
CALL add_run('2025-06-30 13:00Z', 200);
CALL add_run('2025-06-30 13:00Z', 0, late => 3);
SELECT usage_begin_fold()::text;
-- = false
SELECT bounds();
-- = 12:01:39 13:00:09
SELECT usage_fold()::text;
-- = 13
-- Nine events of a statement are late: of the 191 others the tenth decides. Before it lie nine, 191 of the run before, and the
-- late ones.
CALL add_run('2025-06-30 14:00Z', 191, late => 9);
SELECT usage_begin_fold()::text;
-- = false
SELECT bounds();
-- = 13:00:09 14:00:09
SELECT usage_fold()::text;
-- = 209

-- More is due than a step: it says so, and how far it will go is kept although nothing arrives.
UPDATE usage_bounds SET fold_step = INTERVAL '10 minutes';
CALL add_run('2025-06-30 15:00Z', 1);
SELECT usage_begin_fold()::text;
-- = true
SELECT bounds();
-- = 14:00:09 14:10:09
SELECT usage_begin_fold()::text;
-- = true
SELECT usage_fold()::text;
-- = 182
UPDATE usage_bounds SET fold_step = INTERVAL '1 day';
SELECT usage_begin_fold()::text;
-- = false
SELECT bounds();
-- = 14:10:09 15:00:00
SELECT usage_fold()::text;
-- = 0

-- A silent topic: up to what the caller says. Never back.
SELECT usage_begin_fold('2025-06-30 16:00Z')::text;
-- = false
SELECT bounds();
-- = 15:00:00 16:00:00
SELECT usage_fold()::text;
-- = 1
SELECT usage_begin_fold('2025-06-30 15:30Z')::text;
-- = false
SELECT bounds();
-- = 16:00:00 16:00:00
CALL add_run('2025-06-30 15:59:59Z', 1);
SELECT usage_begin_fold()::text;
-- = false
SELECT usage_fold()::text;
-- = 1
SELECT bounds();
-- = 16:00:00 16:00:00

-- What claims to lie in the future is shown, and waits there: the bound is the present.
UPDATE usage_bounds SET fold_step = INTERVAL '100 years';
CALL add_run(now() + INTERVAL '1 day', 1);
BEGIN;
SELECT usage_begin_fold()::text;
-- = false
SELECT (folding_until = now())::text FROM usage_bounds;
-- = true
COMMIT;
SELECT usage_fold()::text;
-- = 0
SELECT count(*)::text FROM usage_unfolded;
-- = 1
SELECT differences();
-- = 0
