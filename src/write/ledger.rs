//! The writer's half of the ledger: what became of every span, entered in the transaction that
//! makes the span durable. Pure: it makes text, which can go to the server together with what comes before it,
//! as a statement with parameters cannot: a round trip of its own is a twentieth of a small transaction.
//!
//! Insert-only, so that writers never wait for each other; the folder merges the rows. The books
//! balance, span by span: messages = written + duplicates + redelivered + dead letters.

use std::fmt::{Display, Write as _};

use postgres_protocol::escape::escape_literal;

use super::settlement::Settlement;
use crate::messages::SpanOutcome;

/// Prepares what [`entry`] executes: any number of spans, and rows written by UTC day of their event, in
/// one statement. Parameters: consumer group, topic, one array a column of the spans, then days since 1970 and
/// their rows.
pub const PREPARE: &str = "\
PREPARE usage_enter_ledger (text, text, int[], int[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[],
                            bigint[], int[], bigint[]) AS
WITH days AS (
    INSERT INTO usage_ledger_days (event_day, source, written)
    SELECT DATE '1970-01-01' + day, 'kafka', written FROM unnest($12, $13) AS day (day, written)
)
INSERT INTO usage_ledger (consumer_group, kafka_topic, kafka_partition, epoch, start_offset, end_offset,
                          messages, written, duplicates, redelivered, dead_letters)
SELECT $1, $2, span.*
  FROM unnest($3, $4, $5, $6, $7, $8, $9, $10, $11)
    AS span (kafka_partition, epoch, start_offset, end_offset, messages, written, duplicates, redelivered,
             dead_letters)";

/// The statement that enters a batch. Spans without an offset hold history only and are left out.
pub fn entry(consumer_group: &str, topic: &str, settlement: &Settlement) -> String {
    let mut sql =
        format!("EXECUTE usage_enter_ledger ({}, {}", escape_literal(consumer_group), escape_literal(topic));
    let columns: [fn(&SpanOutcome) -> i128; 9] = [
        |outcome| outcome.span.partition.into(),
        |outcome| outcome.span.epoch.into(),
        |outcome| outcome.span.start.into(),
        |outcome| outcome.span.end.into(),
        |outcome| outcome.messages.into(),
        |outcome| outcome.written.into(),
        |outcome| outcome.duplicates.into(),
        |outcome| outcome.database_duplicates.into(),
        |outcome| outcome.dead_letters.into(),
    ];
    let spans = || settlement.outcomes.iter().filter(|outcome| !outcome.span.is_empty());
    for column in columns {
        push_array(&mut sql, spans().map(column));
    }
    push_array(&mut sql, settlement.written_by_day.iter().map(|(day, _)| day));
    push_array(&mut sql, settlement.written_by_day.iter().map(|(_, written)| written));
    sql.push(')');
    sql
}

/// Appends `, '{1,2}'`.
fn push_array(sql: &mut String, values: impl Iterator<Item = impl Display>) {
    sql.push_str(", '{");
    for (idx, value) in values.enumerate() {
        let separator = if idx == 0 { "" } else { "," };
        _ = write!(sql, "{separator}{value}");
    }
    sql.push_str("}'");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::{Generation, OffsetSpan};

    #[test]
    fn an_entry_has_a_column_of_spans_after_the_other() {
        let span =
            |partition, start, end| OffsetSpan { partition, generation: Generation(1), epoch: 2, start, end };
        let outcome = |span, written| SpanOutcome {
            messages: written + 1,
            written,
            duplicates: 1,
            ..SpanOutcome::new(span)
        };
        let settlement = Settlement {
            outcomes: vec![
                outcome(span(3, 10, 15), 4),
                outcome(span(3, 15, 15), 0),
                outcome(span(9, 0, 2), 1),
            ],
            written_by_day: vec![(20_000, 5)],
            ..Settlement::default()
        };
        assert_eq!(
            entry("a'group", "topic", &settlement),
            "EXECUTE usage_enter_ledger ('a''group', 'topic', '{3,9}', '{2,2}', '{10,0}', '{15,2}', '{5,2}', '{4,1}', \
             '{1,1}', '{0,0}', '{0,0}', '{20000}', '{5}')"
        );
    }
}
