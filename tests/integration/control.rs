//! `usage-processor-ctl`, beside a `systemd-run` that only says what it was given. Needs no server, and no systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A host: `/etc/usage-processor`, and what is found on the PATH.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        fs::create_dir(host.path("etc")).unwrap();
        fs::create_dir(host.path("bin")).unwrap();
        host.program("id", "echo 0");
        host.program("systemd-run", r#"printf '%s\n' "$@"; exit 6"#);
        // Quoted as systemd does it.
        host.program("systemctl", r#"echo "LOG_FORMAT=journal ASKED='$*' \"KEY=a \\\$b*\" SET={1,2}""#);
        host.file("usage-processor.env");
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, line: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn file(&self, name: &str) {
        fs::write(self.path("etc").join(name), "").unwrap();
    }

    /// Lines of what it prints, and its exit code.
    fn call(&self, arguments: &[&str]) -> (Vec<String>, Option<i32>) {
        // Nothing else is on the PATH, were it a real systemd-run.
        let output = Command::new("/bin/bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/usage-processor-ctl"))
            .args(arguments)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("USAGE_PROCESSOR_ETC", self.path("etc"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let lines = String::from_utf8(said).unwrap().lines().map(str::to_owned).collect();
        (lines, output.status.code())
    }

    #[track_caller]
    fn assert_refused(&self, arguments: &[&str], why: &str) {
        let (lines, code) = self.call(arguments);
        assert_eq!(code, Some(2), "{lines:?}");
        assert!(lines.len() == 1 && lines[0].contains(why), "{why}: {lines:?}");
    }
}

#[test]
fn a_command_runs_with_what_the_services_have() {
    let host = Host::new();
    let etc = host.path("etc").display().to_string();
    let common = ["--quiet", "--wait", "--pty", "--pipe", "--collect", "--uid=usage-processor"];
    let expected = |files: &[String], unit: &str, credentials: &[String], command: &[&str]| -> Vec<String> {
        let common = common.iter().map(ToString::to_string);
        let property = |property: &String| format!("--property={property}");
        // The log of a unit is the journal's, that of a command is not.
        let asked = format!("--setenv=ASKED=show --property=Environment --value {unit}.service");
        let unit = [asked, "--setenv=KEY=a $b*".to_owned(), "--setenv=SET={1,2}".to_owned()];
        let program = ["/usr/bin/usage-processor"].into_iter().chain(command.iter().copied());
        common
            .chain(files.iter().map(property))
            .chain(unit)
            .chain(credentials.iter().map(property))
            .chain(program.map(str::to_owned))
            .collect()
    };
    let settings = [format!("EnvironmentFile={etc}/usage-processor.env")];

    // No credentials; the exit code is the command's.
    let (lines, code) = host.call(&["audit", "--json"]);
    assert_eq!(lines, expected(&settings, "usage-processor", &[], &["audit", "--json"]));
    assert_eq!(code, Some(6));

    for name in ["database-url", "maintenance-database-url", "kafka-options", "2.env", "unknown"] {
        host.file(name);
    }
    let credential = |name: &str| format!("LoadCredential={name}:{etc}/{name}");
    let credentials = ["database-url", "maintenance-database-url", "kafka-options"].map(credential);
    let (lines, _) = host.call(&["dead-letters", "list", "--reason", "a b"]);
    let command = ["dead-letters", "list", "--reason", "a b"];
    assert_eq!(lines, expected(&settings, "usage-processor", &credentials, &command));

    // The instance's own settings come later, and win.
    let (lines, _) = host.call(&["@2", "status"]);
    let own = format!("EnvironmentFile={etc}/2.env");
    let files = [&settings[..], &[own]].concat();
    assert_eq!(lines, expected(&files, "usage-processor@2", &credentials, &["status"]));
}

/// A credential that a unit has, a command has too.
#[test]
fn it_knows_every_credential_of_the_units() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let host = Host::new();
    let mut names = Vec::new();
    for unit in ["usage-processor.service", "usage-processor-migrate.service"] {
        let text = fs::read_to_string(folder.join(unit)).unwrap();
        let credentials = text.lines().filter_map(|line| line.strip_prefix("LoadCredential="));
        names.extend(credentials.map(|line| line.split(':').next().unwrap().to_owned()));
    }
    names.iter().for_each(|name| host.file(name));
    let (lines, _) = host.call(&["check-config"]);
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        assert!(lines.iter().any(|line| line.contains(&format!("LoadCredential={name}:"))), "{lines:?}");
    }
}

#[test]
fn it_says_what_is_missing() {
    let host = Host::new();
    host.assert_refused(&[], "usage: usage-processor-ctl [@NAME] COMMAND...");
    host.assert_refused(&["@2"], "usage: ");
    host.assert_refused(&["@2", "status"], "/etc/2.env is not there");
    fs::remove_file(host.path("etc/usage-processor.env")).unwrap();
    host.assert_refused(&["status"], "/etc/usage-processor.env is not there");
    fs::remove_file(host.path("bin/systemd-run")).unwrap();
    host.assert_refused(&["status"], "there is no systemd-run on this host");
    host.program("id", "echo 1000");
    host.assert_refused(&["status"], "only root");
}
