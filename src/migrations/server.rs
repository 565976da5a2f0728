//! What the server is and which profile it can carry: the choice between TimescaleDB and plain PostgreSQL.
//!
//! Detection asks the server once; the decision itself is pure. A database that has been migrated stays what it
//! was migrated as, whatever the server offers later.

use std::fmt;

use clap::ValueEnum;
use postgres::Client;

use super::{MigrateError, records};

/// Which of the two schemas a database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Hypertable, compression, jobs.
    TimescaleDb,
    /// Native daily partitions.
    PostgreSql,
}

impl Profile {
    /// The name of its folder under `migrations/`, of its record in the database, and of the option's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TimescaleDb => "timescaledb",
            Self::PostgreSql => "postgresql",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::TimescaleDb, Self::PostgreSql].into_iter().find(|profile| profile.as_str() == name)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which schema the user asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ProfileChoice {
    /// What the database was migrated as; on a new one TimescaleDB where the server has it, else plain PostgreSQL.
    #[default]
    Auto,
    /// A hypertable with compression and jobs.
    #[value(name = "timescaledb")]
    TimescaleDb,
    /// Native daily partitions: needs no extension.
    #[value(name = "postgresql")]
    PostgreSql,
}

/// How much of TimescaleDB the database has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimescaleDb {
    /// The server has no such extension.
    Absent,
    /// Its files are installed, but the server did not load its library at start.
    NotLoaded,
    /// It can be created in the database.
    Offered,
    /// It is created in the database, in this version.
    Created {
        /// Such as `2.28.3`.
        version: String,
    },
}

/// What a connection turned out to lead to. Displays as the end of the sentence "Connected to ...".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// Such as `15.20`.
    pub postgres_version: String,
    /// How much of TimescaleDB the database has.
    pub timescaledb: TimescaleDb,
    /// The profile of the schema; `None` before the first migration.
    pub migrated_as: Option<Profile>,
}

/// The oldest TimescaleDB that can carry the schema: the first whose hypertables have triggers with transition
/// tables, by which late events are noticed.
const TIMESCALEDB_MIN: (u32, u32) = (2, 18);
const TIMESCALEDB_MIN_NAME: &str = "2.18";

impl ServerInfo {
    /// Asks the server what it is, and the database what it was migrated as.
    ///
    /// # Errors
    /// When the server cannot be asked, or the records of the migrations cannot be read.
    pub fn detect(client: &mut Client) -> Result<Self, MigrateError> {
        let (postgres_version, timescaledb) =
            ask(client).map_err(|source| MigrateError::Detect { source })?;
        let migrated_as = records::read(client)?.last().map(|record| record.profile);
        Ok(Self { postgres_version, timescaledb, migrated_as })
    }

    /// The profile that `choice` means on this server.
    ///
    /// # Errors
    /// When the database was migrated as the other one, or the server lacks what the profile needs. An extension that is
    /// installed but not loaded is an error for `Auto` too: it is most likely a forgotten line of configuration, and
    /// the choice is made for good.
    pub fn profile_for(&self, choice: ProfileChoice) -> Result<Profile, MigrateError> {
        let wanted = match (choice, self.migrated_as, &self.timescaledb) {
            (ProfileChoice::Auto, Some(migrated_as), _) => migrated_as,
            (ProfileChoice::Auto, None, TimescaleDb::Absent) | (ProfileChoice::PostgreSql, ..) => {
                Profile::PostgreSql
            }
            (ProfileChoice::Auto, None, _) | (ProfileChoice::TimescaleDb, ..) => Profile::TimescaleDb,
        };
        match (wanted, self.migrated_as, &self.timescaledb) {
            (_, Some(migrated_as), _) if migrated_as != wanted => {
                Err(MigrateError::ProfileMismatch { migrated_as, wanted })
            }
            (Profile::TimescaleDb, _, TimescaleDb::Absent) => Err(MigrateError::ExtensionAbsent),
            (Profile::TimescaleDb, _, TimescaleDb::NotLoaded) => Err(MigrateError::ExtensionNotLoaded),
            _ => Ok(wanted),
        }
    }
}

impl fmt::Display for ServerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let postgres = &self.postgres_version;
        match (self.migrated_as, &self.timescaledb) {
            (None | Some(Profile::TimescaleDb), TimescaleDb::Created { version }) => {
                write!(f, "TimescaleDB {version} on PostgreSQL {postgres}")
            }
            (None, TimescaleDb::Offered | TimescaleDb::NotLoaded) => {
                write!(f, "PostgreSQL {postgres} (no usage schema yet)")
            }
            (_, TimescaleDb::Absent) => {
                write!(f, "PostgreSQL {postgres} (portable profile: no TimescaleDB extension)")
            }
            _ => write!(f, "PostgreSQL {postgres} (portable profile: TimescaleDB extension not used)"),
        }
    }
}

