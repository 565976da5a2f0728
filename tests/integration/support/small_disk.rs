//! A disk that is full when a test wants it: a tmpfs, which root can shrink to what is in it.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Grows with what is written, in memory.
const ROOMY: &str = "size=6g";
/// A megabyte: what PostgreSQL may still write once the disk is called full.
const SPARE_BYTES: u64 = 1 << 20;

/// Mounted, and unmounted at the end. What uses it must have ended or been dropped before.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    mountpoint: TempDir,
}

impl SmallDisk {
    /// None where mounting is not allowed: without root, and in most containers.
    pub(crate) fn mount() -> Option<Self> {
        let mountpoint = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o711))
            .tempdir()
            .expect("make a directory to mount at");
        let disk = run("mount", &["-t", "tmpfs", "-o", ROOMY, "tmpfs"], mountpoint.path());
        disk.map(|_| Self { mountpoint })
    }

    /// A directory on it that belongs to PostgreSQL's user, such as a tablespace must be.
    #[track_caller]
    pub(crate) fn directory_for_postgres(&self) -> String {
        let path = self.mountpoint.path().join("tablespace");
        std::fs::create_dir(&path).expect("make a directory for a tablespace");
        run("chown", &["postgres"], &path).expect("give a directory to PostgreSQL's user");
        path.to_str().expect("a temporary path is text").to_owned()
    }

    /// From now on there is no space left on it.
    #[track_caller]
    pub(crate) fn fill(&self) {
        let used = run("df", &["--output=used", "--block-size=1"], self.path()).expect("ask for its use");
        let used: u64 = used.split_whitespace().last().and_then(|text| text.parse().ok()).expect("a number");
        self.resize(&format!("size={}", used + SPARE_BYTES));
    }

    /// There is space again.
    #[track_caller]
    pub(crate) fn empty(&self) {
        self.resize(ROOMY);
    }

    fn resize(&self, size: &str) {
        run("mount", &["-o", &format!("remount,{size}")], self.path()).expect("resize the disk");
    }

    fn path(&self) -> &Path {
        self.mountpoint.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is about to end does not keep it.
        if run("umount", &["--lazy"], self.path()).is_none() {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

/// What it printed, if it succeeded.
fn run(program: &str, arguments: &[&str], path: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments.iter().map(OsStr::new)).arg(path).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
