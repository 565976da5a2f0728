-- A month is closed once, after its time; what is billed from then on is the frozen figures and their adjustments.
CREATE FUNCTION statement(organization text, month date) RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', line, '|', total_requests, billable_requests, billable_units, '| ' || nullif(reason, ''))
      FROM usage_statement(id_of(organization), month)
$$;
-- What a statement adds up to, beside what usage_monthly says.
CREATE FUNCTION billed(month date) RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', name_of(organization_id), sum(billed.total_requests), sum(billed.billable_requests),
                     sum(billed.billable_units), '|', monthly.total_requests, monthly.billable_requests, monthly.billable_units)
      FROM usage_monthly AS monthly, usage_statement(organization_id, month) AS billed
     WHERE bucket = month::timestamp AT TIME ZONE 'UTC'
     GROUP BY organization_id, monthly.total_requests, monthly.billable_requests, monthly.billable_units
     ORDER BY organization_id
$$;
CREATE FUNCTION basis() RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT concat_ws(' ', to_char(month AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), name_of(organization_id), '|', total_requests,
                     billable_requests, billable_units, '|', response_time_ms_sum, '|', success_count, client_error_count,
                     error_count, '|', unique_api_keys)
      FROM usage_invoice_basis ORDER BY month, organization_id
$$;

-- The first and the last moment of March 2025 in UTC, and their neighbours.
CALL add_event('2025-02-28 23:59:59.999999Z', 'a', '1', '/', 200, 1, true, 1);
CALL add_event('2025-03-01 00:00:00Z', 'a', '1', '/', 200, 10, true, 2);
CALL add_event('2025-03-15 12:00:00Z', 'a', '2', '/', 404, 20, false, 4);
CALL add_event('2025-03-31 23:59:59.999999Z', 'a', '2', '/x', 500, 30, true, 8);
CALL add_event('2025-03-31 23:59:59.999999Z', 'b', '3', '/', 301, 5, true, 16);
CALL add_event('2025-04-01 00:00:00Z', 'a', '1', '/', 200, 1, true, 32);

-- Not while it is not over, with its grace, by what is folded; no clock and no unfolded event counts.
SELECT usage_close_month('2025-03-01')::text;
-- ! 55000
CALL announce('2025-04-03 23:59:59.999999Z');
SELECT usage_close_month('2025-03-01')::text;
-- ! 55000
SELECT usage_fold()::text;
-- = 6
SELECT usage_close_month('2025-03-01')::text;
-- ! 55000
-- Not a day within it, and not ahead of its end.
SELECT usage_close_month('2025-03-02')::text;
-- ! 22023
SELECT usage_close_month('2025-03-01', '-1 days')::text;
-- ! 22023
SELECT usage_close_month('2025-03-01', NULL)::text;
-- ! 22023
SELECT usage_close_month(NULL)::text;
-- ! 22023
-- Not by a snapshot that may be older than the last fold.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT usage_close_month('2025-03-01', '0 days')::text;
-- ! 0A000
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT usage_fold()::text;
-- ! 0A000
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT usage_rebuild_day('2025-03-01')::text;
-- ! 0A000
ROLLBACK;
SELECT count(*)::text FROM usage_closed_months;
-- = 0
SELECT * FROM statement('a', '2025-03-01');
-- ! 55000

-- With three days of grace, to the microsecond. A late event that is not folded yet is no adjustment: closing folds it.
CALL add_event('2025-03-20 00:00:00Z', 'a', '3', '/', 200, 40, true, 64);
CALL announce('2025-04-04 00:00:00Z');
SELECT usage_close_month('2025-03-01')::text;
-- = 2
SELECT * FROM basis();
-- = 2025-03-01 00:00 a | 4 3 74 | 100 | 2 1 1 | 3
-- = 2025-03-01 00:00 b | 1 1 16 | 5 | 0 0 0 | 1
SELECT concat_ws(' ', to_char(month AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), organizations,
                 checksum = usage_month_checksum(month))
  FROM usage_closed_months;
