//! Replay: stored messages are decoded and judged again, by the pipeline's own decoder and rules
//! against their own Kafka timestamps, and what is valid now is written as a writer would write it.
//!
//! Each transaction holds up to a hundred letters: their rows, the marks on the letters, and
//! the rows' entry in the ledger. So a replay that is interrupted goes on where it stopped, and one
//! that is repeated adds nothing.
//!
//! There is no dedup window here. Instead, a letter whose request is in the table within
//! `DEDUP_WINDOW` of its time counts as a duplicate.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use postgres::Transaction;
use postgres::types::ToSql;

use super::filter::{CONDITION, Filter};
use crate::copy_tuple::append_tuple;
use crate::decode::json::{JsonDecoder, PAYLOAD_BYTES_MAX};
use crate::messages::{EncodedRow, MessageRef, WriteBatch};
use crate::migrations::Profile;
use crate::usage_event::{RejectReason, Rejection, TimeLimits, UsageEvent};
use crate::write::error::WriteError;
use crate::write::replay::{ReplaySession, ReplayTransaction};
use crate::write::settlement::{Fate, day_of};

/// Letters in a transaction. Of each payload at most a mebibyte is read, so memory is bounded.
const BATCH_LETTERS: u32 = 100;

/// A day in microseconds.
const DAY_MICROS: i64 = 86_400_000_000;

/// Why a replay stopped. What was committed before stays.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// No session, no transaction, or rows that could not be placed.
    #[error("replaying dead letters")]
    Write(#[from] WriteError),
    /// Letters could not be read, marked or entered.
    #[error("reading and marking dead letters")]
    Mark(#[from] postgres::Error),
}

/// How to replay.
#[derive(Debug, Clone, Copy)]
pub struct ReplayRules {
    /// What an event is judged by.
    pub time_limits: TimeLimits,
    /// How near another row of the same request makes a duplicate.
    pub dedup_window: Duration,
    /// Whether letters with the reason `conflict` are replayed too: by the unique key alone.
    pub includes_conflicts: bool,
    /// Whether everything is rolled back.
    pub is_dry_run: bool,
    /// Which schema the database has.
    pub profile: Profile,
}

/// What became of letters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Rows added.
    pub written: u64,
    /// There already.
    pub duplicates: u64,
    /// Still no valid events, by today's reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Conflicts that were left alone.
    pub skipped_conflicts: u64,
}

/// A letter on its way.
#[derive(Debug)]
struct Candidate {
    key: LetterKey,
    /// As it is stored with the letter; `None` for -1.
    timestamp_ms: Option<i64>,
    payload: Option<Vec<u8>>,
    is_conflict: bool,
    outcome: Outcome,
}

/// The primary key of a letter.
#[derive(Debug, Clone)]
struct LetterKey {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// A row; until it is placed, one that will be tried.
    Written,
    Duplicate,
    Rejected(RejectReason),
    Skipped,
}

impl Outcome {
    /// What is stored; nothing for a letter that was left alone.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Written => Some("written"),
            Self::Duplicate => Some("duplicate"),
            Self::Rejected(_) => Some("rejected"),
            Self::Skipped => None,
        }
    }
}

/// Replays every letter that is meant and has not become a row yet, in the order of its offsets. `on_progress` hears how
/// many letters a transaction was about.
pub fn replay(
    session: &mut ReplaySession,
    filter: &Filter,
    rules: ReplayRules,
    on_progress: &mut dyn FnMut(u64),
) -> Result<Replayed, ReplayError> {
    let mut replayed = Replayed::default();
    let mut decoder = JsonDecoder::default();
    let mut last: Option<LetterKey> = None;
    let mut left = filter.limit.unwrap_or(u32::MAX);
    while left > 0 {
        let mut attempt = session.begin()?;
        let limit = left.min(BATCH_LETTERS);
        let mut candidates = select(&mut attempt.transaction, filter, last.as_ref(), limit)?;
        let Some(candidate) = candidates.last() else { break };
        last = Some(candidate.key.clone());
        left -= u32::try_from(candidates.len()).unwrap_or(limit);

        let (batch, letter_idxs) = decode(&mut decoder, &mut attempt.transaction, &mut candidates, rules)?;
        if rules.profile == Profile::PostgreSql {
            create_partitions(&mut attempt, &batch)?;
        }
        let fates = attempt.place(&batch)?;
        let mut written_by_day: BTreeMap<i32, i64> = BTreeMap::new();
        for ((row, fate), letter_idx) in batch.rows.iter().zip(fates).zip(letter_idxs) {
            candidates[letter_idx].outcome = match fate {
                Fate::Written => {
                    *written_by_day.entry(day_of(row.time_micros)).or_default() += 1;
                    Outcome::Written
                }
                Fate::Present => Outcome::Duplicate,
                Fate::Conflict => Outcome::Rejected(RejectReason::Conflict),
                Fate::Expired => Outcome::Rejected(RejectReason::Expired),
                Fate::Refused(_) => Outcome::Rejected(RejectReason::DatabaseRejected),
            };
        }
        mark(&mut attempt.transaction, &candidates)?;
        enter(&mut attempt.transaction, written_by_day)?;
        if !rules.is_dry_run {
            attempt.transaction.commit()?;
        }
        candidates.iter().for_each(|candidate| replayed.count(candidate.outcome));
        on_progress(candidates.len() as u64);
    }
    Ok(replayed)
}

