-- Whoever folds may write dates his own way: the bounds mean the same to everybody, also where the zone's short name (IST)
-- is that of another zone (+02) when it is read, and where day and month change places.
SET DateStyle = 'SQL, DMY';
SET TimeZone = 'Asia/Kolkata';
CALL add_event('2025-03-04T10:00:00.000001Z', 'a', '1', '/', 200, 1);
CALL add_event('2025-03-04T12:00:00Z', 'a', '1', '/', 200, 1);
CALL add_event('2025-03-05T12:00:00Z', 'a', '1', '/', 200, 1);
CALL announce('2025-03-04T12:00:00Z');
SELECT usage_fold()::text;
-- = 1
SELECT differences();
-- = 0
CALL announce('2025-03-05T00:00:00Z');
SELECT usage_fold()::text;
-- = 1
SELECT differences();
-- = 0
SELECT concat_ws(' ', row_count, difference_count) FROM usage_prove_figures('2025-03-04T00:00Z', '2025-03-05T00:00Z');
-- = 2 0
SELECT usage_rebuild_day('2025-03-04'::date)::text;
-- = 2
SELECT differences();
-- = 0
-- What the planner is told to leave out, an hour later, is the same for whoever reads.
UPDATE usage_bounds SET next_floor_at = '-infinity';
SELECT usage_fold()::text;
-- = 0
UPDATE usage_bounds SET next_floor_at = '-infinity';
SELECT usage_fold()::text;
-- = 0
SET DateStyle = 'ISO, MDY';
SET TimeZone = 'UTC';
SELECT usage_tail_floor()::text;
-- = 2025-03-05 00:00:00+00
SELECT differences();
-- = 0
SELECT * FROM daily();
-- = 2025-03-04 00:00 a | 2 2 2 | 2 1.000 | 2 0 0 | 1
-- = 2025-03-05 00:00 a | 1 1 1 | 1 1.000 | 1 0 0 | 1
