-- Rows that retention drops are counted by day before they go, so that every row that was ever written stays
-- accounted for.
CREATE TABLE IF NOT EXISTS usage_retention_drops (
    event_day    date        NOT NULL,
    rows_dropped bigint      NOT NULL,
    dropped_at   timestamptz NOT NULL DEFAULT now()
);

-- Drops the daily partitions that are older than 90 days as a whole, and records how many rows each held, in one
-- transaction. A partition is locked before it is counted. Nothing here schedules it: PostgreSQL alone runs no jobs.
CREATE OR REPLACE FUNCTION usage_apply_retention()
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    boundary  constant date := ((now() - INTERVAL '90 days') AT TIME ZONE 'UTC')::date;
    partition record;
    day_count bigint;
    row_count bigint := 0;
BEGIN
    FOR partition IN
        SELECT c.oid::regclass AS name, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'usage_events'::regclass AND c.relname ~ '^usage_events_[0-9]{8}$'
           AND to_date(right(c.relname, 8), 'YYYYMMDD') < boundary
         ORDER BY 2
    LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', partition.name);
        EXECUTE format('SELECT count(*) FROM %s', partition.name) INTO day_count;
        IF day_count > 0 THEN
            INSERT INTO usage_retention_drops (event_day, rows_dropped) VALUES (partition.day, day_count);
        END IF;
        EXECUTE format('DROP TABLE %s', partition.name);
        row_count := row_count + day_count;
    END LOOP;
    RETURN row_count;
END
$$;

-- Whatever calls it need not have the search_path of now.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION usage_apply_retention() SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$;

COMMENT ON TABLE usage_retention_drops IS 'How many rows of usage_events retention has dropped, by UTC day';
COMMENT ON FUNCTION usage_apply_retention() IS
    'Drops usage events of whole days older than 90 days and records how many; returns how many rows it dropped';
