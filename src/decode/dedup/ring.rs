//! The records of one window, oldest first, in chunks. Pure.
//!
//! Records lapse (leave the window) and are popped (leave the memory) in the order in which they came. Lapsing is a
//! border that moves, however far, in a moment; popping is work for each, and can come later.

use std::collections::VecDeque;

/// A 128-bit keyed hash, its low half first.
pub(super) type Hash = [u64; 2];

/// One remembered copy of an event; 32 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) hash: Hash,
    /// The low half of its offset: no window is four billion offsets long.
    pub(super) offset: u32,
    /// Sequence number of the identity's next copy; of the latest one's, its earliest.
    pub(super) next: u32,
    /// The low half of the window's clock, in milliseconds, when it was seen. Never less than the record's before it.
    pub(super) seen_at: u32,
    pub(super) fingerprint: u32,
}

/// Records in one allocation: 32 KiB, so that a window shrinks as it expires.
const CHUNK_RECORDS: usize = 1_024;

/// The records. A position is a record's place behind the start of the first chunk; its sequence number stays the same
/// while it is there, and numbers wrap around.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// All but the last are full.
    chunks: VecDeque<Vec<Record>>,
    /// Sequence number of the first record of the first chunk.
    first_seq: u32,
    /// Position of the oldest record that is still there; in the first chunk.
    oldest: usize,
    /// Position of the oldest record that has not lapsed.
    border: usize,
}

impl Ring {
    /// Records that are there.
    pub(super) fn len(&self) -> usize {
        self.end() - self.oldest
    }

    /// Position behind the latest.
    fn end(&self) -> usize {
        self.chunks.back().map_or(0, |last| (self.chunks.len() - 1) * CHUNK_RECORDS + last.len())
    }

    /// The sequence number that the next record will have.
    pub(super) fn next_seq(&self) -> u32 {
        self.seq(self.end())
    }

    /// Puts a record at the end.
    pub(super) fn push(&mut self, record: Record) {
        match self.chunks.back_mut().filter(|chunk| chunk.len() < CHUNK_RECORDS) {
            Some(chunk) => chunk.push(record),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK_RECORDS);
                chunk.push(record);
                self.chunks.push_back(chunk);
            }
        }
    }

    /// The record with this sequence number, which is there.
    pub(super) fn get(&self, seq: u32) -> &Record {
        let position = self.position(seq);
        &self.chunks[position / CHUNK_RECORDS][position % CHUNK_RECORDS]
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, seq: u32) -> &mut Record {
        let position = self.position(seq);
        &mut self.chunks[position / CHUNK_RECORDS][position % CHUNK_RECORDS]
    }

    /// The oldest record that is there, and its sequence number.
    pub(super) fn oldest(&self) -> Option<(u32, &Record)> {
        let record = self.chunks.front()?.get(self.oldest)?;
        Some((self.seq(self.oldest), record))
    }

    /// Lets the oldest go.
    pub(super) fn pop_oldest(&mut self) {
        self.oldest += 1;
        self.border = self.border.max(self.oldest);
        if self.oldest == CHUNK_RECORDS {
            self.chunks.pop_front();
            self.first_seq = self.seq(CHUNK_RECORDS);
            self.oldest = 0;
            self.border -= CHUNK_RECORDS;
        }
    }

    /// Whether the oldest has lapsed.
    pub(super) fn has_lapsed(&self) -> bool {
        self.oldest < self.border
    }

    /// Whether this one has lapsed.
    pub(super) fn is_lapsed(&self, seq: u32) -> bool {
        self.position(seq) < self.border
    }

    /// Lets all records lapse.
    pub(super) fn lapse_all(&mut self) {
        self.border = self.end();
    }

    /// Lets those lapse that are too old, which are the first ones.
    pub(super) fn lapse(&mut self, is_too_old: impl Fn(&Record) -> bool) {
        let is_last_too_old = |chunk: &Vec<Record>| chunk.last().is_some_and(&is_too_old);
        if self.chunks.get(self.border / CHUNK_RECORDS).is_some_and(is_last_too_old) {
            let whole_chunks = self.chunks.partition_point(is_last_too_old);
            self.border = (whole_chunks * CHUNK_RECORDS).min(self.end());
        }
        let chunk = self.chunks.get(self.border / CHUNK_RECORDS).map_or(&[][..], Vec::as_slice);
        self.border +=
            chunk[self.border % CHUNK_RECORDS..].iter().take_while(|record| is_too_old(record)).count();
    }

    /// Bytes allocated for records.
    pub(super) fn allocation_size(&self) -> usize {
        self.chunks.len() * CHUNK_RECORDS * size_of::<Record>()
    }

    fn position(&self, seq: u32) -> usize {
        seq.wrapping_sub(self.first_seq) as usize
    }

    #[expect(clippy::cast_possible_truncation, reason = "numbers wrap around")]
    fn seq(&self, position: usize) -> u32 {
        self.first_seq.wrapping_add(position as u32)
    }
}
