//! The dedup window of one partition: which identities were seen lately, at which offset. Pure;
//! owned by the decoder thread that decodes the partition, so it takes no lock.
//!
//! The windows of a process are its shards: one a partition. A decision then depends on the
//! partition's messages and their order alone, not on what other threads do meanwhile, and a
//! replay, a new owner or a zombie decides the same. (Producers key by organization, so copies of
//! an event share a partition; what crosses partitions is left to the database's unique key.)
//!
//! Memory: 32 bytes for a record in a chunked ring, oldest first, and 4 bytes plus a control byte
//! for its index in a hash table that is 7/16 to 7/8 full, or 1/3 to 2/3 once identities have expired: 40 to 48 bytes an identity (`flood.rs`).
//! Expiry pops the ring's end and never scans. Every copy has a record until that expires: records,
//! not identities, are budgeted. The copies of an identity are a circle: each leads to the next, the
//! latest, which the table finds, to the earliest.

#[cfg(test)]
mod flood;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashTable;

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
}

impl DedupBudget {
    /// Room for this many records: the copies of all identities until they expire.
    pub fn new(record_count_max: usize) -> Self {
        Self { record_count: Arc::default(), evictions: Arc::default(), record_count_max }
    }

    /// Records held now.
    pub fn record_count(&self) -> usize {
        self.record_count.load(Ordering::Relaxed)
    }

    /// Identities that had to go before their time, because the budget was spent.
    pub fn evictions(&self) -> usize {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Whether something must go before something comes.
    pub fn is_spent(&self) -> bool {
        self.record_count() >= self.record_count_max
    }
}

/// One remembered copy of an event; 32 bytes.
#[derive(Debug, Clone, Copy)]
struct Record {
    hash: [u64; 2],
    /// The low half of its offset: no window is four billion offsets long.
    offset: u32,
    /// Sequence number of the identity's next copy; of the latest one's, its earliest.
    next: u32,
    /// The window's clock when it was seen, in milliseconds since `Window::epoch_ms`.
    seen_at: u32,
    fingerprint: u32,
}

/// Records in one allocation: 32 KiB, so that a window shrinks as it expires.
const CHUNK_RECORDS: usize = 1_024;

/// The identities seen in one partition within the last `length` by its messages' timestamps.
/// "Seen" is any copy, dropped and dead-lettered ones too: the window after a message depends on the
/// messages of its length alone, so that it can be rebuilt by reading those.
#[derive(Debug)]
pub struct Window {
    length_ms: u32,
    budget: DedupBudget,
    /// Sequence numbers of each identity's latest record, found by the record's hash.
    table: HashTable<u32>,
    /// Records, oldest first, in chunks of `CHUNK_RECORDS`.
    chunks: VecDeque<Vec<Record>>,
    /// Sequence number of the first record of the first chunk; numbers wrap around.
    first_chunk_seq: u32,
    /// Records already expired in the first chunk.
    expired_in_first: usize,
    /// What `Record::seen_at` counts from: the first timestamp.
    epoch_ms: Option<i64>,
    /// The latest timestamp seen: the clock, which never runs backwards.
    clock: u32,
}

impl Window {
    /// An empty window.
    pub fn new(length: Duration, budget: DedupBudget) -> Self {
        Self {
            length_ms: u32::try_from(length.as_millis()).unwrap_or(u32::MAX),
            budget,
            table: HashTable::new(),
            chunks: VecDeque::new(),
            first_chunk_seq: 0,
            expired_in_first: 0,
            epoch_ms: None,
            clock: 0,
        }
    }

