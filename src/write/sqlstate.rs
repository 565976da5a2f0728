//! What an error of the database asks for, by its SQLSTATE. Pure.
//!
//! Codes: PostgreSQL documentation, appendix A.

use postgres::error::SqlState;

/// What to do about a failed batch. Whatever it is, the batch is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// A row exists already: take the conflict path, which leaves those rows out.
    SkipExistingRows,
    /// No partition takes the row's day (portable profile): create it.
    CreatePartitions,
    /// The server or the way to it is at fault: wait, reconnect, try again.
    Retry,
    /// Nothing that waiting is known to cure, such as a missing table or a lost privilege. Tried
    /// again all the same, since a person can mend it, but loudly.
    RetryAndAlarm,
}

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
        code if is_transient(code) => Remedy::Retry,
        _ => Remedy::RetryAndAlarm,
    }
}

/// Classes that time cures: connection exceptions, transaction rollbacks (deadlock,
/// serialization), insufficient resources (disk, memory, connections), operator intervention,
/// system errors; and a lock that was not to be had in time.
fn is_transient(code: &SqlState) -> bool {
    const CLASSES: [&str; 5] = ["08", "40", "53", "57", "58"];
    *code == SqlState::LOCK_NOT_AVAILABLE || CLASSES.iter().any(|class| code.code().starts_with(class))
}

/// Whether a failed attempt to connect is for a person to mend: a wrong password, database or
/// role, or a server that asks for TLS.
pub fn is_misconfigured(error: &postgres::Error) -> bool {
    error.code().is_some_and(|code| ["28", "3D"].iter().any(|class| code.code().starts_with(class)))
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
            assert!(!is_transient(&code), "{code:?}");
        }
    }
}
