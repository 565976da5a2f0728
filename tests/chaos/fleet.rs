//! The processors of the run: started again whenever they have ended, as systemd would.

use std::collections::BTreeMap;

use super::DRAIN_PATIENCE;
use crate::support::{Processor, ProcessorBuilder};

/// How many run at a time.
pub(super) const FLEET_SIZE: usize = 3;
/// Exit codes on which systemd is told not to start again: in this run nothing may cause them.
const FINAL_CODES: [i32; 5] = [2, 3, 5, 6, 7];

/// Processors of one group, each in its place.
pub(super) struct Fleet {
    build: Box<dyn Fn() -> ProcessorBuilder + Send>,
    places: [Option<Processor>; FLEET_SIZE],
    /// How processes have ended, and how often.
    pub(super) exits: BTreeMap<String, u32>,
}

impl Fleet {
    pub(super) fn new(build: impl Fn() -> ProcessorBuilder + Send + 'static) -> Self {
        Self { build: Box::new(build), places: [None, None, None], exits: BTreeMap::new() }
    }

    /// One more, which is in no place.
    pub(super) fn spawn(&self) -> Processor {
        (self.build)().spawn()
    }

    /// Starts what has ended.
    pub(super) fn fill(&mut self) {
        for idx in 0..FLEET_SIZE {
            let has_ended =
                self.places[idx].as_mut().is_none_or(|processor| processor.exit_status().is_some());
            if has_ended {
                if let Some(ended) = self.places[idx].take() {
                    self.record_exit(ended);
                }
                self.places[idx] = Some(self.spawn());
            }
        }
    }

    /// The processor in a place, once it is filled.
    pub(super) fn get(&mut self, random: u64) -> &Processor {
        self.fill();
        let idx = usize::try_from(random % 3).unwrap();
        self.places[idx].as_ref().unwrap()
    }

    /// Ends all of them in order.
    pub(super) fn end(&mut self) {
        self.places.iter().flatten().for_each(Processor::terminate);
        for idx in 0..FLEET_SIZE {
            if let Some(processor) = self.places[idx].take() {
                self.record_exit(processor);
            }
        }
    }

    /// Waits for its end; a code that a service would stay down with fails the run.
    pub(super) fn record_exit(&mut self, mut processor: Processor) {
        let status = processor.wait_exit(DRAIN_PATIENCE);
        let is_final = status.code().is_some_and(|code| FINAL_CODES.contains(&code));
        let log = processor.lines().join("\n");
        assert!(!is_final, "a processor gave up: {status}\n{log}");
        assert!(!log.contains("the database has lost commits"), "no fault here is of that kind\n{log}");
        *self.exits.entry(status.to_string()).or_default() += 1;
    }
}
