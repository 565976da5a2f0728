//! `usage-processor smoke` against a deployment that works, and against each way in which one does not.

use std::net::TcpListener;

use serde_json::Value;
use usage_processor::migrations::{self, Profile};
use usage_processor::smoke::{EVENT_COUNT, ORGANIZATION, STEPS};

use super::roles::Writer;
use super::{Case, PATIENCE, event, now_ms};
use crate::database::{Database, choice, profiles};
use crate::support::{Processor, ProcessorBuilder, eventually};

/// How long a step may take that is to fail by waiting.
const SHORT: &str = "--timeout=4s";

fn smoke(case: &Case) -> ProcessorBuilder {
    Processor::command("smoke").source(&case.topic, &case.group).database(&case.database.test)
}

/// Its exit code and all that it printed.
fn finish(builder: ProcessorBuilder) -> (i32, String) {
    let mut process = builder.spawn();
    let status = process.wait_exit(2 * PATIENCE);
    (status.code().expect("an exit code"), process.lines().join("\n"))
}

#[track_caller]
fn assert_passes(builder: ProcessorBuilder) -> String {
    let (code, output) = finish(builder);
    assert_eq!(code, 0, "{output}");
    output
}

/// It fails at this step, with this exit code, and says this; and makes no further step.
#[track_caller]
fn assert_fails(builder: ProcessorBuilder, step: usize, code: i32, says: &[&str]) -> String {
    let (found, output) = finish(builder);
    assert_eq!(found, code, "{output}");
    let marks: Vec<_> = output.lines().filter(|line| line.starts_with(['✓', '✗'])).collect();
    assert_eq!(marks.len(), step, "{output}");
    assert!(marks[step - 1].starts_with(&format!("✗ {step} {}", STEPS[step - 1])), "{output}");
    assert!(output.contains("what to do: ") && output.contains("FAILED"), "{output}");
    for part in says {
        assert!(output.contains(part), "no {part:?} in\n{output}");
    }
    output
}

#[track_caller]
fn assert_audited(case: &Case) {
    assert_passes(Processor::command("audit").database(&case.database.test));
}

/// Rows of the marked organization, and what the views say of it: requests, billable ones.
fn traces(case: &mut Case) -> String {
    case.database.text(&format!(
        "SELECT concat_ws(' ', (SELECT count(*) FROM usage_events WHERE organization_id = '{ORGANIZATION}'),
                (SELECT sum(total_requests) FROM usage_hourly WHERE organization_id = '{ORGANIZATION}'),
                (SELECT sum(total_requests) FROM usage_endpoint_hourly WHERE organization_id = '{ORGANIZATION}'),
                (SELECT sum(total_requests) FROM usage_daily WHERE organization_id = '{ORGANIZATION}'),
                (SELECT sum(total_requests) FROM usage_monthly WHERE organization_id = '{ORGANIZATION}'),
                (SELECT sum(billable_requests) FROM usage_monthly WHERE organization_id = '{ORGANIZATION}'))"
    ))
}

/// Everything that has come so far is folded: removal then has figures to take back.
fn wait_until_folded(case: &Case) {
    let so_far = now_ms();
    let is_folded =
        format!("SELECT count(*) FROM usage_bounds WHERE folded_until > to_timestamp({so_far} / 1000.0)");
    eventually("all is folded", PATIENCE, || {
        // Later events move the bound on.
        case.produce(&[event(&format!("tick-{}", now_ms()), now_ms())]);
        match case.database.test.count(&is_folded) {
            1 => Ok(()),
            _ => Err(case.database.test.count("SELECT count(*) FROM usage_events")),
        }
    });
}

#[test]
fn a_deployment_that_works_passes_and_nothing_is_left() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 16);
        let _processors = [case.processor().spawn(), case.processor().spawn()];
        case.produce(&[event("a customer's", now_ms())]);
        let output = assert_passes(smoke(&case));
        for (idx, name) in STEPS.iter().enumerate() {
            assert!(output.contains(&format!("✓ {} {name}", idx + 1)), "{output}");
        }
        assert!(output.ends_with("PASSED"), "{output}");
        assert_eq!(traces(&mut case), "0", "{profile}");
        assert_audited(&case);

        // Once more, as JSON, and removed after it was folded.
        let output = assert_passes(smoke(&case).arg("--json").arg("--keep"));
        let line = output.lines().find(|line| line.starts_with('{')).unwrap();
        let report: Value = serde_json::from_str(line).unwrap();
        assert_eq!(report["is_ok"], true);
        assert_eq!(report["organization_id"], ORGANIZATION);
        assert_eq!(report["steps"].as_array().unwrap().len(), STEPS.len());
        assert!(report["steps"][1]["found"].as_str().unwrap().contains("acknowledged at"), "{line}");
        wait_until_folded(&case);
        assert_eq!(traces(&mut case), "5 5 5 5 5 0", "{profile}");
        assert_audited(&case);
        // A run that cleans up after itself leaves the other's alone.
        assert_passes(smoke(&case));
        assert_eq!(traces(&mut case), "5 5 5 5 5 0", "{profile}");
        assert_audited(&case);
        assert_eq!(case.database.text("SELECT usage_remove_smoke_events(NULL)::text"), "5");
        assert_eq!(traces(&mut case), "0", "{profile}");
        assert_audited(&case);
        let booked = "SELECT concat_ws(' ', sum(written) FILTER (WHERE source = 'removed'),
                             sum(written) - (SELECT count(*) FROM usage_events)) FROM usage_ledger_days";
        assert_eq!(case.database.text(booked), "-15 0", "{profile}");
    }
}