impl Replayed {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Written => self.written += 1,
            Outcome::Duplicate => self.duplicates += 1,
            Outcome::Rejected(reason) => *self.rejected.entry(reason.as_str()).or_default() += 1,
            Outcome::Skipped => self.skipped_conflicts += 1,
        }
    }
}

/// The next letters behind `last`, locked, so that of two replays at once the second finds them done.
fn select(
    transaction: &mut Transaction<'_>,
    filter: &Filter,
    last: Option<&LetterKey>,
    limit: u32,
) -> Result<Vec<Candidate>, postgres::Error> {
    let payload_bytes_read = PAYLOAD_BYTES_MAX + 1; // One too many is told from just enough.
    let sql = format!(
        "SELECT kafka_topic, kafka_partition, kafka_offset, kafka_timestamp,
                (extract(epoch FROM kafka_timestamp) * 1000)::bigint,
                substr(payload, 1, {payload_bytes_read}), reason = 'conflict'
           FROM usage_dead_letters
          WHERE {CONDITION}
            AND coalesce(replay_outcome, 'rejected') = 'rejected'
            AND ($9::text IS NULL OR (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp)
                                   > ($9, $10::int, $11::bigint, $12::timestamptz))
          ORDER BY kafka_topic, kafka_partition, kafka_offset, kafka_timestamp
          LIMIT $8::bigint FOR UPDATE"
    );
    let values = Filter { limit: Some(limit), ..filter.clone() };
    let values = values.values();
    let (topic, partition) = (last.map(|key| &key.topic), last.map(|key| key.partition));
    let (offset, timestamp) = (last.map(|key| key.offset), last.map(|key| key.timestamp));
    let mut parameters: Vec<&(dyn ToSql + Sync)> = values.parameters().into();
    parameters.extend([&topic as &(dyn ToSql + Sync), &partition, &offset, &timestamp]);
    let rows = transaction.query(&sql, &parameters)?;
    rows.iter()
        .map(|row| {
            Ok(Candidate {
                key: LetterKey {
                    topic: row.try_get(0)?,
                    partition: row.try_get(1)?,
                    offset: row.try_get(2)?,
                    timestamp: row.try_get(3)?,
                },
                timestamp_ms: Some(row.try_get(4)?).filter(|timestamp_ms| *timestamp_ms != -1),
                payload: row.try_get(5)?,
                is_conflict: row.try_get(6)?,
                outcome: Outcome::Skipped,
            })
        })
        .collect()
}

/// Judges every candidate; gives the rows to place, and for each the candidate it is of.
fn decode(
    decoder: &mut JsonDecoder,
    transaction: &mut Transaction<'_>,
    candidates: &mut [Candidate],
    rules: ReplayRules,
) -> Result<(WriteBatch, Vec<usize>), postgres::Error> {
    let mut batch = WriteBatch::default();
    let mut letter_idxs = Vec::new();
    let mut nearby = Nearby::new(rules.dedup_window);
    for (letter_idx, candidate) in candidates.iter_mut().enumerate() {
        if candidate.is_conflict && !rules.includes_conflicts {
            continue;
        }
        let decoded = decoder.decode(candidate.payload.as_deref()).and_then(|event| {
            rules.time_limits.check(event.time_micros, candidate.timestamp_ms)?;
            Ok(event)
        });
        candidate.outcome = match decoded {
            Err(Rejection { reason, .. }) => Outcome::Rejected(reason),
            Ok(event) if !candidate.is_conflict && nearby.has(transaction, &event)? => Outcome::Duplicate,
            Ok(event) => {
                let start = narrow(batch.tuples.len());
                append_tuple(&mut batch.tuples, &event);
                batch.rows.push(EncodedRow {
                    organization_id: event.organization_id,
                    time_micros: event.time_micros,
                    start,
                    end: narrow(batch.tuples.len()),
                    outcome_idx: 0,
                    source: MessageRef { batch_idx: 0, message_idx: narrow(letter_idx) },
                });
                letter_idxs.push(letter_idx);
                Outcome::Written
            }
        };
    }
    Ok((batch, letter_idxs))
}