    /// Judges the event at `offset`, whose Kafka timestamp is `timestamp_ms`, and remembers it.
    /// `now_ms` caps the timestamp: one from the future would empty the window.
    pub fn judge(&mut self, identity: Identity, offset: Offset, timestamp_ms: i64, now_ms: i64) -> Verdict {
        self.pass(timestamp_ms, now_ms);
        self.make_room();
        let Identity { hash, fingerprint } = identity;
        let hash = split(hash);
        let offset = low_32_bits(offset.cast_unsigned());
        let copy = Record { hash, offset, next: 0, seen_at: self.clock, fingerprint };
        let Some(&latest) = self.table.find(hash[0], |&seq| self.record(seq).hash == hash) else {
            let seq = self.append(copy);
            self.record_mut(seq).next = seq;
            let Self { table, chunks, first_chunk_seq, .. } = self;
            table.insert_unique(hash[0], seq, |&seq| find(chunks, *first_chunk_seq, seq).hash[0]);
            self.clean_table();
            return Verdict::New;
        };
        let earliest_seq = self.record(latest).next;
        let earliest = *self.record(earliest_seq);
        if earliest.offset == offset {
            return Verdict::Redelivery;
        }
        // Whatever it is, it was seen: it counts for another window, and when the copies before it
        // have expired it is the one that later ones are compared with. So whoever reads the last
        // window knows what we know.
        let seq = self.append(Record { next: earliest_seq, ..copy });
        self.record_mut(latest).next = seq;
        if let Some(place) = self.table.find_mut(hash[0], |&candidate| candidate == latest) {
            *place = seq;
        }
        if earliest.fingerprint == fingerprint { Verdict::Duplicate } else { Verdict::Conflict }
    }

    /// Passes a message by that is no event: it only moves the clock. `now_ms` as in [`Self::judge`].
    pub fn pass(&mut self, timestamp_ms: i64, now_ms: i64) {
        self.advance(timestamp_ms.min(now_ms));
    }

