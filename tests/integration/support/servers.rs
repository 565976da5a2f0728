//! Servers of a test's own, to be stopped, crashed and started again under the process.
//!
//! The scripts in `tests/servers` do the work; every wait in them is bounded.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A PostgreSQL server on a port that stays its own while it is down.
#[derive(Debug)]
pub(crate) struct PrivatePostgres {
    data: ServerDir,
}

impl PrivatePostgres {
    /// Small, since it stands beside the shared one; `settings` are of the form `name=value`.
    #[track_caller]
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let data = ServerDir::new("postgres");
        let defaults = ["shared_buffers=64MB", "max_wal_size=1GB", "max_connections=50"];
        data.run("create", &[&defaults, settings].concat());
        Self { data }
    }

    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A copy of the server at this URL, which follows it asynchronously.
    #[track_caller]
    pub(crate) fn standby_of(url: &str) -> Self {
        let data = ServerDir::new("postgres");
        data.run("standby", &[url]);
        Self { data }
    }

    /// Makes a standby a server that can be written to; what has not arrived by now is lost.
    #[track_caller]
    pub(crate) fn promote(&self) {
        self.data.run("promote", &[]);
    }

    /// Leads to an empty database.
    #[track_caller]
    pub(crate) fn url(&self) -> String {
        self.data.run("url", &[])
    }

    /// Ends it as a crash would: clients are cut off, recovery follows at the next start.
    #[track_caller]
    pub(crate) fn crash(&self) {
        self.data.run("stop", &["immediate"]);
    }

    /// Ends it in order: transactions are rolled back, clients are told.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.data.run("stop", &["fast"]);
    }

    /// Starts it again, on the same port with the same data.
    #[track_caller]
    pub(crate) fn restart(&self) {
        self.data.run("start", &[]);
    }

    /// Lets it read its configuration and certificates again, soon.
    #[track_caller]
    pub(crate) fn reload(&self) {
        self.data.run("reload", &[]);
    }

    /// Puts a file into the server's own directory, as its user's and closed to others.
    #[track_caller]
    pub(crate) fn put_file(&self, name: &str, content: &[u8]) {
        let data = self.data.path.join("data");
        let owner = std::fs::metadata(data.join("PG_VERSION")).expect("the server's own files");
        // Under another name first: the server may look at any moment.
        let (path, new) = (data.join(name), data.join(format!("{name}.new")));
        std::fs::write(&new, content).expect("write a file of the server's");
        std::fs::set_permissions(&new, Permissions::from_mode(0o600)).expect("close a file of the server's");
        std::os::unix::fs::chown(&new, Some(owner.uid()), Some(owner.gid()))
            .expect("give a file to the server");
        std::fs::rename(new, path).expect("put a file in its place");
    }

    /// A backup of the stopped server: its files.
    #[track_caller]
    pub(crate) fn copy_data(&self, backup: &Path) {
        copy(&self.data.path.join("data"), &backup.join("data"));
    }

    /// Puts a backup in the place of the stopped server's files.
    #[track_caller]
    pub(crate) fn restore_data(&self, backup: &Path) {
        std::fs::remove_dir_all(self.data.path.join("data")).expect("remove the server's files");
        copy(&backup.join("data"), &self.data.path.join("data"));
    }
}

/// With owners and permissions, which PostgreSQL insists on.
#[track_caller]
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().expect("run cp");
    assert!(status.success(), "copying {} to {}", from.display(), to.display());
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.data.end("stop");
    }
}

/// A Kafka broker on a port that stays its own while it is down.
#[derive(Debug)]
pub(crate) struct PrivateBroker {
    data: ServerDir,
}

impl PrivateBroker {
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// `properties` are of the form `name=value`.
    #[track_caller]
    pub(crate) fn start_with(properties: &[&str]) -> Self {
        let data = ServerDir::new("broker");
        // A crashed broker may come back only when its old session has ended: 9 s by default.
        let defaults = ["broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=500"];
        data.run("create", &[&defaults, properties].concat());
        Self { data }
    }

    /// HOST:PORT, for `KAFKA_BROKERS`.
    #[track_caller]
    pub(crate) fn address(&self) -> String {
        self.data.run("address", &[])
    }

    /// HOST:PORT of a further listener, `+NAME=PROTOCOL` among the properties.
    #[track_caller]
    pub(crate) fn address_of(&self, listener: &str) -> String {
        self.data.run("address", &[listener])
    }

    /// The file with the first messages of a topic's first partition.
    pub(crate) fn log_file(&self, topic: &str) -> PathBuf {
        self.data.path.join(format!("data/{topic}-0/00000000000000000000.log"))
    }

    /// Ends it as a crash would.
    #[track_caller]
    pub(crate) fn crash(&self) {
        self.data.run("kill", &[]);
    }

    /// Starts it again, on the same port with the same data.
    #[track_caller]
    pub(crate) fn restart(&self) {
        self.data.run("start", &[]);
    }
}

impl Drop for PrivateBroker {
    fn drop(&mut self) {
        self.data.end("kill");
    }
}

/// Where a server lives, and the script that rules it.
#[derive(Debug)]
struct ServerDir {
    script: PathBuf,
    path: PathBuf,
    /// Removed after the server's end.
    _parent: TempDir,
}

impl ServerDir {
    fn new(script: &str) -> Self {
        // Root's PostgreSQL runs as the user postgres, who has to pass through.
        let parent = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o711))
            .tempdir()
            .expect("make a directory for a server");
        // The names by which `tests/servers/stop` finds what an interrupted test left behind.
        let name = if script == "broker" { "kafka" } else { script };
        Self {
            script: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers").join(script),
            path: parent.path().join(name),
            _parent: parent,
        }
    }

    /// Returns what the script printed; fails the test with its message if it fails.
    #[track_caller]
    fn run(&self, action: &str, arguments: &[&str]) -> String {
        let output = self.command(action).args(arguments).output().expect("run a script");
        assert!(
            output.status.success(),
            "{} {action}: {}",
            self.script.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// For `drop`, which must not panic: what goes wrong is printed by the script.
    fn end(&self, action: &str) {
        self.command(action).status().ok();
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.script);
        command
            .args([OsStr::new(action), self.path.as_os_str()])
            .env("KAFKA_HEAP", "256m")
            .stdin(Stdio::null());
        command
    }
}
