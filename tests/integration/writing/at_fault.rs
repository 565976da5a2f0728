//! A database that is at fault itself: nothing is diverted, and once it is mended all is written.

use usage_processor::error_chain::error_chain;
use usage_processor::write::database::Database as Sink;
use usage_processor::write::sqlstate::Remedy;
use usage_processor::write::writer::RowSink as _;

use super::{Case, Part, batch, events, sink};
use crate::database::profiles;

/// Breaks the database, sees that a batch waits with an alarm and diverts nothing, mends it, and
/// sees that all of the batch is written. Once with a session that is open, once with a new one.
fn waits_until_mended(break_it: &str, mend_it: &str, said: &str) {
    for profile in profiles() {
        let mut case = Case::new(profile);
        let database = case.database.test.url().rsplit_once('/').unwrap().1.to_owned();
        let sql = |text: &str| text.replace("$DATABASE", &database);
        case.write(&batch(&[Part::new(0, 0, &events("before", 10))]));
        case.execute(&sql(break_it));
        let all = batch(&[Part::new(0, 10, &events("r", 200))]);
        for is_new_session in [false, true] {
            if is_new_session || break_it.starts_with("ALTER DATABASE") {
                case.restart(); // An open session does not hear of it.
            }
            let error = case.sink.write(&all).unwrap_err();
            let chain = error_chain(&error);
            assert!(chain.contains(said), "{profile}: {chain}");
            assert_eq!(Sink::remedy(&error), Remedy::RetryAndAlarm);
        }
        case.database.reconnect();
        case.execute(&sql(mend_it));
        assert_eq!(case.count("usage_dead_letters"), 0, "{profile}");
        assert_eq!(case.write_all(&all), [200, 200, 0, 0, 0], "{profile}");
        assert_eq!(case.count("usage_events"), 210, "{profile}");
    }
}

#[test]
fn a_missing_table_is_waited_for() {
    waits_until_mended(
        "ALTER TABLE usage_events RENAME TO usage_events_away",
        "ALTER TABLE usage_events_away RENAME TO usage_events",
        "relation \"usage_events\" does not exist (SQLSTATE 42P01)",
    );
}

#[test]
fn a_missing_column_is_waited_for() {
    waits_until_mended(
        "ALTER TABLE usage_events RENAME COLUMN endpoint TO route",
        "ALTER TABLE usage_events RENAME COLUMN route TO endpoint",
        "column \"endpoint\" of relation \"usage_events\" does not exist (SQLSTATE 42703)",
    );
}

#[test]
fn a_missing_ledger_is_waited_for() {
    waits_until_mended(
        "ALTER TABLE usage_ledger RENAME TO ledger_away",
        "ALTER TABLE ledger_away RENAME TO usage_ledger",
        "relation \"usage_ledger\" does not exist (SQLSTATE 42P01)",
    );
}

#[test]
fn a_violated_check_of_the_ledger_is_no_rows_fault() {
    waits_until_mended(
        "ALTER TABLE usage_ledger ADD CONSTRAINT never CHECK (written < 100)",
        "ALTER TABLE usage_ledger DROP CONSTRAINT never",
        "violates check constraint \"never\" (SQLSTATE 23514)",
    );
}

#[test]
fn a_column_of_another_type_is_waited_for() {
    waits_until_mended(
        "ALTER TABLE usage_events RENAME weight TO kept; ALTER TABLE usage_events ADD COLUMN weight smallint",
        "ALTER TABLE usage_events DROP COLUMN weight; ALTER TABLE usage_events RENAME kept TO weight",
        "incorrect binary data format (SQLSTATE 22P03)",
    );
}

#[test]
fn a_read_only_server_is_waited_for() {
    waits_until_mended(
        "ALTER DATABASE $DATABASE SET default_transaction_read_only = on",
        "BEGIN READ WRITE; ALTER DATABASE $DATABASE RESET default_transaction_read_only; COMMIT",
        "in a read-only transaction (SQLSTATE 25006)",
    );
}

#[test]
fn a_lost_privilege_is_waited_for() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        let role = case.database.test.url().rsplit_once('/').unwrap().1.to_owned();
        case.execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'writer';
             GRANT SELECT, INSERT ON usage_events, usage_dead_letters TO {role};
             GRANT SELECT ON usage_bounds TO {role};
             GRANT SELECT, INSERT ON usage_ledger, usage_ledger_starts, usage_ledger_days TO {role}"
        ));
        let (_, address) =
            case.database.test.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        case.sink = sink(&format!("postgresql://{role}:writer@{address}"));
        case.write(&batch(&[Part::new(0, 0, &events("before", 10))]));
        case.execute(&format!("REVOKE INSERT ON usage_events FROM {role}"));
        let all = batch(&[Part::new(0, 10, &events("r", 200))]);
        for _ in 0..2 {
            let error = case.sink.write(&all).unwrap_err();
            let chain = error_chain(&error);
            assert!(chain.contains("permission denied") && chain.contains("42501"), "{profile}: {chain}");
            assert_eq!(Sink::remedy(&error), Remedy::RetryAndAlarm);
        }
        case.execute(&format!("GRANT INSERT ON usage_events TO {role}"));
        assert_eq!(case.write_all(&all), [200, 200, 0, 0, 0], "{profile}");
        assert_eq!(case.count("usage_dead_letters"), 0);
        case.restart();
        case.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    }
}
