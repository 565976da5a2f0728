//! TLS as libpq means it, by OpenSSL, which librdkafka has brought along: what is verified, against what, and who
//! we say we are. Files are read again whenever they have changed; what is wrong with a server's certificate is kept
//! from the handshake, where it is known, and told in words.

use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1TimeRef;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use postgres::config::SslMode as PostgresSslMode;
use postgres_openssl::{MakeTlsConnector, set_postgresql_alpn};

use super::certificate_problem::CertificateSlot;
use super::conninfo::{Conninfo, ConninfoError};
use super::tls_context::KeptContext;

/// How the server must prove itself, from nothing to everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SslMode {
    Disable,
    /// TLS if the server has it; nothing is verified, since anybody in between could say that it has not.
    #[default]
    Prefer,
    /// TLS, with anybody; with `sslrootcert` the same as `verify-ca`, as libpq has it.
    Require,
    /// The certificate is signed by a CA in `sslrootcert`.
    VerifyCa,
    /// And it is for the host that was asked for.
    VerifyFull,
}

impl SslMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    pub(super) fn of_postgres(self) -> PostgresSslMode {
        match self {
            Self::Disable => PostgresSslMode::Disable,
            Self::Prefer => PostgresSslMode::Prefer,
            Self::Require | Self::VerifyCa | Self::VerifyFull => PostgresSslMode::Require,
        }
    }
}

/// Who may vouch for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RootCertificates {
    /// Those that the operating system trusts.
    System,
    File(PathBuf),
}

/// What is said about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsSettings {
    pub(super) mode: SslMode,
    pub(super) root: Option<RootCertificates>,
    /// Certificate and key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

/// A certificate or a key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting}={}: {problem}", path.display())]
pub struct TlsFileError {
    setting: &'static str,
    path: PathBuf,
    problem: String,
}

impl fmt::Display for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode.as_str())?;
        match &self.root {
            Some(RootCertificates::System) => f.write_str(", sslrootcert=system")?,
            Some(RootCertificates::File(path)) => write!(f, ", sslrootcert={}", path.display())?,
            None => {}
        }
        match &self.client {
            Some((certificate, key)) => {
                write!(f, ", sslcert={}, sslkey={}", certificate.display(), key.display())
            }
            None => Ok(()),
        }
    }
}

impl TlsSettings {
    /// Takes them out of a connection string.
    pub(super) fn take(info: &mut Conninfo) -> Result<Self, ConninfoError> {
        let wrong = |text: &str| ConninfoError::Value(text.to_owned());
        let root = info.take("sslrootcert").map(|root| match root.as_str() {
            "system" => RootCertificates::System,
            path => RootCertificates::File(path.into()),
        });
        let named = info.take("sslmode");
        let mode = match named.as_deref() {
            None if root == Some(RootCertificates::System) => SslMode::VerifyFull,
            None => SslMode::default(),
            Some("disable") => SslMode::Disable,
            Some("prefer") => SslMode::Prefer,
            Some("require") if root.is_some() => SslMode::VerifyCa,
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            Some("allow") => {
                return Err(wrong("has sslmode=allow, which is not supported: take disable or prefer"));
            }
            Some(_) => {
                return Err(wrong(
                    "has an sslmode that is none of disable, prefer, require, verify-ca, verify-full",
                ));
            }
        };
        if mode < SslMode::Require && info.is_given("sslnegotiation") {
            // The client refuses it, and `prefer` would take that for a server without TLS.
            return Err(wrong("has sslnegotiation, which takes sslmode=require or stricter"));
        }
        if root == Some(RootCertificates::System) && mode != SslMode::VerifyFull {
            // Any of the many that a public CA has given a certificate to would do.
            return Err(wrong("has sslrootcert=system, which takes sslmode=verify-full"));
        }
        if mode >= SslMode::VerifyCa && root.is_none() {
            return Err(wrong(
                "asks by its sslmode for a verified server, but not by whom: add sslrootcert, a file of CA certificates or \
                 `system` (~/.postgresql is not looked into)",
            ));
        }
        let client = match (info.take("sslcert"), info.take("sslkey")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err(wrong("has one of sslcert and sslkey: give both")),
        };
        Ok(Self { mode, root, client })
    }

    pub(super) fn without_files(mode: PostgresSslMode) -> Self {
        let mode = match mode {
            PostgresSslMode::Disable => SslMode::Disable,
            PostgresSslMode::Require => SslMode::Require,
            _ => SslMode::Prefer,
        };
        Self { mode, root: None, client: None }
    }

    /// Reads the files, unless they are as they were. The slot gets what a handshake finds wrong with a certificate.
    pub(super) fn connector(
        &self,
        kept: &KeptContext,
    ) -> Result<(MakeTlsConnector, CertificateSlot), TlsFileError> {
        let context = match self.root {
            // Which files those are is OpenSSL's to know.
            Some(RootCertificates::System) => self.context()?,
            _ => kept.get(&self.files(), || self.context())?,
        };
        let mut connector = MakeTlsConnector::new(context);
        let slot = CertificateSlot::default();
        let found = slot.clone();
        let (verifies, names_count) = (self.mode >= SslMode::VerifyCa, self.mode == SslMode::VerifyFull);
        connector.set_callback(move |connection, host| {
            found.ask_for(host);
            if verifies {
                let found = found.clone();
                connection.set_verify_callback(SslVerifyMode::PEER, move |is_fine, context| {
                    if !is_fine {
                        found.note(context);
                    }
                    is_fine
                });
            }
            connection.set_verify_hostname(names_count);
            Ok(())
        });
        Ok((connector, slot))
    }

