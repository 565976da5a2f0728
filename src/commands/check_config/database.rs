//! What `check-config` finds out about the database, as the role that `run` connects as. Asking and judging are apart: the
//! latter is pure.

use std::time::SystemTime;

use postgres::Client;
use postgres::error::SqlState;

use super::describe;
use super::finding::Finding;
use crate::commands::connect::{SetupError, connect, open};
use crate::commands::run::retention_warning;
use crate::config::Config;
use crate::error_chain::error_chain;
use crate::maintenance::Bounds;
use crate::migrations::{MigrateError, Profile, ServerInfo};
use crate::secondary_indexes;

/// Clocks that NTP holds differ by milliseconds.
const CLOCK_SKEW_MAX_S: f64 = 1.0;
/// The folder's, and that of whoever asks for a moment.
const CONNECTIONS_BESIDE_WRITERS: usize = 2;

/// What a writer needs, as `usage_grant_writer` gives it.
const ASK: &str = "\
WITH missing (privilege, what) AS (
    SELECT privilege, relation
      FROM unnest(ARRAY['usage_events', 'usage_dead_letters', 'usage_ledger', 'usage_ledger_starts',
                        'usage_ledger_days']) AS relation
     CROSS JOIN unnest(ARRAY['SELECT', 'INSERT']) AS privilege
     WHERE NOT has_table_privilege(relation, privilege)
    UNION ALL
    SELECT 'EXECUTE', routine
      FROM unnest(ARRAY['usage_fold_ledger()', 'usage_begin_fold(timestamptz)', 'usage_fold()']) AS routine
     WHERE NOT has_function_privilege(routine, 'EXECUTE')
    UNION ALL
    SELECT 'TEMPORARY', 'the database' WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
), lists (list) AS (
    SELECT format('%s on %s', privilege, string_agg(what, ', ')) FROM missing GROUP BY privilege ORDER BY privilege DESC
)
SELECT current_user::text, pg_is_in_recovery(),
       current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on',
       current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
           - coalesce(current_setting('reserved_connections', true), '0')::bigint,
       nullif(rolconnlimit, -1)::bigint, (SELECT nullif(datconnlimit, -1)::bigint FROM pg_database
                                           WHERE datname = current_database()),
       coalesce(current_setting('timescaledb.license', true), ''),
       (SELECT coalesce(string_agg(list, '; '), '') FROM lists),
       extract(epoch FROM clock_timestamp())::float8
  FROM pg_roles WHERE rolname = current_user";
const OWNS_TABLES: &str = "SELECT current_user::text, pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'usage_events'::regclass";

/// The server, the database and the role.
#[derive(Debug, Clone)]
struct Facts {
    role: String,
    is_standby: bool,
    has_fsync: bool,
    has_full_page_writes: bool,
    /// Connections that any role may have, and limits of the role and of the database.
    connections_max: i64,
    role_connections_max: Option<i64>,
    database_connections_max: Option<i64>,
    timescaledb_license: String,
    /// Rights that a writer lacks.
    missing: String,
    /// The database's clock minus ours, in seconds, and by how much that may be wrong.
    clock_skew_s: f64,
    clock_error_s: f64,
}

/// What was found of it.
pub(super) struct Look {
    pub(super) findings: Vec<Finding>,
    /// Whether the role may ask the ledger.
    pub(super) has_ledger: bool,
}

