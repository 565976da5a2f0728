//! Where a demo works: a database that holds no usage events yet, and a topic and a consumer group
//! that nobody else has. Nothing of anybody is ever changed or removed.
//!
//! Without a broker, librdkafka's mock cluster inside this process stands in for Kafka.

use postgres::Client;
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::commands::connect::{ConnectError, connect};
use crate::database_target::DatabaseTarget;
use crate::generate::{self, GenerateError};
use crate::migrations::{self, MigrateError, ProfileChoice};

/// Partitions of the topic: what the platform's has.
pub const PARTITION_COUNT: u16 = 16;

/// Why the demo cannot work there.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The database refuses us.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database could not be asked.
    #[error("looking for usage events in the {database}")]
    Look {
        /// Which one.
        database: String,
        /// What it said.
        source: postgres::Error,
    },
    /// Somebody else's events.
    #[error(
        "the {database} holds usage events already, and a demo must not add its own to them: \
         create a database for it, and name that one in DATABASE_URL"
    )]
    NotEmpty {
        /// Which one.
        database: String,
    },
    /// The schema could not be made.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// No topic.
    #[error("creating the demo's topic")]
    Topic(#[from] GenerateError),
    /// No mock cluster.
    #[error("starting librdkafka's mock cluster")]
    Mock(#[source] KafkaError),
}

/// Where a processor is sent to.
#[derive(Clone)]
pub struct Route {
    /// The database.
    pub database_url: String,
    /// Brokers to start from.
    pub brokers: String,
    /// The topic, and the consumer group of the same name.
    pub topic: String,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the URL: it has the password.
        f.debug_struct("Route").field("brokers", &self.brokers).field("topic", &self.topic).finish()
    }
}

/// The demo's own database, topic and group.
pub struct Target {
    /// Where the processor and the checks connect to.
    pub route: Route,
    /// The connection that looks at what the processor did.
    pub client: Client,
    /// What the database turned out to be.
    pub server: String,
    /// Lives as long as the demo.
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("route", &self.route).finish_non_exhaustive()
    }
}

impl Target {
    /// Checks the database, migrates it, and creates the topic; on a mock cluster without `brokers`.
    pub fn prepare(
        database: &DatabaseTarget,
        database_url: String,
        brokers: Option<&str>,
        topic: String,
        profile: ProfileChoice,
    ) -> Result<Self, TargetError> {
        let mut client = connect(database)?;
        let look = |source| TargetError::Look { database: database.describe(), source };
        if holds_usage(&mut client).map_err(look)? {
            return Err(TargetError::NotEmpty { database: database.describe() });
        }
        migrations::up(&mut client, profile)?;
        let server = migrations::ensure_current(&mut client)?.to_string();
        let (brokers, mock) = match brokers {
            Some(brokers) => {
                generate::create_topic(brokers, &topic, PARTITION_COUNT, &[])?;
                (brokers.to_owned(), None)
            }
            None => {
                let mock = mock_cluster(&topic).map_err(TargetError::Mock)?;
                (mock.bootstrap_servers(), Some(mock))
            }
        };
        Ok(Self { route: Route { database_url, brokers, topic }, client, server, mock })
    }

    /// Whether there is no broker but the mock cluster.
    pub fn is_mock(&self) -> bool {
        self.mock.is_some()
    }
}

fn holds_usage(client: &mut Client) -> Result<bool, postgres::Error> {
    for table in ["usage_events", "usage_dead_letters"] {
        let exists: bool = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table])?.try_get(0)?;
        let look = format!("SELECT EXISTS (SELECT FROM {table})");
        if exists && client.query_one(&look, &[])?.try_get(0)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn mock_cluster(topic: &str) -> Result<MockCluster<'static, DefaultProducerContext>, KafkaError> {
    let cluster = MockCluster::new(1)?;
    cluster.create_topic(topic, PARTITION_COUNT.into(), 1)?;
    Ok(cluster)
}