    fn files(&self) -> Vec<&Path> {
        let root = match &self.root {
            Some(RootCertificates::File(path)) => Some(path.as_path()),
            _ => None,
        };
        let client = self.client.iter().flat_map(|(certificate, key)| [certificate.as_path(), key]);
        root.into_iter().chain(client).collect()
    }

    fn context(&self) -> Result<SslConnector, TlsFileError> {
        let builder = SslConnector::builder(SslMethod::tls_client())
            .and_then(|mut builder| set_up(&mut builder).map(|()| builder));
        let mut builder =
            builder.map_err(|error| failure("sslmode", Path::new(self.mode.as_str()), error))?;
        if self.mode >= SslMode::VerifyCa {
            if let Some(RootCertificates::File(path)) = &self.root {
                trust(&mut builder, path)?;
            }
            builder.set_verify(SslVerifyMode::PEER);
        } else {
            builder.set_verify(SslVerifyMode::NONE);
        }
        if let (Some((certificate, key)), true) = (&self.client, self.mode != SslMode::Disable) {
            introduce(&mut builder, certificate, key)?;
        }
        Ok(builder.build())
    }
}

fn set_up(builder: &mut SslConnectorBuilder) -> Result<(), ErrorStack> {
    // As libpq.
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    set_postgresql_alpn(builder)
}

fn failure(setting: &'static str, path: &Path, problem: impl fmt::Display) -> TlsFileError {
    TlsFileError { setting, path: path.to_owned(), problem: problem.to_string() }
}

/// The certificates in a file, of which there must be some.
pub(super) fn read_certificates(setting: &'static str, path: &Path) -> Result<Vec<X509>, TlsFileError> {
    let pem = read(setting, path)?;
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(failure(setting, path, "there is no certificate in it; wanted is PEM")),
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsFileError> {
    fs::read(path).map_err(|error| failure(setting, path, format!("cannot be read: {error}")))
}

/// Trusts these and nobody else.
fn trust(builder: &mut SslConnectorBuilder, path: &Path) -> Result<(), TlsFileError> {
    let certificates = read_certificates("sslrootcert", path)?;
    let store = X509StoreBuilder::new().and_then(|mut store| {
        certificates.into_iter().try_for_each(|certificate| store.add_cert(certificate)).map(|()| store)
    });
    builder.set_cert_store(store.map_err(|error| failure("sslrootcert", path, error))?.build());
    Ok(())
}

/// Shows the server our certificate, and those between it and the CA.
fn introduce(
    builder: &mut SslConnectorBuilder,
    certificate_path: &Path,
    key_path: &Path,
) -> Result<(), TlsFileError> {
    let mut certificates = read_certificates("sslcert", certificate_path)?.into_iter();
    let key = read_key(key_path)?;
    let certificate_failed = |error| failure("sslcert", certificate_path, error);
    if let Some(certificate) = certificates.next() {
        builder.set_certificate(&certificate).map_err(certificate_failed)?;
    }
    certificates.try_for_each(|issuer| builder.add_extra_chain_cert(issuer)).map_err(certificate_failed)?;
    let does_not_fit = |_| failure("sslkey", key_path, "it is not the key of the certificate in sslcert");
    builder.set_private_key(&key).map_err(does_not_fit)?;
    builder.check_private_key().map_err(does_not_fit)
}

fn read_key(path: &Path) -> Result<PKey<Private>, TlsFileError> {
    const SETTING: &str = "sslkey";
    let metadata =
        fs::metadata(path).map_err(|error| failure(SETTING, path, format!("cannot be read: {error}")))?;
    // As libpq: root's may be readable by a group.
    let open_to_others = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & open_to_others != 0 {
        return Err(failure(SETTING, path, "it is open to others: chmod 600 (or 640, when it is root's)"));
    }
    // Without a callback OpenSSL would ask at the terminal.
    let mut is_encrypted = false;
    let key = PKey::private_key_from_pem_callback(&read(SETTING, path)?, |_| {
        is_encrypted = true;
        Ok(0)
    });
    key.map_err(|_| match is_encrypted {
        true => failure(SETTING, path, "it has a passphrase, which is not supported"),
        false => failure(SETTING, path, "there is no key in it; wanted is PEM"),
    })
}

/// When a certificate ends, in seconds since 1970.
pub(super) fn ends_at(not_after: &Asn1TimeRef) -> Result<i64, ErrorStack> {
    let epoch = openssl::asn1::Asn1Time::from_unix(0)?;
    let since = epoch.diff(not_after)?;
    Ok(i64::from(since.days) * 86_400 + i64::from(since.secs))
}
