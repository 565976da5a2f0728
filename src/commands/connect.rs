//! Connecting to the database before the pipeline starts: an outage is waited for, a refusal is
//! not.

use std::time::Duration;

use postgres::{Client, NoTls};

use crate::error_chain::error_chain;
use crate::shutdown::Shutdown;
use crate::write::sqlstate;
use crate::write::writer::pauses;

/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The server was reached and does not let us in, or was not waited for.
#[derive(Debug, thiserror::Error)]
#[error("connecting to {target}")]
pub struct ConnectError {
    target: String,
    source: postgres::Error,
}

/// Connects once.
pub fn connect(config: &postgres::Config) -> Result<Client, ConnectError> {
    let mut config = config.clone();
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    // TimescaleDB comments on every migration; what matters comes as an error.
    config.notice_callback(|notice| log::debug!("PostgreSQL: {}", notice.message()));
    config.application_name("usage-processor");
    // Notices, such as TimescaleDB's opinion on varchar, ask nothing of whoever reads the log.
    config.notice_callback(|notice| log::debug!("{}: {}", notice.severity(), notice.message()));
    config.connect(NoTls).map_err(|source| ConnectError { target: describe(&config), source })
}

/// Connects, waiting for a server that is away until `shutdown` is requested (which gives `None`).
/// A refusal that only a person can mend (password, role, database) is an error at once.
pub fn connect_patiently(
    config: &postgres::Config,
    shutdown: &Shutdown,
) -> Result<Option<Client>, ConnectError> {
    for pause in pauses() {
        match connect(config) {
            Ok(client) => return Ok(Some(client)),
            Err(error) if sqlstate::is_misconfigured(&error.source) => return Err(error),
            Err(error) => log::warn!("{}; trying again in {pause:?}", error_chain(&error)),
        }
        std::thread::sleep(pause);
        if shutdown.is_requested() {
            break;
        }
    }
    Ok(None)
}

/// `database usage at db.internal:5432 as billing`, without the password.
pub fn describe(config: &postgres::Config) -> String {
    use postgres::config::Host;
    let user = config.get_user().unwrap_or("(default user)");
    let database = config.get_dbname().unwrap_or(user);
    let hosts: Vec<_> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(idx, host)| {
            let ports = config.get_ports();
            let port = ports.get(idx).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{} (port {port})", path.display()),
            }
        })
        .collect();
    format!("database {database} at {} as {user}", hosts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_told_without_its_password() {
        let config = "postgresql://billing:hunter2@a:1,b:2/usage".parse().unwrap();
        assert_eq!(describe(&config), "database usage at a:1, b:2 as billing");
    }
}
