//! A real standby takes over. One that was behind: commits that Kafka knows of are gone from the database, and are noticed
//! and read again. One that was not, since every commit has waited for it: nothing is lost, and running processors,
//! which know both addresses, go over to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use usage_processor::generate::Truth;

use super::{BACKLOG, Case, PATIENCE, Traffic, generate, steady, traffic};
use crate::database::{Database, profiles};
use crate::support::{PrivatePostgres, Processor, Proxy, TestDatabase, TestTopic, eventually};

/// A case on a primary with a standby.
struct Failover {
    case: Case,
    /// Everything that was sent.
    truth: Truth,
    /// Leads processors and tests to the server in charge.
    door: Proxy,
    /// Leads the standby to its primary.
    link: Proxy,
    primary: PrivatePostgres,
    standby: PrivatePostgres,
}

impl Failover {
    fn prepare() -> Self {
        let primary = PrivatePostgres::start();
        let (link, url) = Proxy::before_database(&primary.url());
        let standby = PrivatePostgres::standby_of(&url);
        let (door, url) = Proxy::before_database(&primary.url());
        let profile = profiles().pop().unwrap();
        let database = Database::migrated_in(TestDatabase::create_at(&url), profile);
        let case = Case::with(TestTopic::create(4), database);
        Self { case, truth: Truth::default(), door, link, primary, standby }
    }

    fn generate(&mut self, seed: u64) {
        self.truth.merge(&self.case.generate(Traffic { seed, ..traffic(3_000, "50%") }, BACKLOG));
    }

    fn wait_until_replicated(&self) {
        let position: String =
            self.case.database.connect().query_one("SELECT pg_current_wal_lsn()::text", &[]).unwrap().get(0);
        let query = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        let mut standby = postgres::Client::connect(&self.standby.url(), postgres::NoTls).unwrap();
        eventually("the standby has everything", PATIENCE, || {
            let is_there: bool = standby.query_one(&query, &[]).unwrap().get(0);
            is_there.then_some(()).ok_or("it is behind")
        });
    }

    /// From now on nothing reaches the standby, and nobody waits for it.
    fn part(&self) {
        self.link.lead_to("");
        self.link.cut();
    }

    fn fail_over(&mut self) {
        self.primary.crash();
        self.standby.promote();
        let url = self.standby.url();
        let (_, target) = url.split_once('@').unwrap();
        self.door.lead_to(target.rsplit_once('/').unwrap().0);
        self.door.cut();
        self.case.database.reconnect();
    }

    /// From now on no COMMIT is acknowledged that the standby does not have.
    fn make_synchronous(&mut self) {
        let set = "ALTER SYSTEM SET synchronous_standby_names = '*'";
        self.case.database.client.batch_execute(set).unwrap();
        self.primary.reload();
        eventually("the standby is synchronous", PATIENCE, || {
            let state =
                self.case.database.text("SELECT coalesce(max(sync_state), 'none') FROM pg_stat_replication");
            if state == "sync" { Ok(()) } else { Err(state) }
        });
    }

    /// A processor that knows both servers.
    fn spawn_processor(&self) -> Processor {
        let address = |server: &PrivatePostgres| {
            let url = server.url();
            url.split_once('@').unwrap().1.rsplit_once('/').unwrap().0.to_owned()
        };
        let url = self.primary.url();
        let login = url.split_once('@').unwrap().0;
        let (primary, standby, name) =
            (address(&self.primary), address(&self.standby), self.case.database.test.name());
        let url = format!("{login}@{primary},{standby}/{name}?target_session_attrs=read-write");
        self.case.processor().env("DATABASE_URL", &url).spawn()
    }

    fn wait_for_rows(&mut self, count: i64) {
        eventually("rows are written", PATIENCE, || {
            let rows = self.case.rows();
            if rows >= count { Ok(()) } else { Err(rows) }
        });
    }

