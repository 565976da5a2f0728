//! Why no host let us in, in words that say what to do. Pure.

use std::error::Error as _;
use std::fmt;

use postgres::error::SqlState;

use super::certificate_problem::CertificateProblem;
use super::tls::TlsFileError;
use crate::error_chain::error_chain;
use crate::write::sqlstate;

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// A certificate or key of ours cannot be used.
    TlsFile(TlsFileError),
    /// What each host said, in the order in which they were tried.
    Hosts(Vec<HostFailure>),
}

/// Why one host did not let us in.
#[derive(Debug)]
pub struct HostFailure {
    /// Name and port.
    pub host: String,
    /// What the client or the server said.
    pub error: postgres::Error,
    /// What is wrong with the server's certificate, if that is it.
    pub certificate: Option<CertificateProblem>,
}

impl std::error::Error for ConnectError {}

impl From<TlsFileError> for ConnectError {
    fn from(error: TlsFileError) -> Self {
        Self::TlsFile(error)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TlsFile(error) => error.fmt(f),
            Self::Hosts(failures) if failures.is_empty() => f.write_str("no host is given"),
            Self::Hosts(failures) => {
                let each: Vec<_> = failures.iter().map(ToString::to_string).collect();
                f.write_str(&each.join("; "))
            }
        }
    }
}

impl ConnectError {
    /// Whether a person must mend it: a wrong password, database or role; certificates; a server without TLS
    /// that must have it. As long as one host may come back by itself, it is waited for.
    pub fn is_misconfigured(&self) -> bool {
        match self {
            Self::TlsFile(_) => true,
            Self::Hosts(failures) => failures.iter().all(HostFailure::is_misconfigured),
        }
    }

    /// What the last server said, if it was a server.
    pub fn server_error(&self) -> Option<&postgres::Error> {
        match self {
            Self::TlsFile(_) => None,
            Self::Hosts(failures) => failures.last().map(|failure| &failure.error),
        }
    }
}

impl HostFailure {
    fn is_misconfigured(&self) -> bool {
        self.certificate.is_some() || self.advice().is_some() || sqlstate::is_misconfigured(&self.error)
    }

    /// What to do about what the server says, or TLS itself. A handshake that broke off is none of these: the server
    /// may be starting.
    fn advice(&self) -> Option<&'static str> {
        match self.error.code() {
            Some(&SqlState::INVALID_PASSWORD) => Some(
                "correct the password where it comes from (DATABASE_URL or its file, PGPASSWORD, a password file), or create \
                 the role",
            ),
            Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
                Some(self.advice_on_tls().unwrap_or(
                    "look at the server's pg_hba.conf, and whether the role exists and may log in",
                ))
            }
            Some(&SqlState::INVALID_CATALOG_NAME) => Some("create the database, or correct its name"),
            _ => self.advice_on_tls(),
        }
    }

    fn advice_on_tls(&self) -> Option<&'static str> {
        let chain = error_chain(&self.error);
        let says = |part: &str| chain.contains(part);
        if says("server does not support TLS") {
            Some(
                "it has `ssl = off`, or is not the server you mean: switch TLS on there (sslmode=prefer goes on without)",
            )
        } else if says("certificate required")
            || says("alert handshake failure")
            || says("requires a valid client certificate")
        {
            Some("it wants a client certificate: set sslcert and sslkey")
        } else if says("alert unknown ca")
            || says("alert bad certificate")
            || says("alert certificate unknown")
        {
            Some(
                "it does not accept the certificate in sslcert: is that signed by the CA in its ssl_ca_file?",
            )
        } else if says("alert certificate expired") || says("alert certificate revoked") {
            Some("it does not accept the certificate in sslcert any more: renew it")
        } else if says("protocol version") || says("wrong version number") || says("unsupported protocol") {
            Some("there is no TLS version that both speak: 1.2 is the oldest here")
        } else {
            None
        }
    }
}

impl fmt::Display for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.host)?;
        match (&self.certificate, self.advice()) {
            // OpenSSL's own words, with file and line, say less.
            (Some(problem), _) => problem.fmt(f),
            (None, Some(advice)) => write!(f, "{}: {advice}", error_chain(&self.error)),
            (None, None) => f.write_str(&error_chain(&self.error)),
        }
    }
}

/// Whether TLS could not be agreed upon. The client has no better word for it than its text.
pub(super) fn is_about_tls(error: &postgres::Error) -> bool {
    error.as_db_error().is_none()
        && (error.to_string().starts_with("error performing TLS handshake")
            || error.source().is_some_and(|source| source.to_string().contains("SSL routines")))
}
