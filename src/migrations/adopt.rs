//! Takes over a `usage_events` that another program made, with its rows and with what only its aggregates still know.
//!
//! Reads the table and makes a plan: steps, notes, and obstacles, of which one is enough to change nothing. Then all steps,
//! all migrations and the history are one transaction; only chunks are decompressed before it, and events folded after it,
//! both of which can be interrupted and gone on with. The table is locked meanwhile.

mod history;
mod layout;
mod table;

use postgres::{Client, GenericClient, Transaction};

use super::{MigrateError, Profile, ProfileChoice, ServerInfo, TimescaleDb, files, records, server};
use super::{apply, with_lock};
use crate::migrations::LOCK_WAIT;

/// What the user has decided beforehand.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdoptOptions {
    /// Only say what would be done.
    pub is_dry_run: bool,
    /// Where an old aggregate counts more than there are rows, believe the rows.
    pub is_rows_win: bool,
    /// Leave what only the old aggregates know behind.
    pub is_without_history: bool,
}

/// One thing to do, in words and in SQL.
#[derive(Debug)]
struct Step {
    what: String,
    sql: String,
}

/// What was found, and what follows from it.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<Step>,
    /// Of the old aggregates, in no order yet.
    history_steps: Vec<Step>,
    /// For when keys without the organization are gone.
    layout_steps: Vec<Step>,
    notes: Vec<String>,
    obstacles: Vec<String>,
    /// How long the old policy kept rows, as an interval.
    retention: Option<String>,
    levels: Vec<history::Level>,
    carried: Option<String>,
    is_rows_win: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Adoption {
    /// What was done, or would be, a line each.
    pub lines: Vec<String>,
}

/// Rows are kept this long where no policy says how long.
const KEPT_WITHOUT_POLICY: &str = "100 years";

/// Takes over the table `usage_events`, or says what that would do.
///
/// Run again after an interruption, it goes on; on a database that is ours already it folds what is due.
///
/// # Errors
/// When there is no such table, when it cannot be taken over as it is (all reasons are named), when somebody uses it, or
/// when a step fails; then nothing is changed, but for chunks that are decompressed.
pub fn adopt(
    client: &mut Client,
    choice: ProfileChoice,
    options: AdoptOptions,
) -> Result<Adoption, MigrateError> {
    with_lock(client, LOCK_WAIT, |client| {
        // Days are UTC ones wherever they are written, and what a fold reads must not be older than its lock.
        client
            .batch_execute("SET timezone = 'UTC'; SET default_transaction_isolation = 'read committed'")
            .map_err(|source| MigrateError::Inspect { source })?;
        let server = ServerInfo::detect(client)?;
        let profile = server.profile_for(choice)?;
        let mut lines = Vec::new();
        if server.migrated_as.is_none() {
            if !has_foreign_table(client)? {
                return Err(MigrateError::NothingToAdopt);
            }
            if profile == Profile::TimescaleDb {
                // Creating the extension here would change the database, and make no hypertable of a table.
                if !matches!(server.timescaledb, TimescaleDb::Created { .. }) {
                    return Err(unadoptable(&[layout::NO_HYPERTABLE.to_owned()]));
                }
                server::prepare_timescaledb(client)?;
            }
            let plan = rehearse(client, profile, options)?;
            if options.is_dry_run {
                lines.extend(describe(&plan, profile));
                return Ok(Adoption { lines });
            }
            if profile == Profile::TimescaleDb {
                decompress(client, &mut lines)?;
            }
            take_over(client, profile, options, &mut lines)?;
        }
        let folded = fold(client)
            .map_err(|source| MigrateError::Adopt { step: "fold the events".to_owned(), source })?;
        lines.push(format!("folded {folded} events into the figures"));
        Ok(Adoption { lines })
    })
}

/// Whether there is a `usage_events` in the schema that no migration of ours has made.
pub(super) fn has_foreign_table(client: &mut Client) -> Result<bool, MigrateError> {
    let ask = |client: &mut Client| -> Result<bool, postgres::Error> {
        client
            .query_one(
                "SELECT to_regclass(quote_ident(current_schema()) || '.usage_events') IS NOT NULL",
                &[],
            )?
            .try_get(0)
    };
    let exists = ask(client).map_err(|source| MigrateError::Inspect { source })?;
    Ok(exists && records::read(client)?.is_empty())
}

