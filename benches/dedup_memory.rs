//! Resident bytes of an identity in a dedup window at the default cap, while fifteen times as many come
//! and go: `cargo bench --bench dedup_memory`.

#![expect(clippy::expect_used, reason = "without /proc there is nothing to measure")]

use std::time::Duration;

use usage_processor::decode::dedup::{DedupBudget, Window};
use usage_processor::decode::identity::Identity;

/// `DEDUP_MAX_ENTRIES`.
const DEFAULT_CAP: usize = 4_000_000;

/// Identity `id`, as a keyed hash spreads them (splitmix64).
fn identity(id: usize) -> Identity {
    let mut hash = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    Identity { hash: (u128::from(!hash) << 64) | u128::from(hash), fingerprint: 0 }
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("read this process's size");
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number of pages") * rustix::param::page_size()
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() {
    let before = resident_bytes();
    let mut window = Window::new(Duration::from_secs(300), DedupBudget::new(DEFAULT_CAP));
    for id in 0..15 * DEFAULT_CAP {
        window.judge(identity(id), i64::try_from(id).unwrap_or(i64::MAX), 0, 0);
        if id + 1 == DEFAULT_CAP || (id + 1) % (5 * DEFAULT_CAP) == 0 {
            let resident = (resident_bytes() - before) as f64 / window.len() as f64;
            println!("after {}: {resident:.1} bytes resident an identity", id + 1);
        }
    }
}
