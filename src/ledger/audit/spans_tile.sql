-- Within each epoch, spans reach without a hole from its start to where a later epoch begins again; the latest one has
-- no such end. A hole below spans that are older than five minutes will not close by itself.
WITH epochs AS (
    SELECT *, min(start_offset - lost_offsets) OVER (
                  PARTITION BY consumer_group, kafka_topic, kafka_partition ORDER BY epoch
                  ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS bound
      FROM usage_ledger_starts
), reaching AS (
    SELECT consumer_group, kafka_topic, kafka_partition, epoch, epochs.bound,
           span.start_offset, span.end_offset,
           greatest(epochs.start_offset, max(span.end_offset) OVER (epoch_spans
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS reached,
           min(span.recorded_at) OVER (epoch_spans
               ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS known_since
      FROM epochs
      JOIN usage_ledger AS span USING (consumer_group, kafka_topic, kafka_partition, epoch)
    WINDOW epoch_spans AS (PARTITION BY consumer_group, kafka_topic, kafka_partition, epoch
                           ORDER BY span.start_offset, span.end_offset)
), holes AS (
    SELECT consumer_group, kafka_topic, kafka_partition, epoch, reached AS hole_start, start_offset AS hole_end,
           known_since < now() - INTERVAL '5 minutes' AS is_old
      FROM reaching
     WHERE start_offset > reached AND (bound IS NULL OR reached < bound)
    UNION ALL
    SELECT consumer_group, kafka_topic, kafka_partition, epoch,
           greatest(epochs.start_offset, max(reaching.end_offset)), epochs.bound, true
      FROM epochs
      LEFT JOIN reaching USING (consumer_group, kafka_topic, kafka_partition, epoch)
     GROUP BY consumer_group, kafka_topic, kafka_partition, epoch, epochs.start_offset, epochs.bound
    HAVING greatest(epochs.start_offset, max(reaching.end_offset)) < epochs.bound
)
SELECT is_old, format('%s, %s partition %s: no span covers offsets %s to %s (epoch %s)',
                      consumer_group, kafka_topic, kafka_partition, hole_start, hole_end, epoch)
  FROM holes
UNION ALL
SELECT true, format('%s, %s partition %s: %s spans belong to epoch %s, which was never begun',
                    consumer_group, kafka_topic, kafka_partition, count(*), epoch)
  FROM usage_ledger
 WHERE NOT EXISTS (SELECT FROM epochs
                    WHERE (epochs.consumer_group, epochs.kafka_topic, epochs.kafka_partition, epochs.epoch)
                        = (usage_ledger.consumer_group, usage_ledger.kafka_topic, usage_ledger.kafka_partition,
                           usage_ledger.epoch))
 GROUP BY consumer_group, kafka_topic, kafka_partition, epoch
