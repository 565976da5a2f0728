-- What maintenance does to the ledger: spans and days are folded as they pile up, and rows that retention drops are
-- counted by day before they go, so that every row that was ever written stays accounted for.
CREATE TABLE IF NOT EXISTS usage_retention_drops (
    event_day    date        NOT NULL,
    rows_dropped bigint      NOT NULL,
    dropped_at   timestamptz NOT NULL DEFAULT now()
);

-- Merges spans that touch or overlap into one row, within a partition and epoch, and days into one row a source.
-- Returns how many rows that saved. Rows that writers enter meanwhile are not seen and stay for the next time; a
-- second fold waits for the first. A merged row is as old as the oldest in it, so that a hole below it keeps its age.
CREATE OR REPLACE FUNCTION usage_fold_ledger()
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    taken_count  bigint;
    merged_count bigint;
    saved_count  bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('usage_fold_ledger'), hashtext(current_schema()));
    WITH taken AS (
        DELETE FROM usage_ledger RETURNING *
    ), reaching AS (
        SELECT *, max(end_offset) OVER (
                      PARTITION BY consumer_group, kafka_topic, kafka_partition, epoch
                      ORDER BY start_offset, end_offset
                      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
          FROM taken
    ), islands AS (
        SELECT *, count(*) FILTER (WHERE start_offset > reached) OVER (
                      PARTITION BY consumer_group, kafka_topic, kafka_partition, epoch
                      ORDER BY start_offset, end_offset
                      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS island
          FROM reaching
    ), merged AS (
        INSERT INTO usage_ledger (consumer_group, kafka_topic, kafka_partition, epoch, start_offset, end_offset,
                                  messages, written, duplicates, redelivered, dead_letters, recorded_at)
        SELECT consumer_group, kafka_topic, kafka_partition, epoch, min(start_offset), max(end_offset),
               sum(messages), sum(written), sum(duplicates), sum(redelivered), sum(dead_letters), min(recorded_at)
          FROM islands
         GROUP BY consumer_group, kafka_topic, kafka_partition, epoch, island
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM merged) INTO taken_count, merged_count;
    saved_count := taken_count - merged_count;

    WITH taken AS (
        DELETE FROM usage_ledger_days RETURNING *
    ), merged AS (
        INSERT INTO usage_ledger_days (event_day, source, written, recorded_at)
        SELECT event_day, source, sum(written), min(recorded_at) FROM taken GROUP BY event_day, source
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM merged) INTO taken_count, merged_count;
    RETURN saved_count + taken_count - merged_count;
END
$$;

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

COMMENT ON TABLE usage_retention_drops IS 'How many rows of usage_events retention has dropped, by UTC day';
COMMENT ON FUNCTION usage_fold_ledger() IS 'Merges rows of the ledger that can be one; returns how many rows that saved';
COMMENT ON FUNCTION usage_apply_retention() IS
    'Drops usage events of whole days older than 90 days and records how many; returns how many rows it dropped';
