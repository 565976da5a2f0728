//! Owns the database schema: the SQL of `migrations/`, embedded, and its application in order.
//!
//! Runs on the thread that called it, on a connection that the caller made. In goes a connected client, out come the
//! migrations that were applied or reverted. It promises that only one process migrates at a time (a session advisory
//! lock), that a migration and its record are one transaction, so that an interrupted run continues where it
//! stopped, and that a migration that was changed after it was applied is refused by name.
//!
//! The profile is chosen once, by the first `up`; afterwards the database is what it was migrated as.

mod adopt;
mod error;
mod files;
mod lock;
mod records;
mod server;

use std::time::SystemTime;

use postgres::{Client, GenericClient};

pub use adopt::{AdoptOptions, Adoption, adopt};
pub use error::MigrateError;
pub use files::Migration;
pub use lock::{LOCK_KEY, LOCK_WAIT, with_lock};
pub use server::{Profile, ProfileChoice, ServerInfo, TimescaleDb};

use records::Record;

/// One line of `migrate status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Number and name, such as `004_create_usage_events`.
    pub migration: String,
    /// The profile it was, or would be, applied in.
    pub profile: Profile,
    /// Where it stands.
    pub state: State,
}

/// Where one migration stands in one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not applied yet.
    Pending,
    /// Applied at this time, from the text that is embedded here.
    Applied(SystemTime),
    /// Applied at this time, from another text than the one that is embedded here.
    Changed(SystemTime),
    /// Applied at this time by a newer program: this one does not know it.
    Unknown(SystemTime),
}

/// Applies every migration that is missing, oldest first, and returns those it applied.
///
/// A `usage_events` that no migration has made is refused: [`adopt()`] takes it over. On a database that is migrated already,
/// `choice` must be `Auto` or what it was migrated as. Migrations of a newer
/// program are let be, so that instances of two versions can share a database during an upgrade.
///
/// # Errors
/// When another process migrates for longer than [`LOCK_WAIT`], when the server cannot carry the profile, when an
/// applied migration was changed since, or when a migration fails; those before it stay applied.
pub fn up(client: &mut Client, choice: ProfileChoice) -> Result<Vec<&'static Migration>, MigrateError> {
    up_with(client, choice, &mut |_| {})
}

/// The same, and calls `on_begin` before each migration.
///
/// # Errors
/// As for [`up`].
pub fn up_with(
    client: &mut Client,
    choice: ProfileChoice,
    on_begin: &mut dyn FnMut(&Migration),
) -> Result<Vec<&'static Migration>, MigrateError> {
    with_lock(client, LOCK_WAIT, |client| {
        let profile = ServerInfo::detect(client)?.profile_for(choice)?;
        if adopt::has_foreign_table(client)? {
            return Err(MigrateError::ForeignTable);
        }
        if profile == Profile::TimescaleDb {
            server::prepare_timescaledb(client)?;
        }
        records::create_table(client)?;
        let recorded = records::read(client)?;
        refuse_changed(&recorded, profile)?;

        let mut applied = Vec::new();
        for migration in files::of(profile) {
            if !recorded.iter().any(|record| record.version == migration.version) {
                on_begin(migration);
                apply(client, migration, profile)?;
                applied.push(migration);
            }
        }
        Ok(applied)
    })
}

/// Reverses the newest applied migration and returns it; `None` when none is applied.
///
/// # Errors
/// As for [`up`], and when the newest migration is one that this program does not know.
pub fn down(client: &mut Client) -> Result<Option<&'static Migration>, MigrateError> {
    with_lock(client, LOCK_WAIT, |client| {
        let recorded = records::read(client)?;
        let Some(newest) = recorded.last() else {
            return Ok(None);
        };
        refuse_changed(&recorded, newest.profile)?;
        let migration = files::find(newest.profile, newest.version)
            .ok_or_else(|| MigrateError::Unknown { migration: newest.label() })?;
        revert(client, migration)?;
        Ok(Some(migration))
    })
}