-- = 2025-03-01 00:00 2 t
-- SHA-256 of these lines: 00000000-0000-0000-0000-00000000000a 4 3 74 100 2 1 1 3, and ...b 1 1 16 5 0 0 0 1.
SELECT checksum FROM usage_closed_months;
-- = b023e5c8cb0b209b1ed81975eb02d0bae06e92e63df2b599742115cc9f246e6f
-- Once.
SELECT usage_close_month('2025-03-01')::text;
-- ! 55000
-- Less grace is the caller's choice, and months need no order.
SELECT usage_close_month('2025-04-01', '0 days')::text;
-- ! 55000
SELECT usage_close_month('2025-02-01', '0 days')::text;
-- = 1
-- A month in which nothing happened.
SELECT usage_close_month('2025-01-01')::text;
-- = 0

SELECT * FROM statement('a', '2025-03-01');
-- = usage | 4 3 74
SELECT * FROM statement('b', '2025-03-01');
-- = usage | 1 1 16
-- An organization without usage.
SELECT * FROM statement('f', '2025-03-01');
-- = usage | 0 0 0
SELECT * FROM statement('b', '2025-01-01');
-- = usage | 0 0 0
-- Neither an open month nor a day.
SELECT * FROM statement('a', '2025-04-01');
-- ! 55000
SELECT * FROM statement('a', '2025-03-02');
-- ! 55000

-- Late events: of an organization that has a line, of one that had none, and of an open month.
CALL add_event('2025-03-31 23:59:59.999999Z', 'a', '9', '/', 500, 7, true, 128);
CALL add_event('2025-03-31 23:59:59.999999Z', 'c', '9', '/', 200, 7, false, 1);
CALL add_event('2025-04-01 00:00:00Z', 'a', '9', '/', 200, 7, true, 1);
-- usage_monthly has them at once; a statement has what is folded.
SELECT * FROM statement('a', '2025-03-01');
-- = usage | 4 3 74
SELECT usage_fold()::text;
-- = 3
SELECT * FROM statement('a', '2025-03-01');
-- = usage | 4 3 74
-- = adjustment | 1 1 128 | late events
SELECT * FROM statement('c', '2025-03-01');
-- = usage | 0 0 0
-- = adjustment | 1 0 0 | late events
SELECT concat_ws(' ', name_of(organization_id), response_time_ms_sum, success_count, client_error_count, error_count)
  FROM usage_adjustments ORDER BY organization_id;
-- = a 7 0 0 1
-- = c 7 1 0 0
-- A late event while a bound is announced.
CALL announce('2025-04-10 00:00:00Z');
CALL add_event('2025-03-31 00:00:00Z', 'b', '9', '/', 200, 1, true, 256);
SELECT usage_fold()::text;
-- = 1
SELECT * FROM billed('2025-03-01');
-- = a 5 4 202 | 5 4 202
-- = b 2 2 272 | 2 2 272
-- = c 1 0 0 | 1 0 0

-- A row that is changed by hand: nothing before the day is rebuilt, then the difference, with its sign, and only once.
UPDATE usage_events SET weight = 1 WHERE time = '2025-03-01 00:00:00Z';
DELETE FROM usage_events WHERE time = '2025-03-15 12:00:00Z';
SELECT usage_rebuild_day('2025-03-01')::text;
-- = 1
SELECT usage_rebuild_day('2025-03-15')::text;
-- = 0
SELECT usage_rebuild_day('2025-03-01')::text;
-- = 1
SELECT usage_fold()::text;
-- = 0
SELECT * FROM statement('a', '2025-03-01');
-- = usage | 4 3 74
-- = adjustment | 1 1 128 | late events
-- = adjustment | 0 0 -1 | rebuilt from the rows of 2025-03-01
-- = adjustment | -1 0 0 | rebuilt from the rows of 2025-03-15
-- A late event that no fold has seen is in the difference of a rebuild, and not once more in the next fold.
CALL add_event('2025-03-20 01:00:00Z', 'b', '9', '/', 200, 1, true, 512);
SELECT usage_rebuild_day('2025-03-20')::text;
-- = 2
SELECT usage_fold()::text;
-- = 0
SELECT * FROM statement('b', '2025-03-01');
-- = usage | 1 1 16
-- = adjustment | 1 1 256 | late events
-- = adjustment | 1 1 512 | rebuilt from the rows of 2025-03-20
SELECT * FROM billed('2025-03-01');
-- = a 4 4 201 | 4 4 201
-- = b 3 3 784 | 3 3 784
-- = c 1 0 0 | 1 0 0
SELECT differences();
-- = 0