/// A batch holds at most [`BATCH_LETTERS`] rows of less than 2 KiB each.
fn narrow(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Finds the same request at another time within the dedup window: in the table, or earlier in the
/// batch.
#[derive(Debug)]
struct Nearby {
    window_micros: i64,
    batch: HashMap<(u128, String), Vec<i64>>,
}

impl Nearby {
    fn new(window: Duration) -> Self {
        let window_micros = i64::try_from(window.as_micros()).unwrap_or(DAY_MICROS);
        Self { window_micros, batch: HashMap::new() }
    }

    /// The time's bounds are values, so that the planner leaves all other days' chunks alone.
    fn has(
        &mut self,
        transaction: &mut Transaction<'_>,
        event: &UsageEvent<'_>,
    ) -> Result<bool, postgres::Error> {
        let times = self.batch.entry((event.organization_id, event.request_id.to_owned())).or_default();
        let is_near = |time: &i64| {
            *time != event.time_micros
                && time.abs_diff(event.time_micros) <= self.window_micros.unsigned_abs()
        };
        let is_in_batch = times.iter().any(is_near);
        times.push(event.time_micros);
        if is_in_batch {
            return Ok(true);
        }
        let organization_id = format!("{:032x}", event.organization_id);
        let [time, earliest, latest] = [
            event.time_micros,
            event.time_micros.saturating_sub(self.window_micros),
            event.time_micros.saturating_add(self.window_micros),
        ]
        .map(moment);
        let row = transaction.query_one(
            "SELECT EXISTS (
                 SELECT FROM usage_events
                  WHERE organization_id = $1::text::uuid AND request_id = $2
                    AND time >= $3 AND time <= $4 AND time <> $5)",
            &[&organization_id, &event.request_id, &earliest, &latest, &time],
        )?;
        row.try_get(0)
    }
}

/// Microseconds since 1970 as the client's type; an event's time is validated to four-digit years.
fn moment(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

/// None for a day that is no longer retained: its events stay letters.
fn create_partitions(attempt: &mut ReplayTransaction<'_>, batch: &WriteBatch) -> Result<(), postgres::Error> {
    let times = batch.rows.iter().map(|row| row.time_micros);
    let days: BTreeSet<i32> = times.filter(|time| attempt.is_retained(*time)).map(day_of).collect();
    for day in days {
        attempt.transaction.execute(
            "SELECT usage_ensure_partitions(day, day) FROM (SELECT DATE '1970-01-01' + $1::int AS day) AS utc",
            &[&day],
        )?;
    }
    Ok(())
}

/// Notes on each letter when it was replayed and what came of it.
fn mark(transaction: &mut Transaction<'_>, candidates: &[Candidate]) -> Result<(), postgres::Error> {
    let marked =
        || candidates.iter().filter_map(|candidate| Some((&candidate.key, candidate.outcome.name()?)));
    let topics: Vec<&str> = marked().map(|(key, _)| key.topic.as_str()).collect();
    let partitions: Vec<i32> = marked().map(|(key, _)| key.partition).collect();
    let offsets: Vec<i64> = marked().map(|(key, _)| key.offset).collect();
    let timestamps: Vec<SystemTime> = marked().map(|(key, _)| key.timestamp).collect();
    let outcomes: Vec<&str> = marked().map(|(_, outcome)| outcome).collect();
    transaction.execute(
        "UPDATE usage_dead_letters AS letter
            SET replayed_at = now(), replay_outcome = marked.outcome
           FROM unnest($1::text[], $2::int[], $3::bigint[], $4::timestamptz[], $5::text[])
             AS marked (topic, kafka_partition, kafka_offset, kafka_timestamp, outcome)
          WHERE letter.kafka_topic = marked.topic AND letter.kafka_partition = marked.kafka_partition
            AND letter.kafka_offset = marked.kafka_offset AND letter.kafka_timestamp = marked.kafka_timestamp",
        &[&topics, &partitions, &offsets, &timestamps, &outcomes],
    )?;
    Ok(())
}

/// Enters the rows into the ledger, by the UTC day of their event.
fn enter(
    transaction: &mut Transaction<'_>,
    written_by_day: BTreeMap<i32, i64>,
) -> Result<(), postgres::Error> {
    let (days, written): (Vec<i32>, Vec<i64>) = written_by_day.into_iter().unzip();
    transaction.execute(
        "INSERT INTO usage_ledger_days (event_day, source, written)
         SELECT DATE '1970-01-01' + day, 'replay', written
           FROM unnest($1::int[], $2::bigint[]) AS day (day, written)",
        &[&days, &written],
    )?;
    Ok(())
}
