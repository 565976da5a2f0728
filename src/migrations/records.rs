//! The table `usage_schema_migrations`: what has been applied, as what, from which text, and when.
//!
//! A record is written in the transaction of the migration that it speaks of, so neither exists without the other.

use std::time::SystemTime;

use postgres::{Client, GenericClient, Row, Transaction};

use super::{MigrateError, Migration, Profile, files};

/// One applied migration.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) version: i32,
    pub(super) name: String,
    pub(super) profile: Profile,
    /// SHA-256 of the text that was applied, in hexadecimal.
    pub(super) checksum: String,
    pub(super) applied_at: SystemTime,
}

impl Record {
    /// Number and name as in the file's name.
    pub(super) fn label(&self) -> String {
        files::label(self.version, &self.name)
    }
}

/// Makes the table where it is missing.
pub(super) fn create_table(client: &mut impl GenericClient) -> Result<(), MigrateError> {
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS usage_schema_migrations (
                 version    integer     PRIMARY KEY,
                 name       text        NOT NULL,
                 profile    text        NOT NULL,
                 sha256     text        NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT now()
             )",
        )
        .map_err(|source| MigrateError::Records { source })
}

/// All records, oldest migration first; none when the table is not there yet.
pub(super) fn read(client: &mut Client) -> Result<Vec<Record>, MigrateError> {
    let rows = query(client).map_err(|source| MigrateError::Records { source })?;
    rows.iter().map(parse).collect()
}

fn query(client: &mut Client) -> Result<Vec<Row>, postgres::Error> {
    let exists = client.query_one("SELECT to_regclass('usage_schema_migrations') IS NOT NULL", &[])?;
    if !exists.try_get::<_, bool>(0)? {
        return Ok(Vec::new());
    }
    client.query(
        "SELECT version, name, profile, sha256, applied_at FROM usage_schema_migrations ORDER BY version",
        &[],
    )
}

fn parse(row: &Row) -> Result<Record, MigrateError> {
    let read = || -> Result<_, postgres::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?))
    };
    let (version, name, profile, checksum, applied_at): (i32, String, String, String, SystemTime) =
        read().map_err(|source| MigrateError::Records { source })?;
    let Some(profile) = Profile::from_name(&profile) else {
        return Err(MigrateError::UnknownProfile { migration: files::label(version, &name), profile });
    };
    Ok(Record { version, name, profile, checksum, applied_at })
}

/// Records that `migration` is applied, with its transaction.
pub(super) fn insert(
    transaction: &mut Transaction<'_>,
    migration: &Migration,
    profile: Profile,
) -> Result<(), postgres::Error> {
    transaction.execute(
        "INSERT INTO usage_schema_migrations (version, name, profile, sha256) VALUES ($1, $2, $3, $4)",
        &[&migration.version, &migration.name, &profile.as_str(), &migration.checksum()],
    )?;
    Ok(())
}

/// Forgets `migration`, with the transaction that reverses it.
pub(super) fn delete(
    transaction: &mut Transaction<'_>,
    migration: &Migration,
) -> Result<(), postgres::Error> {
    transaction.execute("DELETE FROM usage_schema_migrations WHERE version = $1", &[&migration.version])?;
    Ok(())
}
