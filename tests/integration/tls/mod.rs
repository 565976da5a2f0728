//! Connections that are encrypted, verified and authenticated, against real servers with throwaway certificates;
//! and what a user sees when something is wrong with them.

mod kafka;
mod postgres;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use crate::support::Issued;

/// Files of a client's.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// Writes a file that is closed to others; gives its path.
    fn put(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        write_closed(&path, content);
        path.display().to_string()
    }

    /// Certificate and key.
    fn put_issued(&self, name: &str, issued: &Issued) -> (String, String) {
        (self.put(&format!("{name}.crt"), &issued.certificate), self.put(&format!("{name}.key"), &issued.key))
    }
}

/// In one step: the process under test may look at any moment.
fn write_closed(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}
