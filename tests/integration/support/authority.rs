//! Throwaway certificates, made on the spot: a CA, and what it signs for servers and clients.

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

const DAY: i64 = 86_400;

/// A CA of a test's own.
pub(crate) struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate that a CA has signed, and its key; both PEM.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(common_name: &str) -> Self {
        let key = new_key();
        let name = name(common_name);
        let mut builder = builder(&key, &name, &name, -DAY, 365 * DAY);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    /// Its own certificate, which others are to trust.
    pub(crate) fn pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }

    /// For these names (`127.0.0.1` is an address), valid for ten days.
    pub(crate) fn issue(&self, common_name: &str, names: &[&str]) -> Issued {
        self.issue_until(common_name, names, 10 * DAY)
    }

    /// Valid until so many seconds from now.
    pub(crate) fn issue_until(&self, common_name: &str, names: &[&str], seconds: i64) -> Issued {
        let key = new_key();
        let issuer = self.certificate.subject_name().to_owned().unwrap();
        let mut builder = builder(&key, &name(common_name), &issuer, seconds.min(0) - DAY, seconds);
        let mut alternative = SubjectAlternativeName::new();
        for name in names {
            if name.parse::<std::net::IpAddr>().is_ok() {
                alternative.ip(name)
            } else {
                alternative.dns(name)
            };
        }
        if !names.is_empty() {
            let extension =
                alternative.build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
            builder.append_extension(extension).unwrap();
        }
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Issued {
            certificate: String::from_utf8(builder.build().to_pem().unwrap()).unwrap(),
            key: String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap(),
        }
    }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn name(common_name: &str) -> X509Name {
    let mut builder = X509NameBuilder::new().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, common_name).unwrap();
    builder.build()
}

/// From and until: seconds from now.
fn builder(key: &PKey<Private>, subject: &X509Name, issuer: &X509Name, from: i64, until: i64) -> X509Builder {
    let now = usage_processor::clock::now_ms() / 1_000;
    let mut serial = BigNum::new().unwrap();
    serial.rand(64, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(now + from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(now + until).unwrap()).unwrap();
    builder
}
