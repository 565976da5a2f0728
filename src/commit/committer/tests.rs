//! The committer between channels, with a test's double for Kafka.

use super::*;
use crate::messages::IssuedSpan;
use crate::offsets::{Generation, OffsetSpan};
use crossbeam_channel::{Sender, bounded};
use rdkafka::error::KafkaError;
use std::thread;

const LONG: Duration = Duration::from_secs(10);

/// Tells a test what is committed.
struct Recorder(Sender<Vec<(Partition, Offset)>>);

impl OffsetCommitter for Recorder {
    fn commit(&self, offsets: &[(Partition, Offset)], _: CommitMode) -> Result<(), KafkaError> {
        self.0.send(offsets.to_vec()).unwrap();
        Ok(())
    }
}

struct Harness {
    progress: Sender<Progress>,
    revocations: Sender<Revocation>,
    commits: Receiver<Vec<(Partition, Offset)>>,
    board: TallyBoard,
    thread: thread::JoinHandle<Result<(), CommitError>>,
}

impl Harness {
    fn start() -> Self {
        let (progress, inbox) = bounded(100);
        let (revocations, revocation_inbox) = bounded(10);
        let (commit_sender, commits) = bounded(100);
        let board = TallyBoard::default();
        let recorder = Recorder(commit_sender);
        let committer = Committer::new(inbox, revocation_inbox, recorder, board.clone(), Arc::default());
        let thread = thread::Builder::new().spawn(|| committer.run()).unwrap();
        Self { progress, revocations, commits, board, thread }
    }

    fn assign(&self, partition: Partition, start: Offset) {
        self.progress.send(Progress::Assigned { partition, generation: Generation(1), start }).unwrap();
    }

    fn issue(&self, span: OffsetSpan) {
        self.progress.send(Progress::Issued(vec![IssuedSpan { span, messages: 1 }])).unwrap();
    }

    fn complete(&self, span: OffsetSpan) {
        let outcome = SpanOutcome { messages: 1, written: 1, ..SpanOutcome::new(span) };
        self.progress.send(Progress::Durable { outcomes: vec![outcome], letters: Vec::new() }).unwrap();
    }

    fn revoke(&self, partition: Partition, deadline: Instant) -> Receiver<()> {
        let (done, is_done) = bounded(0);
        self.revocations.send(Revocation { partitions: vec![partition], deadline, done }).unwrap();
        is_done
    }

    /// Hangs up as poller and writers do, and gives the last commit.
    fn end(self) -> (Vec<(Partition, Offset)>, Tally) {
        drop(self.progress);
        self.thread.join().unwrap().unwrap();
        (self.commits.iter().last().unwrap_or_default(), self.board.snapshot())
    }
}

fn span(partition: Partition, start: Offset, end: Offset) -> OffsetSpan {
    OffsetSpan { partition, generation: Generation(1), epoch: 1, start, end }
}

#[test]
fn the_last_commit_holds_every_unconfirmed_watermark() {
    let harness = Harness::start();
    harness.assign(0, 5);
    harness.assign(1, 7);
    harness.issue(span(0, 5, 6));
    harness.issue(span(1, 7, 9));
    harness.complete(span(1, 7, 9));
    let (last, tally) = harness.end();
    assert_eq!(last, [(0, 5), (1, 9)]);
    assert_eq!((tally.messages, tally.written, tally.in_flight()), (2, 1, 1));
}

#[test]
fn revoked_spans_are_committed_before_they_are_given_back() {
    let harness = Harness::start();
    harness.assign(0, 0);
    harness.issue(span(0, 0, 4));
    let is_done = harness.revoke(0, Instant::now() + LONG);
    assert!(is_done.recv_timeout(Duration::from_millis(50)).is_err_and(|error| error.is_timeout()));
    harness.complete(span(0, 0, 4));
    assert!(is_done.recv_timeout(LONG).is_err_and(|error| error.is_disconnected()));
    assert_eq!(harness.commits.try_iter().last().unwrap(), [(0, 4)]);
    assert_eq!(harness.end().1.returned, 0);
}

#[test]
fn a_revocation_ends_at_its_deadline_and_what_comes_later_does_not_count() {
    let harness = Harness::start();
    harness.assign(0, 0);
    harness.issue(span(0, 0, 4));
    let is_done = harness.revoke(0, Instant::now());
    assert!(is_done.recv_timeout(LONG).is_err_and(|error| error.is_disconnected()));
    harness.progress.send(Progress::Revoked(vec![0])).unwrap();
    harness.complete(span(0, 0, 4));
    let (last, tally) = harness.end();
    assert_eq!(last, [(0, 0)], "the revoked partition's own commit, and no other");
    assert_eq!((tally.written, tally.returned, tally.late_spans, tally.in_flight()), (0, 1, 1, 0));
}

#[test]
fn a_revocation_that_is_heard_too_late_leaves_the_next_assignment_alone() {
    let harness = Harness::start();
    harness.assign(0, 0);
    harness.issue(span(0, 0, 4));
    // The poller has waited in vain, given the partition back and been given it again.
    harness.progress.send(Progress::Revoked(vec![0])).unwrap();
    harness.assign(0, 0);
    let is_done = harness.revoke(0, Instant::now());
    assert!(is_done.recv_timeout(LONG).is_err_and(|error| error.is_disconnected()));
    harness.issue(span(0, 0, 4));
    harness.complete(span(0, 0, 4));
    let (last, tally) = harness.end();
    assert_eq!(last, [(0, 4)]);
    assert_eq!((tally.written, tally.returned, tally.late_spans), (1, 1, 0));
}

#[test]
fn commits_are_repeated_until_the_broker_confirms_them() {
    let harness = Harness::start();
    harness.assign(0, 0);
    harness.issue(span(0, 0, 4));
    harness.complete(span(0, 0, 4));
    assert_eq!(harness.commits.recv_timeout(LONG).unwrap(), [(0, 4)]);
    assert_eq!(harness.commits.recv_timeout(LONG).unwrap(), [(0, 4)]);
    let confirmed =
        BrokerOffsets { partition: 0, high_water_mark: Some(9), low_water_mark: Some(0), committed: Some(4) };
    harness.progress.send(Progress::Heard(vec![confirmed])).unwrap();
    // One may have been under way.
    drop(harness.commits.recv_timeout(Duration::from_millis(100)));
    assert!(harness.commits.recv_timeout(2 * COMMIT_INTERVAL).is_err());
    assert_eq!(harness.board.snapshot().lag, 5);
}

#[test]
fn a_gap_stops_the_committer() {
    let harness = Harness::start();
    harness.assign(0, 0);
    harness.issue(span(0, 1, 4));
    assert!(matches!(harness.thread.join().unwrap(), Err(CommitError::Tiling(_))));
    assert!(harness.commits.try_recv().is_err());
}