/// The newest applied migration, and the tables with rows in them that [`down`] would drop with it.
///
/// # Errors
/// When the database cannot be read.
pub fn rows_at_stake(client: &mut Client) -> Result<Option<(String, Vec<String>)>, MigrateError> {
    let recorded = records::read(client)?;
    let newest = recorded.last().and_then(|newest| files::find(newest.profile, newest.version));
    let Some(migration) = newest else {
        return Ok(None);
    };
    let mut tables = Vec::new();
    for name in migration.tables_dropped() {
        let has_rows = |client: &mut Client| -> Result<bool, postgres::Error> {
            let exists = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name])?;
            let sql = format!("SELECT EXISTS (SELECT FROM {name})");
            Ok(exists.try_get(0)? && client.query_one(&sql, &[])?.try_get(0)?)
        };
        // Every database has its bounds, which are no records of anything.
        if name != "usage_bounds" && has_rows(client).map_err(|source| MigrateError::Inspect { source })? {
            tables.push(name.to_owned());
        }
    }
    Ok(Some((migration.label(), tables)))
}

/// Lists every migration, known or recorded, oldest first. Takes no lock and changes nothing.
///
/// # Errors
/// When the database cannot be read, or the server cannot carry the profile.
pub fn status(client: &mut Client, choice: ProfileChoice) -> Result<Vec<Status>, MigrateError> {
    let profile = ServerInfo::detect(client)?.profile_for(choice)?;
    let recorded = records::read(client)?;
    let pending = files::of(profile)
        .iter()
        .filter(|migration| !recorded.iter().any(|record| record.version == migration.version))
        .map(|migration| Status { migration: migration.label(), profile, state: State::Pending });
    let mut list: Vec<Status> = recorded.iter().map(status_of).chain(pending).collect();
    list.sort_by(|a, b| a.migration.cmp(&b.migration));
    Ok(list)
}

/// Checks that the schema is the one this program was built for, and returns the server it found.
///
/// # Errors
/// When a migration is missing or was changed; the message names the command that helps.
pub fn ensure_current(client: &mut Client) -> Result<ServerInfo, MigrateError> {
    let server = ServerInfo::detect(client)?;
    let profile = server.migrated_as.ok_or(MigrateError::NotMigrated)?;
    let recorded = records::read(client)?;
    refuse_changed(&recorded, profile)?;
    let missing = files::of(profile)
        .iter()
        .find(|migration| !recorded.iter().any(|record| record.version == migration.version));
    match missing {
        Some(migration) => Err(MigrateError::Behind { migration: migration.label() }),
        None => Ok(server),
    }
}

/// A changed file means that the database is not what the text says it is: nothing may be built on it.
fn refuse_changed(recorded: &[Record], profile: Profile) -> Result<(), MigrateError> {
    let changed = recorded.iter().find(|record| {
        files::find(profile, record.version).is_some_and(|migration| migration.checksum() != record.checksum)
    });
    match changed {
        Some(record) => Err(MigrateError::Changed { migration: record.label() }),
        None => Ok(()),
    }
}

fn status_of(record: &Record) -> Status {
    let at = record.applied_at;
    let state = match files::find(record.profile, record.version) {
        None => State::Unknown(at),
        Some(migration) if migration.checksum() != record.checksum => State::Changed(at),
        Some(_) => State::Applied(at),
    };
    Status { migration: record.label(), profile: record.profile, state }
}

fn apply(
    client: &mut impl GenericClient,
    migration: &Migration,
    profile: Profile,
) -> Result<(), MigrateError> {
    let mut run = || {
        let mut transaction = client.transaction()?;
        transaction.batch_execute(migration.up)?;
        records::insert(&mut transaction, migration, profile)?;
        transaction.commit()
    };
    run().map_err(|source| MigrateError::Apply { migration: migration.label(), source })
}

fn revert(client: &mut Client, migration: &Migration) -> Result<(), MigrateError> {
    let mut run = || {
        let mut transaction = client.transaction()?;
        transaction.batch_execute(migration.down)?;
        records::delete(&mut transaction, migration)?;
        transaction.commit()
    };
    run().map_err(|source| MigrateError::Revert { migration: migration.label(), source })
}
