//! Databases with the schema, in each profile that the server can carry.

use std::io::Write as _;
use std::sync::Once;

use postgres::Client;
use usage_processor::migrations::{self, Profile, ProfileChoice, ServerInfo, TimescaleDb};

use crate::support::{TestDatabase, server_client};

/// Dropped, connections and all, when the test ends, also by a panic.
pub(crate) struct Database {
    pub(crate) test: TestDatabase,
    pub(crate) client: Client,
}

impl Database {
    /// An empty database.
    pub(crate) fn create() -> Self {
        let test = TestDatabase::create();
        let client = test.client();
        Self { test, client }
    }

    /// A migrated database in which no job runs by itself, so that a test decides when one does.
    pub(crate) fn migrated(profile: Profile) -> Self {
        Self::migrated_in(TestDatabase::create(), profile)
    }

    /// The same in a database that is there already.
    pub(crate) fn migrated_in(test: TestDatabase, profile: Profile) -> Self {
        let client = test.client();
        let mut database = Self { test, client };
        if profile == Profile::TimescaleDb {
            database
                .client
                .batch_execute(
                    "CREATE EXTENSION timescaledb; SELECT _timescaledb_functions.stop_background_workers()",
                )
                .unwrap();
        }
        migrations::up(&mut database.client, choice(profile)).unwrap();
        database
    }

    /// A new connection in place of the one that a crash of the server has ended.
    pub(crate) fn reconnect(&mut self) {
        self.client = self.test.client();
    }

    /// A second connection.
    pub(crate) fn connect(&self) -> Client {
        self.test.client()
    }

    /// The first column of a query's rows; cast it to text.
    pub(crate) fn texts(&mut self, sql: &str) -> Vec<String> {
        self.client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The one value of a query, cast to text.
    pub(crate) fn text(&mut self, sql: &str) -> String {
        self.client.query_one(sql, &[]).unwrap().get(0)
    }
}

/// The profiles that the server can carry.
pub(crate) fn profiles() -> Vec<Profile> {
    if has_timescaledb() {
        vec![Profile::PostgreSql, Profile::TimescaleDb]
    } else {
        vec![Profile::PostgreSql]
    }
}

/// Whether the server has the extension; when not, says so loudly, past the capture of output.
pub(crate) fn has_timescaledb() -> bool {
    static SAY: Once = Once::new();
    let info = ServerInfo::detect(&mut server_client()).unwrap();
    let has = matches!(info.timescaledb, TimescaleDb::Offered | TimescaleDb::Created { .. });
    if !has {
        // `eprintln!` would be captured.
        let line =
            b"\n*** NO TIMESCALEDB SERVER EXTENSION: TimescaleDB is tested in WebAssembly only ***\n\n";
        SAY.call_once(|| std::io::stderr().lock().write_all(line).unwrap());
    }
    has
}

pub(crate) fn choice(profile: Profile) -> ProfileChoice {
    match profile {
        Profile::TimescaleDb => ProfileChoice::TimescaleDb,
        Profile::PostgreSql => ProfileChoice::PostgreSql,
    }
}