    #[track_caller]
    fn assert_whole(&mut self) {
        self.case.assert_truth(&self.truth);
        self.case.assert_at_end();
        self.case.assert_consistent();
    }
}

#[test]
fn commits_that_a_promoted_standby_never_had_are_noticed_and_made_again() {
    let mut failover = Failover::prepare();
    failover.generate(1);
    failover.case.process_all();
    failover.wait_until_replicated();
    let (replicated_rows, replicated_ends) = (failover.case.rows(), failover.case.topic.end_offsets());
    failover.part();
    failover.generate(2);
    failover.case.process_all();
    failover.assert_whole();

    failover.fail_over();
    assert_eq!(failover.case.rows(), replicated_rows, "what was written since is lost");
    failover.case.assert_at_end();
    let processor = failover.case.process_all();
    for (partition, (recorded, committed)) in
        replicated_ends.iter().zip(failover.case.topic.end_offsets()).enumerate()
    {
        assert!(committed > *recorded, "partition {partition} has lost some");
        let line = format!(
            "partition {partition}: the database has lost commits: the group has committed offset {committed}, \
             but the ledger ends at {recorded} "
        );
        processor.wait_for_line(&line, PATIENCE);
    }
    failover.assert_whole();
}

#[test]
fn running_processors_go_over_to_a_synchronous_standby_and_nothing_is_lost() {
    let mut failover = Failover::prepare();
    failover.make_synchronous();
    let mut processors = [failover.spawn_processor(), failover.spawn_processor()];
    let (stop, topic) = (Arc::new(AtomicBool::new(false)), failover.case.topic.share());
    let is_over = Arc::clone(&stop);
    // However long the machine takes for the failover, it comes under load.
    let send = move || {
        let mut truth = Truth::default();
        for seed in 1.. {
            truth.merge(&generate(&topic, Traffic { seed, ..traffic(1_000, "50%") }, steady(500)));
            if is_over.load(Ordering::SeqCst) {
                break;
            }
        }
        truth
    };
    let sending = thread::Builder::new().spawn(send).unwrap();
    failover.wait_for_rows(500);
    failover.fail_over();
    let rows = failover.case.rows();
    failover.wait_for_rows(rows + 500);
    stop.store(true, Ordering::SeqCst);
    failover.truth.merge(&sending.join().unwrap());
    failover.case.wait_until_at_end();
    // Not asserted: the machine may be busy.
    let away = failover.case.database.text(
        "SELECT round(extract(epoch FROM max(pause)), 1)::text
           FROM (SELECT at - lag(at) OVER (ORDER BY at) AS pause
                   FROM (SELECT pg_xact_commit_timestamp(xmin) AS at FROM usage_events) AS rows) AS pauses",
    );
    eprintln!("from the last commit on the primary to the first on the standby: {away} s");
    for processor in &mut processors {
        processor.terminate();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
        let lines = processor.lines();
        assert!(!lines.iter().any(|line| line.contains("lost commits")), "{lines:?}");
    }
    failover.assert_whole();
}

#[test]
fn a_running_processor_stops_at_a_standby_that_was_behind_and_the_next_makes_it_whole() {
    let mut failover = Failover::prepare();
    let mut processor = failover.spawn_processor();
    failover.generate(1);
    failover.case.wait_until_at_end();
    failover.wait_until_replicated();
    failover.part();
    failover.generate(2);
    failover.case.wait_until_at_end();

    failover.fail_over();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(1), "systemd starts it again");
    processor.wait_for_line("the database has lost commits while we ran", Duration::ZERO);
    let mut next = failover.spawn_processor();
    next.wait_for_line("the database has lost commits: the group has committed offset", PATIENCE);
    failover.wait_for_rows(i64::try_from(failover.truth.requests).unwrap());
    failover.case.wait_until_at_end();
    next.terminate();
    assert_eq!(next.wait_exit(PATIENCE).code(), Some(0));
    failover.assert_whole();
}
