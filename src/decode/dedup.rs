//! The dedup window of one partition: which identities were seen lately, at which offset. Pure;
//! owned by the decoder thread that decodes the partition, so it takes no lock.
//!
//! The windows of a process are its shards: one a partition. A decision then depends on the
//! partition's messages and their order alone, not on what other threads do meanwhile, and a
//! replay, a new owner or a zombie decides the same. (Producers key by organization, so copies of
//! an event share a partition; what crosses partitions is left to the database's unique key.)
//!
//! Memory: 32 bytes for a record in a chunked ring, oldest first (`ring.rs`), and about ten for its place in a hash table
//! (`index.rs`): 40 to 46 bytes an identity. Every copy has a record until that expires: records, not identities, are
//! budgeted. The copies of an identity are a circle: each leads to the next, the latest, which the table finds, to the
//! earliest.
//!
//! No message waits for the work of many: tables grow a shard at a time, and of records that have left the window a few
//! go with each message. Until then they are memory and nothing else: no decision sees them.

#[cfg(test)]
mod flood;
mod index;
mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use index::Index;
use ring::{Record, Ring};

use super::identity::Identity;
use crate::offsets::Offset;

/// What the window says about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen within the window: a row.
    New,
    /// First seen at this very offset. Its first write may never have happened, so it is a row again,
    /// and the database's unique key decides.
    Redelivery,
    /// The earliest copy in the window, at another offset, says the same: dropped.
    Duplicate,
    /// The earliest copy in the window has another payload: a dead letter.
    Conflict,
}

/// How many records the windows of a decoder may hold together, and do hold. A window may hold the
/// one that it has just judged when the others have left it no room.
#[derive(Debug, Clone)]
pub struct DedupBudget {
    record_count: Arc<AtomicUsize>,
    evictions: Arc<AtomicUsize>,
    record_count_max: usize,
    /// Bytes allocated, and how far the oldest record lies back in milliseconds, when the decoder looked last.
    bytes: Arc<AtomicUsize>,
    oldest_ms: Arc<AtomicU64>,
}

impl DedupBudget {
    /// Room for this many records: the copies of all identities until they expire.
    pub fn new(record_count_max: usize) -> Self {
        Self {
            record_count: Arc::default(),
            evictions: Arc::default(),
            record_count_max,
            bytes: Arc::default(),
            oldest_ms: Arc::default(),
        }
    }

    /// Records held now.
    pub fn record_count(&self) -> usize {
        self.record_count.load(Ordering::Relaxed)
    }

    /// Identities that had to go before their time, because the budget was spent.
    pub fn evictions(&self) -> usize {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Bytes allocated for the windows, as of about a second ago.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How far before its window's clock the oldest record lies, as of about a second ago.
    pub fn oldest(&self) -> Duration {
        Duration::from_millis(self.oldest_ms.load(Ordering::Relaxed))
    }

    /// What the windows take and remember now, for whoever reports. Not for every message: it looks at all tables.
    pub fn look<'a>(&self, windows: impl Iterator<Item = &'a Window>) {
        let (mut bytes, mut oldest_ms) = (0, 0);
        for window in windows {
            bytes += window.allocation_size();
            oldest_ms = oldest_ms.max(window.oldest_ms());
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        self.oldest_ms.store(oldest_ms, Ordering::Relaxed);
    }

    /// Whether something must go before something comes.
    pub fn is_spent(&self) -> bool {
        self.record_count() >= self.record_count_max
    }

    // One thread writes, the decoder's, so these need not be atomic as a whole; others read.

    fn add(&self, records: usize) {
        self.record_count.store(self.record_count() + records, Ordering::Relaxed);
    }

    fn subtract(&self, records: usize) {
        self.record_count.store(self.record_count() - records, Ordering::Relaxed);
    }
}

/// Most records that go with one message once they have left the window: ten times as many as can come, at a few
/// microseconds.
const FORGOTTEN_PER_MESSAGE_MAX: usize = 32;

/// The identities seen in one partition within the last `length` by its messages' timestamps.
/// "Seen" is any copy, dropped and dead-lettered ones too: the window after a message depends on the
/// messages of its length alone, so that it can be rebuilt by reading those.
#[derive(Debug)]
pub struct Window {
    length_ms: u32,
    budget: DedupBudget,
    index: Index,
    ring: Ring,
    /// The latest timestamp seen, which never runs backwards.
    clock_ms: Option<i64>,
}

impl Window {
    /// An empty window, of at most 24 days.
    pub fn new(length: Duration, budget: DedupBudget) -> Self {
        let length_ms = u32::try_from(length.as_millis()).unwrap_or(u32::MAX).min(u32::MAX / 2);
        let index = Index::new(budget.record_count_max);
        Self { length_ms, budget, index, ring: Ring::default(), clock_ms: None }
    }

