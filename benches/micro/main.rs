//! What each pure part costs, an element at a time: `cargo bench --bench micro`, or with a part of a name behind it
//! (`cargo bench --bench micro -- decode`). One thread, no server; `tuning/README.md` keeps results.

#![expect(clippy::expect_used, clippy::cast_possible_wrap, reason = "a bench that cannot go on must stop")]

mod identity;
mod input;

use std::hint::black_box;
use std::time::Duration;

use crate::identity::{identity, spread};
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use usage_processor::commit::watermarks::Watermarks;
use usage_processor::copy_tuple::{CopyStream, append_tuple};
use usage_processor::decode::dedup::{DedupBudget, Window};
use usage_processor::decode::identity::IdentityHasher;
use usage_processor::decode::json::JsonDecoder;
use usage_processor::decode::{rfc3339, uuid};
use usage_processor::messages::{EncodedRow, IssuedSpan, MessageRef, SpanOutcome, WriteBatch};
use usage_processor::observe::activity::{Activity, StageActivity};
use usage_processor::offsets::{Generation, OffsetSpan};
use usage_processor::usage_event::TimeLimits;
use usage_processor::write::row_order;

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

/// A group whose benches handle `elements` an iteration.
fn group<'a>(criterion: &'a mut Criterion, name: &str, elements: usize) -> Group<'a> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(elements as u64));
    group
}

/// An event whose fields are these, with another one, that is ignored, in front.
fn event(ignored: &str, request_id: &str, endpoint: &str) -> Vec<u8> {
    format!(
        r#"{{"x":{ignored},"time":"2026-11-24T07:30:00.123456Z","request_id":"{request_id}",
        "organization_id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","api_key_id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8",
        "endpoint":"{endpoint}","method":"GET","status_code":200,"response_time_ms":12}}"#
    )
    .into_bytes()
}

fn decode(criterion: &mut Criterion) {
    let messages = input::events(1_000);
    let usual: Vec<_> = messages.into_iter().map(|message| message.payload).collect();
    let escaped = r"\u00fc\n".repeat(60);
    let cases = [
        ("usual", usual),
        ("4 KB of ignored fields", vec![event(&format!("[{}0]", "1.5,".repeat(1_000)), "r", "/v1"); 100]),
        ("4 KB in an ignored string", vec![event(&format!("\"{}\"", "x".repeat(4_000)), "r", "/v1"); 100]),
        ("escaped strings", vec![event("0", &r"\u00e9".repeat(128), &escaped); 100]),
        (
            "deep nesting",
            vec![event(&format!("{}{}", "[".repeat(1_000), "]".repeat(1_000)), "r", "/v1"); 100],
        ),
        ("no JSON", vec![b"{\"time\":\"2026-11-24T07:30:00Z\",".to_vec(); 100]),
    ];
    for (name, payloads) in cases {
        let mut decoder = JsonDecoder::default();
        group(criterion, "decode", payloads.len()).bench_function(name, |bencher| {
            bencher.iter(|| {
                for payload in &payloads {
                    black_box(decoder.decode(Some(payload)).is_ok());
                }
            });
        });
    }
}

