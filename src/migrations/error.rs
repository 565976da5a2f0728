//! What can go wrong while the schema is read or changed. Named by the operation; each message that a user can act
//! on says how. The server's own error is the source, never part of the message.

use std::error::Error as _;
use std::time::Duration;

use super::Profile;

impl MigrateError {
    /// What the server or the client said, if it was about that.
    pub fn server_error(&self) -> Option<&postgres::Error> {
        self.source()?.downcast_ref()
    }
}

/// A migration command, or the check of the schema at start, that failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The server did not say what it is.
    #[error("asking the server for its version and extensions")]
    Detect {
        /// The server's or the client's error.
        source: postgres::Error,
    },
    /// Another process is migrating the same database.
    #[error(
        "another process has been migrating this database for more than {waited:?}: try again when it is done"
    )]
    LockBusy {
        /// How long this process waited.
        waited: Duration,
    },
    /// The advisory lock was not to be had for another reason than time.
    #[error("taking or releasing the migration lock")]
    Lock {
        /// The server's or the client's error.
        source: postgres::Error,
    },
    /// The table of applied migrations is there and unreadable, or cannot be made.
    #[error("reading or creating the table usage_schema_migrations")]
    Records {
        /// The server's or the client's error.
        source: postgres::Error,
    },
    /// The limits of what is folded and retained are unreadable.
    #[error("reading the table usage_bounds; a writer's role is granted it by usage_grant_writer()")]
    Bounds {
        /// The server's or the client's error.
        source: postgres::Error,
    },
    /// A record names a profile that this program does not know.
    #[error(
        "migration {migration} is recorded with the profile {profile:?}, which this program does not know"
    )]
    UnknownProfile {
        /// Number and name.
        migration: String,
        /// The word in the record.
        profile: String,
    },
    /// The profile was fixed by the first migration.
    #[error("the database was migrated as {migrated_as}, it cannot become {wanted}")]
    ProfileMismatch {
        /// What the records say.
        migrated_as: Profile,
        /// What was asked for.
        wanted: Profile,
    },
    /// TimescaleDB was asked for, and the server has no such extension.
    #[error("the server does not have the extension timescaledb: install it, or choose --profile postgresql")]
    ExtensionAbsent,
    /// The extension's files are installed, its library is not loaded.
    #[error(
        "the extension timescaledb is installed but not loaded: add it to shared_preload_libraries and restart the \
         server, or choose --profile postgresql"
    )]
    ExtensionNotLoaded,
    /// `CREATE EXTENSION` failed.
    #[error("creating the extension timescaledb: a superuser can do it beforehand")]
    CreateExtension {
        /// The server's error.
        source: postgres::Error,
    },
    /// The extension lacks what the schema needs: it is too old.
    #[error(
        "TimescaleDB {version} cannot carry the schema, which takes {minimum} or newer: install a newer one and \
         `ALTER EXTENSION timescaledb UPDATE`, or choose --profile postgresql"
    )]
    ExtensionOld {
        /// The version that is created in the database.
        version: String,
        /// The oldest version that will do.
        minimum: &'static str,
    },
    /// The extension lacks what the schema needs: it has neither compression nor jobs.
    #[error(
        "TimescaleDB {version} runs as its Apache edition, and the schema takes compression and jobs of the Community \
         edition: install that and set timescaledb.license = 'timescale' in postgresql.conf, or choose --profile \
         postgresql"
    )]
    ExtensionApache {
        /// The version that is created in the database.
        version: String,
    },
    /// There is a table of that name, of another program.
    #[error(
        "there is a table usage_events that no migration of this program has made: `usage-processor migrate adopt` takes \
         it over with its rows"
    )]
    ForeignTable,
    /// There is no such table.
    #[error("there is no table usage_events to adopt: `usage-processor migrate up` makes one")]
    NothingToAdopt,
    /// What the database holds could not be read.
    #[error("reading what is in the database")]
    Inspect {
        /// The server's or the client's error.
        source: postgres::Error,
    },
    /// The table to adopt is not such that nothing would be lost or doubled.
    #[error(
        "usage_events cannot be adopted as it is, and nothing was changed (see migrations/ADOPTING.md):{obstacles}"
    )]
    Unadoptable {
        /// All of them, a line each.
        obstacles: String,
    },
    /// A step of the adoption failed.
    #[error("adopting usage_events: {step}")]
    Adopt {
        /// In words.
        step: String,
        /// The server's error.
        source: postgres::Error,
    },
    /// The text of an applied migration differs from the text that was applied.
    #[error(
        "migration {migration} was changed after it was applied: restore its text and add a new migration instead"
    )]
    Changed {
        /// Number and name.
        migration: String,
    },
    /// A newer program applied the migration, and only that one can reverse it.
    #[error("migration {migration} is not known to this program: a newer one applied it")]
    Unknown {
        /// Number and name.
        migration: String,
    },
    /// A migration failed; it left nothing behind.
    #[error("applying migration {migration}")]
    Apply {
        /// Number and name.
        migration: String,
        /// The server's error.
        source: postgres::Error,
    },
    /// The reversal of a migration failed; it left everything as it was.
    #[error("reverting migration {migration}")]
    Revert {
        /// Number and name.
        migration: String,
        /// The server's error.
        source: postgres::Error,
    },
    /// No migration is recorded.
    #[error("the database has no usage schema: run `usage-processor migrate up`")]
    NotMigrated,
    /// The schema is older than the program.
    #[error("the database lacks migration {migration}: run `usage-processor migrate up`")]
    Behind {
        /// Number and name of the first one that is missing.
        migration: String,
    },
}
