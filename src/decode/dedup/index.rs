//! Finds an identity's latest record by its hash. Pure; part of one window.
//!
//! One table of millions would stop the decoder for as long as it takes to double. So there are many small ones, the
//! *shards*, which grow one at a time: between two messages at most a shard is moved. The largest has
//! twice the share of the smallest, so that they double at different times: the index as a whole is
//! always between half and fully used, never just doubled, and takes about ten bytes an identity whatever their number.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::ring::{Hash, Ring};

/// Entries of a shard when the budget is used up by one window, on average: a shard is moved in a fraction of a
/// millisecond, which is mostly cache misses, one an entry.
const SHARD_ENTRIES: usize = 8_192;
/// Most shards: empty ones take half a mebibyte. Beyond 134 million records shards grow instead.
const SHARDS_MAX: usize = 16_384;

/// Sequence numbers of each identity's latest record.
#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[HashTable<u32>]>,
    len: usize,
}

impl Index {
    /// An empty index for up to this many entries.
    pub(super) fn new(entry_count_max: usize) -> Self {
        let shard_count = (entry_count_max / SHARD_ENTRIES).clamp(1, SHARDS_MAX);
        Self { shards: (0..shard_count).map(|_| HashTable::new()).collect(), len: 0 }
    }

    /// Identities.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Enters `seq` for an identity that is not there; gives the record entered for one that is.
    pub(super) fn find_or_insert(&mut self, hash: Hash, seq: u32, ring: &Ring) -> Option<u32> {
        let shard = &mut self.shards[shard_idx(hash, self.shards.len())];
        if shard.len() == shard.capacity() {
            make_room(shard, ring);
        }
        match shard.entry(hash[0], |&seq| ring.get(seq).hash == hash, |&seq| ring.get(seq).hash[0]) {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(seq);
                self.len += 1;
                None
            }
        }
    }

    /// Enters `new` where `old` was.
    pub(super) fn replace(&mut self, hash: Hash, old: u32, new: u32) {
        let shard = &mut self.shards[shard_idx(hash, self.shards.len())];
        if let Some(entry) = shard.find_mut(hash[0], |&seq| seq == old) {
            *entry = new;
        }
    }

    /// Removes the identity if this is its latest record; else gives the latest one.
    pub(super) fn remove(&mut self, hash: Hash, seq: u32, ring: &Ring) -> Option<u32> {
        let shard = &mut self.shards[shard_idx(hash, self.shards.len())];
        let is_its = |&entered: &u32| entered == seq || ring.get(entered).hash == hash;
        let entry = shard.find_entry(hash[0], is_its).ok()?;
        let latest = *entry.get();
        if latest != seq {
            return Some(latest);
        }
        entry.remove();
        self.len -= 1;
        // A flood that is over gives its memory back; another partition's may be coming.
        if shard.len() < shard.num_buckets() / 4 {
            shard.shrink_to(shard.num_buckets() / 2 / 8 * 7, |&seq| ring.get(seq).hash[0]);
        }
        None
    }

    /// Bytes allocated.
    pub(super) fn allocation_size(&self) -> usize {
        let tables: usize = self.shards.iter().map(HashTable::allocation_size).sum();
        tables + size_of_val(&*self.shards)
    }
}

/// Which shard a hash belongs to, by the half of it that the tables do not use. Shard `i` of `n` has a share in proportion to
/// `2^(i/n)`: `i/n` is `log2(1 + u)` of a uniform `u`, to one percent by a parabola (Mitchell's logarithm, corrected).
fn shard_idx(hash: Hash, shard_count: usize) -> usize {
    let uniform = hash[1] >> 48;
    let correction = ((uniform * (0x1_0000 - uniform)) >> 16) * 22_500;
    let logarithm = (uniform + (correction >> 16)).min(0xffff);
    let logarithm = logarithm as usize;
    (logarithm * shard_count) >> 16
}

/// Makes room in a full table. Entries that were removed take up places too: up to three quarters it is enough to
/// leave those behind. Left alone the table would double, though it be hardly more than half full.
fn make_room(shard: &mut HashTable<u32>, ring: &Ring) {
    let buckets = if shard.len() > shard.num_buckets() / 4 * 3 { 2 } else { 1 } * shard.num_buckets();
    let mut roomy = HashTable::with_capacity(buckets / 8 * 7);
    for seq in shard.drain() {
        roomy.insert_unique(ring.get(seq).hash[0], seq, |&seq| ring.get(seq).hash[0]);
    }
    *shard = roomy;
}
