//! The faults, and what they strike: servers behind proxies, and the fleet between them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use postgres::{Client, NoTls};

use super::fleet::Fleet;
use crate::database::{Database, profiles};
use crate::pipeline::{Case, ORGANIZATION};
use crate::support::{
    PrivateBroker, PrivatePostgres, Processor, Proxy, Record, SmallDisk, TestDatabase, TestTopic, eventually,
};

/// Longer than the session timeout below.
const BEYOND_SESSION: Duration = Duration::from_secs(9);
/// A member that is silent for 6 s loses its partitions; whatever waits for the database gives up
/// within the time that the group and the run allow.
const SETTINGS: [(&str, &str); 6] = [
    ("KAFKA_OPTIONS", "session.timeout.ms=6000,reconnect.backoff.max.ms=1000"),
    ("DRAIN_TIMEOUT", "4s"),
    ("LOCK_TIMEOUT", "2s"),
    ("STATEMENT_TIMEOUT", "5s"),
    ("BATCH_SIZE", "500"),
    ("STATS_INTERVAL", "1s"),
];
/// Malformed messages of a burst: well below what the circuit breaker takes for a bad deploy.
const GARBAGE_MESSAGES: u64 = 500;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    ProcessorKilled,
    ProcessorTerminated,
    ProcessorFrozen,
    ProcessorJoinsAndLeaves,
    DatabaseCrashes,
    BackendsTerminated,
    ConnectionsRefused,
    TableLocked,
    DiskFull,
    BrokerCrashes,
    BrokerAway,
    DatabaseSlow,
    BrokerSlow,
    ConnectionsCut,
    ConnectionsReset,
    CommitsUnanswered,
    DatabaseSilent,
    BrokerSilent,
    PartitionAdded,
    GarbageBurst,
}

impl Fault {
    pub(super) const ALL: [Self; 20] = [
        Self::ProcessorKilled,
        Self::ProcessorTerminated,
        Self::ProcessorFrozen,
        Self::ProcessorJoinsAndLeaves,
        Self::DatabaseCrashes,
        Self::BackendsTerminated,
        Self::ConnectionsRefused,
        Self::TableLocked,
        Self::DiskFull,
        Self::BrokerCrashes,
        Self::BrokerAway,
        Self::DatabaseSlow,
        Self::BrokerSlow,
        Self::ConnectionsCut,
        Self::ConnectionsReset,
        Self::CommitsUnanswered,
        Self::DatabaseSilent,
        Self::BrokerSilent,
        Self::PartitionAdded,
        Self::GarbageBurst,
    ];

    /// For the log and the report.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::ProcessorKilled => "SIGKILL of a processor",
            Self::ProcessorTerminated => "SIGTERM of a processor",
            Self::ProcessorFrozen => "SIGSTOP beyond the session timeout, then SIGCONT",
            Self::ProcessorJoinsAndLeaves => "a processor joins and leaves",
            Self::DatabaseCrashes => "PostgreSQL immediate shutdown and restart",
            Self::BackendsTerminated => "pg_terminate_backend of writers, for 3 s",
            Self::ConnectionsRefused => "too many connections, for 20 s",
            Self::TableLocked => "a lock on the table, beyond the lock timeout",
            Self::DiskFull => "disk full, for 3 s",
            Self::BrokerCrashes => "SIGKILL of the broker, and restart",
            Self::BrokerAway => "the broker away beyond the session timeout",
            Self::DatabaseSlow => "50 ms more each way to the database, for 4 s",
            Self::BrokerSlow => "50 ms more each way to the broker, for 4 s",
            Self::ConnectionsCut => "all connections to both servers end with FIN, three times",
            Self::ConnectionsReset => "all connections to both servers end with RST, three times",
            Self::CommitsUnanswered => "connections cut between COMMIT and its answer, six times",
            Self::DatabaseSilent => "the database takes everything and answers nothing, for 5 s",
            Self::BrokerSilent => "the broker takes everything and answers nothing, for 5 s",
            Self::PartitionAdded => "a partition added to the topic",
            Self::GarbageBurst => "a burst of 500 malformed messages",
        }
    }

    /// Whether both can happen at the same time and each still means what it says.
    pub(super) fn may_overlap(self, other: Self) -> bool {
        let sides = [self.side(), other.side()];
        sides[0] != sides[1] && !sides.contains(&Side::All)
    }

    fn side(self) -> Side {
        match self {
            Self::ProcessorKilled
            | Self::ProcessorTerminated
            | Self::ProcessorFrozen
            | Self::ProcessorJoinsAndLeaves => Side::Processors,
            Self::DatabaseCrashes
            | Self::BackendsTerminated
            | Self::ConnectionsRefused
            | Self::TableLocked
            | Self::DiskFull
            | Self::DatabaseSlow
            | Self::CommitsUnanswered
            | Self::DatabaseSilent => Side::Database,
            Self::BrokerCrashes
            | Self::BrokerAway
            | Self::BrokerSlow
            | Self::BrokerSilent
            | Self::PartitionAdded
            | Self::GarbageBurst => Side::Broker,
            Self::ConnectionsCut | Self::ConnectionsReset => Side::All,
        }
    }
}

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Processors,
    Database,
    Broker,
    All,
}

