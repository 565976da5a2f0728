//! The Debian package, made of the binary under test: what is in it, and what installing, removing and purging it does to a
//! root of its own. Needs no server; `make deb` does the same with a release build.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::tool_is_missing;

const CONFIGURATION: &str = "etc/usage-processor/usage-processor.env";

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{command:?}: {}{}", said[0], said[1]);
    said.into_iter().next().unwrap()
}

/// Manual pages and completions, where the package looks for them.
fn generate_docs(target: &Path) {
    let docs = target.join("release/package");
    run(Command::new(env!("CARGO_BIN_EXE_usage-processor")).arg("generate-docs").arg(docs));
}

/// Every file below a folder, without its name in front.
fn files_below(folder: &Path) -> Vec<String> {
    let mut waiting = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() && !path.is_symlink() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
        }
    }
    files.sort();
    files
}

/// The package, or nothing where cargo-deb is not installed.
fn build() -> Option<(TempDir, PathBuf)> {
    let cargo = || Command::new(env!("CARGO"));
    if !cargo().args(["deb", "--version"]).output().is_ok_and(|output| output.status.success()) {
        tool_is_missing("cargo-deb", "the package is not tested");
        return None;
    }
    let target = tempfile::tempdir().unwrap();
    generate_docs(target.path());
    symlink(env!("CARGO_BIN_EXE_usage-processor"), target.path().join("release/usage-processor")).unwrap();
    let package = target.path().join("usage-processor.deb");
    // Symbols of a debug build are most of it.
    run(cargo()
        .args(["deb", "--no-build", "--fast", "--strip", "--locked", "--offline", "--quiet", "--output"])
        .arg(&package)
        .env("CARGO_TARGET_DIR", target.path())
        .current_dir(env!("CARGO_MANIFEST_DIR")));
    Some((target, package))
}

/// A machine on which nothing is installed.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("var/lib/dpkg/info")).unwrap();
        fs::create_dir_all(root.path().join("var/lib/dpkg/updates")).unwrap();
        fs::write(root.path().join("var/lib/dpkg/status"), "").unwrap();
        Self(root)
    }

    /// Its dependencies are not there either; scripts run outside of it, which has no shell.
    fn dpkg(&self, arguments: &[&str]) {
        let root = self.0.path().to_str().unwrap();
        // Whoever is not root is root of a namespace of his own, for the owners of the files.
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new("dpkg")
        } else {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "dpkg"]);
            command
        };
        let log = format!("--log={root}/dpkg.log");
        command.arg(format!("--root={root}")).args(["--force-script-chrootless", "--force-depends", &log]);
        run(command.args(arguments));
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Every file but dpkg's own.
    fn files(&self) -> Vec<String> {
        let is_others = |name: &str| {
            ["var/lib/dpkg/", "var/lib/systemd/", "dpkg.log", "etc/passwd", "etc/group"]
                .into_iter()
                .chain(["etc/shadow", "etc/gshadow", "etc/.pwd.lock"])
                .any(|other| name.starts_with(other))
        };
        files_below(self.0.path()).into_iter().filter(|name| !is_others(name)).collect()
    }
}

