//! A real asynchronous standby that was behind takes over, at the same address: commits that Kafka
//! knows of are gone from the database, and are noticed and read again.

use usage_processor::generate::Truth;

use super::{BACKLOG, Case, PATIENCE, Traffic, traffic};
use crate::database::{Database, profiles};
use crate::support::{PrivatePostgres, Proxy, TestDatabase, TestTopic, eventually};

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