-- A figure that is wrong since the month was closed was never billed: mending it changes no bill. Neither does a rebuild undo
-- what a person has entered.
INSERT INTO usage_adjustments (month, organization_id, total_requests, billable_requests, billable_units, response_time_ms_sum,
                               success_count, client_error_count, error_count, reason)
VALUES ('2025-03-01 00:00Z', id_of('c'), 0, 0, -1000, 0, 0, 0, 0, 'goodwill');
UPDATE usage_daily_figures SET billable_units = billable_units + 5 WHERE bucket = '2025-03-31 00:00Z';
SELECT usage_rebuild_day('2025-03-31')::text;
-- = 5
SELECT * FROM billed('2025-03-01');
-- = a 4 4 201 | 4 4 201
-- = b 3 3 784 | 3 3 784
-- = c 1 0 -1000 | 1 0 0
SELECT * FROM statement('c', '2025-03-01');
-- = usage | 0 0 0
-- = adjustment | 1 0 0 | late events
-- = adjustment | 0 0 -1000 | goodwill

-- None of it has touched what was frozen, and nobody can.
SELECT checksum FROM usage_closed_months WHERE month = '2025-03-01 00:00Z' AND checksum = usage_month_checksum(month);
-- = b023e5c8cb0b209b1ed81975eb02d0bae06e92e63df2b599742115cc9f246e6f
SELECT * FROM basis() WHERE basis LIKE '2025-03%';
-- = 2025-03-01 00:00 a | 4 3 74 | 100 | 2 1 1 | 3
-- = 2025-03-01 00:00 b | 1 1 16 | 5 | 0 0 0 | 1
UPDATE usage_closed_months SET checksum = '';
-- ! 55000
UPDATE usage_invoice_basis SET billable_units = 0 WHERE false;
-- ! 55000
UPDATE usage_adjustments SET billable_units = 0;
-- ! 55000
DELETE FROM usage_closed_months;
-- ! 55000
DELETE FROM usage_invoice_basis;
-- ! 55000
DELETE FROM usage_adjustments WHERE adjustment_id = 1;
-- ! 55000
TRUNCATE usage_invoice_basis;
-- ! 55000
TRUNCATE usage_adjustments;
-- ! 55000
TRUNCATE usage_closed_months;
-- ! 0A000
TRUNCATE usage_closed_months CASCADE;
-- ! 55000
INSERT INTO usage_invoice_basis SELECT * FROM usage_invoice_basis
    ON CONFLICT (organization_id, month) DO UPDATE SET billable_units = 0;
-- ! 55000
SELECT concat_ws(' ', (SELECT count(*) FROM usage_closed_months), (SELECT count(*) FROM usage_invoice_basis),
                 (SELECT count(*) FROM usage_adjustments));
-- = 3 3 7

-- Nothing is added to what is frozen, and no month is closed that is none.
INSERT INTO usage_invoice_basis VALUES ('2025-03-01 00:00Z', id_of('f'), 9, 9, 9, 9, 9, 0, 0, 1);
-- ! 55000
SELECT usage_close_month('-infinity')::text;
-- ! 22023
SELECT usage_close_month('infinity')::text;
-- ! 22023
-- Equal to nothing, and yet before the end of a month of 31 days.
SELECT usage_close_month('2024-12-01', '-1 mon +29 days')::text;
-- ! 22023
