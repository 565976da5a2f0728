//! Identities as a keyed hash spreads them.

use usage_processor::decode::identity::Identity;

/// A number that looks drawn (splitmix64).
pub(crate) fn spread(id: u64) -> u64 {
    let mut hash = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Identity number `id`; the halves of its hash have nothing to do with each other.
pub(crate) fn identity(id: u64) -> Identity {
    let [high, low] = [id, id ^ (1 << 63)].map(|id| u128::from(spread(id)));
    Identity { hash: high << 64 | low, fingerprint: 0 }
}