/// Everything that a run is made of.
pub(super) struct World {
    pub(super) fleet: Mutex<Fleet>,
    /// Leads to the database past the proxy.
    pub(super) database_url: String,
    /// Held while keys must go to the partitions they went to before.
    topic_is_stable: Mutex<()>,
    garbage_sent: AtomicU64,
    to_database: Proxy,
    to_broker: Proxy,
    broker: PrivateBroker,
    postgres: PrivatePostgres,
    /// Under the database, after it: dropped once the server has ended.
    disk: Option<SmallDisk>,
}

/// What the producer's thread sees of it.
pub(super) struct Source<'a> {
    pub(super) topic: &'a TestTopic,
    pub(super) topic_is_stable: &'a Mutex<()>,
    pub(super) garbage_sent: &'a AtomicU64,
}

impl World {
    /// With the topic and the database in it.
    pub(super) fn start() -> (Self, Case) {
        let to_broker = Proxy::start();
        let advertised = format!("advertised.listeners=PLAINTEXT://{}", to_broker.address());
        let broker = PrivateBroker::start_with(&[&advertised]);
        to_broker.lead_to(&broker.address());
        let postgres = PrivatePostgres::start();
        let database = TestDatabase::create_at(&postgres.url());
        let disk = SmallDisk::mount();
        match &disk {
            Some(disk) => move_to_disk(&database, &postgres, disk),
            None => eprintln!("chaos: mounting is not allowed here: a trigger says that the disk is full"),
        }
        let database = Database::migrated_in(database, profiles().pop().unwrap());
        let (to_database, url) = Proxy::before_database(&database.test.url());
        let case = Case::with(TestTopic::create_at(to_broker.address(), 8), database);
        let (brokers, topic, group) =
            (to_broker.address().to_owned(), case.topic.name().to_owned(), case.group.clone());
        let build = move || {
            let builder = Processor::run()
                .env("KAFKA_BROKERS", &brokers)
                .env("KAFKA_TOPIC", &topic)
                .env("KAFKA_GROUP_ID", &group)
                .env("DATABASE_URL", &url);
            SETTINGS.iter().fold(builder, |builder, (name, value)| builder.env(name, value))
        };
        let world = Self {
            fleet: Mutex::new(Fleet::new(build)),
            database_url: case.database.test.url(),
            topic_is_stable: Mutex::default(),
            garbage_sent: AtomicU64::new(0),
            to_database,
            to_broker,
            broker,
            postgres,
            disk,
        };
        (world, case)
    }

    pub(super) fn source<'a>(&'a self, topic: &'a TestTopic) -> Source<'a> {
        let Self { topic_is_stable, garbage_sent, .. } = self;
        Source { topic, topic_is_stable, garbage_sent }
    }