    /// Judges the event at `offset`, whose Kafka timestamp is `timestamp_ms`, and remembers it.
    /// `now_ms` caps the timestamp: one from the future would empty the window.
    pub fn judge(&mut self, identity: Identity, offset: Offset, timestamp_ms: i64, now_ms: i64) -> Verdict {
        let clock_ms = self.advance(timestamp_ms.min(now_ms));
        self.make_room();
        let Identity { hash, fingerprint } = identity;
        let hash = split(hash);
        let offset = low_32_bits(offset);
        let seq = self.ring.next_seq();
        let copy = Record { hash, offset, next: seq, seen_at: low_32_bits(clock_ms), fingerprint };
        let Some(latest) = self.index.find_or_insert(hash, seq, &self.ring) else {
            self.remember(copy);
            return Verdict::New;
        };
        if self.ring.is_lapsed(latest) {
            self.index.replace(hash, latest, seq);
            self.remember(copy);
            return Verdict::New;
        }
        let mut earliest_seq = self.ring.get(latest).next;
        while self.ring.is_lapsed(earliest_seq) {
            earliest_seq = self.ring.get(earliest_seq).next;
        }
        let earliest = *self.ring.get(earliest_seq);
        if earliest.offset == offset {
            self.ring.get_mut(latest).next = earliest_seq;
            return Verdict::Redelivery;
        }
        // Whatever it is, it was seen: it counts for another window, and when the copies before it
        // have expired it is the one that later ones are compared with. So whoever reads the last
        // window knows what we know.
        self.ring.get_mut(latest).next = seq;
        self.index.replace(hash, latest, seq);
        self.remember(Record { next: earliest_seq, ..copy });
        if earliest.fingerprint == fingerprint { Verdict::Duplicate } else { Verdict::Conflict }
    }

    /// Passes a message by that is no event: it only moves the clock. `now_ms` as in [`Self::judge`].
    pub fn pass(&mut self, timestamp_ms: i64, now_ms: i64) {
        self.advance(timestamp_ms.min(now_ms));
    }

    /// Lets the oldest go while the budget is spent and there is one.
    pub fn make_room(&mut self) {
        while self.budget.is_spent() && self.record_count() > 0 {
            let is_early = !self.ring.has_lapsed();
            if self.forget_oldest() && is_early {
                self.budget.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether it holds records that have left it: they can go without loss.
    pub fn has_expired_records(&self) -> bool {
        self.ring.has_lapsed()
    }

    /// Records held.
    pub fn record_count(&self) -> usize {
        self.ring.len()
    }

    /// Identities held, those among them that have left the window and not yet the memory.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes allocated.
    pub fn allocation_size(&self) -> usize {
        self.ring.allocation_size() + self.index.allocation_size()
    }

    /// Milliseconds by which the oldest record lies before the clock.
    fn oldest_ms(&self) -> u64 {
        let clock = low_32_bits(self.clock_ms.unwrap_or(0));
        self.ring.oldest().map_or(0, |(_, record)| u64::from(clock.wrapping_sub(record.seen_at)))
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves the clock, which it gives, and drops some of what has left the window.
    fn advance(&mut self, timestamp_ms: i64) -> i64 {
        let before_ms = *self.clock_ms.get_or_insert(timestamp_ms);
        if timestamp_ms > before_ms {
            self.clock_ms = Some(timestamp_ms);
            let (clock, length_ms) = (low_32_bits(timestamp_ms), self.length_ms);
            if timestamp_ms.saturating_sub(before_ms) > i64::from(length_ms) {
                self.ring.lapse_all();
            } else {
                // No more than twice `length_ms` ago, so 32 bits know the difference.
                self.ring.lapse(|record| clock.wrapping_sub(record.seen_at) > length_ms);
            }
        }
        for _ in 0..FORGOTTEN_PER_MESSAGE_MAX {
            if !self.ring.has_lapsed() {
                break;
            }
            self.forget_oldest();
        }
        timestamp_ms.max(before_ms)
    }

    fn remember(&mut self, record: Record) {
        self.ring.push(record);
        self.budget.add(1);
    }

    /// Drops the oldest record; tells whether an identity went with it (it does not if it was seen
    /// again later).
    fn forget_oldest(&mut self) -> bool {
        let Some((seq, &Record { hash, next, .. })) = self.ring.oldest() else { return false };
        let latest = self.index.remove(hash, seq, &self.ring);
        if let Some(latest) = latest.map(|latest| self.ring.get_mut(latest))
            && latest.next == seq
        {
            latest.next = next;
        }
        self.ring.pop_oldest();
        self.budget.subtract(1);
        latest.is_none()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.subtract(self.record_count());
    }
}

fn split(hash: u128) -> [u64; 2] {
    [low_64_bits(hash), low_64_bits(hash >> 64)]
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low_64_bits(value: u128) -> u64 {
    value as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
#[expect(clippy::cast_sign_loss, reason = "a bit pattern")]
fn low_32_bits(value: i64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests;
