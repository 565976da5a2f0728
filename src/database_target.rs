//! The database as a place to connect to: hosts, TLS, password. Every connection of this program is made here,
//! and so is every request to cancel one.
//!
//! `postgres` knows `disable`, `prefer` and `require`; the rest of what libpq's users write into a URL is taken
//! out of it in `conninfo.rs`. Hosts are tried one after the other, each with the password that is for it, and what
//! each of them said is told. Password files are read for every connection, certificates and keys when they have
//! changed, so that they can be replaced while the program runs. Used on any thread.

mod certificate_problem;
mod certificates;
mod conninfo;
mod connect_error;
mod passfile;
mod service_file;
mod tls;
mod tls_context;

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use postgres::config::{Host, LoadBalanceHosts, SslMode as PostgresSslMode};
use postgres::error::SqlState;
use postgres::{CancelToken, Client};
use postgres_openssl::MakeTlsConnector;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use certificate_problem::CertificateSlot;
pub use certificates::certificates;
pub use connect_error::{ConnectError, HostFailure};
use conninfo::Conninfo;
pub use conninfo::ConninfoError;
pub use tls::TlsFileError;
use tls::{SslMode, TlsSettings};
use tls_context::KeptContext;

/// PostgreSQL's port, when none is given.
const PORT: u16 = 5432;

/// Where a database is, and how to be let in.
#[derive(Debug, Clone, Default)]
pub struct DatabaseTarget {
    /// Settings of a session, but for hosts and TLS. The password is there only if it was given itself.
    pub config: postgres::Config,
    hosts: Vec<HostAddress>,
    tls: TlsSettings,
    tls_context: KeptContext,
    /// Where passwords are looked up when none is given.
    passfile: Option<PathBuf>,
}

/// One server of several that may be in charge.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostAddress {
    host: Host,
    /// Connect there instead of asking what the host's address is.
    address: Option<IpAddr>,
    port: u16,
}

impl HostAddress {
    /// As it is called in `.pgpass`.
    fn name(&self) -> String {
        match &self.host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        }
    }
}

impl std::fmt::Display for HostAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(path) => write!(f, "{} (port {})", path.display(), self.port),
        }
    }
}

/// Cancels what a session does, at the host that the session is with and as it is connected.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    tls: TlsSettings,
    tls_context: KeptContext,
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canceller").finish_non_exhaustive()
    }
}

impl Canceller {
    /// Asks the server to. It does not say whether it did.
    ///
    /// # Errors
    /// When the server is not reached.
    pub fn cancel(&self) -> Result<(), ConnectError> {
        let (connector, slot) = self.tls.connector(&self.tls_context)?;
        self.token.cancel_query(connector).map_err(|error| {
            let host = "the session's host".to_owned();
            ConnectError::Hosts(vec![HostFailure { host, error, certificate: slot.take() }])
        })
    }
}

impl DatabaseTarget {
    /// Parses a URL or `key=value` pairs as libpq does. What is not in it comes from the service that it names,
    /// and then from libpq's environment variables, which `environment` looks up.
    ///
    /// # Errors
    /// When it is not understood, or asks for what cannot be had. The error repeats nothing of it but names of files.
    pub fn parse(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConninfoError> {
        let mut info = Conninfo::parse(text)?;
        info.complete(environment)?;
        let tls = TlsSettings::take(&mut info)?;
        let passfile = passfile::location(info.take("passfile"), environment);
        let names_session = info.is_given("target_session_attrs");
        let whole = info.into_config()?;
        let host_count = whole.get_hosts().len().max(whole.get_hostaddrs().len());
        if whole.get_ports().len() > 1 && whole.get_ports().len() != host_count {
            let text = format!("has {} ports for {host_count} hosts", whole.get_ports().len());
            return Err(ConninfoError::Value(text));
        }
        let mut target = Self { tls, passfile, ..Self::from(whole) };
        if target.hosts.len() > 1 && !names_session {
            // Unlike libpq: nothing here is of use on a standby unless one is asked for.
            target.config.target_session_attrs(postgres::config::TargetSessionAttrs::ReadWrite);
        }
        Ok(target)
    }

    /// How many servers there are to be tried.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// Connects to the first host that lets us in.
    ///
    /// # Errors
    /// When none does; it tells what each said.
    pub fn connect(&self) -> Result<Client, ConnectError> {
        self.connect_watched(|| {})
    }

    /// The same, and says before each host that another attempt begins.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_watched(&self, mut before_host: impl FnMut()) -> Result<Client, ConnectError> {
        let (connector, slot) = self.tls.connector(&self.tls_context)?;
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        if self.config.get_load_balance_hosts() == LoadBalanceHosts::Random {
            hosts.shuffle(&mut StdRng::from_os_rng());
        }
        let mut failures = Vec::with_capacity(hosts.len());
        for host in hosts {
            before_host();
            match self.connect_to(host, &connector, &slot) {
                Ok(client) => return Ok(client),
                Err(error) => {
                    let certificate = slot.take();
                    failures.push(HostFailure { host: host.to_string(), error, certificate });
                }
            }
        }
        Err(ConnectError::Hosts(failures))
    }

