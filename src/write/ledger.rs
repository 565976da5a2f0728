//! The writer's half of the ledger: what became of every span, entered in the transaction that
//! makes the span durable. Pure but for the statement.
//!
//! Insert-only, so that writers never wait for each other; maintenance folds the rows. The books
//! balance, span by span: messages = written + duplicates + redelivered + dead letters.

use postgres::{Statement, Transaction};

use super::settlement::Settlement;

/// Enters any number of spans, and rows written by UTC day of their event, in one statement.
/// Parameters: consumer group, topic, one array a column of the spans, then days since 1970 and
/// their rows, then the spans' epochs.
pub const INSERT: &str = "\
WITH days AS (
    INSERT INTO usage_ledger_days (event_day, source, written)
    SELECT DATE '1970-01-01' + day, 'kafka', written
      FROM unnest($10::int[], $11::bigint[]) AS day (day, written)
)
INSERT INTO usage_ledger (consumer_group, kafka_topic, kafka_partition, epoch, start_offset, end_offset,
                          messages, written, duplicates, redelivered, dead_letters)
SELECT $1::text, $2::text, kafka_partition, epoch, start_offset, end_offset,
       messages, written, duplicates, redelivered, dead_letters
  FROM unnest($3::int[], $13::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
              $9::bigint[], $12::bigint[])
    AS span (kafka_partition, epoch, start_offset, end_offset, messages, written, duplicates, redelivered,
             dead_letters)";

/// Runs [`INSERT`]. Spans without an offset hold history only and are left out.
pub fn insert(
    transaction: &mut Transaction<'_>,
    statement: &Statement,
    consumer_group: &str,
    topic: &str,
    settlement: &Settlement,
) -> Result<(), postgres::Error> {
    let spans = || settlement.outcomes.iter().filter(|outcome| !outcome.span.is_empty());
    let partitions: Vec<i32> = spans().map(|outcome| outcome.span.partition).collect();
    let epochs: Vec<i32> = spans().map(|outcome| outcome.span.epoch).collect();
    let column = |value: fn(&crate::messages::SpanOutcome) -> u64| -> Vec<i64> {
        spans().map(|outcome| i64::try_from(value(outcome)).unwrap_or(i64::MAX)).collect()
    };
    let starts: Vec<i64> = spans().map(|outcome| outcome.span.start).collect();
    let ends: Vec<i64> = spans().map(|outcome| outcome.span.end).collect();
    let (days, written_by_day): (Vec<i32>, Vec<i64>) = settlement.written_by_day.iter().copied().unzip();
    transaction.execute(
        statement,
        &[
            &consumer_group,
            &topic,
            &partitions,
            &starts,
            &ends,
            &column(|outcome| outcome.messages),
            &column(|outcome| outcome.written),
            &column(|outcome| outcome.duplicates),
            &column(|outcome| outcome.database_duplicates),
            &days,
            &written_by_day,
            &column(|outcome| outcome.dead_letters),
            &epochs,
        ],
    )?;
    Ok(())
}