/// Reads everything, and leaves nothing behind.
fn rehearse(client: &mut Client, profile: Profile, options: AdoptOptions) -> Result<Plan, MigrateError> {
    let mut run = || {
        let mut transaction =
            client.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start()?;
        let mut plan = read(&mut transaction, profile, options)?;
        if profile == Profile::TimescaleDb {
            let chunk_count = layout::compressed_chunks(&mut transaction)?.len();
            if chunk_count > 0 {
                plan.notes.push(format!(
                    "{chunk_count} chunks are decompressed first, each in a transaction of its own; a policy compresses them \
                     again, in our way"
                ));
            }
        }
        transaction.rollback()?;
        Ok(plan)
    };
    let plan = run().map_err(|source| MigrateError::Inspect { source })?;
    refuse(&plan)?;
    Ok(plan)
}

fn refuse(plan: &Plan) -> Result<(), MigrateError> {
    if plan.obstacles.is_empty() {
        return Ok(());
    }
    Err(unadoptable(&plan.obstacles))
}

fn unadoptable(obstacles: &[String]) -> MigrateError {
    MigrateError::Unadoptable { obstacles: format!("\n  - {}", obstacles.join("\n  - ")) }
}

fn read(
    transaction: &mut Transaction<'_>,
    profile: Profile,
    options: AdoptOptions,
) -> Result<Plan, postgres::Error> {
    let mut plan = Plan { is_rows_win: options.is_rows_win, ..Plan::default() };
    for name in texts(transaction, &names_taken(profile))? {
        plan.obstacle(format!("{name} is there already, and its name is needed: rename it"));
    }
    layout::read(transaction, profile, &mut plan)?;
    table::read(transaction, &mut plan)?;
    let layout_steps = std::mem::take(&mut plan.layout_steps);
    plan.steps.extend(layout_steps);
    if plan.obstacles.is_empty() {
        history::read(transaction, &mut plan, !options.is_without_history)?;
    }
    if !texts(transaction, "SELECT to_regprocedure('get_current_month_usage(uuid)')::text")?.is_empty() {
        plan.step(
            "call the function get_current_month_usage adopted_get_current_month_usage".to_owned(),
            "ALTER FUNCTION get_current_month_usage(uuid) RENAME TO adopted_get_current_month_usage"
                .to_owned(),
        );
    }
    for name in texts(
        transaction,
        "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'usage_events'::regclass AND NOT tgisinternal
            AND tgname NOT IN ('ts_insert_blocker', 'ts_cagg_invalidation_trigger')",
    )? {
        plan.note(format!("the trigger {name} stays: the writer waits for ever for a row that it refuses"));
    }
    Ok(plan)
}

/// Asks which tables and views of ours have a namesake, and which copies of old aggregates.
fn names_taken(profile: Profile) -> String {
    let made = ["CREATE TABLE IF NOT EXISTS ", "CREATE OR REPLACE VIEW "];
    let mut names: Vec<&str> = files::of(profile)
        .iter()
        .flat_map(|migration| {
            made.iter().flat_map(|words| {
                migration.up.split(words).skip(1).filter_map(|rest| rest.split([' ', '(', '\n']).next())
            })
        })
        .filter(|name| !["usage_events", "usage_hourly", "usage_daily", "usage_monthly"].contains(name))
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        .collect();
    names.extend(["adopted_usage_hourly", "adopted_usage_daily", "adopted_usage_monthly"]);
    format!(
        "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace
            AND relname IN ('{}') ORDER BY 1",
        names.join("', '")
    )
}

fn describe(plan: &Plan, profile: Profile) -> impl Iterator<Item = String> {
    let retention = plan.retention.as_deref().unwrap_or(KEPT_WITHOUT_POLICY);
    let steps = plan.steps.iter().flat_map(|step| [format!("{}:", step.what), format!("    {};", step.sql)]);
    let rest = [
        format!("apply all migrations of the profile {profile}"),
        format!("keep rows for {retention}:"),
        format!("    UPDATE usage_bounds SET retention = '{retention}';"),
        "carry over what only the old aggregates know, and fold the events".to_owned(),
    ];
    plan.notes
        .iter()
        .map(|note| format!("note: {note}"))
        .chain(steps)
        .chain(rest)
        .collect::<Vec<_>>()
        .into_iter()
}