    fn connect_to(
        &self,
        host: &HostAddress,
        connector: &MakeTlsConnector,
        slot: &CertificateSlot,
    ) -> Result<Client, postgres::Error> {
        let mut config = self.config.clone();
        match &host.host {
            Host::Tcp(name) => config.host(name).ssl_mode(self.tls.mode.of_postgres()),
            // As libpq: the way there is the kernel, and servers offer no TLS on it.
            Host::Unix(path) => config.host_path(path).ssl_mode(PostgresSslMode::Disable),
        };
        config.port(host.port);
        if let Some(address) = host.address {
            config.hostaddr(address);
        }
        if let (None, Some(path)) = (config.get_password(), &self.passfile) {
            let user = config.get_user().unwrap_or_default();
            let database = config.get_dbname().unwrap_or(user);
            match passfile::password(path, &host.name(), host.port, database, user) {
                Ok(Some(password)) => drop(config.password(password)),
                Ok(None) => {}
                Err(error) => log::warn!("{error}; going on without it"),
            }
        }
        match config.connect(connector.clone()) {
            Err(error) if self.tls.mode == SslMode::Prefer && may_do_without_tls(&error) => {
                log::debug!("{host}: not with TLS ({error}), trying without");
                slot.take();
                config.ssl_mode(PostgresSslMode::Disable).connect(connector.clone())
            }
            outcome => outcome,
        }
    }

    /// How to cancel what a session of this target does.
    pub fn canceller(&self, client: &Client) -> Canceller {
        Canceller {
            token: client.cancel_token(),
            tls: self.tls.clone(),
            tls_context: self.tls_context.clone(),
        }
    }

    /// `verify-full, sslrootcert=/etc/ssl/db.pem`.
    pub fn describe_tls(&self) -> String {
        self.tls.to_string()
    }

    /// Reads certificates and keys as a connection would, unless they are as they were.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn check_tls_files(&self) -> Result<(), TlsFileError> {
        self.tls.connector(&self.tls_context).map(drop)
    }

    /// `database usage at db.internal:5432 as billing`, without the password.
    pub fn describe(&self) -> String {
        let user = self.config.get_user().unwrap_or("(default user)");
        let database = self.config.get_dbname().unwrap_or(user);
        let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        format!("database {database} at {} as {user}", hosts.join(", "))
    }
}