#[test]
fn the_package_is_installed_removed_and_purged() {
    let Some((_target, package)) = build() else { return };
    let root = Root::new();
    root.dpkg(&["--install", package.to_str().unwrap()]);

    let files = root.files();
    let in_folder = |folder: &str| -> Vec<_> {
        files.iter().filter_map(|file| file.strip_prefix(folder)).map(str::to_owned).collect()
    };
    assert_eq!(in_folder("usr/bin/"), ["usage-processor"]);
    assert_eq!(in_folder("usr/sbin/"), ["usage-processor-ctl"]);
    let units = [
        "usage-processor-audit.service",
        "usage-processor-audit.timer",
        "usage-processor-maintain.service",
        "usage-processor-maintain.timer",
        "usage-processor-migrate.service",
        "usage-processor.service",
        "usage-processor@.service",
    ];
    assert_eq!(in_folder("usr/lib/systemd/system/"), units);
    assert_eq!(in_folder("usr/lib/sysusers.d/"), ["usage-processor.conf"]);
    assert_eq!(in_folder("usr/lib/tmpfiles.d/"), ["usage-processor.conf"]);
    assert_eq!(in_folder("etc/"), ["usage-processor/usage-processor.env"], "nothing is enabled");
    // What the README links to is beside it.
    let monitoring = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring"));
    assert_eq!(in_folder("usr/share/doc/usage-processor/monitoring/"), monitoring);
    let documents: Vec<_> = in_folder("usr/share/doc/usage-processor/");
    let beside: Vec<_> = documents.iter().filter(|file| !file.starts_with("monitoring/")).collect();
    assert_eq!(beside, ["ARCHITECTURE.md", "README.md", "copyright", "migrations/ADOPTING.md"]);
    for completion in [
        "bash-completion/completions/usage-processor",
        "zsh/vendor-completions/_usage-processor",
        "fish/vendor_completions.d/usage-processor.fish",
    ] {
        assert!(root.read(&format!("usr/share/{completion}")).contains("check-config"), "{completion}");
    }
    for page in in_folder("usr/share/man/man1/") {
        assert!(page.starts_with("usage-processor") && page.contains(".1"), "{page}");
    }
    assert!(in_folder("usr/share/man/man1/").len() > 15, "{files:?}");
    assert!(root.read("etc/passwd").contains("usage-processor:x:"), "its user is there");
    let mode = |path: &str| fs::metadata(root.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(CONFIGURATION), 0o640, "a password may be put in");
    assert_eq!(mode("usr/sbin/usage-processor-ctl"), 0o755);

    // What the person has put there stays, over an upgrade and a removal, and goes with a purge.
    let configuration = root.read(CONFIGURATION) + "LOG_LEVEL=debug\n";
    fs::write(root.path(CONFIGURATION), &configuration).unwrap();
    fs::write(root.path("etc/usage-processor/database-url"), "postgresql://...").unwrap();
    root.dpkg(&["--install", package.to_str().unwrap()]);
    assert_eq!(root.read(CONFIGURATION), configuration);
    root.dpkg(&["--remove", "usage-processor"]);
    assert_eq!(root.read(CONFIGURATION), configuration);
    let left: Vec<_> = root.files().into_iter().filter(|file| !file.starts_with("etc/")).collect();
    assert!(left.is_empty(), "{left:?}");
    // A timer that has fired leaves a stamp.
    let stamp = root.path("var/lib/systemd/timers/stamp-usage-processor-audit.timer");
    fs::create_dir_all(stamp.parent().unwrap()).unwrap();
    fs::write(&stamp, "").unwrap();
    root.dpkg(&["--purge", "usage-processor"]);
    assert_eq!(root.files(), [""; 0]);
    assert!(!stamp.exists());
}

#[test]
fn manual_pages_are_of_every_command_and_have_the_exit_codes() {
    let target = tempfile::tempdir().unwrap();
    generate_docs(target.path());
    let man = target.path().join("release/package/man");
    let all = ["0", "1", "2", "3", "4", "5", "6", "7", "130"];
    for (name, codes) in [
        ("", all.as_slice()),
        ("-run", &["0", "1", "2", "3", "4", "5", "7", "130"]),
        ("-migrate-up", &["0", "2", "3"]),
        ("-dead-letters-replay", &["0", "1", "2", "3"]),
        ("-audit", &["0", "1", "2", "3", "6"]),
    ] {
        let page = fs::read_to_string(man.join(format!("usage-processor{name}.1"))).unwrap();
        let status = page.split(".SH \"EXIT STATUS\"").nth(1).unwrap_or_else(|| panic!("{name}: {page}"));
        for code in all {
            let is_told = status.contains(&format!(".TP\n\\fB{code}\\fR\n"));
            assert_eq!(is_told, codes.contains(&code), "{name} {code}: {status}");
        }
    }
    let page = fs::read_to_string(man.join("usage-processor.1")).unwrap();
    assert!(!page.contains("generate\\-docs"), "it is nobody's command");
    assert!(fs::read_dir(&man).unwrap().all(|page| !page.unwrap().path().ends_with("-generate-docs.1")));
}
