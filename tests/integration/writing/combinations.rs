//! Everything at once: rows that are new, known, contradicted or refused, letters of the decoder's
//! own, in any mixture and order, over several batches, each of them delivered twice or cut short.
//! What must be in the database is computed by a model of a few lines.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use usage_processor::write::writer::RowSink as _;

use super::{Case, Event, Part, batch};
use crate::database::profiles;

/// One message: a request of few, with one of few weights, of which the largest is refused.
#[derive(Debug, Clone)]
enum Message {
    Event { request: u8, weight: u32 },
    Garbage,
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        8 => (0..60_u8, 1..=2_u32).prop_map(|(request, weight)| Message::Event { request, weight }),
        1 => (60..80_u8).prop_map(|request| Message::Event { request, weight: 1_000 }),
        1 => Just(Message::Garbage),
    ]
}

/// A write batch: messages of two partitions, and whether it is delivered once more.
#[derive(Debug, Clone)]
struct Delivery {
    partitions: [Vec<Message>; 2],
    is_repeated: bool,
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let messages = || prop::collection::vec(message(), 0..60);
    (messages(), messages(), any::<bool>())
        .prop_map(|(a, b, is_repeated)| Delivery { partitions: [a, b], is_repeated })
}

/// The first of each request is a row; what contradicts it, is refused or is garbage is a letter.
/// The window, of one batch and partition here, speaks before the database.
#[derive(Debug, Default)]
struct Model {
    weights: BTreeMap<u8, u32>,
    letters: BTreeSet<(usize, i64)>,
    ends: [i64; 2],
}

impl Model {
    fn deliver(&mut self, delivery: &Delivery) -> Vec<Part> {
        let mut parts = Vec::new();
        for (partition, messages) in delivery.partitions.iter().enumerate() {
            let start = self.ends[partition];
            let mut payloads = Vec::new();
            let mut window = BTreeMap::new();
            for message in messages {
                let is_letter = match message {
                    Message::Garbage => true,
                    Message::Event { request, weight } => match window.get(request) {
                        Some(seen) => seen != weight,
                        None => {
                            window.insert(*request, *weight);
                            *weight == 1_000 || *self.weights.entry(*request).or_insert(*weight) != *weight
                        }
                    },
                };
                if is_letter {
                    self.letters.insert((partition, self.ends[partition]));
                }
                self.ends[partition] += 1;
                payloads.push(match message {
                    Message::Garbage => "{".to_owned(),
                    Message::Event { request, weight } => {
                        Event::new(format!("r-{request:02}")).weight(*weight).json()
                    }
                });
            }
            if !payloads.is_empty() {
                parts.push(Part { partition: i32::try_from(partition).unwrap(), start, payloads });
            }
        }
        parts
    }
}

#[test]
fn whatever_a_batch_mixes_each_message_is_counted_once_and_none_is_lost() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        case.execute("ALTER TABLE usage_events ADD CONSTRAINT weight_is_sane CHECK (weight < 1000)");
        let deliveries = prop::collection::vec(delivery(), 1..5);
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 12,
            failure_persistence: None,
            max_shrink_iters: 60,
            ..ProptestConfig::default()
        });
        let case = std::cell::RefCell::new(&mut case);
        runner
            .run(&deliveries, |deliveries| {
                check(&mut case.borrow_mut(), &deliveries);
                Ok(())
            })
            .unwrap();
    }
}

fn check(case: &mut Case, deliveries: &[Delivery]) {
    case.execute("DELETE FROM usage_events; TRUNCATE usage_dead_letters, usage_ledger, usage_ledger_days");
    case.restart();
    let mut model = Model::default();
    for delivery in deliveries {
        let all = batch(&model.deliver(delivery));
        let messages: u64 = all.outcomes.iter().map(|outcome| outcome.messages).sum();
        let [_, first_written, ..] = case.write_all(&all);
        assert!(first_written <= messages);
        if delivery.is_repeated {
            case.restart();
            let [_, written, _, _, dead_letters] = case.write_all(&all);
            assert_eq!((written, dead_letters), (0, 0), "a redelivery adds nothing");
        }
        // Decided for ever: nothing of it may depend on what comes later.
        let rows = case.database.texts("SELECT request_id || ' ' || weight FROM usage_events ORDER BY 1");
        let expected: Vec<_> =
            model.weights.iter().map(|(request, weight)| format!("r-{request:02} {weight}")).collect();
        assert_eq!(rows, expected);
    }
    let letters = case.database.texts(
        "SELECT kafka_partition || ' ' || kafka_offset FROM usage_dead_letters ORDER BY kafka_partition, kafka_offset",
    );
    let expected: Vec<_> =
        model.letters.iter().map(|(partition, offset)| format!("{partition} {offset}")).collect();
    assert_eq!(letters, expected);
    case.assert_ledger_is_exact();
    case.sink.write(&batch(&[])).unwrap();
}