/// Asks and judges.
pub(super) fn look(config: &Config) -> Look {
    let (mut client, server) = match open(&config.database) {
        Ok(opened) => opened,
        Err(error) => return Look { findings: vec![not_opened(config, &error)], has_ledger: false },
    };
    let mut findings = vec![Finding::ok("database", format!("{server}, {}", config.database.describe()))];
    findings.push(connection(config, &mut client));
    let mut has_ledger = false;
    match ask(&mut client) {
        Ok(facts) => {
            has_ledger = facts.missing.is_empty();
            findings.extend(judge(config, &facts, &server));
        }
        Err(error) => findings.push(unanswered("database_settings", &error)),
    }
    match Bounds::read(&mut client) {
        Ok(bounds) => findings.push(retention(config, &bounds)),
        Err(error) => findings.push(unanswered("retention", &error)),
    }
    match secondary_indexes::state(&mut client) {
        Ok(state) => findings.push(Finding::ok("indexes", state.to_string())),
        Err(error) => findings.push(unanswered("indexes", &error)),
    }
    if config.maintains {
        findings.push(maintenance(config));
    }
    Look { findings, has_ledger }
}

/// What was negotiated, as the server sees it.
fn connection(config: &Config, client: &mut Client) -> Finding {
    const ASK: &str = "\
SELECT CASE WHEN ssl THEN format('%s, %s', version, cipher) ELSE 'not encrypted' END,
       coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'a socket')
  FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let asked = client
        .query_one(ASK, &[])
        .and_then(|row| Ok(format!("{}, to {}", row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?)));
    match asked {
        Ok(found) => {
            Finding::ok("connection", format!("{found} (sslmode={})", config.database.describe_tls()))
        }
        Err(error) => unanswered("connection", &error),
    }
}

fn not_opened(config: &Config, error: &SetupError) -> Finding {
    const CHECK: &str = "database";
    let (found, target) = (error_chain(error), describe(&config.database));
    match error {
        SetupError::Migrate(MigrateError::NotMigrated | MigrateError::Behind { .. }) => Finding::problem(
            CHECK,
            found,
            "`run` writes only into the schema that it was built for",
            "usage-processor migrate up, as the role that owns the tables (MAINTENANCE_DATABASE_URL)",
        ),
        SetupError::Connect(connect) => Finding::problem(
            CHECK,
            found,
            "nothing can be written",
            match connect.code() {
                Some(code)
                    if *code == SqlState::INVALID_PASSWORD
                        || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
                {
                    format!(
                        "compare role and password in DATABASE_URL with the server's, and its pg_hba.conf ({target})"
                    )
                }
                Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
                    format!("CREATE DATABASE, or correct DATABASE_URL ({target})")
                }
                Some(_) => "do what the server says".to_owned(),
                None => format!(
                    "see that the server runs and listens there, and that nothing between blocks it ({target})"
                ),
            },
        ),
        _ => Finding::problem(CHECK, found, "`run` refuses this database", "do what the message says"),
    }
}

fn unanswered(check: &'static str, error: &(dyn std::error::Error + 'static)) -> Finding {
    Finding::problem(
        check,
        error_chain(error),
        "the database did not answer a question that `run` asks too",
        "see its log",
    )
}

fn ask(client: &mut Client) -> Result<Facts, postgres::Error> {
    let asked_at = SystemTime::now();
    let row = client.query_one(ASK, &[])?;
    let took_s = asked_at.elapsed().unwrap_or_default().as_secs_f64();
    let since_1970 = asked_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let clock_s: f64 = row.try_get(9)?;
    Ok(Facts {
        role: row.try_get(0)?,
        is_standby: row.try_get(1)?,
        has_fsync: row.try_get(2)?,
        has_full_page_writes: row.try_get(3)?,
        connections_max: row.try_get(4)?,
        role_connections_max: row.try_get(5)?,
        database_connections_max: row.try_get(6)?,
        timescaledb_license: row.try_get(7)?,
        missing: row.try_get(8)?,
        clock_skew_s: clock_s - (since_1970.as_secs_f64() + took_s / 2.0),
        clock_error_s: took_s / 2.0,
    })
}