fn validate(criterion: &mut Criterion) {
    let mut group = group(criterion, "validate", 1);
    let id = black_box("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    group.bench_function("a UUID", |bencher| bencher.iter(|| uuid::parse(black_box(id))));
    for time in ["2026-11-24T07:30:00.123456Z", "2026-11-24T07:30:00+02:00"] {
        group.bench_function(time, |bencher| bencher.iter(|| rfc3339::parse_micros(black_box(time))));
    }
    let (age, skew) = (Duration::from_secs(90 * 86_400), Duration::from_secs(300));
    let limits = TimeLimits { event_age_max: age, clock_skew_max: skew };
    group.bench_function("time limits", |bencher| {
        bencher.iter(|| {
            limits.check(black_box(input::START_MS * 1_000), Some(black_box(input::START_MS))).is_ok()
        });
    });
    let hasher = IdentityHasher::new([7; 16]);
    let mut decoder = JsonDecoder::default();
    let payload = event("0", "6ba7b812-9dad-11d1-80b4-00c04fd430c8", "/v1/orders/{id}");
    let event = decoder.decode(Some(&payload)).expect("a valid event");
    group.bench_function("identity hash", |bencher| bencher.iter(|| hasher.identify(black_box(&event))));
}

const WINDOW_MS: i64 = 300_000;

/// A window with these identities, `per_ms` a millisecond, and room for 4 million.
fn window(ids: u64, per_ms: u64) -> Window {
    let budget = DedupBudget::new(4_000_000);
    let mut window = Window::new(Duration::from_millis(WINDOW_MS.unsigned_abs()), budget);
    for id in 0..ids {
        window.judge(identity(id), id as i64, (id / per_ms) as i64, i64::MAX);
    }
    window
}

fn dedup(criterion: &mut Criterion) {
    const IDS: u64 = 100_000;
    let mut group = group(criterion, "dedup", 1_000);
    group.bench_function("insert into an empty window, 1,000", |bencher| {
        bencher.iter_batched(|| (), |()| window(1_000, 1), BatchSize::SmallInput);
    });
    let mut redelivered = window(IDS, 1);
    let mut next = 0;
    group.bench_function("redelivery", |bencher| {
        bencher.iter(|| {
            for _ in 0..1_000 {
                next = (next + 7_919) % IDS;
                black_box(redelivered.judge(identity(next), next as i64, 0, i64::MAX));
            }
        });
    });
    for (name, per_ms) in [("steady, 300,000 live", 1), ("steady, 1,200,000 live", 4)] {
        // From then on each new identity lets one expire.
        let mut steady = window(300_000 * per_ms, per_ms);
        let mut id = 300_000 * per_ms;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..1_000 {
                    black_box(steady.judge(identity(id), id as i64, (id / per_ms) as i64, i64::MAX));
                    id += 1;
                }
            });
        });
    }
    let mut repeated = window(IDS, 1);
    let mut seen = IDS;
    group.bench_function("duplicate", |bencher| {
        bencher.iter(|| {
            for _ in 0..1_000 {
                black_box(repeated.judge(identity(seen % IDS), seen as i64, seen as i64, i64::MAX));
                seen += 1;
            }
        });
    });
    group.throughput(Throughput::Elements(IDS));
    group.sample_size(20).bench_function("expire 100,000", |bencher| {
        bencher.iter_batched(
            || window(IDS, 1_000),
            |mut window| {
                while window.record_count() > 0 {
                    window.pass(2 * WINDOW_MS, i64::MAX);
                }
                window
            },
            BatchSize::LargeInput,
        );
    });
}

fn sift(criterion: &mut Criterion) {
    let messages = input::events(100_000);
    // A round takes ten seconds of a window of sixty: 600,000 identities are live.
    let mut batches = (0..).flat_map(|round| {
        messages.chunks_exact(1_000).map(move |messages| input::polled(messages, round, 10_000))
    });
    let mut sieve = input::sieve(4_000_000);
    let mut before = WriteBatch::default();
    for polled in batches.by_ref().take(700) {
        before = WriteBatch::default();
        sieve.sift(polled, &mut before, i64::MAX).expect("nothing is rejected");
    }
    group(criterion, "sift", 1_000).bench_function("usual", |bencher| {
        bencher.iter_batched(
            || batches.next().expect("they do not end"),
            |polled| {
                let mut batch = before.empty_alike();
                sieve.sift(polled, &mut batch, i64::MAX).expect("nothing is rejected");
                batch
            },
            BatchSize::LargeInput,
        );
    });
}

fn encode(criterion: &mut Criterion) {
    let messages = input::events(100);
    let mut decoders: Vec<_> = messages.iter().map(|_| JsonDecoder::default()).collect();
    let usual: Vec<_> = decoders
        .iter_mut()
        .zip(&messages)
        .map(|(decoder, message)| decoder.decode(Some(&message.payload)).expect("a valid event"))
        .collect();
    let (mut decoder, endpoint) = (JsonDecoder::default(), "é".repeat(255));
    let longest = event("0", &"r".repeat(128), &endpoint);
    let longest = vec![decoder.decode(Some(&longest)).expect("a valid event"); 100];
    for (name, events) in [("usual", usual), ("longest", longest)] {
        let mut out = Vec::new();
        group(criterion, "encode", events.len()).bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                events.iter().for_each(|event| append_tuple(&mut out, event));
                out.len()
            });
        });
    }
}

