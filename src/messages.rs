//! What flows between the stages, and nothing else: polled batches, write batches, progress.
//!
//! Every message says what has been done to it and carries the spans it owes: a batch whose
//! messages were all dropped still travels, since its spans must complete.

use std::time::Instant;

use crossbeam_channel::Sender;

use crate::offsets::{Generation, Offset, OffsetSpan, Partition};
use crate::usage_event::{RejectReason, Rejection};

/// One Kafka message inside a [`PolledBatch`]; key and payload lie in the batch's `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolledMessage {
    /// Index of the message's span in the batch's `spans`.
    pub span_idx: u32,
    /// The message's offset.
    pub offset: Offset,
    /// The Kafka timestamp, milliseconds since 1970, if the message has one.
    pub timestamp_ms: Option<i64>,
    /// Where the key starts in `bytes`; the payload follows the key.
    bytes_start: u32,
    key_len: Option<u32>,
    payload_len: Option<u32>,
}

/// Messages of one decoder's partitions as they came from Kafka: per partition in offset order.
#[derive(Debug)]
pub struct PolledBatch {
    /// What this batch accounts for: at most one span a partition, empty if there is only history.
    pub spans: Vec<OffsetSpan>,
    /// The messages, in the order they were polled.
    pub messages: Vec<PolledMessage>,
    /// Keys and payloads, back to back.
    bytes: Vec<u8>,
    /// Partitions that were taken away before this batch: their windows can go.
    pub revoked: Vec<Partition>,
    /// When it was handed on; until then, when it was begun.
    pub polled_at: Instant,
}

impl PolledBatch {
    /// An empty batch with room for `message_count` messages, apart from their bytes.
    pub fn with_capacity(message_count: usize) -> Self {
        Self {
            spans: Vec::new(),
            messages: Vec::with_capacity(message_count),
            bytes: Vec::new(),
            revoked: Vec::new(),
            polled_at: Instant::now(),
        }
    }

    /// An empty batch with room for one like this: under load one is like the one before it.
    #[must_use]
    pub fn empty_alike(&self) -> Self {
        Self {
            spans: Vec::with_capacity(self.spans.len()),
            messages: Vec::with_capacity(roomy(self.messages.len())),
            bytes: Vec::with_capacity(roomy(self.bytes.len())),
            revoked: Vec::new(),
            polled_at: Instant::now(),
        }
    }

    /// Copies one message in. `span_idx` is its span's place in `spans`.
    ///
    /// Lengths are 32 bits wide: a Kafka record batch, and so each record, is smaller than 2 GiB.
    pub fn push(
        &mut self,
        span_idx: u32,
        offset: Offset,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
    ) {
        let bytes_start = length(self.bytes.len());
        self.bytes.extend_from_slice(key.unwrap_or_default());
        self.bytes.extend_from_slice(payload.unwrap_or_default());
        self.messages.push(PolledMessage {
            span_idx,
            offset,
            timestamp_ms,
            bytes_start,
            key_len: key.map(|key| length(key.len())),
            payload_len: payload.map(|payload| length(payload.len())),
        });
    }

    /// The message's key, `None` when it has none.
    pub fn key(&self, message: &PolledMessage) -> Option<&[u8]> {
        let start = message.bytes_start as usize;
        message.key_len.map(|len| &self.bytes[start..start + len as usize])
    }

    /// The message's payload, `None` for a null value (a tombstone).
    pub fn payload(&self, message: &PolledMessage) -> Option<&[u8]> {
        let start = message.bytes_start as usize + message.key_len.unwrap_or(0) as usize;
        message.payload_len.map(|len| &self.bytes[start..start + len as usize])
    }

    /// Whether the message lies before its partition's start: it is remembered, so that a later
    /// copy of it is known, and not written.
    pub fn is_history(&self, message: &PolledMessage) -> bool {
        message.offset < self.spans[message.span_idx as usize].start
    }

    /// The same batch, which leaves the poller now.
    #[must_use]
    pub fn handed_on(self) -> Self {
        Self { polled_at: Instant::now(), ..self }
    }

    /// Bytes of keys and payloads that the batch holds.
    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the batch has nothing to tell anyone.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.revoked.is_empty()
    }
}

/// A little more, since no two batches are of the same size; one that grows by doubling copies all it has.
fn roomy(len: usize) -> usize {
    len + len / 8
}

/// A batch is closed at a mebibyte and a message is below 2 GiB, so 32 bits always suffice.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A message of a [`WriteBatch`]: which polled batch, which message in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageRef {
    /// Index into [`WriteBatch::polled`].
    pub batch_idx: u32,
    /// Index into that batch's `messages`.
    pub message_idx: u32,
}

/// A row ready to copy: its COPY tuple lies in [`WriteBatch::tuples`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodedRow {
    /// First sort key of the COPY.
    pub organization_id: u128,
    /// Second sort key: microseconds since 1970.
    pub time_micros: i64,
    /// First byte of the tuple in `tuples`.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// Index of its span in [`WriteBatch::outcomes`].
    pub outcome_idx: u32,
    /// The message it was decoded from.
    pub source: MessageRef,
}

/// A message to be stored as it is, with the reason why it is no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message.
    pub source: MessageRef,
    /// Why.
    pub rejection: Rejection,
}

