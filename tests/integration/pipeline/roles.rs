//! The least that `run` needs: a role that owns nothing and can do no DDL.

use postgres::error::SqlState;
use postgres::{Client, NoTls};
use usage_processor::migrations::Profile;

use super::{Case, ORGANIZATION, PATIENCE, event, now_ms};
use crate::database::profiles;
use crate::support::{Processor, ProcessorBuilder, Record, eventually};

const PASSWORD: &str = "a-writers-password";

/// A role of the server, dropped with what it was granted.
pub(crate) struct Writer {
    name: String,
    pub(crate) url: String,
    owner: Client,
}

impl Writer {
    /// Granted by the function, in the case's database.
    pub(crate) fn create(case: &mut Case) -> Self {
        let (_, rest) =
            case.database.test.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let (_, database) = rest.rsplit_once('/').unwrap();
        let name = format!("writer_of_{}", &database[database.len().saturating_sub(40)..]);
        let url = format!("postgresql://{name}:{PASSWORD}@{rest}");
        case.database
            .client
            .batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'"))
            .unwrap();
        let grant = "SELECT usage_grant_writer($1::text::name)";
        // Twice, as it may be called again after an upgrade.
        for _ in 0..2 {
            case.database.client.execute(grant, &[&name]).unwrap();
        }
        Self { name, url, owner: case.database.connect() }
    }

    pub(crate) fn run(&self, case: &Case, group: &str) -> ProcessorBuilder {
        Processor::run().source(&case.topic, group).env("DATABASE_URL", &self.url)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It would not be dropped while it has rights in a database.
        self.owner.batch_execute(&format!("DROP OWNED BY {0}; DROP ROLE {0}", self.name)).ok();
    }
}

#[test]
fn a_role_that_owns_nothing_runs_the_whole_pipeline() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        let writer = Writer::create(&mut case);
        let now = now_ms();
        // A day without a partition, which the role cannot make by itself.
        let last_year = now - 400 * 86_400_000;
        case.topic.produce(&[
            Record::new(ORGANIZATION, event("a", last_year).as_bytes()).at(last_year),
            Record::new(ORGANIZATION, event("b", now).as_bytes()).at(now),
            Record::new(ORGANIZATION, b"{").at(now),
        ]);
        let run = |group: &str| {
            let mut processor = writer.run(&case, group).arg("--stop-at-end").spawn();
            assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{profile}: {:?}", processor.lines());
        };
        run("first");
        assert_eq!((case.rows(), case.dead_letters()), (2, 1), "{profile}");

        // Redelivered, beside a row that is gone and one that says something else: the careful path.
        case.database.test.client().execute("DELETE FROM usage_events WHERE request_id = 'b'", &[]).unwrap();
        if profile == Profile::TimescaleDb {
            let compress = "SELECT compress_chunk(chunk) FROM show_chunks('usage_events') AS chunk";
            case.database.test.client().execute(compress, &[]).unwrap();
        }
        run("second");
        case.topic.produce(&[Record::new(ORGANIZATION, event("c", now).as_bytes()).at(now)]);
        run("third");
        let mut session = Client::connect(&writer.url, NoTls).unwrap();
        let saved_count: i64 = session.query_one("SELECT usage_fold_ledger()", &[]).unwrap().get(0);
        assert!(saved_count > 0, "{profile}: it may fold the ledger");
        assert_eq!((case.rows(), case.dead_letters()), (3, 1), "{profile}");
    }
}

#[test]
fn a_writers_role_can_neither_change_the_schema_nor_take_rows_away() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        case.produce(&[event("a", now_ms()), "{".to_owned()]);
        case.process_all();
        let writer = Writer::create(&mut case);
        let mut client = Client::connect(&writer.url, NoTls).unwrap();
        for sql in [
            "CREATE TABLE mine ()",
            "CREATE SCHEMA mine",
            "ALTER TABLE usage_events ADD COLUMN mine int",
            "DROP TABLE usage_events",
            "DROP TABLE usage_ledger",
            "TRUNCATE usage_events",
            "DELETE FROM usage_events",
            "UPDATE usage_events SET weight = 0",
            "DELETE FROM usage_dead_letters",
            "UPDATE usage_dead_letters SET reason = ''",
            "DELETE FROM usage_ledger",
            "UPDATE usage_ledger_days SET written = 0",
            "INSERT INTO usage_dead_letter_purges VALUES ('t', 0, 1, 0)",
            "INSERT INTO usage_schema_migrations VALUES (999, 'mine', 'postgresql', 'x')",
            "SELECT usage_grant_writer(current_user)",
            "UPDATE usage_bounds SET retained_since = now()",
            "DELETE FROM usage_bounds",
            "SELECT usage_maintain()",
            "SELECT usage_apply_retention()",
            "SELECT usage_prove_expired()",
            "SELECT usage_drop_proven('[]')",
            "SELECT usage_advance_retention()",
            "SELECT usage_drop_range(now(), now())",
            "SELECT usage_prove_figures(now(), now())",
            "SELECT usage_close_month('2020-01-01')",
            "SELECT usage_rebuild_day('2020-01-01')",
            "SELECT usage_statement(gen_random_uuid(), '2020-01-01')",
            "SELECT usage_note_events()",
        ] {
            let error = client.batch_execute(sql).expect_err(sql);
            assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{profile}: {sql}: {error:?}");
        }
        for table in [
            "usage_hourly_figures",
            "usage_endpoint_hourly_figures",
            "usage_daily_figures",
            "usage_late_figures",
            "usage_arrivals",
            "usage_closed_months",
            "usage_invoice_basis",
            "usage_adjustments",
            "usage_retention_drops",
            "usage_tenants",
        ] {
            let error = client.batch_execute(&format!("SELECT FROM {table}")).unwrap_err();
            assert_eq!(
                error.code(),
                Some(&SqlState::INSUFFICIENT_PRIVILEGE),
                "{profile}: {table}: {error:?}"
            );
            let sql = "SELECT has_table_privilege($1, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
                           OR has_any_column_privilege($1, 'SELECT, INSERT, UPDATE')";
            let may: bool = client.query_one(sql, &[&table]).unwrap().get(0);
            assert!(!may, "{profile}: {table}");
        }
        assert_eq!((case.rows(), case.dead_letters()), (1, 1));
    }
}

