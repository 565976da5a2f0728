//! How far before its start a partition is read, so that its dedup window is what it would be if
//! this process had read all along: a retry is stopped after a restart, a crash or a rebalance too.
//! Pure but for the question to Kafka, which the caller asks.
//!
//! The window is measured by its clock, the latest timestamp seen. Before the start that is the
//! largest `T` for which some message before the start has a timestamp of at least `T`. Kafka
//! answers "the first offset with a timestamp of at least `T`", so `T` is found by bisection, for
//! all partitions at once: 31 questions for any time since 1970 to the second.

use std::time::Duration;

use super::start_position::StartPosition;
use crate::offsets::{Offset, Partition};

/// How exactly the clock is found; history begins earlier by this at most.
const PRECISION_MS: i64 = 1_000;

/// For each position, the first offset to read: what lies between it and the start is remembered
/// and not written.
///
/// `first_offsets` answers, for partitions and times in milliseconds since 1970, with the first
/// offset whose timestamp is at or after the time, or none. `now_ms` caps clocks from the future,
/// as the window does.
pub fn first_offsets_to_read<E>(
    positions: &[StartPosition],
    window: Duration,
    now_ms: i64,
    mut first_offsets: impl FnMut(&[(Partition, i64)]) -> Result<Vec<Option<Offset>>, E>,
) -> Result<Vec<Offset>, E> {
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    // A clock lies in [low, high) once a message before the start is known at or after low.
    let mut clocks: Vec<(i64, i64)> = positions.iter().map(|_| (0, now_ms + 1)).collect();
    while clocks.iter().any(|(low, high)| high - low > PRECISION_MS) {
        let middles: Vec<_> = clocks.iter().map(|(low, high)| low + (high - low) / 2).collect();
        let asked: Vec<_> =
            positions.iter().map(|position| position.partition).zip(middles.iter().copied()).collect();
        let answers = first_offsets(&asked)?;
        for (((clock, middle), answer), position) in
            clocks.iter_mut().zip(middles).zip(answers).zip(positions)
        {
            match answer {
                Some(first) if first < position.start => clock.0 = middle,
                _ => clock.1 = middle,
            }
        }
    }
    let window_ms = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
    let beginnings = clocks.iter().map(|(low, _)| low.saturating_sub(window_ms).max(0));
    let asked: Vec<_> = positions.iter().map(|position| position.partition).zip(beginnings).collect();
    let answers = first_offsets(&asked)?;
    Ok(answers
        .into_iter()
        .zip(positions)
        .map(|(first, position)| {
            first.map_or(position.start, |first| first.max(position.history_floor).min(position.start))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::convert::Infallible;

    const WINDOW: Duration = Duration::from_secs(300);
    const NOW_MS: i64 = 1_800_000_000_000;

    /// Asks a log whose message at offset `n` has the `n`-th timestamp.
    fn read_from(timestamps_ms: &[i64], start: Offset) -> Offset {
        read_from_above(timestamps_ms, start, 0)
    }

    fn read_from_above(timestamps_ms: &[i64], start: Offset, history_floor: Offset) -> Offset {
        let high = i64::try_from(timestamps_ms.len()).unwrap();
        let position = StartPosition { partition: 0, epoch: 1, start, history_floor, high };
        let answer = |asked: &[(Partition, i64)]| -> Result<Vec<Option<Offset>>, Infallible> {
            let first = timestamps_ms.iter().position(|timestamp| *timestamp >= asked[0].1);
            Ok(vec![first.map(|first| i64::try_from(first).unwrap())])
        };
        first_offsets_to_read(&[position], WINDOW, NOW_MS, answer).unwrap()[0]
    }

    #[test]
    fn a_windows_length_is_read_before_the_start() {
        let minutes: Vec<_> = (0..60).map(|minute| NOW_MS - 3_600_000 + minute * 60_000).collect();
        assert_eq!(read_from(&minutes, 60), 54);
        assert_eq!(read_from(&minutes, 30), 24, "of a backlog too");
        assert_eq!(read_from(&minutes, 3), 0);
        assert_eq!(read_from(&minutes, 0), 0);
        assert_eq!(read_from(&[], 0), 0);
        assert_eq!(read_from_above(&minutes, 30, 27), 27, "not of what nobody wrote");
        assert_eq!(read_from_above(&minutes, 30, 30), 30);
    }

    proptest! {
        /// Nothing that the window would still hold is left out, and little more is read.
        #[test]
        fn history_covers_the_window(steps in vec(-100_000_i64..200_000, 1..60), start in 0_usize..60) {
            let mut at = NOW_MS - 20_000_000;
            let timestamps: Vec<_> = steps.iter().map(|step| { at += step; at }).collect();
            let start = start.min(timestamps.len());
            let from = usize::try_from(read_from(&timestamps, i64::try_from(start).unwrap())).unwrap();
            prop_assert!(from <= start);
            if let Some(clock) = timestamps[..start].iter().max() {
                let window_ms = i64::try_from(WINDOW.as_millis()).unwrap();
                let first_held = timestamps.iter().position(|at| *at >= clock - window_ms).unwrap();
                prop_assert!(from <= first_held);
                let earlier = timestamps.iter().position(|at| *at >= clock - window_ms - PRECISION_MS).unwrap();
                prop_assert!(from >= earlier);
            }
        }
    }
}
