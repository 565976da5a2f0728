//! The truth: what a correct pipeline must end up with, per organization and hour, taken from the
//! facts that the messages were written from. Pure but for reading and writing its file.
//!
//! Nothing is parsed back from the payloads and nothing is shared with the pipeline, so a figure
//! that differs is the pipeline's mistake.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::gateway::{DuplicateKind, MessageKind, Request};
use super::malformed::Malformation;
use super::text::{Uuid, rfc3339_seconds};

const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// What the messages of one run, or of several, amount to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The seed of each run.
    pub seeds: Vec<u64>,
    /// Messages in the topic: `requests + duplicates + malformed`.
    pub messages: u64,
    /// Distinct valid events: rows in `usage_events`.
    pub requests: u64,
    /// How many of `requests` were late.
    pub late: u64,
    /// Retries, by what differs from the first attempt.
    pub duplicates: BTreeMap<DuplicateKind, u64>,
    /// Malformed messages, by what is wrong with them.
    pub malformed: BTreeMap<Malformation, u64>,
    /// The same messages by the reason that their dead letters must carry.
    pub dead_letters: BTreeMap<String, u64>,
    /// By organization id, then by the hour in which the request happened, as `2026-01-31T12:00:00Z`.
    pub usage: BTreeMap<String, BTreeMap<String, Usage>>,
}

/// Sums over distinct valid events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All requests.
    pub requests: u64,
    /// Those with `billable`.
    pub billable_requests: u64,
    /// The weights of the billable ones.
    pub billable_units: u64,
    /// Those with a 2xx status.
    pub successes: u64,
    /// Those with a 4xx status.
    pub client_errors: u64,
    /// Those with a 5xx status.
    pub server_errors: u64,
    /// The sum of the response times.
    pub response_time_ms: u64,
}

/// Why a truth file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TruthError {
    /// The file could not be read or written.
    #[error("{operation} the truth file {}", path.display())]
    Access {
        /// `reading` or `writing`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("parsing the truth file {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

impl Usage {
    fn add_request(&mut self, request: &Request) {
        let billable = u64::from(request.billable);
        self.add(&Usage {
            requests: 1,
            billable_requests: billable,
            billable_units: billable * u64::from(request.weight),
            successes: u64::from(request.status_code / 100 == 2),
            client_errors: u64::from(request.status_code / 100 == 4),
            server_errors: u64::from(request.status_code / 100 == 5),
            response_time_ms: request.response_time_ms.into(),
        });
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Usage) {
        self.requests += other.requests;
        self.billable_requests += other.billable_requests;
        self.billable_units += other.billable_units;
        self.successes += other.successes;
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.response_time_ms += other.response_time_ms;
    }
}

impl Truth {
    /// The sum over everybody.
    pub fn total_usage(&self) -> Usage {
        let mut total = Usage::default();
        self.usage.values().flat_map(BTreeMap::values).for_each(|usage| total.add(usage));
        total
    }

    /// All duplicates.
    pub fn duplicate_count(&self) -> u64 {
        self.duplicates.values().sum()
    }

    /// All malformed messages.
    pub fn malformed_count(&self) -> u64 {
        self.malformed.values().sum()
    }

    /// Adds another run into the same topic.
    pub fn merge(&mut self, other: &Truth) {
        self.seeds.extend(&other.seeds);
        self.messages += other.messages;
        self.requests += other.requests;
        self.late += other.late;
        other.duplicates.iter().for_each(|(kind, count)| *self.duplicates.entry(*kind).or_default() += count);
        other.malformed.iter().for_each(|(kind, count)| *self.malformed.entry(*kind).or_default() += count);
        for (reason, count) in &other.dead_letters {
            *self.dead_letters.entry(reason.clone()).or_default() += count;
        }
        for (organization, hours) in &other.usage {
            let own_hours = self.usage.entry(organization.clone()).or_default();
            hours.iter().for_each(|(hour, usage)| own_hours.entry(hour.clone()).or_default().add(usage));
        }
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<(), TruthError> {
        let json = serde_json::to_vec_pretty(self)
            .map_err(|source| TruthError::Parse { path: path.to_owned(), source })?;
        std::fs::write(path, json).map_err(|source| access_error("writing", path, source))
    }

    /// Reads what [`Truth::write`] wrote.
    pub fn read(path: &Path) -> Result<Truth, TruthError> {
        let json = std::fs::read(path).map_err(|source| access_error("reading", path, source))?;
        serde_json::from_slice(&json).map_err(|source| TruthError::Parse { path: path.to_owned(), source })
    }
}

fn access_error(operation: &'static str, path: &Path, source: io::Error) -> TruthError {
    TruthError::Access { operation, path: path.to_owned(), source }
}

/// Keeps the books while messages are sent.
#[derive(Debug, Default)]
pub struct Bookkeeper {
    requests: u64,
    late: u64,
    duplicates: BTreeMap<DuplicateKind, u64>,
    malformed: BTreeMap<Malformation, u64>,
    /// By organization and hours since 1970.
    usage: BTreeMap<(Uuid, i64), Usage>,
}

impl Bookkeeper {
    /// Enters a message that is in the topic.
    pub fn enter(&mut self, kind: &MessageKind) {
        match kind {
            MessageKind::First(request) => {
                let hour = request.time_micros.div_euclid(MICROS_PER_HOUR);
                self.usage.entry((request.organization_id, hour)).or_default().add_request(request);
                self.requests += 1;
                self.late += u64::from(request.is_late);
            }
            MessageKind::Duplicate(kind) => *self.duplicates.entry(*kind).or_default() += 1,
            MessageKind::Malformed(malformation) => *self.malformed.entry(*malformation).or_default() += 1,
        }
    }

    /// Closes the books of a run with that seed.
    pub fn close(self, seed: u64) -> Truth {
        let mut truth = Truth {
            seeds: vec![seed],
            requests: self.requests,
            late: self.late,
            duplicates: self.duplicates,
            malformed: self.malformed,
            ..Truth::default()
        };
        truth.messages = truth.requests + truth.duplicate_count() + truth.malformed_count();
        for (malformation, count) in &truth.malformed {
            *truth.dead_letters.entry(malformation.reason().to_owned()).or_default() += count;
        }
        for ((organization, hour), usage) in self.usage {
            let hours = truth.usage.entry(organization.to_string()).or_default();
            hours.insert(rfc3339_seconds(hour * 3_600), usage);
        }
        truth
    }
}
