//! Floods of distinct identities: more within one window's length than may be remembered.

use super::*;

const LENGTH: Duration = Duration::from_secs(300);
const FLOOD: usize = 2_000_000;
const RECORDS_MAX: usize = 100_000;

/// A number that looks drawn (splitmix64).
fn spread(id: usize) -> u128 {
    let mut hash = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)).into()
}

/// Identity number `id`, as a keyed hash spreads them: the halves have nothing to do with each other.
fn identity(id: usize) -> Identity {
    Identity { hash: spread(id) << 64 | spread(id ^ (1 << 60)), fingerprint: 0 }
}

fn allocated(window: &Window) -> usize {
    window.allocation_size()
}

/// What a window has allocated, for each of its identities.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn bytes_per_identity(window: &Window) -> f64 {
    allocated(window) as f64 / window.len() as f64
}

/// Judges the message with identity and offset `id`; all of them come within one millisecond.
fn judge(window: &mut Window, id: usize) -> Verdict {
    window.judge(identity(id), Offset::try_from(id).unwrap(), 0, 0)
}

#[test]
fn two_million_identities_in_one_window_stay_inside_the_cap_and_the_oldest_go_first() {
    let budget = DedupBudget::new(RECORDS_MAX);
    let mut window = Window::new(LENGTH, budget.clone());
    for id in 0..FLOOD {
        assert!(judge(&mut window, id) == Verdict::New);
        let seen = id + 1;
        // Every one that is not held has been counted, at any moment.
        assert!(budget.record_count() == seen.min(RECORDS_MAX), "{} after {seen}", budget.record_count());
        assert!(
            budget.evictions() == seen.saturating_sub(RECORDS_MAX),
            "{} after {seen}",
            budget.evictions()
        );
    }
    assert_eq!(window.len(), RECORDS_MAX);
    // The youngest are there. The first question makes room, once: for the answer that it may need.
    let held = FLOOD - RECORDS_MAX..FLOOD;
    for id in held.clone().skip(1).rev() {
        assert_eq!(judge(&mut window, id), Verdict::Redelivery);
    }
    assert_eq!(budget.evictions(), FLOOD - RECORDS_MAX + 1);
    // All others are not, the last to go among them.
    for id in [0, 1, FLOOD / 2, held.start - 1, held.start] {
        assert_eq!(judge(&mut window, id), Verdict::New, "{id}");
    }
    drop(window);
    assert_eq!(budget.record_count(), 0);
}

#[test]
fn windows_that_share_a_cap_stay_inside_it_together_wherever_the_flood_goes() {
    const WINDOWS: usize = 3;
    let budget = DedupBudget::new(RECORDS_MAX);
    let mut windows: [_; WINDOWS] = std::array::from_fn(|_| Window::new(LENGTH, budget.clone()));
    let mut seen = 0;
    // Each in turn by itself, and then all at once.
    for n in 0..6 * RECORDS_MAX {
        let flooded = if n < 3 * RECORDS_MAX { n / RECORDS_MAX } else { n % WINDOWS };
        judge(&mut windows[flooded], n);
        seen += 1;
        assert!(budget.record_count() < RECORDS_MAX + WINDOWS, "{} after {seen}", budget.record_count());
        assert!(budget.evictions() + budget.record_count() == seen);
    }
    assert_eq!(windows.iter().map(Window::len).sum::<usize>(), budget.record_count());
}

#[test]
fn an_identity_takes_at_most_48_bytes_however_many_have_come_and_gone() {
    // Of the table that they need, half and 61 %: what removed entries leave behind would double it.
    for record_count_max in [66_000, 80_000] {
        let mut window = Window::new(LENGTH, DedupBudget::new(record_count_max));
        for id in 0..12 * record_count_max {
            judge(&mut window, id);
        }
        assert_eq!(window.len(), record_count_max);
        let bytes = bytes_per_identity(&window);
        assert!(bytes <= 48.0, "{bytes} bytes an identity, of {record_count_max}");
    }
}

#[test]
fn an_identity_that_is_seen_again_stays_for_another_window_while_the_table_is_cleaned() {
    const RECORDS_MAX: usize = 5_000;
    let mut window = Window::new(LENGTH, DedupBudget::new(RECORDS_MAX));
    let mut table_bytes = 0;
    for id in 0..40 * RECORDS_MAX {
        assert_eq!(judge(&mut window, id), Verdict::New);
        // 1.2 records an identity. The second copy finds the first, the record before it being gone.
        for distance in [1_000, RECORDS_MAX] {
            if id % 10 == 0 && id >= distance {
                let offset = Offset::try_from(40 * RECORDS_MAX + distance + id).unwrap();
                let verdict = window.judge(identity(id - distance), offset, 0, 0);
                assert_eq!(verdict, Verdict::Duplicate, "{id}, {distance} later");
            }
        }
        if id == RECORDS_MAX {
            table_bytes = window.index.allocation_size();
        }
    }
    assert_eq!(window.index.allocation_size(), table_bytes, "it was cleaned rather than doubled");
}

#[test]
fn a_flood_that_is_over_leaves_no_memory_behind() {
    let mut window = Window::new(LENGTH, DedupBudget::new(RECORDS_MAX));
    for id in 0..RECORDS_MAX {
        judge(&mut window, id);
    }
    let flooded = allocated(&window);
    let later_ms = i64::try_from(LENGTH.as_millis()).unwrap() + 1;
    assert_eq!(window.judge(identity(0), 0, later_ms, later_ms), Verdict::New, "it has left the window");
    // Not all at once: what has left goes with the messages that follow.
    assert_eq!(window.record_count(), RECORDS_MAX + 1 - FORGOTTEN_PER_MESSAGE_MAX);
    for _ in 0..RECORDS_MAX / FORGOTTEN_PER_MESSAGE_MAX {
        assert_eq!(window.judge(identity(0), 0, later_ms, later_ms), Verdict::Redelivery);
    }
    assert_eq!((window.len(), window.record_count()), (1, 1));
    let left = allocated(&window);
    assert!(left < flooded / 50, "of {flooded} bytes {left} are left");
}
