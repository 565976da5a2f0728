-- usage_fold_ledger as in 011, but it takes only rows that may have become one with others: the ledger of partitions that nobody reads
-- any more, and days that are over, are not written again with every fold.
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
    WITH touched AS (
        SELECT consumer_group, kafka_topic, kafka_partition, epoch
          FROM usage_ledger
         GROUP BY consumer_group, kafka_topic, kafka_partition, epoch
        HAVING count(*) > 1
    ), taken AS (
        DELETE FROM usage_ledger AS span
         USING touched
         WHERE span.consumer_group = touched.consumer_group AND span.kafka_topic = touched.kafka_topic
           AND span.kafka_partition = touched.kafka_partition AND span.epoch = touched.epoch
     RETURNING span.*
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

    WITH touched AS (
        SELECT event_day, source FROM usage_ledger_days GROUP BY event_day, source HAVING count(*) > 1
    ), taken AS (
        DELETE FROM usage_ledger_days AS entry
         USING touched
         WHERE entry.event_day = touched.event_day AND entry.source = touched.source
     RETURNING entry.*
    ), merged AS (
        INSERT INTO usage_ledger_days (event_day, source, written, recorded_at)
        SELECT event_day, source, sum(written), min(recorded_at) FROM taken GROUP BY event_day, source
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM merged) INTO taken_count, merged_count;
    RETURN saved_count + taken_count - merged_count;
END
$$;

-- Replacing a function takes these away.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION usage_fold_ledger() SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
                   current_schema());
END
$$;
