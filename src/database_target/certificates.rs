//! When the certificates end that this program was given, of PostgreSQL and of Kafka: for a metric and for a
//! warning, before connections fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::DatabaseTarget;
use super::certificate_problem::subject;
use super::tls::{RootCertificates, ends_at, read_certificates};
use crate::kafka_options::KafkaOptions;

/// A bundle may hold hundreds; what a person has put there is a few.
const CERTIFICATES_MAX: usize = 64;

/// Each certificate in the files that are named, as `sslcert CN=billing`, and the second since 1970 after which it
/// is not valid any more. Of several with one name in one file the one that lasts longest: the others have been replaced; of those
/// in several files the one that ends first. What cannot be read is left out (connecting says so), and so is what the operating system trusts.
pub fn certificates(targets: &[&DatabaseTarget], kafka_options: &KafkaOptions) -> Vec<(String, i64)> {
    let mut files: Vec<(&'static str, PathBuf)> = Vec::new();
    for target in targets {
        if let Some(RootCertificates::File(path)) = &target.tls.root {
            files.push(("sslrootcert", path.clone()));
        }
        if let Some((certificate, _)) = &target.tls.client {
            files.push(("sslcert", certificate.clone()));
        }
    }
    for setting in ["ssl.ca.location", "ssl.certificate.location"] {
        let values = kafka_options.iter().filter(|(name, _)| name == setting);
        // A directory of them is the operating system's, and `probe` looks for that.
        files.extend(
            values.map(|(_, path)| (setting, PathBuf::from(path))).filter(|(_, path)| path.is_file()),
        );
    }
    let mut ends = BTreeMap::new();
    for (setting, path) in files {
        let mut of_file = BTreeMap::new();
        for (name, end) in ends_in(setting, &path) {
            let latest = of_file.entry(name).or_insert(end);
            *latest = end.max(*latest);
        }
        for (name, end) in of_file {
            let first = ends.entry(name).or_insert(end);
            *first = end.min(*first);
        }
    }
    ends.into_iter().collect()
}

fn ends_in(setting: &'static str, path: &Path) -> Vec<(String, i64)> {
    let Ok(certificates) = read_certificates(setting, path) else { return Vec::new() };
    let ends = certificates.iter().take(CERTIFICATES_MAX).filter_map(|certificate| {
        Some((format!("{setting} {}", subject(certificate)), ends_at(certificate.not_after()).ok()?))
    });
    ends.collect()
}