/// A row's organization and time.
type Key<'a> = &'a dyn Fn(u32) -> (u128, i64);

/// `count` rows, of tuples of 150 bytes; `key` gives organization and time.
fn rows(count: u32, key: impl Fn(u32) -> (u128, i64)) -> Vec<EncodedRow> {
    let row = |idx: u32| {
        let (organization_id, time_micros) = key(idx);
        let source = MessageRef { batch_idx: 0, message_idx: idx };
        EncodedRow {
            organization_id,
            time_micros,
            start: idx * 150,
            end: (idx + 1) * 150,
            outcome_idx: 0,
            source,
        }
    };
    (0..count).map(row).collect()
}

fn sort(criterion: &mut Criterion) {
    // Organizations by 1/k, as the generator draws them.
    let rank = |idx: u32| 1_000 / (1 + spread(idx.into()) % 1_000);
    let organization = |idx: u32| u128::from(spread(rank(idx)));
    let cases: [(&str, u32, Key<'_>); 5] = [
        ("usual, 1,000", 1_000, &|idx| (organization(idx), i64::from(idx))),
        ("usual, 10,000", 10_000, &|idx| (organization(idx), i64::from(idx))),
        ("one organization, 10,000", 10_000, &|idx| (7, i64::from(idx))),
        ("reverse, 10,000", 10_000, &|idx| (u128::from(u32::MAX - idx), 0)),
        ("one key, 10,000", 10_000, &|_| (7, 7)),
    ];
    for (name, count, key) in cases {
        let rows = rows(count, key);
        let mut order = Vec::new();
        group(criterion, "sort", rows.len()).bench_function(name, |bencher| {
            bencher.iter(|| {
                row_order::sort(&rows, &mut order);
                order.len()
            });
        });
    }
    let (rows, tuples) = (rows(10_000, |idx| (organization(idx), i64::from(idx))), vec![7; 1_500_000]);
    let batch = WriteBatch { rows, tuples, ..WriteBatch::default() };
    let (mut order, mut stream) = (Vec::new(), CopyStream::default());
    row_order::sort(&batch.rows, &mut order);
    group(criterion, "stream", batch.rows.len()).bench_function("usual, 10,000", |bencher| {
        bencher.iter(|| {
            stream.start();
            order.iter().for_each(|idx| stream.push(batch.tuple(*idx)));
            stream.finish().len()
        });
    });
}

fn watermarks(criterion: &mut Criterion) {
    const SPANS: i64 = 1_000;
    let span = |idx: i64| OffsetSpan {
        partition: (idx % 16) as i32,
        generation: Generation(1),
        epoch: 1,
        start: idx / 16 * 100,
        end: (idx / 16 + 1) * 100,
    };
    let orders: [(&str, Vec<i64>); 2] =
        [("in order", (0..SPANS).collect()), ("in reverse order", (0..SPANS).rev().collect())];
    for (name, order) in orders {
        group(criterion, "watermarks", order.len()).bench_function(name, |bencher| {
            let mut watermarks = Watermarks::default();
            bencher.iter(|| {
                (0..16).for_each(|partition| watermarks.assign(partition, Generation(1), 0));
                for idx in 0..SPANS {
                    black_box(watermarks.issue(IssuedSpan { span: span(idx), messages: 100 }).is_ok());
                }
                order.iter().for_each(|idx| {
                    black_box(watermarks.complete(&SpanOutcome::new(span(*idx))));
                });
            });
        });
    }
}

/// What a stage pays for each change of activity, some ten a batch over all stages.
fn activity(criterion: &mut Criterion) {
    let record = StageActivity::new("decoder-0", Duration::MAX);
    let mut group = group(criterion, "activity", 2);
    group.bench_function("starved and back at work", |bencher| {
        bencher.iter(|| {
            record.enter(Activity::Starved);
            record.enter(Activity::Working);
        });
    });
    group.bench_function("a sign", |bencher| bencher.iter(|| record.sign()));
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = decode, validate, dedup, sift, encode, sort, watermarks, activity
}
criterion_main!(benches);
