//! An OpenSSL context is kept for as long as the files that it was made of stay as they are. Making one takes 30 ms of CPU
//! where the operating system has a bundle of certificates: OpenSSL's builder reads it, whether it is wanted or not.
//! With `sslrootcert=system` it is wanted, and read each time.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use openssl::ssl::SslConnector;
use parking_lot::Mutex;

/// The context that was made last, shared by all clones.
#[derive(Clone, Default)]
pub(super) struct KeptContext(Arc<Mutex<Option<Made>>>);

struct Made {
    of: Vec<Stamp>,
    context: SslConnector,
}

/// What a file was when it was read: another one in its place differs, and so does one that was written, or opened to others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device_and_inode: (u64, u64),
    len: u64,
    modified: (i64, i64),
    /// Owner and mode included.
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(metadata: Metadata) -> Self {
        Self {
            device_and_inode: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl KeptContext {
    /// The context, made by `make` unless it is kept and none of `files` has changed since.
    pub(super) fn get<E>(
        &self,
        files: &[&Path],
        make: impl FnOnce() -> Result<SslConnector, E>,
    ) -> Result<SslConnector, E> {
        // Before they are read: what changes meanwhile has another stamp the next time.
        let stamps: io::Result<Vec<Stamp>> =
            files.iter().map(|file| fs::metadata(file).map(Stamp::from)).collect();
        let Ok(stamps) = stamps else { return make() };
        let mut kept = self.0.lock();
        if let Some(made) = kept.as_ref().filter(|made| made.of == stamps) {
            return Ok(made.context.clone());
        }
        let context = make()?;
        *kept = Some(Made { of: stamps, context: context.clone() });
        Ok(context)
    }
}

impl std::fmt::Debug for KeptContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptContext").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use openssl::error::ErrorStack;
    use openssl::ssl::SslMethod;

    use super::*;

    #[test]
    fn a_context_is_made_again_when_a_file_is_another_or_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let other = directory.path().join("new.pem");
        fs::write(&path, "one").unwrap();
        fs::write(&other, "two").unwrap();
        let kept = KeptContext::default();
        let is_made = || {
            let mut is_made = false;
            let made = kept.clone().get(&[&path], || -> Result<SslConnector, ErrorStack> {
                is_made = true;
                Ok(SslConnector::builder(SslMethod::tls_client())?.build())
            });
            made.unwrap();
            is_made
        };
        assert!(is_made() && !is_made());
        fs::rename(&other, &path).unwrap();
        assert!(is_made() && !is_made(), "another file in its place");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(is_made() && !is_made(), "another mode");
        fs::write(&path, "three").unwrap();
        assert!(is_made() && !is_made(), "written again");
        fs::remove_file(&path).unwrap();
        assert!(is_made() && is_made(), "what cannot be looked at is for the one who reads it to tell");
    }
}