fn ask(client: &mut Client) -> Result<(String, TimescaleDb), postgres::Error> {
    // The library defines its settings when the server loads it, before any database has the extension.
    let row = client.query_one(
        "SELECT split_part(current_setting('server_version'), ' ', 1),
                (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
                EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb'),
                current_setting('timescaledb.disable_load', true) IS NOT NULL",
        &[],
    )?;
    let timescaledb = match (row.try_get::<_, Option<String>>(1)?, row.try_get(2)?, row.try_get(3)?) {
        (Some(version), _, _) => TimescaleDb::Created { version },
        (None, false, _) => TimescaleDb::Absent,
        (None, true, false) => TimescaleDb::NotLoaded,
        (None, true, true) => TimescaleDb::Offered,
    };
    Ok((row.try_get(0)?, timescaledb))
}

/// Creates the extension where it is missing, and refuses one that lacks what the schema needs.
pub(super) fn prepare_timescaledb(client: &mut Client) -> Result<(), MigrateError> {
    client
        .batch_execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        .map_err(|source| MigrateError::CreateExtension { source })?;
    let ask_edition = |client: &mut Client| -> Result<(String, String), postgres::Error> {
        let row = client.query_one(
            "SELECT extversion, coalesce(current_setting('timescaledb.license', true), '')
             FROM pg_extension WHERE extname = 'timescaledb'",
            &[],
        )?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    };
    let (version, license) = ask_edition(client).map_err(|source| MigrateError::Detect { source })?;
    if license == "apache" {
        Err(MigrateError::ExtensionApache { version })
    } else if is_new_enough(&version) {
        Ok(())
    } else {
        Err(MigrateError::ExtensionOld { version, minimum: TIMESCALEDB_MIN_NAME })
    }
}

/// Whether this version has triggers, compression and jobs as the schema uses them.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    (major, minor) >= TIMESCALEDB_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(timescaledb: TimescaleDb, migrated_as: Option<Profile>) -> ServerInfo {
        ServerInfo { postgres_version: "15.20".into(), timescaledb, migrated_as }
    }

    fn created() -> TimescaleDb {
        TimescaleDb::Created { version: "2.28.3".into() }
    }

    #[test]
    fn auto_takes_timescaledb_where_the_server_has_it() {
        let auto = |timescaledb| server(timescaledb, None).profile_for(ProfileChoice::Auto);
        assert_eq!(auto(TimescaleDb::Absent).unwrap(), Profile::PostgreSql);
        assert_eq!(auto(TimescaleDb::Offered).unwrap(), Profile::TimescaleDb);
        assert_eq!(auto(created()).unwrap(), Profile::TimescaleDb);
        assert!(matches!(auto(TimescaleDb::NotLoaded), Err(MigrateError::ExtensionNotLoaded)));
    }

    #[test]
    fn a_migrated_database_stays_what_it_is() {
        let portable = server(TimescaleDb::Offered, Some(Profile::PostgreSql));
        assert_eq!(portable.profile_for(ProfileChoice::Auto).unwrap(), Profile::PostgreSql);
        assert_eq!(portable.profile_for(ProfileChoice::PostgreSql).unwrap(), Profile::PostgreSql);
        let error = portable.profile_for(ProfileChoice::TimescaleDb).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the database was migrated as postgresql, it cannot become timescaledb"
        );
    }

    #[test]
    fn timescaledb_is_not_promised_where_the_server_lacks_it() {
        let absent = server(TimescaleDb::Absent, None).profile_for(ProfileChoice::TimescaleDb);
        assert!(matches!(absent, Err(MigrateError::ExtensionAbsent)));
    }

    #[test]
    fn the_log_says_which_profile_is_used() {
        let line = |timescaledb, profile| server(timescaledb, Some(profile)).to_string();
        assert_eq!(line(created(), Profile::TimescaleDb), "TimescaleDB 2.28.3 on PostgreSQL 15.20");
        assert_eq!(
            line(TimescaleDb::Absent, Profile::PostgreSql),
            "PostgreSQL 15.20 (portable profile: no TimescaleDB extension)"
        );
        assert_eq!(
            line(created(), Profile::PostgreSql),
            "PostgreSQL 15.20 (portable profile: TimescaleDB extension not used)"
        );
    }

    #[test]
    fn before_the_first_migration_no_profile_is_claimed() {
        let line = server(TimescaleDb::Offered, None).to_string();
        assert_eq!(line, "PostgreSQL 15.20 (no usage schema yet)");
    }

    #[test]
    fn an_old_extension_is_unfit() {
        for (version, is_fit) in [
            ("2.28.3", true),
            ("2.18.0", true),
            ("2.23.0-dev", true),
            ("2.17.2", false),
            ("1.7.5", false),
            ("nightly", false),
        ] {
            assert_eq!(is_new_enough(version), is_fit, "{version}");
        }
    }
}
