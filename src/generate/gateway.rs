//! The gateway: an endless variety of messages from one seed, each with the facts that the truth
//! is made of. Pure: no clock, no Kafka; the memory of a stream is its open retries, some ten thousand.
//!
//! A retry follows its first attempt in the stream, has the same key, and so the same partition.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::malformed::Malformation;
use super::population::Population;
use super::random::Random;
use super::share::Share;
use super::text::Uuid;
use super::traffic::{RETRIES_MAX, RETRY_DELAY_MAX, RETRY_DISTANCE_MAX, Schedule, Traffic};

/// One message, valid until the next one is asked for.
#[derive(Debug)]
pub struct Message<'a> {
    /// The organization's id: its messages share a partition.
    pub key: &'a [u8],
    /// The value, or a tombstone.
    pub payload: Option<&'a [u8]>,
    /// When it is due, in microseconds since 1970.
    pub published_at_micros: i64,
    /// What a correct pipeline makes of it.
    pub kind: MessageKind,
}

/// What a correct pipeline makes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// The first attempt at a request: it is counted.
    First(Request),
    /// A retry: it is dropped.
    Duplicate(DuplicateKind),
    /// It becomes a dead letter.
    Malformed(Malformation),
}

/// The facts of a request that reach the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Who is billed.
    pub organization_id: Uuid,
    /// When it happened, in microseconds since 1970, as precise as the message says it.
    pub time_micros: i64,
    /// The HTTP status.
    pub status_code: u16,
    /// How long it took.
    pub response_time_ms: u32,
    /// Whether it is billed.
    pub billable: bool,
    /// For how many units.
    pub weight: u32,
    /// It happened long before it was published.
    pub is_late: bool,
}

/// How a gateway's retry differs from the first attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DuplicateKind {
    /// In nothing: the same bytes.
    Identical,
    /// In `time`, which is later by as much as the retry was.
    Retimed,
}

/// A retry that will be sent.
#[derive(Debug, Clone, Copy)]
struct Retry {
    event: Event,
    first_published_at_micros: i64,
    attempt: u32,
}

/// The source of messages.
#[derive(Debug)]
pub struct Gateway {
    population: Population,
    random: Random,
    schedule: Schedule,
    message_count: u64,
    /// How many of the valid messages are followed by a retry: a duplicate may be retried once more.
    retried: Share,
    retimed: Share,
    /// How many of the messages that are no retry are malformed.
    malformed: Share,
    late: Share,
    late_up_to_micros: u64,
    padding_bytes: u32,
    retry_distance_max: u64,
    /// The next message's number.
    position: u64,
    /// By the message number at which each is due, then in the order they were made.
    retries: BTreeMap<(u64, u64), Retry>,
    key: [u8; 36],
    payload: Vec<u8>,
}

impl Gateway {
    /// The stream of that traffic. Check the traffic first.
    pub fn new(traffic: &Traffic, schedule: Schedule) -> Gateway {
        Gateway {
            population: Population::new(traffic.organization_count),
            random: Random::seeded(traffic.seed),
            schedule,
            message_count: traffic.message_count,
            retried: traffic.duplicates.relative_to(traffic.malformed.rest()),
            retimed: traffic.retimed,
            malformed: traffic.malformed.relative_to(traffic.duplicates.rest()),
            late: traffic.late,
            late_up_to_micros: u64::try_from(traffic.late_up_to.as_micros()).unwrap_or(u64::MAX),
            padding_bytes: traffic.padding_bytes,
            // A tenth of the stream: so that a short one has its share of duplicates, too.
            retry_distance_max: RETRY_DISTANCE_MAX
                .min(schedule.messages_within(RETRY_DELAY_MAX))
                .min(traffic.message_count / 10)
                .max(1),
            position: 0,
            retries: BTreeMap::new(),
            key: [0; 36],
            payload: Vec::with_capacity(1_024),
        }
    }

    /// The next message, or `None` after the last.
    pub fn next_message(&mut self) -> Option<Message<'_>> {
        if self.position == self.message_count {
            return None;
        }
        let published_at_micros = self.schedule.due_micros(self.position);
        self.payload.clear();
        let (kind, has_value) = match self.take_due_retry() {
            Some(retry) => (self.write_retry(retry, published_at_micros), true),
            None if self.random.chance(self.malformed) => self.write_malformed(published_at_micros),
            None => (self.write_first(published_at_micros), true),
        };
        self.position += 1;
        Some(Message {
            key: &self.key,
            payload: has_value.then_some(self.payload.as_slice()),
            published_at_micros,
            kind,
        })
    }

    fn take_due_retry(&mut self) -> Option<Retry> {
        let first = self.retries.first_entry()?;
        let (due, _) = *first.key();
        (due <= self.position).then(|| first.remove())
    }

    fn write_first(&mut self, published_at_micros: i64) -> MessageKind {
        let is_late = self.random.chance(self.late);
        let age_micros = if is_late { self.random.between(1_000_000, self.late_up_to_micros) } else { 0 };
        let time_micros = published_at_micros.saturating_sub_unsigned(age_micros);
        let event = Event::draw(&self.population, &mut self.random, time_micros);
        self.write_event(&event);
        self.plan_retry(Retry { event, first_published_at_micros: published_at_micros, attempt: 1 });
        MessageKind::First(Request {
            organization_id: event.organization_id,
            time_micros: event.time_micros,
            status_code: event.status_code,
            response_time_ms: event.response_time_ms,
            billable: event.billable,
            weight: event.weight,
            is_late,
        })
    }

    fn write_retry(&mut self, retry: Retry, published_at_micros: i64) -> MessageKind {
        const MILLISECOND: i64 = 1_000; // The least that every time format can tell apart.
        let mut event = retry.event;
        let is_retimed = self.random.chance(self.retimed);
        if is_retimed {
            let delay_micros = (published_at_micros - retry.first_published_at_micros).max(MILLISECOND);
            event.time_micros = event.dress.time_format.truncate(event.time_micros + delay_micros);
        }
        self.write_event(&event);
        if retry.attempt < RETRIES_MAX {
            self.plan_retry(Retry { attempt: retry.attempt + 1, ..retry });
        }
        let kind = if is_retimed { DuplicateKind::Retimed } else { DuplicateKind::Identical };
        MessageKind::Duplicate(kind)
    }

    fn write_malformed(&mut self, published_at_micros: i64) -> (MessageKind, bool) {
        let event = Event::draw(&self.population, &mut self.random, published_at_micros);
        let malformation = self.random.pick(&Malformation::ALL);
        self.key = event.organization_id.text();
        let has_value = malformation.write(&event, &mut self.random, &mut self.payload);
        (MessageKind::Malformed(malformation), has_value)
    }

    fn write_event(&mut self, event: &Event) {
        self.key = event.organization_id.text();
        event.write_json(None, self.padding_bytes, &mut self.payload);
    }

    /// Lets the share of messages that are retried be followed by a retry; mostly soon, sometimes much later.
    fn plan_retry(&mut self, retry: Retry) {
        if !self.random.chance(self.retried) {
            return;
        }
        let magnitude = self.random.below(u64::from(self.retry_distance_max.ilog2()) + 1);
        let farthest = (2_u64 << magnitude).min(self.retry_distance_max);
        let distance = self.random.between(1, farthest);
        self.retries.insert((self.position + distance, self.position), retry);
    }

    /// When the message after the last one is due, counted from the first.
    pub(super) fn next_offset(&self) -> Duration {
        self.schedule.offset(self.position)
    }
}