    /// Lets the oldest go while the budget is spent and there is one.
    pub fn make_room(&mut self) {
        while self.budget.is_spent() && !self.is_empty() {
            if self.forget_oldest() {
                self.budget.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Records held.
    pub fn record_count(&self) -> usize {
        let in_full_chunks = self.chunks.len().saturating_sub(1) * CHUNK_RECORDS;
        in_full_chunks + self.chunks.back().map_or(0, Vec::len) - self.expired_in_first
    }

    /// Identities held.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Moves the clock and drops what has left the window.
    fn advance(&mut self, timestamp_ms: i64) {
        let epoch_ms = *self.epoch_ms.get_or_insert(timestamp_ms);
        let elapsed_ms = timestamp_ms.saturating_sub(epoch_ms);
        match u32::try_from(elapsed_ms) {
            Ok(clock) => self.clock = self.clock.max(clock),
            // Earlier than the first message: the clock stands still.
            Err(_) if elapsed_ms < 0 => {}
            // 49 days after the epoch the counter is used up.
            Err(_) => self.move_epoch(epoch_ms, timestamp_ms),
        }
        while self.oldest().is_some_and(|oldest| self.clock - oldest.seen_at > self.length_ms) {
            self.forget_oldest();
        }
        self.shrink_table();
    }

    /// Sets the clock to `timestamp_ms` and counts from one window before it.
    fn move_epoch(&mut self, old_epoch_ms: i64, timestamp_ms: i64) {
        let epoch_ms = timestamp_ms.saturating_sub(i64::from(self.length_ms));
        let moved_ms = epoch_ms.saturating_sub(old_epoch_ms);
        while self.oldest().is_some_and(|oldest| i64::from(oldest.seen_at) < moved_ms) {
            self.forget_oldest();
        }
        // If that is beyond 32 bits none is left.
        let moved_ms = u32::try_from(moved_ms).unwrap_or(u32::MAX);
        for record in self.chunks.iter_mut().flatten() {
            record.seen_at = record.seen_at.saturating_sub(moved_ms);
        }
        self.epoch_ms = Some(epoch_ms);
        self.clock = self.length_ms;
    }

    fn oldest(&self) -> Option<&Record> {
        self.chunks.front().and_then(|chunk| chunk.get(self.expired_in_first))
    }

    /// Puts a record at the ring's end; gives its sequence number.
    fn append(&mut self, record: Record) -> u32 {
        if self.chunks.back().is_none_or(|chunk| chunk.len() == CHUNK_RECORDS) {
            self.chunks.push_back(Vec::with_capacity(CHUNK_RECORDS));
        }
        let in_full_chunks = (self.chunks.len() - 1) * CHUNK_RECORDS;
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        let seq = self.first_chunk_seq.wrapping_add(low_32_bits((in_full_chunks + chunk.len()) as u64));
        chunk.push(record);
        self.budget.record_count.fetch_add(1, Ordering::Relaxed);
        seq
    }

    /// Drops the oldest record; tells whether an identity went with it (it does not if it was seen
    /// again later).
    fn forget_oldest(&mut self) -> bool {
        let Some(&Record { hash, next, .. }) = self.oldest() else { return false };
        let oldest_seq = self.first_chunk_seq.wrapping_add(low_32_bits(self.expired_in_first as u64));
        let Self { table, chunks, first_chunk_seq, .. } = self;
        let is_its = |&seq: &u32| seq == oldest_seq || find(chunks, *first_chunk_seq, seq).hash == hash;
        let latest = table.find(hash[0], is_its).copied();
        let is_forgotten = latest == Some(oldest_seq);
        if is_forgotten {
            table.find_entry(hash[0], |&seq| seq == oldest_seq).map(|entry| entry.remove()).ok();
        } else if let Some(latest) = latest {
            self.record_mut(latest).next = next;
        }
        self.budget.record_count.fetch_sub(1, Ordering::Relaxed);
        self.expired_in_first += 1;
        if self.expired_in_first == CHUNK_RECORDS {
            self.chunks.pop_front();
            self.first_chunk_seq = self.first_chunk_seq.wrapping_add(low_32_bits(CHUNK_RECORDS as u64));
            self.expired_in_first = 0;
        }
        is_forgotten
    }

    /// Frees the places in the table that removed entries still take up. Left alone the table would
    /// double as soon as it has no other place, though it be only half full. So would it when too
    /// full for this to help for long, at 2/3.
    fn clean_table(&mut self) {
        let Self { table, chunks, first_chunk_seq, .. } = self;
        if table.len() < table.capacity() || table.len() > table.num_buckets() / 3 * 2 {
            return;
        }
        table.clear();
        let end = chunks.iter().map(Vec::len).sum();
        for position in (self.expired_in_first..end).rev() {
            let seq = first_chunk_seq.wrapping_add(low_32_bits(position as u64));
            let record_of = |seq: u32| find(chunks, *first_chunk_seq, seq);
            let hash = record_of(seq).hash;
            // The table knows the latest record of an identity.
            if table.find(hash[0], |&later| record_of(later).hash == hash).is_none() {
                table.insert_unique(hash[0], seq, |&seq| record_of(seq).hash[0]);
            }
        }
    }

    /// Gives the table of a flood that is over back; another partition's may be coming.
    fn shrink_table(&mut self) {
        let Self { table, chunks, first_chunk_seq, .. } = self;
        if table.len() < table.num_buckets() / 8 {
            table.shrink_to(table.len() * 2, |&seq| find(chunks, *first_chunk_seq, seq).hash[0]);
        }
    }

    fn clear(&mut self) {
        self.budget.record_count.fetch_sub(self.record_count(), Ordering::Relaxed);
        self.table.clear();
        self.chunks.clear();
        self.expired_in_first = 0;
    }

    fn record(&self, seq: u32) -> &Record {
        find(&self.chunks, self.first_chunk_seq, seq)
    }

    fn record_mut(&mut self, seq: u32) -> &mut Record {
        let position = seq.wrapping_sub(self.first_chunk_seq) as usize;
        &mut self.chunks[position / CHUNK_RECORDS][position % CHUNK_RECORDS]
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The record with this sequence number, which is one the table holds.
fn find(chunks: &VecDeque<Vec<Record>>, first_chunk_seq: u32, seq: u32) -> &Record {
    let position = seq.wrapping_sub(first_chunk_seq) as usize;
    &chunks[position / CHUNK_RECORDS][position % CHUNK_RECORDS]
}

fn split(hash: u128) -> [u64; 2] {
    [low_64_bits(hash), low_64_bits(hash >> 64)]
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low_64_bits(value: u128) -> u64 {
    value as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low_32_bits(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests;