fn decompress(client: &mut Client, lines: &mut Vec<String>) -> Result<(), MigrateError> {
    let mut run = || {
        let chunks = layout::compressed_chunks(client)?;
        if !chunks.is_empty() {
            layout::pause_compression(client)?;
        }
        for chunk in &chunks {
            client.execute("SELECT decompress_chunk($1::text::regclass, true)", &[chunk])?;
        }
        Ok(chunks.len())
    };
    let count =
        run().map_err(|source| MigrateError::Adopt { step: "decompress the chunks".to_owned(), source })?;
    if count > 0 {
        lines.push(format!("decompressed {count} chunks"));
    }
    Ok(())
}

/// All or nothing.
fn take_over(
    client: &mut Client,
    profile: Profile,
    options: AdoptOptions,
    lines: &mut Vec<String>,
) -> Result<(), MigrateError> {
    let failed = |step: &str| {
        let step = step.to_owned();
        move |source| MigrateError::Adopt { step, source }
    };
    let mut transaction = client.transaction().map_err(failed("begin"))?;
    transaction
        .batch_execute(
            "SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = 0;
             LOCK TABLE usage_events IN ACCESS EXCLUSIVE MODE; SET LOCAL lock_timeout = 0",
        )
        .map_err(failed("lock usage_events, which takes that nobody writes or reads it"))?;
    let mut plan =
        read(&mut transaction, profile, options).map_err(|source| MigrateError::Inspect { source })?;
    refuse(&plan)?;
    for step in &plan.steps {
        transaction.batch_execute(&step.sql).map_err(failed(&step.what))?;
        lines.push(step.what.clone());
    }
    records::create_table(&mut transaction)?;
    for migration in files::of(profile) {
        apply(&mut transaction, migration, profile)?;
        lines.push(format!("applied {}", migration.label()));
    }
    let retention = plan.retention.as_deref().unwrap_or(KEPT_WITHOUT_POLICY);
    transaction
        .execute("UPDATE usage_bounds SET retention = greatest($1::text::interval, '1 day')", &[&retention])
        .map_err(failed("keep rows as long as before"))?;
    lines.push(format!("rows are kept for {retention}: usage_bounds.retention"));
    history::carry_over(&mut transaction, &mut plan).map_err(failed("carry the history over"))?;
    refuse(&plan)?;
    if let Some(carried) = &plan.carried {
        lines.push(format!("carried over {carried}, whose rows are gone"));
    }
    lines.extend(plan.notes.iter().map(|note| format!("note: {note}")));
    transaction.commit().map_err(failed("commit"))
}

/// Up to the newest event there is; what comes meanwhile, `run` folds.
fn fold(client: &mut Client) -> Result<i64, postgres::Error> {
    let row = client.query_one("SELECT least(now(), max(time))::text FROM usage_events", &[])?;
    let newest: String = row.try_get(0)?;
    let mut event_count = 0;
    loop {
        let is_more_due: bool =
            client.query_one("SELECT usage_begin_fold($1::text::timestamptz)", &[&newest])?.try_get(0)?;
        event_count += client.query_one("SELECT usage_fold()", &[])?.try_get::<_, i64>(0)?;
        if !is_more_due {
            return Ok(event_count);
        }
    }
}

/// The first column of each row that has a value there.
fn texts(client: &mut impl GenericClient, sql: &str) -> Result<Vec<String>, postgres::Error> {
    let rows = client.query(sql, &[])?;
    rows.iter().filter_map(|row| row.try_get::<_, Option<String>>(0).transpose()).collect()
}

/// As an identifier in SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_migrations_take_are_found_in_them() {
        let sql = names_taken(Profile::TimescaleDb);
        for name in ["usage_bounds", "usage_dead_letters", "usage_endpoint_hourly", "usage_ledger_days"] {
            assert!(sql.contains(&format!("'{name}'")), "{name}: {sql}");
        }
        assert!(!sql.contains("'usage_events'") && !sql.contains("'usage_hourly'"), "{sql}");
    }
}