fn judge(config: &Config, facts: &Facts, server: &ServerInfo) -> Vec<Finding> {
    let role = &facts.role;
    let mut findings = Vec::new();
    findings.push(if facts.is_standby {
        Finding::problem(
            "read_write",
            "this server is a standby",
            "it takes no rows; `run` waits until it is promoted",
            "name the primary in DATABASE_URL, or all servers with target_session_attrs=read-write",
        )
    } else {
        Finding::ok("read_write", "this server takes rows")
    });
    findings.push(if facts.missing.is_empty() {
        Finding::ok("rights", format!("{role} may write events, dead letters and the ledger"))
    } else {
        Finding::problem(
            "rights",
            format!("{role} lacks {}", facts.missing),
            "batches are refused, and tried again until somebody grants it",
            format!("as the owner of the tables: SELECT usage_grant_writer('{role}')"),
        )
    });
    let off: Vec<_> = [("fsync", facts.has_fsync), ("full_page_writes", facts.has_full_page_writes)]
        .into_iter()
        .filter_map(|(name, is_on)| (!is_on).then_some(name))
        .collect();
    findings.push(if off.is_empty() {
        Finding::ok("durability", "fsync and full_page_writes are on; writers commit synchronously whatever the default is")
    } else {
        Finding::problem(
            "durability",
            format!("{} off", off.join(" and ")),
            "after a power failure committed rows may be gone or damaged, with their offsets committed to Kafka",
            format!("ALTER SYSTEM SET {} = on; SELECT pg_reload_conf()", off.join(" = on; ALTER SYSTEM SET ")),
        )
    });
    findings.push(connections(config, facts));
    if server.migrated_as == Some(Profile::TimescaleDb) {
        findings.push(if facts.timescaledb_license == "apache" {
            Finding::problem(
                "timescaledb",
                "timescaledb.license is apache",
                "jobs and compression do not work: nothing is compressed, folded by the job, or dropped",
                "install the Community edition, or set timescaledb.license = 'timescale' and restart the server",
            )
        } else {
            Finding::ok("timescaledb", format!("timescaledb.license is {}", facts.timescaledb_license))
        });
    }
    findings.push(clock(facts));
    findings
}

fn connections(config: &Config, facts: &Facts) -> Finding {
    const CHECK: &str = "connections";
    let needed = i64::try_from(config.writer_count + CONNECTIONS_BESIDE_WRITERS).unwrap_or(i64::MAX);
    let limits = [
        ("max_connections, without those reserved", Some(facts.connections_max)),
        ("the role's CONNECTION LIMIT", facts.role_connections_max),
        ("the database's CONNECTION LIMIT", facts.database_connections_max),
    ];
    let tightest = limits.into_iter().filter_map(|(name, limit)| limit.map(|limit| (limit, name))).min();
    let (limit, name) = tightest.unwrap_or((facts.connections_max, limits[0].0));
    let found = format!("an instance takes up to {needed} of {limit} ({name})");
    if needed > limit {
        return Finding::warning(
            CHECK,
            found,
            "some writers find no connection, and try again for ever",
            format!("WRITER_THREADS={} or less, or raise the limit", (limit - 2).max(1)),
        );
    }
    Finding::ok(CHECK, format!("{found}: room for {} instances if nobody else connects", limit / needed))
}

fn clock(facts: &Facts) -> Finding {
    const CHECK: &str = "clock";
    let skew_s = facts.clock_skew_s.abs();
    if skew_s - facts.clock_error_s <= CLOCK_SKEW_MAX_S {
        return Finding::ok(CHECK, "this host's and the database's are less than a second apart");
    }
    let side = if facts.clock_skew_s > 0.0 { "ahead of" } else { "behind" };
    Finding::warning(
        CHECK,
        format!("the database's is {skew_s:.1} s {side} this host's"),
        "latencies are measured by this one, days and retention by that one: figures and alerts are off by as much",
        "chronyc tracking (or timedatectl) on both hosts, and mend the one that is not synchronized",
    )
}

