//! What is wrong with a server's certificate: kept from the handshake, where it is known, and told in words.

use std::fmt;
use std::sync::Arc;

use openssl::nid::Nid;
use openssl::x509::{X509Ref, X509StoreContextRef};
use parking_lot::Mutex;

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateProblem {
    /// OpenSSL's number (`X509_V_ERR_...` of `x509_vfy.h`).
    code: i32,
    reason: String,
    subject: String,
    issuer: String,
    not_before: String,
    not_after: String,
    /// What it is for.
    names: Vec<String>,
    /// What was asked for.
    host: String,
}

const NOT_YET_VALID: i32 = 9;
const HAS_EXPIRED: i32 = 10;
const UNKNOWN_ISSUER: [i32; 5] = [2, 18, 19, 20, 21];
const OTHER_NAME: [i32; 2] = [62, 64];

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, issuer, names, host, .. } = self;
        write!(f, "the server's certificate ({subject}) is refused: ")?;
        match self.code {
            NOT_YET_VALID => {
                write!(f, "it is valid from {} on only; look at the clocks of both hosts", self.not_before)
            }
            HAS_EXPIRED => {
                write!(
                    f,
                    "it has expired on {}; renew it (the server reads it again on reload)",
                    self.not_after
                )
            }
            code if UNKNOWN_ISSUER.contains(&code) => write!(
                f,
                "no CA in sslrootcert has signed it, its issuer is {issuer} ({}); put the CA's certificate there if this is \
                 the right server",
                self.reason
            ),
            code if OTHER_NAME.contains(&code) => write!(
                f,
                "it is for {}, and not for {host}; connect by a name that is in it, or have one made for {host} \
                 (sslmode=verify-ca takes any name)",
                if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
            ),
            _ => f.write_str(&self.reason),
        }
    }
}

/// Where a handshake leaves what it found; the handshakes of one attempt to connect come one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct CertificateSlot(Arc<Mutex<(String, Option<CertificateProblem>)>>);

impl CertificateSlot {
    pub(super) fn take(&self) -> Option<CertificateProblem> {
        self.0.lock().1.take()
    }

    pub(super) fn ask_for(&self, host: &str) {
        *self.0.lock() = (host.to_owned(), None);
    }

    pub(super) fn note(&self, context: &mut X509StoreContextRef) {
        let (host, problem) = &mut *self.0.lock();
        let result = context.error();
        let text = |text: &dyn Fn(&X509Ref) -> String| context.current_cert().map(text).unwrap_or_default();
        // When an issuer is unknown that is found at the far end of what the server has sent.
        let own = context.chain().and_then(|chain| chain.get(0)).map(subject);
        let own = own.filter(|_| UNKNOWN_ISSUER.contains(&result.as_raw()));
        problem.get_or_insert_with(|| CertificateProblem {
            code: result.as_raw(),
            reason: result.error_string().to_owned(),
            subject: own.unwrap_or_else(|| text(&subject)),
            issuer: text(&|certificate| name(certificate.issuer_name())),
            not_before: text(&|certificate| certificate.not_before().to_string()),
            not_after: text(&|certificate| certificate.not_after().to_string()),
            names: context.current_cert().map(names).unwrap_or_default(),
            host: host.clone(),
        });
    }
}

/// `CN=db1`.
pub(super) fn subject(certificate: &X509Ref) -> String {
    name(certificate.subject_name())
}

fn name(name: &openssl::x509::X509NameRef) -> String {
    let common_name = name.entries_by_nid(Nid::COMMONNAME).next();
    match common_name.and_then(|entry| entry.data().to_string().ok()) {
        Some(common_name) => format!("CN={common_name}"),
        None => format!("{name:?}"),
    }
}

fn names(certificate: &X509Ref) -> Vec<String> {
    let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(four) => Some(std::net::Ipv4Addr::from(four).to_string()),
        Err(_) => <[u8; 16]>::try_from(bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
    };
    let alternative = certificate.subject_alt_names();
    let alternative = alternative
        .iter()
        .flatten()
        .filter_map(|name| name.dnsname().map(str::to_owned).or_else(|| name.ipaddress().and_then(address)));
    let names: Vec<_> = alternative.collect();
    // As OpenSSL: the common name counts only where there are no others.
    if names.is_empty() { vec![subject(certificate)] } else { names }
}
