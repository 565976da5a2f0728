//! The dedup window of one partition: which identities were seen lately, at which offset. Pure;
//! owned by the decoder thread that decodes the partition, so it takes no lock.
//!
//! The windows of a process are its shards: one a partition. A decision then depends on the
//! partition's messages and their order alone, not on what other threads do meanwhile, and a
//! replay, a new owner or a zombie decides the same. (Producers key by organization, so copies of
//! an event share a partition; what crosses partitions is left to the database's unique key.)
//!
//! Memory: 32 bytes for a record in a chunked ring, oldest first, and 4 bytes plus a control byte
//! for its index in a hash table that is between 7/16 and 7/8 full: 38 to 44 bytes an identity.
//! Expiry pops the ring's end and never scans. A duplicate moves its identity to the ring's new end
//! and leaves a dead record behind until that expires: records, not identities, are budgeted.

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
    /// Seen at this very offset. Its first write may never have happened, so it is a row again,
    /// and the database's unique key decides.
    Redelivery,
    /// The same event at an earlier offset: dropped.
    Duplicate,
    /// An earlier offset had the identity with another payload: a dead letter.
    Conflict,
}

/// How many records all windows of the process may hold together, and do hold.
#[derive(Debug, Clone)]
pub struct DedupBudget {
    record_count: Arc<AtomicUsize>,
    evictions: Arc<AtomicUsize>,
    record_count_max: usize,
}

impl DedupBudget {
    /// Room for this many records: identities, and their refreshed copies until they expire.
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

    fn is_spent(&self) -> bool {
        self.record_count() >= self.record_count_max
    }
}

/// One remembered event; 32 bytes.
#[derive(Debug, Clone, Copy)]
struct Record {
    hash: [u64; 2],
    offset: Offset,
    /// The window's clock when it was seen, in milliseconds since `Window::epoch_ms`.
    seen_at: u32,
    fingerprint: u32,
}

/// Records in one allocation: 32 KiB, so that a window shrinks as it expires.
const CHUNK_RECORDS: usize = 1_024;

/// The identities seen in one partition within the last `length` by its messages' timestamps.
/// "Seen" is any copy: the window after a message depends on the messages of its length alone, so
/// that it can be rebuilt by reading those.
#[derive(Debug)]
pub struct Window {
    length_ms: u32,
    budget: DedupBudget,
    /// Sequence numbers of records, found by the records' hashes.
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

    /// Judges the event at `offset`, whose Kafka timestamp is `timestamp_ms`, and remembers it if
    /// it is new. `now_ms` caps the timestamp: one from the future would empty the window.
    pub fn judge(&mut self, identity: Identity, offset: Offset, timestamp_ms: i64, now_ms: i64) -> Verdict {
        self.advance(timestamp_ms.min(now_ms));
        self.make_room();
        let hash = split(identity.hash);
        let Some(&seq) = self.table.find(hash[0], |&seq| self.record(seq).hash == hash) else {
            self.make_room();
            let seq =
                self.append(Record { hash, offset, seen_at: self.clock, fingerprint: identity.fingerprint });
            let Self { table, chunks, first_chunk_seq, .. } = self;
            table.insert_unique(hash[0], seq, |&seq| find(chunks, *first_chunk_seq, seq).hash[0]);
            return Verdict::New;
        };
        let first = *self.record(seq);
        if first.offset == offset {
            Verdict::Redelivery
        } else if first.fingerprint == identity.fingerprint {
            // Seen again: it stays for another window, at the ring's new end; its old place expires
            // like any other. So whoever reads the last window knows what we know.
            let refreshed = self.append(Record { seen_at: self.clock, ..first });
            if let Some(place) = self.table.find_mut(hash[0], |&candidate| candidate == seq) {
                *place = refreshed;
            }
            Verdict::Duplicate
        } else {
            Verdict::Conflict
        }
    }