fn retention(config: &Config, bounds: &Bounds) -> Finding {
    const CHECK: &str = "retention";
    let kept = format!(
        "retention: {}, retained since: {}, folded until: {}",
        bounds.retention, bounds.retained_since, bounds.folded_until
    );
    match retention_warning(config.time_limits.event_age_max, bounds) {
        Some(warning) => Finding::warning(
            CHECK,
            format!("{kept}; {warning}"),
            "such events are accepted by age, and cannot be kept",
            "lower MAX_EVENT_AGE, or as the owner of the tables: UPDATE usage_bounds SET retention = ...",
        ),
        None => Finding::ok(CHECK, kept),
    }
}

/// Whether whoever maintains may.
fn maintenance(config: &Config) -> Finding {
    const CHECK: &str = "maintenance";
    let target = describe(&config.maintenance);
    let answer = connect(&config.maintenance).map_err(|error| error_chain(&error)).and_then(|mut client| {
        let row = client.query_one(OWNS_TABLES, &[]).map_err(|error| error_chain(&error))?;
        Ok((row.get::<_, String>(0), row.get::<_, bool>(1)))
    });
    let (why, fix) = (
        "the hourly maintenance of `run` fails: nothing is dropped by retention, no partition is made ahead",
        "MAINTENANCE_DATABASE_URL must be the URL of the role that owns the tables, in the same database",
    );
    match answer {
        Ok((role, true)) => Finding::ok(CHECK, format!("{role} owns the tables; {target}")),
        Ok((role, false)) => {
            Finding::warning(CHECK, format!("{role} does not own the tables; {target}"), why, fix)
        }
        Err(error) => Finding::warning(CHECK, error, why, fix),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::tests::config;
    use super::*;
    use crate::migrations::TimescaleDb;

    #[track_caller]
    fn check(arguments: &[&str], change: impl FnOnce(&mut Facts), expected: &[(&str, Grade)]) {
        let mut facts = Facts {
            role: "usage_writer".to_owned(),
            is_standby: false,
            has_fsync: true,
            has_full_page_writes: true,
            connections_max: 97,
            role_connections_max: None,
            database_connections_max: None,
            timescaledb_license: "timescale".to_owned(),
            missing: String::new(),
            clock_skew_s: 0.2,
            clock_error_s: 0.1,
        };
        change(&mut facts);
        let server = ServerInfo {
            postgres_version: "15.20".to_owned(),
            timescaledb: TimescaleDb::Created { version: "2.28.3".to_owned() },
            migrated_as: Some(Profile::TimescaleDb),
        };
        let findings = judge(&config(arguments), &facts, &server);
        let told = findings.iter().filter(|finding| finding.grade != Grade::Ok);
        let told: Vec<_> = told.map(|finding| (finding.check, finding.grade)).collect();
        assert_eq!(told, expected, "{findings:?}");
    }

    #[test]
    fn each_fault_of_a_database_is_found() {
        use Grade::{Problem, Warning};
        check(&[], |_| {}, &[]);
        check(&[], |facts| facts.is_standby = true, &[("read_write", Problem)]);
        check(&[], |facts| facts.missing = "INSERT on usage_events".to_owned(), &[("rights", Problem)]);
        check(&[], |facts| facts.has_fsync = false, &[("durability", Problem)]);
        check(&[], |facts| facts.has_full_page_writes = false, &[("durability", Problem)]);
        check(&[], |facts| facts.timescaledb_license = "apache".to_owned(), &[("timescaledb", Problem)]);
        check(&[], |facts| facts.clock_skew_s = -3.0, &[("clock", Warning)]);
        check(&[], |facts| (facts.clock_skew_s, facts.clock_error_s) = (3.0, 2.5), &[]);
        check(&["--writer-threads=8"], |facts| facts.role_connections_max = Some(10), &[]);
        check(
            &["--writer-threads=9"],
            |facts| facts.role_connections_max = Some(10),
            &[("connections", Warning)],
        );
        check(&["--writer-threads=9"], |facts| facts.connections_max = 5, &[("connections", Warning)]);
    }
}
