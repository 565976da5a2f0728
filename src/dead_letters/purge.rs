//! Deletes letters for good, and leaves the counts: what was deleted of which partition, and how much
//! of it had become rows. One statement, so either both happen or nothing does.

use postgres::Client;
use serde::Serialize;

use super::filter::{CONDITION, Filter, LIMIT};

/// What a purge deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// Letters.
    pub letters: i64,
    /// Of these, how many a replay had written as rows.
    pub replayed_written: i64,
}

/// Deletes the letters that are meant, those with the lowest offsets first.
pub fn purge(client: &mut Client, filter: &Filter) -> Result<Purged, postgres::Error> {
    let sql = format!(
        "WITH chosen AS (
             SELECT kafka_topic, kafka_partition, kafka_offset, kafka_timestamp
               FROM usage_dead_letters
              WHERE {CONDITION}
              ORDER BY kafka_topic, kafka_partition, kafka_offset, kafka_timestamp
              {LIMIT} FOR UPDATE
         ), purged AS (
             DELETE FROM usage_dead_letters AS letter USING chosen
              WHERE (letter.kafka_topic, letter.kafka_partition, letter.kafka_offset, letter.kafka_timestamp)
                  = (chosen.kafka_topic, chosen.kafka_partition, chosen.kafka_offset, chosen.kafka_timestamp)
          RETURNING letter.kafka_topic, letter.kafka_partition, letter.replay_outcome
         ), counted AS (
             INSERT INTO usage_dead_letter_purges (kafka_topic, kafka_partition, letters, replayed_written)
             SELECT kafka_topic, kafka_partition, count(*), count(*) FILTER (WHERE replay_outcome = 'written')
               FROM purged GROUP BY kafka_topic, kafka_partition
          RETURNING letters, replayed_written
         )
         SELECT coalesce(sum(letters), 0)::bigint, coalesce(sum(replayed_written), 0)::bigint FROM counted"
    );
    let row = client.query_one(&sql, &filter.values().parameters())?;
    Ok(Purged { letters: row.try_get(0)?, replayed_written: row.try_get(1)? })
}