#[test]
fn servers_that_cannot_be_used_are_the_first_step_and_nothing_is_sent() {
    let mut case = Case::in_profile(Profile::PostgreSql, 1);
    let refused = |builder, says: &[&str]| assert_fails(builder, 1, 3, says);
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(
        smoke(&case).env("DATABASE_URL", &format!("postgresql://u@{away}/usage")),
        &["database usage at", "Connection refused"],
    );
    refused(
        smoke(&case).env("KAFKA_BROKERS", &away.to_string()).arg(SHORT),
        &["no broker answers at", "KAFKA_BROKERS"],
    );
    refused(smoke(&case).env("KAFKA_TOPIC", "absent"), &["no topic absent", "create it"]);
    let empty = Database::create();
    refused(smoke(&case).database(&empty.test), &["run `usage-processor migrate up`"]);

    let writer = Writer::create(&mut case);
    let as_writer = || smoke(&case).env("DATABASE_URL", &writer.url);
    refused(
        as_writer(),
        &["may not read usage_hourly, usage_daily, usage_monthly", "MAINTENANCE_DATABASE_URL"],
    );
    let role = writer.url.split(['/', ':']).nth(3).unwrap().to_owned();
    case.database.connect().execute("SELECT usage_grant_reader($1::text::name)", &[&role]).unwrap();
    refused(as_writer(), &["may not remove the events again", "--keep"]);
    assert_eq!(case.topic.end_offsets(), [0]);

    // To leave them takes no more than to read.
    let _processor = case.processor().spawn();
    assert_passes(as_writer().arg("--keep"));
    assert_eq!(case.rows(), 5);
}

#[test]
fn a_server_that_never_answers_is_not_waited_for() {
    let case = Case::in_profile(Profile::PostgreSql, 1);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://u@{}/usage?connect_timeout=60", silent.local_addr().unwrap());
    assert_fails(smoke(&case).env("DATABASE_URL", &url).arg("--timeout=1s"), 1, 3, &["no answer within 6s"]);
}

#[test]
fn without_a_processor_of_the_group_the_fourth_step_fails_and_says_so() {
    let mut case = Case::in_profile(Profile::PostgreSql, 3);
    let nobody = assert_fails(
        smoke(&case).arg(SHORT),
        4,
        1,
        &["has passed 0 of 5 events", "no processor is in that group"],
    );
    assert!(!nobody.contains("another group"), "{nobody}");

    let _other = Processor::run().source(&case.topic, "another").database(&case.database.test).spawn();
    eventually("the other one writes", PATIENCE, || match case.rows() {
        5 => Ok(()),
        rows => Err(rows),
    });
    assert_fails(smoke(&case).arg(SHORT), 4, 1, &["the ledger has them by another group, another:"]);
    eventually("both runs are written", PATIENCE, || match case.rows() {
        10 => Ok(()),
        rows => Err(rows),
    });
    // They came all the same, and are not billable.
    assert_eq!(traces(&mut case), "10 10 10 10 10 0");
    assert_eq!(case.database.text("SELECT usage_remove_smoke_events(NULL)::text"), "10");
    assert_audited(&case);
}

#[test]
fn events_that_are_rows_elsewhere_or_dead_letters_are_missed_in_the_table() {
    let case = Case::in_profile(Profile::PostgreSql, 1);
    let mut elsewhere = Database::migrated(Profile::PostgreSql);
    let _processor = case.processor().spawn();
    case.produce(&[event("first", now_ms())]);
    case.wait_until_at_end(); // It is connected, and smoke waits for nothing else.
    assert_fails(
        smoke(&case).database(&elsewhere.test).arg("--timeout=10s"),
        5,
        1,
        &["0 rows of 0 events", "is DATABASE_URL of the processors the database looked at here"],
    );
    assert_eq!(elsewhere.text("SELECT count(*)::text FROM usage_events"), "0");
    case.database
        .connect()
        .batch_execute("ALTER TABLE usage_events ADD CONSTRAINT no_smoke CHECK (endpoint <> '/usage-processor/smoke') NOT VALID")
        .unwrap();
    // A table that refuses most rows is waited for: five among ten are let through as dead letters.
    let others: Vec<_> = (0..200).map(|n| event(&format!("other-{n}"), now_ms())).collect();
    case.produce(&others);
    case.wait_until_at_end();
    assert_fails(smoke(&case), 5, 1, &["dead letters: database_rejected", "no_smoke"]);
    assert_eq!(usize::try_from(case.dead_letters()), Ok(EVENT_COUNT));
    assert_audited(&case);
}

#[test]
fn the_way_back_of_the_schema_keeps_what_was_booked() {
    let mut database = Database::migrated(Profile::PostgreSql);
    let book = "INSERT INTO usage_ledger_days (event_day, source, written)
                VALUES ('2026-01-01', 'kafka', 5), ('2026-01-01', 'removed', -5)";
    database.client.batch_execute(book).unwrap();
    while migrations::down(&mut database.client).unwrap().unwrap().name != "remove_smoke_events" {}
    assert_eq!(database.text("SELECT concat_ws(' ', count(*), sum(written)) FROM usage_ledger_days"), "2 0");
    migrations::up(&mut database.client, choice(Profile::PostgreSql)).unwrap();
}
