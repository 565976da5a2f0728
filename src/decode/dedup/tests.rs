//! The dedup window against a naive model, and against itself when it begins later.

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
fn the_earliest_copy_in_the_window_decides_and_a_conflicting_one_takes_its_place() {
    let mut window = window(100);
    let mut judge =
        |fingerprint, offset, at_ms| window.judge(identity(1, fingerprint), offset, at_ms, i64::MAX);
    assert_eq!(judge(0, 10, 0), Verdict::New);
    assert_eq!(judge(1, 11, 300), Verdict::Conflict);
    assert_eq!(judge(0, 12, 600), Verdict::Duplicate);
    assert_eq!(judge(1, 13, LENGTH_MS), Verdict::Conflict);
    // The first has left. A copy of the second is in the dead letters already.
    assert_eq!(judge(1, 14, LENGTH_MS + 1), Verdict::Duplicate);
    assert_eq!(judge(0, 15, LENGTH_MS + 300), Verdict::Conflict);
    assert_eq!(judge(0, 16, LENGTH_MS + 301), Verdict::Duplicate);
}

#[test]
fn earlier_copies_expire_and_are_budgeted() {
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
fn nothing_is_forgotten_when_32_bits_of_the_clock_wrap_around() {
    let mut window = window(100);
    let last = i64::from(u32::MAX);
    assert_eq!(judge(&mut window, 1, 1, 0), Verdict::New);
    assert_eq!(judge(&mut window, 1, 2, last - LENGTH_MS), Verdict::New);
    assert_eq!(judge(&mut window, 2, 3, last - LENGTH_MS + 1), Verdict::New);
    assert_eq!(judge(&mut window, 3, 4, last), Verdict::New);
    assert_eq!(judge(&mut window, 2, 5, last + 1), Verdict::Duplicate);
    assert_eq!(judge(&mut window, 1, 6, last + 1), Verdict::New);
    assert_eq!(judge(&mut window, 3, 7, last + LENGTH_MS), Verdict::Duplicate);
    assert_eq!(judge(&mut window, 4, 8, 3 * (last + 1)), Verdict::New);
    assert_eq!(window.len(), 1);
    assert_eq!(judge(&mut window, 4, 9, i64::MAX), Verdict::New);
}

#[test]
fn a_record_has_32_bytes() {
    assert_eq!(size_of::<Record>(), 32);
}

/// The rule, said naively: the earliest copy within the window decides, whatever became of it.
#[derive(Default)]
struct Model {
    copies: Vec<(u128, Offset, i64, u32)>,
    clock: Option<i64>,
}

impl Model {
    fn judge(&mut self, id: u128, fingerprint: u32, offset: Offset, at_ms: i64) -> Verdict {
        let clock = self.clock.unwrap_or(at_ms).max(at_ms);
        self.clock = Some(clock);
        self.copies.retain(|copy| clock - copy.2 <= LENGTH_MS);
        let verdict = match self.copies.iter().find(|copy| copy.0 == id) {
            None => Verdict::New,
            Some(earliest) if earliest.1 == offset => return Verdict::Redelivery,
            Some(earliest) if earliest.3 == fingerprint => Verdict::Duplicate,
            Some(_) => Verdict::Conflict,
        };
        self.copies.push((id, offset, clock, fingerprint));
        verdict
    }

    fn identity_count(&self) -> usize {
        self.copies.iter().map(|copy| copy.0).collect::<std::collections::HashSet<_>>().len()
    }
}

/// Mostly a message after another, and now and then a pause after which much of the window has left it.
fn any_step_ms() -> impl Strategy<Value = i64> {
    prop_oneof![20 => Just(0), 20 => -20_i64..40, 1 => 300_i64..1_200]
}

proptest! {
    #[test]
    fn the_window_matches_the_model(steps in vec((0_u128..300, 0_u32..2, 0_i64..4, any_step_ms()), 1..1_500)) {
        let (mut window, mut model) = (window(1_000_000), Model::default());
        let mut at_ms = 1_000_000;
        for (idx, (id, fingerprint, back, step_ms)) in steps.into_iter().enumerate() {
            at_ms += step_ms;
            let offset = i64::try_from(idx).unwrap() - back;
            prop_assert_eq!(
                window.judge(identity(id, fingerprint), offset, at_ms, i64::MAX),
                model.judge(id, fingerprint, offset, at_ms)
            );
            if window.has_expired_records() {
                prop_assert!(window.len() >= model.identity_count());
            } else {
                prop_assert_eq!(window.len(), model.identity_count());
                prop_assert_eq!(window.record_count(), model.copies.len());
            }
        }
    }
}

/// A message: the identity and payload of an event, unless it is none, and its timestamp's step.
type Step = (Option<(u128, u32)>, i64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec((proptest::option::weighted(0.9, (0_u128..4, 0_u32..3)), -400_i64..500), 2..80)
}

proptest! {
    /// Whoever begins at any message, having read what came within a window before it, decides as
    /// whoever has read from the beginning.
    #[test]
    fn a_window_rebuilt_at_any_message_decides_the_same(steps in steps(), start in 1_usize..80, extra in 0_usize..3) {
        let start = start.min(steps.len() - 1);
        let mut at_ms = 1_000_000;
        let timestamps: Vec<_> = steps.iter().map(|(_, step_ms)| { at_ms += step_ms; at_ms }).collect();
        let read_from = |first: usize| {
            let mut window = window(1_000_000);
            let verdict = |idx: usize| {
                let offset = i64::try_from(idx).unwrap();
                let Some((id, fingerprint)) = steps[idx].0 else {
                    window.pass(timestamps[idx], i64::MAX);
                    return None;
                };
                Some(window.judge(identity(id, fingerprint), offset, timestamps[idx], i64::MAX))
            };
            (first..steps.len()).map(verdict).collect::<Vec<_>>().split_off(start - first)
        };
        // As `poll/history.rs` finds it; it may read a little more.
        let clock = timestamps[..start].iter().max().unwrap();
        let first = timestamps.iter().position(|at| *at >= clock - LENGTH_MS).unwrap();
        prop_assert_eq!(read_from(first.saturating_sub(extra)), read_from(0));
    }
}
