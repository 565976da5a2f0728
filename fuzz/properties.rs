//! What must hold for any bytes: one property a fuzz target. Pure; a broken promise is a panic.
//!
//! The fuzz targets feed it what libFuzzer finds; the integration tests feed it the committed
//! corpora, so that these hold without a fuzzer at hand.

use usage_processor::cli::EventArgs;
use usage_processor::commit::watermarks::Watermarks;
use usage_processor::config::{event_rules, format_duration};
use usage_processor::copy_tuple::append_tuple;
use usage_processor::decode::json::JsonDecoder;
use usage_processor::kafka_options::KafkaOptions;
use usage_processor::messages::{IssuedSpan, SpanOutcome};
use usage_processor::offsets::{Generation, OffsetSpan};
use usage_processor::usage_event::UsageEvent;

/// Payload to event: whatever is accepted obeys the rules of every field.
pub(crate) fn decode(data: &[u8]) {
    let mut decoder = JsonDecoder::default();
    let Ok(event) = decoder.decode(Some(data)) else { return };
    for (text, chars_max) in [(event.request_id, 128), (event.endpoint, 255), (event.method, 10)] {
        assert!((1..=chars_max).contains(&text.chars().count()) && !text.contains('\0'), "{text:?}");
    }
    assert!((100..=599).contains(&event.status_code));
    assert!(event.response_time_ms >= 0 && event.weight >= 0);
}

/// Event to COPY tuple: read by the format's description, it is the event again.
pub(crate) fn encode(data: &[u8]) {
    let Some((numbers, text)) = data.split_first_chunk::<52>() else { return };
    let text = String::from_utf8_lossy(text);
    let mut texts = text.splitn(3, '\n');
    let [request_id, endpoint, method] = [(); 3].map(|()| texts.next().unwrap_or_default());
    let event = UsageEvent {
        time_micros: i64::from_be_bytes(numbers[..8].try_into().unwrap()),
        request_id,
        organization_id: u128::from_be_bytes(numbers[8..24].try_into().unwrap()),
        api_key_id: u128::from_be_bytes(numbers[24..40].try_into().unwrap()),
        endpoint,
        method,
        status_code: i32::from_be_bytes(numbers[40..44].try_into().unwrap()),
        response_time_ms: i32::from_be_bytes(numbers[44..48].try_into().unwrap()),
        billable: numbers[48] & 1 == 1,
        weight: i32::from(numbers[49]),
    };
    let mut tuple = Vec::new();
    append_tuple(&mut tuple, &event);
    let (count, mut rest) = tuple.split_at(2);
    assert_eq!(count, 10_u16.to_be_bytes());
    let mut field = || {
        let (len, tail) = rest.split_first_chunk::<4>().unwrap();
        let (value, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
        rest = tail;
        value
    };
    let since_2000 = event.time_micros.saturating_sub(946_684_800_000_000);
    assert_eq!(field(), since_2000.to_be_bytes());
    assert_eq!(field(), request_id.as_bytes());
    assert_eq!(field(), event.organization_id.to_be_bytes());
    assert_eq!(field(), event.api_key_id.to_be_bytes());
    assert_eq!(field(), endpoint.as_bytes());
    assert_eq!(field(), method.as_bytes());
    assert_eq!(field(), event.status_code.to_be_bytes());
    assert_eq!(field(), event.response_time_ms.to_be_bytes());
    assert_eq!(field(), [u8::from(event.billable)]);
    assert_eq!(field(), event.weight.to_be_bytes());
    assert!(rest.is_empty());
}

/// Settings as text: Kafka options can be written and read again, durations obey their ranges.
pub(crate) fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(options) = text.parse::<KafkaOptions>() {
        let escape = |text: &str| text.replace(',', "\\,");
        let pairs = options.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
        // The space keeps a value's last backslash away from the comma.
        let written = pairs.collect::<Vec<_>>().join(" ,");
        assert!(written.parse::<KafkaOptions>().unwrap() == options, "{written:?}");
    }
    let [dedup_window, max_event_age] = [(); 2].map(|()| text.to_string());
    let args = EventArgs { dedup_window, max_event_age, max_clock_skew: "5m".to_owned() };
    match event_rules(&args) {
        Ok((window, limits)) => {
            assert!((1..=86_400).contains(&window.as_secs()));
            assert!(limits.event_age_max.as_secs() >= 60);
            assert!(format_duration(window).len() > 1);
        }
        Err(error) => assert!(!error.mistakes.is_empty()),
    }
}

/// Operations of two bytes each, on the watermarks and on a list of durable spans.
pub(crate) fn watermarks(data: &[u8]) {
    let mut real = Watermarks::default();
    let (mut generation, mut start) = (0, 0);
    let mut issued: Vec<(OffsetSpan, bool)> = Vec::new();
    let mut ever: Vec<OffsetSpan> = Vec::new();
    real.assign(0, Generation(generation), start);
    for (operation, value) in data.as_chunks::<2>().0.iter().map(|[operation, value]| (operation, *value)) {
        match operation % 8 {
            0 => {
                (generation, start) = (generation + 1, i64::from(value));
                real.assign(0, Generation(generation), start);
                issued.clear();
            }
            1..=4 => {
                let from = issued.last().map_or(start, |(span, _)| span.end);
                let end = from + i64::from(value % 9);
                let span = OffsetSpan {
                    partition: 0,
                    generation: Generation(generation),
                    epoch: 1,
                    start: from,
                    end,
                };
                let outcome = real.issue(IssuedSpan { span, messages: 1 });
                assert_eq!(outcome.is_ok(), !span.is_empty());
                if outcome.is_ok() {
                    issued.push((span, false));
                    ever.push(span);
                }
            }
            _ if ever.is_empty() => {}
            _ => {
                let span = ever[usize::from(value) % ever.len()];
                let known = issued.iter_mut().find(|(known, _)| *known == span);
                let counts = known.is_some_and(|(_, durable)| !std::mem::replace(durable, true));
                assert_eq!(real.complete(&SpanOutcome::new(span)), counts);
            }
        }
        let passed = issued.iter().take_while(|(_, durable)| *durable).last();
        assert_eq!(real.watermark(0), Some(passed.map_or(start, |(span, _)| span.end)));
    }
}
