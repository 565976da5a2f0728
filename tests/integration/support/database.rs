//! A database of a test's own, on the shared server or on a private one.

use super::{server_address, unique_name};
use postgres::{Client, NoTls};

/// Created empty, dropped at the end together with all connections to it.
#[derive(Debug)]
pub(crate) struct TestDatabase {
    name: String,
    server_url: String,
}

impl TestDatabase {
    /// On the server of `make test`.
    #[track_caller]
    pub(crate) fn create() -> Self {
        Self::create_at(&server_address("TEST_DATABASE_URL"))
    }

    /// On the server of any other URL; the database named in it is used to create the new one.
    #[track_caller]
    pub(crate) fn create_at(server_url: &str) -> Self {
        let database = Self { name: unique_name("test"), server_url: server_url.to_owned() };
        // template0 admits no connections. TimescaleDB's workers visit template1 and would be in the way.
        connect(server_url)
            .batch_execute(&format!("CREATE DATABASE {} TEMPLATE template0", database.name))
            .expect("create the test's database");
        database
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The URL to connect to it, password included.
    pub(crate) fn url(&self) -> String {
        let (server, _) = self.server_url.rsplit_once('/').expect("a URL with a database in it");
        format!("{server}/{}", self.name)
    }

    /// A new connection to it.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        connect(&self.url())
    }

    /// The single number that a query returns, such as a `count(*)`.
    #[track_caller]
    pub(crate) fn count(&self, query: &str) -> i64 {
        self.client().query_one(query, &[]).unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // A private server may be gone already, and its databases with it.
        if let Ok(mut client) = Client::connect(&self.server_url, NoTls)
            && let Err(error) =
                client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))
        {
            eprintln!("the database {} stays: {error}", self.name);
        }
    }
}

/// A connection to the server's own database.
#[track_caller]
pub(crate) fn server_client() -> Client {
    connect(&server_address("TEST_DATABASE_URL"))
}

#[track_caller]
fn connect(url: &str) -> Client {
    Client::connect(url, NoTls).expect("connect to the test's PostgreSQL server")
}