    /// Lets the oldest go while the budget is spent.
    fn make_room(&mut self) {
        while self.budget.is_spent() && !self.is_empty() {
            if self.forget_oldest() {
                self.budget.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
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
            // 49 days after the first message the counter is used up: begin anew, which forgets
            // at most one window's length of a partition once in that time.
            Err(_) => {
                self.clear();
                self.epoch_ms = Some(timestamp_ms);
                self.clock = 0;
            }
        }
        while self.oldest().is_some_and(|oldest| self.clock - oldest.seen_at > self.length_ms) {
            self.forget_oldest();
        }
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
        let Some(&Record { hash, .. }) = self.oldest() else { return false };
        let oldest_seq = self.first_chunk_seq.wrapping_add(low_32_bits(self.expired_in_first as u64));
        let forgotten = self.table.find_entry(hash[0], |&seq| seq == oldest_seq).map(|entry| entry.remove());
        self.budget.record_count.fetch_sub(1, Ordering::Relaxed);
        self.expired_in_first += 1;
        if self.expired_in_first == CHUNK_RECORDS {
            self.chunks.pop_front();
            self.first_chunk_seq = self.first_chunk_seq.wrapping_add(low_32_bits(CHUNK_RECORDS as u64));
            self.expired_in_first = 0;
        }
        forgotten.is_ok()
    }

    fn clear(&mut self) {
        let records: usize = self.chunks.iter().map(Vec::len).sum();
        self.budget.record_count.fetch_sub(records - self.expired_in_first, Ordering::Relaxed);
        self.table.clear();
        self.chunks.clear();
        self.expired_in_first = 0;
    }

    fn record(&self, seq: u32) -> &Record {
        find(&self.chunks, self.first_chunk_seq, seq)
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
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const LENGTH_MS: i64 = 1_000;

    fn window(record_count_max: usize) -> Window {
        Window::new(Duration::from_millis(1_000), DedupBudget::new(record_count_max))
    }

    fn identity(id: u128, fingerprint: u32) -> Identity {
        // As a keyed hash spreads them.
        Identity { hash: id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835), fingerprint }
    }

    fn judge(window: &mut Window, id: u128, offset: Offset, at_ms: i64) -> Verdict {
        window.judge(identity(id, 0), offset, at_ms, i64::MAX)
    }

    #[test]
    fn the_same_identity_at_another_offset_is_a_duplicate_and_at_the_same_a_redelivery() {
        let mut window = window(100);
        assert_eq!(judge(&mut window, 1, 10, 0), Verdict::New);
        assert_eq!(judge(&mut window, 1, 12, 5), Verdict::Duplicate);
        assert_eq!(judge(&mut window, 1, 10, 0), Verdict::Redelivery);
        assert_eq!(window.judge(identity(1, 9), 13, 6, i64::MAX), Verdict::Conflict);
        assert_eq!(window.len(), 1);
    }

    #[test]
    fn the_window_is_measured_between_timestamps() {
        let mut window = window(100);
        assert_eq!(judge(&mut window, 1, 10, 5_000), Verdict::New);
        assert_eq!(judge(&mut window, 2, 11, 5_000), Verdict::New);
        assert_eq!(judge(&mut window, 1, 12, 5_000 + LENGTH_MS), Verdict::Duplicate);
        assert_eq!(judge(&mut window, 2, 13, 5_001 + LENGTH_MS), Verdict::New);
        assert_eq!(window.len(), 2);
    }

    #[test]
    fn a_window_rebuilt_from_its_last_length_decides_the_same() {
        let retries = [(10, 0), (11, LENGTH_MS - 100), (12, 2 * LENGTH_MS - 300)];
        let mut whole = window(100);
        let verdicts = retries.map(|(offset, at_ms)| judge(&mut whole, 1, offset, at_ms));
        assert_eq!(verdicts, [Verdict::New, Verdict::Duplicate, Verdict::Duplicate]);
        let mut rebuilt = window(100);
        judge(&mut rebuilt, 1, 11, LENGTH_MS - 100);
        assert_eq!(judge(&mut rebuilt, 1, 12, 2 * LENGTH_MS - 300), Verdict::Duplicate);
    }

    #[test]
    fn dead_records_expire_and_are_budgeted() {
        let budget = DedupBudget::new(4);
        let mut window = Window::new(Duration::from_secs(1), budget.clone());
        for offset in 0..4 {
            judge(&mut window, 1, offset, 0);
        }
        assert_eq!((window.len(), budget.record_count(), budget.evictions()), (1, 4, 0));
        assert_eq!(judge(&mut window, 2, 9, 0), Verdict::New);
        assert_eq!((window.len(), budget.record_count(), budget.evictions()), (2, 4, 0));
        judge(&mut window, 3, 10, 2 * LENGTH_MS);
        assert_eq!((window.len(), budget.record_count()), (1, 1));
    }

    #[test]
    fn a_timestamp_from_the_future_counts_as_now() {
        let mut window = window(100);
        assert_eq!(window.judge(identity(1, 0), 10, 500, 1_000), Verdict::New);
        assert_eq!(window.judge(identity(2, 0), 11, i64::MAX, 1_000), Verdict::New);
        assert_eq!(window.judge(identity(1, 0), 12, 1_100, 1_100), Verdict::Duplicate);
    }

    #[test]
    fn a_spent_budget_evicts_the_oldest_and_counts_it() {
        let budget = DedupBudget::new(3);
        let mut window = Window::new(Duration::from_secs(1), budget.clone());
        for id in 0..5 {
            assert_eq!(judge(&mut window, id, 0, 0), Verdict::New);
        }
        assert_eq!((window.len(), budget.record_count(), budget.evictions()), (3, 3, 2));
        assert_eq!(judge(&mut window, 1, 9, 0), Verdict::New);
        assert_eq!(judge(&mut window, 4, 9, 0), Verdict::Duplicate);
        drop(window);
        assert_eq!(budget.record_count(), 0);
    }

    #[test]
    fn the_clock_begins_anew_when_its_counter_is_used_up() {
        let mut window = window(100);
        assert_eq!(judge(&mut window, 1, 1, 0), Verdict::New);
        let late = i64::from(u32::MAX) + 1;
        assert_eq!(judge(&mut window, 1, 2, late), Verdict::New);
        assert_eq!(judge(&mut window, 1, 3, late + 1), Verdict::Duplicate);
    }

    #[test]
    fn a_record_has_32_bytes() {
        assert_eq!(size_of::<Record>(), 32);
    }

    /// The rule, said naively: a sighting within the window decides, and any copy is one.
    #[derive(Default)]
    struct Model {
        seen: Vec<(u128, Offset, i64, u32)>,
        clock: i64,
    }

    impl Model {
        fn judge(&mut self, id: u128, fingerprint: u32, offset: Offset, at_ms: i64) -> Verdict {
            self.clock = if self.seen.is_empty() && self.clock == 0 { at_ms } else { self.clock.max(at_ms) };
            let clock = self.clock;
            self.seen.retain(|seen| clock - seen.2 <= LENGTH_MS);
            match self.seen.iter_mut().find(|seen| seen.0 == id) {
                Some(seen) if seen.1 == offset => Verdict::Redelivery,
                Some(seen) if seen.3 == fingerprint => {
                    seen.2 = clock;
                    Verdict::Duplicate
                }
                Some(_) => Verdict::Conflict,
                None => {
                    self.seen.push((id, offset, clock, fingerprint));
                    Verdict::New
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_window_matches_the_model(steps in vec((0_u128..300, 0_u32..2, 0_i64..4, -20_i64..40), 1..1_500)) {
            let (mut window, mut model) = (window(usize::MAX), Model::default());
            let mut at_ms = 1_000_000;
            for (idx, (id, fingerprint, back, step_ms)) in steps.into_iter().enumerate() {
                at_ms += step_ms;
                let offset = i64::try_from(idx).unwrap() - back;
                prop_assert_eq!(
                    window.judge(identity(id, fingerprint), offset, at_ms, i64::MAX),
                    model.judge(id, fingerprint, offset, at_ms)
                );
                prop_assert_eq!(window.len(), model.seen.len());
            }
        }
    }
}