#[test]
fn a_writers_role_folds_what_it_writes_and_is_refused_nothing_that_it_needs() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        let writer = Writer::create(&mut case);
        let now = now_ms();
        // One that nearly all others have passed.
        case.produce(&[event("a", now - 60_000), "{".to_owned()]);
        case.produce(&(0..40).map(|n| event(&format!("b{n}"), now)).collect::<Vec<_>>());
        let mut processor = writer.run(&case, &case.group).spawn();
        let folded = "SELECT sum(total_requests)::text FROM usage_daily_figures";
        eventually("the figures hold the first event", PATIENCE, || {
            let folded = case.database.client.query_one(folded, &[]).unwrap().get::<_, Option<String>>(0);
            if folded.as_deref() == Some("1") { Ok(()) } else { Err(folded) }
        });
        eventually("the ledger is one span", PATIENCE, || {
            let spans =
                case.database.text("SELECT format('%s of %s', count(*), sum(messages)) FROM usage_ledger");
            if spans == "1 of 42" { Ok(()) } else { Err(spans) }
        });
        processor.terminate();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
        let loud = processor.lines().into_iter().find(|line| line.contains("ERROR") || line.contains("WARN"));
        assert_eq!(loud, None, "{profile}");

        // It may fold what has come, and not what is to come: months could be closed before they are over.
        let mut client = Client::connect(&writer.url, NoTls).unwrap();
        for sql in ["SELECT usage_begin_fold('infinity')", "SELECT usage_fold()"] {
            client.batch_execute(sql).unwrap();
        }
        let bounds = "SELECT (folded_until > now() - INTERVAL '1 minute' AND folded_until <= now() AND due_until <= now())::text
                        FROM usage_bounds";
        assert_eq!(case.database.text(bounds), "true", "{profile}");
    }
}

#[test]
fn a_role_that_was_granted_nothing_can_have_no_partition_made() {
    let mut case = Case::in_profile(Profile::PostgreSql, 1);
    let writer = Writer::create(&mut case);
    case.database
        .client
        .batch_execute(&format!(
            "REVOKE EXECUTE ON FUNCTION usage_ensure_partitions(date, date) FROM {}",
            writer.name
        ))
        .unwrap();
    let mut client = Client::connect(&writer.url, NoTls).unwrap();
    let error =
        client.batch_execute("SELECT usage_ensure_partitions('2001-01-01', '2001-01-01')").unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
}

#[test]
fn a_schema_where_every_role_may_create_objects_is_refused() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        case.database.client.batch_execute("GRANT CREATE ON SCHEMA public TO PUBLIC").unwrap();
        let error =
            case.database.client.batch_execute("SELECT usage_grant_writer(current_user)").unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.message(), "every role may create objects in the schema public");
        assert_eq!(error.hint(), Some("REVOKE CREATE ON SCHEMA public FROM PUBLIC"));
    }
}

#[test]
fn maintenance_is_done_by_another_role_and_secrets_come_from_files() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        let writer = Writer::create(&mut case);
        let now = now_ms();
        case.produce(&["{".to_owned(), event("old", now - 100 * 86_400_000)]);
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("writer"), format!("{}\n", writer.url)).unwrap();
        std::fs::write(path("owner"), format!("{}\n", case.database.test.url())).unwrap();
        std::fs::write(path("options"), "client.id=from-a-file\n").unwrap();

        // Migrated by the owner, run by the writer.
        let mut processor = Processor::run()
            .source(&case.topic, &case.group)
            .env("DATABASE_URL_FILE", &path("writer"))
            .env("MAINTENANCE_DATABASE_URL_FILE", &path("owner"))
            .env("KAFKA_OPTIONS_FILE", &path("options"))
            .arg("--migrate")
            .arg("--stop-at-end")
            .spawn();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
        assert_eq!(case.dead_letters(), 2);

        let letters = |action: &str| {
            Processor::command("dead-letters")
                .env("DATABASE_URL_FILE", &path("writer"))
                .env("MAX_EVENT_AGE", "120d")
                .arg(action)
        };
        let mut list = letters("list").spawn();
        assert_eq!(list.wait_exit(PATIENCE).code(), Some(0), "a writer may look: {:?}", list.lines());
        let mut replay = letters("replay").spawn();
        assert_eq!(replay.wait_exit(PATIENCE).code(), Some(1), "and not touch: {:?}", replay.lines());
        replay.wait_for_line("permission denied", PATIENCE);
        let mut replay = letters("replay").env("MAINTENANCE_DATABASE_URL_FILE", &path("owner")).spawn();
        assert_eq!(replay.wait_exit(PATIENCE).code(), Some(0), "{:?}", replay.lines());
        assert_eq!(case.rows(), 1);
        for process in [&processor, &list, &replay] {
            let log = process.lines().join("\n");
            assert!(!log.contains(PASSWORD), "{log}");
        }
        let mut both = letters("list").env("DATABASE_URL", "postgresql://x").spawn();
        assert_eq!(both.wait_exit(PATIENCE).code(), Some(2));
        both.wait_for_line("DATABASE_URL is set too: give one of them", PATIENCE);
    }
}
