//! The circuit breaker: garbage for everything stops the process, some garbage does not.

use super::{Case, PATIENCE, event, now_ms};
use crate::support::Record;

#[test]
fn when_most_messages_are_garbage_it_stops_before_it_diverts_them_all() {
    let case = Case::new(4);
    let garbage: Vec<_> = (0..30_000).map(|n| Record::new("k", b"{").to(n % 4)).collect();
    case.topic.produce(&garbage);

    let mut processor = case.processor().env("DECODER_THREADS", "2").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(7));
    let line = processor.wait_for_line("of the last 10000 messages are no valid events", PATIENCE);
    for part in ["DEAD_LETTER_MAX_RATIO=0.5", "invalid_json (10000 times)", "dead-letters list"] {
        assert!(line.contains(part), "{line}");
    }
    let diverted = case.dead_letters();
    assert!(diverted < 10_000, "{diverted}");
    let passed: i64 = case.topic.committed_offsets(&case.group).into_iter().flatten().sum();
    assert!(passed <= diverted, "{passed} offsets were passed, {diverted} messages diverted");

    let mut processor = case.processor().env("DEAD_LETTER_MAX_RATIO", "1").arg("--stop-at-end").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(case.dead_letters(), 30_000);
    case.assert_at_end();
}

#[test]
fn garbage_below_the_ratio_is_diverted_and_the_rest_goes_on() {
    let case = Case::new(1);
    let now = now_ms();
    // 45 % of them, and at first nothing else: a ratio is one of a full window.
    let valid = (0..11_000).map(|n| event(&format!("r-{n}"), now));
    let payloads: Vec<_> = std::iter::repeat_n("{".to_owned(), 4_500).chain(valid).collect();
    case.produce(&payloads);
    case.produce(&payloads[..4_500]);
    case.process_all();
    assert_eq!((case.rows(), case.dead_letters()), (11_000, 9_000));
    case.assert_at_end();
}
