-- What became of every message, span by span, entered in the transaction that made the span durable. Insert-only,
-- so that writers never wait for each other.
CREATE TABLE IF NOT EXISTS usage_ledger (
    consumer_group  text COLLATE "C"         NOT NULL,
    kafka_topic     varchar(249) COLLATE "C" NOT NULL,
    kafka_partition integer                  NOT NULL,
    epoch           integer                  NOT NULL, -- which deliberate beginning of reading it belongs to
    start_offset    bigint                   NOT NULL,
    end_offset      bigint                   NOT NULL, -- one past the last
    messages        bigint                   NOT NULL,
    written         bigint                   NOT NULL,
    duplicates      bigint                   NOT NULL, -- dropped by the dedup window
    redelivered     bigint                   NOT NULL, -- there already: as a row, or as a dead letter
    dead_letters    bigint                   NOT NULL,
    recorded_at     timestamptz              NOT NULL DEFAULT now(),
    CHECK (start_offset < end_offset),
    CHECK (messages = written + duplicates + redelivered + dead_letters)
);
CREATE INDEX IF NOT EXISTS usage_ledger_span_idx
    ON usage_ledger (consumer_group, kafka_topic, kafka_partition, epoch, start_offset);

-- One row per deliberate beginning of reading a partition.
CREATE TABLE IF NOT EXISTS usage_ledger_starts (
    consumer_group  text COLLATE "C"         NOT NULL,
    kafka_topic     varchar(249) COLLATE "C" NOT NULL,
    kafka_partition integer                  NOT NULL,
    epoch           integer                  NOT NULL,
    start_offset    bigint                   NOT NULL,
    reason          text COLLATE "C"         NOT NULL,
    lost_offsets    bigint                   NOT NULL DEFAULT 0,
    recorded_at     timestamptz              NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_group, kafka_topic, kafka_partition, epoch)
);

-- Rows written to usage_events, by UTC day of the event.
CREATE TABLE IF NOT EXISTS usage_ledger_days (
    event_day   date             NOT NULL,
    source      text COLLATE "C" NOT NULL CHECK (source IN ('kafka', 'replay', 'adopted')),
    written     bigint           NOT NULL,
    recorded_at timestamptz      NOT NULL DEFAULT now()
);

-- Merges spans that touch or overlap into one row, within a partition and epoch, and days into one row a source.
-- Returns how many rows that saved. Rows that writers enter meanwhile are not seen and stay for the next time; a
-- second fold meanwhile does nothing. A merged row is as old as the oldest in it, so that a hole below it keeps its age.
CREATE OR REPLACE FUNCTION usage_fold_ledger()
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    taken_count  bigint;
    merged_count bigint;
    saved_count  bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('usage_fold_ledger'), 'usage_ledger'::regclass::oid::integer) THEN
        RETURN 0;
    END IF;
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

-- Every instance of `usage-processor run` folds, with the rights of the tables' owner for this one function.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION usage_fold_ledger() SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
                   current_schema());
END
$$;
REVOKE EXECUTE ON FUNCTION usage_fold_ledger() FROM PUBLIC;

COMMENT ON TABLE usage_ledger IS 'What became of every message, by spans of offsets';
COMMENT ON TABLE usage_ledger_starts IS 'Every deliberate beginning of reading a partition';
COMMENT ON TABLE usage_ledger_days IS 'Rows written to usage_events, by UTC day of the event';
COMMENT ON FUNCTION usage_fold_ledger() IS 'Merges rows of the ledger that can be one; returns how many rows that saved';