/// As libpq with `prefer`: when there is no TLS to be had, or pg_hba.conf wants us without it.
fn may_do_without_tls(error: &postgres::Error) -> bool {
    connect_error::is_about_tls(error) || error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

impl FromStr for DatabaseTarget {
    type Err = ConninfoError;

    /// By the text alone, whatever the environment says.
    fn from_str(text: &str) -> Result<Self, ConninfoError> {
        Self::parse(text, &|_| None)
    }
}

impl From<postgres::Config> for DatabaseTarget {
    /// Takes hosts and ports out of it; TLS is as its `ssl_mode` says, without certificates.
    fn from(whole: postgres::Config) -> Self {
        let (names, addresses) = (whole.get_hosts(), whole.get_hostaddrs());
        let hosts = (0..names.len().max(addresses.len())).map(|idx| {
            let address = addresses.get(idx).copied();
            let unnamed = || Host::Tcp(address.map(|address| address.to_string()).unwrap_or_default());
            let port = whole.get_ports().get(idx).or(whole.get_ports().first()).copied().unwrap_or(PORT);
            HostAddress { host: names.get(idx).cloned().unwrap_or_else(unnamed), address, port }
        });
        let (hosts, tls) = (hosts.collect(), TlsSettings::without_files(whole.get_ssl_mode()));
        Self { config: without_hosts(&whole), hosts, tls, ..Self::default() }
    }
}

/// All that a configuration says, but for hosts, which cannot be taken out of one.
fn without_hosts(whole: &postgres::Config) -> postgres::Config {
    let mut config = postgres::Config::new();
    config
        .ssl_negotiation(whole.get_ssl_negotiation())
        .keepalives(whole.get_keepalives())
        .keepalives_idle(whole.get_keepalives_idle())
        .target_session_attrs(whole.get_target_session_attrs())
        .channel_binding(whole.get_channel_binding())
        .load_balance_hosts(whole.get_load_balance_hosts());
    whole.get_user().map(|user| config.user(user));
    whole.get_password().map(|password| config.password(password));
    whole.get_dbname().map(|dbname| config.dbname(dbname));
    whole.get_options().map(|options| config.options(options));
    whole.get_application_name().map(|name| config.application_name(name));
    whole.get_connect_timeout().map(|timeout| config.connect_timeout(*timeout));
    whole.get_tcp_user_timeout().map(|timeout| config.tcp_user_timeout(*timeout));
    whole.get_keepalives_interval().map(|interval| config.keepalives_interval(interval));
    whole.get_keepalives_retries().map(|retries| config.keepalives_retries(retries));
    config
}

#[cfg(test)]
mod tests {
    use postgres::config::TargetSessionAttrs;

    use super::*;

    #[test]
    fn the_target_is_told_without_its_password() {
        let target: DatabaseTarget = "postgresql://billing:hunter2@a:1,b:2/usage".parse().unwrap();
        assert_eq!(target.describe(), "database usage at a:1, b:2 as billing");
        assert!(!format!("{target:?}").contains("hunter2"), "{target:?}");
    }

    #[test]
    fn of_several_hosts_the_one_that_can_be_written_to_is_wanted() {
        let attrs = |text: &str| text.parse::<DatabaseTarget>().unwrap().config.get_target_session_attrs();
        assert_eq!(attrs("postgresql://a,b/usage"), TargetSessionAttrs::ReadWrite);
        assert_eq!(attrs("postgresql://a,b/usage?target_session_attrs=any"), TargetSessionAttrs::Any);
        assert_eq!(attrs("postgresql://a/usage"), TargetSessionAttrs::Any);
    }

    #[test]
    fn nothing_is_lost_when_hosts_are_taken_out() {
        let text = "postgresql://u:p@a:1/d?options=-c%20geqo%3Doff&connect_timeout=3&keepalives=0&keepalives_idle=9&\
                    channel_binding=require&application_name=n&tcp_user_timeout=4&keepalives_interval=5&keepalives_retries=6&\
                    load_balance_hosts=random&target_session_attrs=read-only&sslnegotiation=direct";
        let whole: postgres::Config = text.parse().unwrap();
        let mut restored = without_hosts(&whole);
        restored.host("a").port(1);
        assert_eq!(format!("{restored:?}"), format!("{whole:?}"));
        assert_eq!(restored.get_ssl_negotiation(), whole.get_ssl_negotiation());
        assert_eq!(restored.get_password(), whole.get_password());
    }

    #[test]
    fn every_host_that_was_tried_says_why_not() {
        let target: DatabaseTarget = "postgresql://u@127.0.0.1:1,%2Fnowhere:2/d".parse().unwrap();
        let error = target.connect().err().unwrap().to_string();
        assert!(error.contains("127.0.0.1:1: ") && error.contains("; /nowhere (port 2): "), "{error}");
    }
}
