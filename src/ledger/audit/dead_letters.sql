-- Dead letters are there, or were purged and counted.
WITH counts AS (
    SELECT kafka_topic, kafka_partition, sum(dead_letters) AS entered, 0 AS found, 0 AS purged
      FROM usage_ledger GROUP BY 1, 2
    UNION ALL
    SELECT kafka_topic, kafka_partition, 0, count(*), 0 FROM usage_dead_letters GROUP BY 1, 2
    UNION ALL
    SELECT kafka_topic, kafka_partition, 0, 0, sum(letters) FROM usage_dead_letter_purges GROUP BY 1, 2
)
SELECT true, format('%s partition %s: %s dead letters in the ledger, but %s in usage_dead_letters + %s purged',
                    kafka_topic, kafka_partition, sum(entered), sum(found), sum(purged))
  FROM counts
 GROUP BY kafka_topic, kafka_partition
HAVING sum(entered) <> sum(found) + sum(purged)
