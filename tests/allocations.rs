//! What is allocated: nothing for an event, on any thread's way from a message to a COPY stream and a watermark, and not
//! more than 48 bytes for an identity in a dedup window. Counted by a global allocator, so this is a program of its own.

#![allow(
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "what is counted here is far below 2^52"
)]

#[path = "../benches/micro/identity.rs"]
mod identity;
#[path = "../benches/micro/input.rs"]
mod input;

use std::time::Duration;

use allocation_counter::measure;
use identity::identity;
use usage_processor::commit::watermarks::Watermarks;
use usage_processor::copy_tuple::CopyStream;
use usage_processor::decode::dedup::{DedupBudget, Verdict, Window};
use usage_processor::messages::{IssuedSpan, PolledBatch, SpanOutcome, WriteBatch};
use usage_processor::offsets::{Generation, OffsetSpan};
use usage_processor::write::row_order;

const BATCH_EVENTS: usize = 1_000;
const BATCHES: usize = 60;
/// Of few shards, so that the windows' tables are soon warm.
const RECORDS_MAX: usize = 40_000;
/// A batch's own vectors, and the dedup window's chunks and tables as they come.
const PER_BATCH_MAX: u64 = 40;

/// Polled batches, no event of which comes twice.
fn polled_batches() -> Vec<PolledBatch> {
    let messages = input::events((BATCHES * BATCH_EVENTS) as u64);
    messages.chunks(BATCH_EVENTS).map(|messages| input::polled(messages, 0, 0)).collect()
}

#[test]
fn sifting_and_encoding_allocate_for_a_batch_and_not_for_an_event() {
    let mut sieve = input::sieve(RECORDS_MAX);
    let mut before = WriteBatch::default();
    let mut counts = Vec::new();
    for polled in polled_batches() {
        let allocated = measure(|| {
            let mut batch = before.empty_alike();
            sieve.sift(polled, &mut batch, i64::MAX).unwrap();
            assert_eq!(batch.rows.len(), BATCH_EVENTS);
            before = batch;
        });
        counts.push(allocated.count_total);
    }
    let warm = &counts[BATCHES / 4..];
    let mean = warm.iter().sum::<u64>() / warm.len() as u64;
    assert!(mean <= PER_BATCH_MAX, "{mean} allocations for a batch of {BATCH_EVENTS} events: {counts:?}");
}

#[test]
fn filling_a_polled_batch_like_the_one_before_allocates_its_vectors_only() {
    let messages = input::events(BATCH_EVENTS as u64);
    let before = input::polled(&messages, 0, 0);
    let allocated = measure(|| {
        let mut batch = before.empty_alike();
        for message in &messages {
            batch.push(0, message.offset, None, Some(&message.key), Some(&message.payload));
        }
        assert_eq!(batch.byte_count(), before.byte_count());
    });
    assert_eq!(allocated.count_total, 3);
}

#[test]
fn putting_a_copy_stream_together_allocates_nothing_once_its_buffers_are_there() {
    let mut sieve = input::sieve(RECORDS_MAX);
    let mut batch = WriteBatch::default();
    for polled in polled_batches().into_iter().take(10) {
        sieve.sift(polled, &mut batch, i64::MAX).unwrap();
    }
    let (mut order, mut stream) = (Vec::new(), CopyStream::default());
    let mut put_together = || {
        row_order::sort(&batch.rows, &mut order);
        stream.start();
        order.iter().for_each(|idx| stream.push(batch.tuple(*idx)));
        stream.finish().len()
    };
    let len = put_together();
    let allocated = measure(|| assert_eq!(put_together(), len));
    assert_eq!(allocated.count_total, 0);
}

#[test]
fn moving_a_watermark_allocates_nothing_once_as_many_spans_were_in_flight() {
    let mut watermarks = Watermarks::default();
    (0..16).for_each(|partition| watermarks.assign(partition, Generation(1), 0));
    let mut round = |start: i64| {
        let spans = (0..64).flat_map(|n| (0..16).map(move |partition| (start + n * 10, partition)));
        let spans = spans.map(|(start, partition)| OffsetSpan {
            partition,
            generation: Generation(1),
            epoch: 1,
            start,
            end: start + 10,
        });
        spans
            .clone()
            .for_each(|span| assert_eq!(watermarks.issue(IssuedSpan { span, messages: 10 }), Ok(true)));
        // Against the order in which they were issued.
        spans.rev().for_each(|span| assert!(watermarks.complete(&SpanOutcome::new(span))));
    };
    round(0);
    assert_eq!(measure(|| round(640)).count_total, 0);
}

/// Lets `live` identities in `window_count` windows be replaced by others `rounds` times. Gives the bytes allocated for each at
/// the end, at most while there were more than half as many, and at most at all.
fn bytes_each(live: usize, window_count: usize, rounds: usize) -> (f64, f64, f64) {
    const LENGTH_MS: usize = 300_000;
    let budget = DedupBudget::new(4_000_000);
    let new = || Window::new(Duration::from_millis(LENGTH_MS as u64), budget.clone());
    let mut windows = Vec::new();
    let mut allocated: i64 = measure(|| windows = (0..window_count).map(|_| new()).collect()).bytes_current;
    let (mut worst, mut peak) = (0.0_f64, 0);
    let step = live / 64;
    for start in (0..rounds * live).step_by(step) {
        let growth = measure(|| {
            for id in start..start + step {
                let (offset, at_ms) = (id as i64, (id * LENGTH_MS / live) as i64);
                let verdict = windows[id % window_count].judge(identity(id as u64), offset, at_ms, i64::MAX);
                assert_eq!(verdict, Verdict::New);
            }
        });
        peak = peak.max(allocated + growth.bytes_max as i64);
        allocated += growth.bytes_current;
        let held: usize = windows.iter().map(Window::len).sum();
        if held > live / 2 {
            worst = worst.max(allocated as f64 / held as f64);
        }
    }
    let held: usize = windows.iter().map(Window::len).sum();
    assert!(held.abs_diff(live) <= live / 50, "{held} are held");
    (allocated as f64 / held as f64, worst, peak as f64 / held as f64)
}

#[test]
fn an_identity_takes_at_most_48_bytes_at_every_moment_and_growing_takes_no_more() {
    let cases = [(1_000_000, 16, 1), (100_000, 1, 4), (130_000, 1, 3), (170_000, 1, 2)];
    for (live, window_count, rounds) in cases {
        let (steady, worst, peak) = bytes_each(live, window_count, rounds);
        let figures =
            format!("{live} in {window_count}: {steady:.1}, at worst {worst:.1}, at most {peak:.1}");
        println!("{figures}");
        assert!(worst <= 48.0 && peak <= 1.6 * steady, "{figures}");
    }
}
