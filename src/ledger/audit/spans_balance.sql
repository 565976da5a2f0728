-- Every message of a span became one thing, and spans that overlap have written no offset twice.
SELECT true, format('%s, %s partition %s, offsets %s to %s: %s messages, but %s written + %s duplicates + %s redelivered + %s dead letters',
                    consumer_group, kafka_topic, kafka_partition, start_offset, end_offset,
                    messages, written, duplicates, redelivered, dead_letters)
  FROM usage_ledger
 WHERE messages <> written + duplicates + redelivered + dead_letters OR start_offset >= end_offset
UNION ALL
SELECT true, format('%s, %s partition %s, offsets %s to %s: %s written and %s dead letters are more than offsets (epoch %s)',
                    consumer_group, kafka_topic, kafka_partition, min(start_offset), max(end_offset),
                    sum(written), sum(dead_letters), epoch)
  FROM usage_ledger
 GROUP BY consumer_group, kafka_topic, kafka_partition, epoch
HAVING sum(written + dead_letters) > max(end_offset) - min(start_offset)
