//! Databases of a measurement's own, on the server that is shared by all, and what the server says it took.

use std::cell::Cell;
use std::process::Command;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use postgres::{Client, NoTls};
use usage_processor::migrations::{self, ProfileChoice};
use usage_processor::secondary_indexes::{self, SecondaryIndexes};

use crate::Result;
use crate::args::Args;
use crate::cost::ServerCost;

/// What rows are written into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// The schema as it is migrated.
    Indexed,
    /// The same with the secondary indexes left for later: the unique key alone.
    Deferred,
    /// A table of the same columns without any key, partition or trigger.
    Heap,
}

/// The server, and what databases on it are to be like.
#[derive(Debug)]
pub(crate) struct Server {
    url: String,
    profile: ProfileChoice,
    pub(crate) layout: Layout,
    settings: Vec<(String, String)>,
    million_rows: u32,
    created: Cell<u32>,
}

/// A migrated database; dropped with this.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) client: Client,
    name: String,
    server_url: String,
}

impl Server {
    pub(crate) fn new(args: &Args) -> Result<Self> {
        let settings = args.server_setting.iter().map(|setting| {
            let (name, value) = setting.split_once('=').ok_or("--server-setting wants NAME=VALUE")?;
            Ok((name.to_owned(), value.to_owned()))
        });
        Ok(Self {
            url: args.database_url.clone(),
            profile: args.profile,
            layout: args.layout,
            settings: settings.collect::<Result<_>>()?,
            million_rows: args.million_rows,
            created: Cell::new(0),
        })
    }

    /// Gives the server these settings and none that another run has given it; starts it again if one of them asks for that.
    pub(crate) fn configure(&self) -> Result<()> {
        /// Until its processes have read the file.
        const RELOAD: Duration = Duration::from_millis(500);
        let mut admin = self.connect()?;
        admin.batch_execute("ALTER SYSTEM RESET ALL")?;
        for (setting, value) in &self.settings {
            admin.batch_execute(&format!("ALTER SYSTEM SET {setting} = '{value}'"))?;
        }
        admin.batch_execute("SELECT pg_reload_conf()")?;
        thread::sleep(RELOAD);
        let asks = self.connect()?.query_one(
            "SELECT coalesce(bool_or(pending_restart), false), current_setting('data_directory') FROM pg_settings",
            &[],
        )?;
        if asks.try_get(0)? {
            let directory: String = asks.try_get(1)?;
            let directory = directory.strip_suffix("/data").unwrap_or(&directory);
            for action in [&["stop", directory, "fast"][..], &["start", directory]] {
                if !Command::new("tests/servers/postgres").args(action).status()?.success() {
                    return Err(format!("tests/servers/postgres {} failed", action.join(" ")).into());
                }
            }
        }
        Ok(())
    }

    /// A new one, and a checkpoint behind it: each measurement begins with the same room in the WAL.
    pub(crate) fn create(&self) -> Result<Database> {
        let number = self.created.replace(self.created.get() + 1);
        let name = format!("usage_bench_{}_{number}", std::process::id());
        let mut admin = self.connect()?;
        admin.batch_execute(&format!("CREATE DATABASE {name}"))?;
        admin.batch_execute(&format!("ALTER DATABASE {name} SET track_wal_io_timing = 'on'"))?;
        let base = self.url.rsplit_once('/').map_or(self.url.as_str(), |(base, _)| base);
        let url = format!("{base}/{name}");
        let mut client = url.parse::<postgres::Config>()?.connect(NoTls)?;
        migrations::up(&mut client, self.profile)?;
        match self.layout {
            Layout::Indexed => {}
            Layout::Deferred => {
                secondary_indexes::switch(&mut client, SecondaryIndexes::Deferred)?;
            }
            Layout::Heap => client.batch_execute(BARE_HEAP)?,
        }
        if self.million_rows > 0 {
            fill(&mut client, self.million_rows)?;
        }
        admin.batch_execute("CHECKPOINT")?;
        Ok(Database { url, client, name, server_url: self.url.clone() })
    }

    pub(crate) fn connect(&self) -> Result<Client> {
        Ok(self.url.parse::<postgres::Config>()?.connect(NoTls)?)
    }

    /// What the server's processes have used so far.
    pub(crate) fn cost(&self) -> Result<ServerCost> {
        ServerCost::of(&mut self.connect()?)
    }
}

impl Database {
    /// Rows, and the seconds from the first transaction's start to the last one's commit, by the database's clock.
    pub(crate) fn rows_and_seconds(&mut self) -> Result<(i64, f64)> {
        let written = self.client.query_one(
            "SELECT count(*), coalesce(extract(epoch FROM max(pg_xact_commit_timestamp(xmin)) - min(created_at)), 0)::float8
               FROM usage_events WHERE created_at >= (SELECT max(applied_at) FROM usage_schema_migrations)",
            &[],
        )?;
        Ok((written.try_get(0)?, written.try_get(1)?))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // With FORCE: our own session is still in it.
        let dropped =
            self.server_url.parse::<postgres::Config>().and_then(|config| config.connect(NoTls)).and_then(
                |mut admin| {
                    admin.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))
                },
            );
        if let Err(error) = dropped {
            log::warn!("dropping the database {}: {error}", self.name);
        }
    }
}

const BARE_HEAP: &str = "ALTER TABLE usage_events RENAME TO usage_events_keyed;
     CREATE TABLE usage_events (LIKE usage_events_keyed INCLUDING DEFAULTS);";

/// Rows of the same day, in organizations of their own, folded as far as anybody can see. Triggers are off, and secondary
/// indexes are made afterwards.
fn fill(client: &mut Client, million_rows: u32) -> Result<()> {
    let secondary = client.query(
        "SELECT indexname::text, indexdef FROM pg_indexes
          WHERE schemaname = current_schema() AND tablename = 'usage_events' AND indexdef NOT LIKE 'CREATE UNIQUE %'",
        &[],
    )?;
    for index in &secondary {
        client.batch_execute(&format!("DROP INDEX {}", index.try_get::<_, String>(0)?))?;
    }
    client.batch_execute(&format!(
        "SET session_replication_role = replica;
         INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                                   response_time_ms, billable, weight, created_at)
         SELECT day + i * ((now() - INTERVAL '30 minutes' - day) / ({million_rows} * 1e6)), gen_random_uuid()::text,
                md5('organization' || i % 1000)::uuid, md5('key' || i % 3000)::uuid, '/v1/things/' || i % 50, 'GET', 200, 12,
                true, 1, 'epoch'
           FROM date_trunc('day', now(), 'UTC') AS day, generate_series(1, {million_rows} * 1000000) AS i;
         RESET session_replication_role;
         UPDATE usage_bounds SET folded_until = now() - INTERVAL '20 minutes', folding_until = now() - INTERVAL '20 minutes'"
    ))?;
    for index in &secondary {
        client.batch_execute(index.try_get(1)?)?;
    }
    Ok(client.batch_execute("VACUUM (ANALYZE) usage_events")?)
}