/// What became of the messages of one span. Travels with the rows, so that it can be stored in
/// the transaction that makes them durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanOutcome {
    /// The span.
    pub span: OffsetSpan,
    /// Messages in it; the sum of the counts below once it is durable.
    pub messages: u64,
    /// Rows inserted.
    pub written: u64,
    /// Dropped by the window: an earlier message had the same identity.
    pub duplicates: u64,
    /// In the database already: redeliveries, as rows or as dead letters, and duplicates older than
    /// the window.
    pub database_duplicates: u64,
    /// Stored as dead letters: refused by the decoder, or by the database.
    pub dead_letters: u64,
}

impl SpanOutcome {
    /// A span of which nothing has been decided.
    pub fn new(span: OffsetSpan) -> Self {
        Self { span, messages: 0, written: 0, duplicates: 0, database_duplicates: 0, dead_letters: 0 }
    }
}

/// Dead letters of one span that a transaction has stored, by reason: among its outcome's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterCount {
    /// Index of the span's outcome in the batch.
    pub outcome_idx: u32,
    /// Why.
    pub reason: RejectReason,
    /// How many.
    pub count: u64,
}

/// That a polled batch is decoded, for whoever asks how long its messages wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodedBatch {
    /// When its last message was sifted.
    pub at: Instant,
    /// Its messages, without history.
    pub message_count: u64,
}

/// Whole polled batches, decoded: what one transaction makes durable.
#[derive(Debug, Default)]
pub struct WriteBatch {
    /// The messages it was made of; payloads are needed for dead letters.
    pub polled: Vec<PolledBatch>,
    /// Rows in arrival order.
    pub rows: Vec<EncodedRow>,
    /// COPY tuples, in binary format without header and trailer, in arrival order.
    pub tuples: Vec<u8>,
    /// Messages that are no rows.
    pub dead_letters: Vec<DeadLetter>,
    /// Every span of every polled batch.
    pub outcomes: Vec<SpanOutcome>,
    /// Bytes held in `polled`.
    pub payload_bytes: usize,
    /// When the oldest polled batch came in.
    pub opened_at: Option<Instant>,
    /// When each of `polled` was decoded.
    pub decoded: Vec<DecodedBatch>,
}

impl WriteBatch {
    /// An empty batch with room for one like this: under load one is like the one before it.
    #[must_use]
    pub fn empty_alike(&self) -> Self {
        Self {
            polled: Vec::with_capacity(roomy(self.polled.len())),
            rows: Vec::with_capacity(roomy(self.rows.len())),
            tuples: Vec::with_capacity(roomy(self.tuples.len())),
            outcomes: Vec::with_capacity(roomy(self.outcomes.len())),
            decoded: Vec::with_capacity(roomy(self.decoded.len())),
            ..Self::default()
        }
    }

    /// The message behind a reference, and the batch that holds its bytes.
    pub fn message(&self, source: MessageRef) -> (&PolledBatch, &PolledMessage) {
        let batch = &self.polled[source.batch_idx as usize];
        (batch, &batch.messages[source.message_idx as usize])
    }

    /// The COPY tuple of the row with this index.
    pub fn tuple(&self, row_idx: u32) -> &[u8] {
        let row = &self.rows[row_idx as usize];
        &self.tuples[row.start as usize..row.end as usize]
    }

    /// Dead letters by reason, for counting.
    pub fn dead_letter_reasons(&self) -> impl Iterator<Item = RejectReason> + '_ {
        self.dead_letters.iter().map(|letter| letter.rejection.reason)
    }
}

/// A span that the poller is about to hand on, and how many messages lie in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuedSpan {
    /// The span.
    pub span: OffsetSpan,
    /// Messages in it; fewer than offsets where Kafka skipped some.
    pub messages: u64,
}

/// What the committer is told, by the poller and by the writers.
#[derive(Debug)]
pub enum Progress {
    /// A partition was assigned: its first span will start at `start`.
    Assigned {
        /// The partition.
        partition: Partition,
        /// Its new generation.
        generation: Generation,
        /// Where reading starts.
        start: Offset,
    },
    /// Spans that will be handed on next. Sent before the batch itself, so that its completion
    /// cannot overtake it.
    Issued(Vec<IssuedSpan>),
    /// Spans whose rows and dead letters are committed in the database.
    Durable {
        /// What became of each.
        outcomes: Vec<SpanOutcome>,
        /// Of their dead letters, how many had which reason.
        letters: Vec<LetterCount>,
    },
    /// Partitions were taken away. Behind everything that was issued of them, and before they can
    /// be assigned again.
    Revoked(Vec<Partition>),
    /// What the broker says of the partitions, as last heard.
    Heard(Vec<BrokerOffsets>),
}

/// A partition as the broker has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerOffsets {
    /// The partition.
    pub partition: Partition,
    /// The end of its log, if known.
    pub high_water_mark: Option<Offset>,
    /// The oldest offset that is still there, if known.
    pub low_water_mark: Option<Offset>,
    /// The offset that was last committed successfully, if one was.
    pub committed: Option<Offset>,
}

/// Partitions are about to be given back, and the poller waits in the callback for `done`. A channel
/// of its own, since the consumer, which the committer holds, holds its sender: it never hangs up.
#[derive(Debug)]
pub struct Revocation {
    /// The partitions.
    pub partitions: Vec<Partition>,
    /// Until when their in-flight spans may be waited for.
    pub deadline: Instant,
    /// Hung up when their watermarks are committed.
    pub done: Sender<()>,
}
