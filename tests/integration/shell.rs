//! What commands print for people and for programs: no escape codes but on a terminal, JSON with the fields that the
//! README names, findings with what to do.

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use usage_processor::migrations::Profile;

use crate::database::{Database, profiles};
use crate::support::{PrivatePostgres, TestDatabase, TestTopic};

const ESCAPE: char = '\u{1b}';

/// The program with these arguments and variables and nothing else of ours.
fn command(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).stdin(Stdio::null());
    command.envs(variables.iter().copied());
    command
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    command(env!("CARGO_BIN_EXE_usage-processor"), arguments, variables).output().unwrap()
}

#[track_caller]
fn stdout(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}{said}");
    text
}

#[track_caller]
fn json(arguments: &[&str], variables: &[(&str, &str)], code: i32) -> Value {
    let text = stdout(&run(arguments, variables), code);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Everything that the program writes to a terminal. It is one by `script`, of util-linux.
fn on_a_terminal(line: &str, variables: &[(&str, &str)]) -> String {
    let line = format!("{} {line}", env!("CARGO_BIN_EXE_usage-processor"));
    let variables = [&[("TERM", "xterm-256color"), ("COLUMNS", "120")], variables].concat();
    let output = command("script", &["-qec", &line, "/dev/null"], &variables).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two letters in a database with a row, and what a command needs to find it.
fn with_letters() -> (Database, String) {
    let mut database = Database::migrated(profiles().pop().unwrap());
    database
        .client
        .batch_execute(
            "INSERT INTO usage_dead_letters (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, payload, reason, detail)
             VALUES ('usage-events', 3, 17, now(), '{', 'invalid_json', 'at byte 1'),
                    ('usage-events', 4, 5, now(), NULL, 'tombstone', 'the value is null')",
        )
        .unwrap();
    let url = database.test.url();
    (database, url)
}

#[test]
fn tables_are_plain_where_nobody_looks_and_coloured_on_a_terminal() {
    let (_database, url) = with_letters();
    let url = ("DATABASE_URL", url.as_str());
    for arguments in
        [&["migrate", "status"][..], &["audit"], &["dead-letters", "list"], &["check-config", "--offline"]]
    {
        let code = if arguments == ["audit"] { 6 } else { 0 }; // These letters came from nowhere.
        let output = run(arguments, &[url]);
        let plain = stdout(&output, code);
        assert!(
            !plain.contains(ESCAPE) && !String::from_utf8_lossy(&output.stderr).contains(ESCAPE),
            "{plain}"
        );
        let forced = stdout(&run(arguments, &[url, ("CLICOLOR_FORCE", "1")]), code);
        assert!(forced.contains(ESCAPE) || arguments[0] == "check-config", "{forced}");
        let refused = stdout(&run(arguments, &[url, ("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), code);
        assert_eq!(refused, plain);
    }
    let line = stdout(&run(&["dead-letters", "list"], &[url]), 0);
    let line = line
        .lines()
        .find(|line| line.contains("invalid_json"))
        .unwrap()
        .split_once("  ")
        .unwrap()
        .1
        .to_owned();
    assert_eq!(
        line,
        "usage-events                  3            17  invalid_json       -          at byte 1"
    );

    let status = on_a_terminal("migrate status", &[url]);
    assert!(status.contains("\u{1b}[32mapplied ") && status.contains("\u{1b}[1mMIGRATION"), "{status:?}");
    let status = on_a_terminal("migrate status", &[url, ("NO_COLOR", "1")]);
    assert!(
        status.contains("applied ") && !status.contains("\u{1b}[32m") && !status.contains("\u{1b}[1m"),
        "{status:?}"
    );
}

#[test]
fn a_bar_is_drawn_on_a_terminal_and_the_log_above_it_is_coloured() {
    let topic = TestTopic::create(4);
    let database = Database::migrated(profiles().pop().unwrap());
    let url = database.test.url();
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("KAFKA_BROKERS", topic.brokers()),
        ("KAFKA_TOPIC", topic.name()),
        ("KAFKA_GROUP_ID", topic.name()),
        ("METRICS_ADDR", "none"),
    ];
    let generated = on_a_terminal("generate --count 20000", &variables);
    assert!(generated.contains("20,000/20,000 messages"), "{generated:?}");
    let read = on_a_terminal("run --stop-at-end", &variables);
    assert!(read.contains("/20,000 messages"), "{read:?}");
    assert!(read.contains("\u{1b}[32mINFO"), "{read:?}");
    let audited = on_a_terminal("audit", &variables);
    assert!(audited.contains("0/14 spans tile every partition"), "{audited:?}");
    assert!(audited.contains("\u{1b}[32mCONSISTENT"), "{audited:?}");
    let uncoloured = on_a_terminal("run --stop-at-end", &[&variables[..], &[("NO_COLOR", "1")]].concat());
    assert!(uncoloured.contains("INFO ") && !uncoloured.contains("\u{1b}[32m"), "{uncoloured:?}");
    // None of it in a pipe.
    let output = run(&["audit"], &variables);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn json_has_the_documented_fields() {
    let (mut database, url) = with_letters();
    let url = [("DATABASE_URL", url.as_str())];
    let status = json(&["migrate", "status", "--json"], &url, 0);
    assert_eq!((&status["is_current"], &status["secondary_indexes"]), (&true.into(), &"immediate".into()));
    assert_eq!(status["parts_without_indexes"], 0);
    let migration = &status["migrations"][0];
    assert!(migration["migration"].as_str().unwrap().starts_with("004_"), "{migration}");
    assert_eq!((&migration["state"], migration["profile"].is_string()), (&"applied".into(), true));
    humantime::parse_rfc3339(migration["applied_at"].as_str().unwrap()).unwrap();

    let audit = json(&["audit", "--json"], &url, 6);
    assert_eq!((&audit["is_consistent"], audit["folded_until"].is_string()), (&false.into(), true));
    let check =
        audit["checks"].as_array().unwrap().iter().find(|check| check["check"] == "dead_letters").unwrap();
    assert_eq!(
        (&check["findings"][0]["is_inconsistent"], check["inconsistent_count"].as_i64() > Some(0)),
        (&true.into(), true)
    );

    let letters = stdout(&run(&["dead-letters", "list", "--json"], &url), 0);
    assert_eq!(letters, stdout(&run(&["dead-letters", "export"], &url), 0), "here newest first is by offset");
    assert_eq!(letters.lines().count(), 2);
    let letter = json(&["dead-letters", "show", "3", "17", "--json"], &url, 0);
    assert_eq!((&letter["reason"], &letter["payload"]), (&"invalid_json".into(), &"{".into()));
    let replayed = json(&["dead-letters", "--json", "replay", "--dry-run"], &url, 0);
    let expected = r#"{"duplicates":0,"is_dry_run":true,"rejected":{"invalid_json":1,"tombstone":1},"skipped_conflicts":0,"written":0}"#;
    assert_eq!(replayed.to_string(), expected);
    let purged = json(&["dead-letters", "purge", "--yes", "--json"], &url, 0);
    assert_eq!(purged.to_string(), r#"{"letters":2,"replayed_written":0}"#);

    database.client.batch_execute("DELETE FROM usage_schema_migrations WHERE version > 20").unwrap();
    let status = json(&["migrate", "status", "--json"], &url, 0);
    assert_eq!((&status["is_current"], &status["secondary_indexes"]), (&false.into(), &Value::Null));
    let last = status["migrations"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["state"], &last["applied_at"]), (&"pending".into(), &Value::Null));
}

/// Check and grade of what is not as it should be.
fn told(checked: &Value) -> Vec<String> {
    let findings = checked["findings"].as_array().unwrap().iter();
    let mut told: Vec<_> = findings
        .filter(|finding| finding["grade"] != "ok")
        .map(|finding| {
            assert!(finding["why"].is_string() && finding["fix"].is_string(), "{finding}");
            format!("{} {}", finding["grade"].as_str().unwrap(), finding["check"].as_str().unwrap())
        })
        .collect();
    told.sort();
    told
}

#[test]
fn check_config_explains_what_it_finds() {
    let server = PrivatePostgres::start_with(&["fsync=off", "max_connections=9"]);
    let mut database = Database::migrated_in(TestDatabase::create_at(&server.url()), Profile::PostgreSql);
    database
        .client
        .batch_execute(
            "CREATE ROLE weak LOGIN PASSWORD 'hunter2'; GRANT SELECT ON usage_schema_migrations, usage_bounds TO weak;
             UPDATE usage_bounds SET retention = '30 days'",
        )
        .unwrap();
    let (_, target) = database.test.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let url = format!("postgres://weak:hunter2@{target}");
    let settings =
        [("retention.ms", "60000"), ("cleanup.policy", "compact"), ("retention.bytes", "100000000")];
    let topic = TestTopic::create_with(2, &settings);
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("MAINTENANCE_DATABASE_URL", url.as_str()),
        ("KAFKA_BROKERS", topic.brokers()),
        ("KAFKA_TOPIC", topic.name()),
        ("WRITER_THREADS", "8"),
        ("DECODER_THREADS", "3"),
        ("KAFKA_OPTIONS", "client.id=checker,ssl.key.password=hunter2"),
        ("LATENCY_DIR", "/proc/latency"),
    ];
    let checked = json(&["check-config", "--json"], &variables, 3);
    assert_eq!((&checked["is_usable"], &checked["is_online"]), (&false.into(), &true.into()));
    let configuration = &checked["configuration"];
    assert_eq!(
        (&configuration["WRITER_THREADS"], &configuration["fetch.min.bytes"]),
        (&"8".into(), &"100000".into())
    );
    assert!(!checked.to_string().contains("hunter2"), "{checked}");
    let expected = [
        "problem cleanup_policy",
        "problem durability",
        "problem kafka_retention",
        "problem rights",
        "warning connections",
        "warning latency_dir",
        "warning maintenance",
        "warning partitions",
        "warning replicas",
        "warning retention",
        "warning retention_bytes",
    ];
    assert_eq!(told(&checked), expected, "{checked:#}");
    let shown = stdout(&run(&["check-config"], &variables), 3);
    let parts = [
        "problem  rights              weak lacks SELECT on usage_events, usage_dead_letters",
        "do: as the owner of the tables: SELECT usage_grant_writer('weak')\n",
        "problem  durability          fsync off\n",
        "why: after a power failure",
    ];
    assert!(parts.iter().all(|part| shown.contains(part)), "{shown}");

    // What the findings say, done.
    database.client.batch_execute("SELECT usage_grant_writer('weak')").unwrap();
    database.client.batch_execute("ALTER SYSTEM SET fsync = on").unwrap();
    database.client.batch_execute("SELECT pg_reload_conf()").unwrap();
    let owner = database.test.url();
    let sound = TestTopic::create(3);
    let mended = [
        ("DATABASE_URL", url.as_str()),
        ("MAINTENANCE_DATABASE_URL", owner.as_str()),
        ("KAFKA_BROKERS", sound.brokers()),
        ("KAFKA_TOPIC", sound.name()),
        ("WRITER_THREADS", "2"),
        ("MAX_EVENT_AGE", "30d"),
    ];
    let checked = json(&["check-config", "--json"], &mended, 0);
    assert_eq!(told(&checked), ["warning replicas"], "{checked:#}");

    let away = json(&["check-config", "--json"], &[mended[0], ("KAFKA_BROKERS", "127.0.0.1:1")], 3);
    assert!(told(&away).contains(&"problem kafka".to_owned()), "{away:#}");
    let nobody = url.replace("hunter2", "hunter3");
    let refused = json(&["check-config", "--json"], &[("DATABASE_URL", &nobody), mended[2], mended[3]], 3);
    assert!(told(&refused).contains(&"problem database".to_owned()), "{refused:#}");
}