    pub(super) fn has_small_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Lets a fault happen, and mends it.
    pub(super) fn strike(&self, topic: &TestTopic, fault: Fault, random: u64) {
        let pause = |millis| thread::sleep(Duration::from_millis(millis));
        match fault {
            Fault::ProcessorKilled => self.fleet.lock().unwrap().get(random).kill(),
            Fault::ProcessorTerminated => self.fleet.lock().unwrap().get(random).terminate(),
            Fault::ProcessorFrozen => {
                let mut fleet = self.fleet.lock().unwrap();
                let frozen = fleet.get(random);
                frozen.freeze();
                thread::sleep(BEYOND_SESSION);
                frozen.thaw();
            }
            Fault::ProcessorJoinsAndLeaves => {
                let mut fleet = self.fleet.lock().unwrap();
                let guest = fleet.spawn();
                pause(4_000);
                guest.terminate();
                fleet.record_exit(guest);
            }
            Fault::DatabaseCrashes => {
                self.postgres.crash();
                pause(2_000);
                self.postgres.restart();
            }
            Fault::BackendsTerminated => self.terminate_backends(),
            Fault::ConnectionsRefused => self.take_all_connections(),
            Fault::TableLocked => {
                let mut client = self.client();
                client.batch_execute("BEGIN; LOCK TABLE usage_events").unwrap();
                pause(5_000);
            }
            Fault::DiskFull => self.fill_disk(),
            Fault::BrokerCrashes | Fault::BrokerAway => {
                self.broker.crash();
                if fault == Fault::BrokerAway {
                    thread::sleep(BEYOND_SESSION);
                }
                self.broker.restart();
            }
            Fault::DatabaseSlow => be_slow(&self.to_database),
            Fault::BrokerSlow => be_slow(&self.to_broker),
            Fault::ConnectionsCut => {
                for _ in 0..3 {
                    [&self.to_database, &self.to_broker].into_iter().for_each(Proxy::cut);
                    pause(700);
                }
            }
            Fault::ConnectionsReset => {
                for _ in 0..3 {
                    [&self.to_database, &self.to_broker].into_iter().for_each(Proxy::reset);
                    pause(700);
                }
            }
            Fault::CommitsUnanswered => {
                self.to_database.cut_after_commits(6);
                pause(4_000);
                self.to_database.cut_after_commits(0);
            }
            Fault::DatabaseSilent => be_silent(&self.to_database),
            Fault::BrokerSilent => be_silent(&self.to_broker),
            Fault::PartitionAdded => {
                let _between_slices = self.topic_is_stable.lock().unwrap();
                topic.add_partition();
            }
            Fault::GarbageBurst => self.send_garbage(topic),
        }
    }

    fn client(&self) -> Client {
        // A server that has just come back may still recover.
        eventually("a connection past the proxy", Duration::from_secs(30), || {
            Client::connect(&self.database_url, NoTls)
        })
    }

    /// In mid-COPY, in mid-COMMIT, between two batches: wherever they are.
    fn terminate_backends(&self) {
        let mut client = self.client();
        for _ in 0..60 {
            client
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND random() < 0.5
                        AND application_name LIKE 'usage-processor writer%'",
                    &[],
                )
                .unwrap();
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Takes every connection that the server has, so that it refuses those of the processors.
    fn take_all_connections(&self) {
        let mut taken = vec![self.client()];
        for _ in 0..40 {
            while let Ok(client) = Client::connect(&self.database_url, NoTls) {
                taken.push(client);
            }
            taken[0]
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE application_name LIKE 'usage-processor%'",
                    &[],
                )
                .unwrap();
            thread::sleep(Duration::from_millis(500));
        }
    }

    fn fill_disk(&self) {
        if let Some(disk) = &self.disk {
            disk.fill();
            thread::sleep(Duration::from_secs(3));
            return disk.empty();
        }
        let mut client = self.client();
        client
            .batch_execute(
                "CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
                 CREATE TRIGGER disk_is_full BEFORE INSERT ON usage_events
                    FOR EACH ROW EXECUTE FUNCTION disk_is_full()",
            )
            .unwrap();
        thread::sleep(Duration::from_secs(3));
        client.batch_execute("DROP FUNCTION disk_is_full CASCADE").unwrap();
    }

    fn send_garbage(&self, topic: &TestTopic) {
        let records: Vec<_> =
            (0..GARBAGE_MESSAGES).map(|_| Record::new(ORGANIZATION, b"{\"time\":")).collect();
        topic.produce(&records);
        self.garbage_sent.fetch_add(GARBAGE_MESSAGES, Ordering::SeqCst);
    }
}

/// Tables and indexes go to the small disk, and the log of the server stays where it is.
fn move_to_disk(database: &TestDatabase, postgres: &PrivatePostgres, disk: &SmallDisk) {
    let mut client = Client::connect(&postgres.url(), NoTls).unwrap();
    let directory = disk.directory_for_postgres();
    client.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{directory}'")).unwrap();
    // Not while TimescaleDB's launcher visits it.
    eventually("the database moves to the small disk", Duration::from_secs(30), || {
        client.batch_execute(&format!("ALTER DATABASE {} SET TABLESPACE small", database.name()))
    });
}

fn be_slow(proxy: &Proxy) {
    proxy.delay(Duration::from_millis(50));
    thread::sleep(Duration::from_secs(4));
    proxy.delay(Duration::ZERO);
}

/// Old connections are cut at the end: a client that waits for an answer in them waits for ever.
fn be_silent(proxy: &Proxy) {
    proxy.silence(true);
    thread::sleep(Duration::from_secs(5));
    proxy.silence(false);
    proxy.cut();
}
