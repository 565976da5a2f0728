//! What an error of the database asks for, by its SQLSTATE. Pure.
//!
//! Codes: PostgreSQL documentation, appendix A.

use postgres::error::{DbError, SqlState};

/// What to do about a failed batch. Whatever it is, the batch is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// A row exists already: take the conflict path, which leaves those rows out.
    SkipExistingRows,
    /// A row is not one that the table takes: find it, store it as a dead letter, write the others.
    RefuseRow,
    /// No partition takes the row's day (portable profile): create it.
    CreatePartitions,
    /// Rows are older than what is retained (raised by `usage_note_events`): ask what that is, leave them out.
    LeaveOutExpired,
    /// The server or the way to it is at fault: wait, reconnect, try again.
    Retry,
    /// Nothing that waiting is known to cure, such as a missing table or a lost privilege. Tried
    /// again all the same, since a person can mend it, but loudly.
    RetryAndAlarm,
}

/// A SQLSTATE of our own: an event is older than what is retained.
const EXPIRED: &str = "UP001";

/// Judges an error; `None` stands for one without an answer from the server (a lost connection).
pub fn remedy(error: &postgres::Error) -> Remedy {
    let Some(server) = error.as_db_error() else { return Remedy::Retry };
    let code = server.code();
    match code {
        code if *code == SqlState::UNIQUE_VIOLATION => Remedy::SkipExistingRows,
        // "no partition of relation found for row" names no constraint; a CHECK does.
        code if *code == SqlState::CHECK_VIOLATION && server.constraint().is_none() => {
            Remedy::CreatePartitions
        }
        code if code.code() == EXPIRED => Remedy::LeaveOutExpired,
        code if is_transient(code) => Remedy::Retry,
        code if is_data(code) && is_about_events(server) => Remedy::RefuseRow,
        _ => Remedy::RetryAndAlarm,
    }
}

/// Classes that time cures: connection exceptions, transaction rollbacks (deadlock,
/// serialization), insufficient resources (disk, memory, connections), operator intervention,
/// system errors; and a lock that was not to be had in time.
fn is_transient(code: &SqlState) -> bool {
    const CLASSES: [&str; 5] = ["08", "40", "53", "57", "58"];
    // Of class 08 all but what a COPY meets whose column has become wider than ours.
    *code == SqlState::LOCK_NOT_AVAILABLE
        || *code != SqlState::PROTOCOL_VIOLATION && CLASSES.iter().any(|class| code.code().starts_with(class))
}

/// Data exceptions (class 22), NULL where none may be, a violated CHECK. Two of class 22 are about
/// the stream and not about a row in it: they say that a column has another type than ours.
fn is_data(code: &SqlState) -> bool {
    let is_about_the_stream =
        [SqlState::BAD_COPY_FILE_FORMAT, SqlState::INVALID_BINARY_REPRESENTATION].contains(code);
    let is_about_a_value = code.code().starts_with("22")
        || [SqlState::NOT_NULL_VIOLATION, SqlState::CHECK_VIOLATION].contains(code);
    is_about_a_value && !is_about_the_stream
}

/// Whether the table that the server names, if it names one, is ours: `usage_events`, its staging
/// table, one of its partitions, or a chunk. A trigger may write to another.
fn is_about_events(server: &DbError) -> bool {
    server.table().is_none_or(|table| table.starts_with("usage_events"))
        || server.schema() == Some("_timescaledb_internal")
}

/// The row of a COPY that the server names in an error's CONTEXT, counted from 0 in the order of
/// the stream: `COPY usage_events, line 3, column weight` gives 2. The words between may be in any
/// language that the server speaks.
pub fn copy_row_idx(context: &str) -> Option<usize> {
    let place = context.lines().find_map(|line| line.strip_prefix("COPY usage_events"))?;
    let digits = place.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?;
    digits.parse::<usize>().ok()?.checked_sub(1)
}

/// Whether a failed attempt to connect is for a person to mend: a wrong password, database or
/// role, or a server that asks for TLS.
pub fn is_misconfigured(error: &postgres::Error) -> bool {
    error.code().is_some_and(|code| ["28", "3D"].iter().any(|class| code.code().starts_with(class)))
}

/// Whether there is no server to be had, as opposed to one that refuses what it is asked: no answer, a connection that
/// failed, one that is starting or stopping, or one that takes no more clients.
pub fn is_unreachable(error: &postgres::Error) -> bool {
    error.as_db_error().is_none_or(|server| ends_session(server.code().code()))
}

fn ends_session(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P") || code == SqlState::TOO_MANY_CONNECTIONS.code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_waited_for() {
        let transient = [
            SqlState::CONNECTION_FAILURE,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::DISK_FULL,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
        ];
        for code in transient {
            assert!(is_transient(&code), "{code:?}");
        }
        for code in
            [SqlState::UNDEFINED_TABLE, SqlState::INSUFFICIENT_PRIVILEGE, SqlState::READ_ONLY_SQL_TRANSACTION]
        {
            assert!(!is_transient(&code) && !is_data(&code), "{code:?}");
        }
    }

    #[test]
    fn a_server_that_refuses_a_statement_can_be_reached() {
        for code in [SqlState::ADMIN_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS] {
            assert!(ends_session(code.code()), "{code:?}");
        }
        for code in [SqlState::QUERY_CANCELED, SqlState::DISK_FULL, SqlState::LOCK_NOT_AVAILABLE] {
            assert!(!ends_session(code.code()), "{code:?}");
        }
    }

    #[test]
    fn only_values_are_a_rows_fault() {
        let data = [
            SqlState::STRING_DATA_RIGHT_TRUNCATION,
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            SqlState::NOT_NULL_VIOLATION,
            SqlState::CHECK_VIOLATION,
        ];
        for code in data {
            assert!(is_data(&code), "{code:?}");
        }
        for code in [
            SqlState::UNIQUE_VIOLATION,
            SqlState::FOREIGN_KEY_VIOLATION,
            SqlState::INVALID_BINARY_REPRESENTATION,
            SqlState::BAD_COPY_FILE_FORMAT,
        ] {
            assert!(!is_data(&code), "{code:?}");
        }
    }

    #[test]
    fn the_context_names_the_row() {
        assert_eq!(copy_row_idx("COPY usage_events, line 3, column weight"), Some(2));
        assert_eq!(copy_row_idx("COPY usage_events_staging, line 1"), Some(0));
        assert_eq!(
            copy_row_idx("PL/pgSQL function f() line 9 at RAISE\nCOPY usage_events, Zeile 12"),
            Some(11)
        );
        for context in ["COPY usage_other, line 3", "COPY usage_events, line 0", "COPY usage_events", ""] {
            assert_eq!(copy_row_idx(context), None, "{context}");
        }
    }
}
