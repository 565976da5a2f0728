//! `docker/`, as far as that can be judged without an engine: docker-compose reads the file, what is copied or mounted is there, and the
//! promises of the README hold in its text. Needs no server.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::tool_is_missing;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The Dockerfile's instructions: lines joined, comments left out.
fn instructions() -> Vec<(String, String)> {
    let text: Vec<_> = read("docker/Dockerfile")
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(str::to_owned)
        .collect();
    let joined = text.join("\n").replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect()
}

#[test]
fn what_the_dockerfile_copies_is_there_and_not_ignored() {
    let allowed: Vec<_> =
        read(".dockerignore").lines().filter_map(|line| line.strip_prefix('!')).map(str::to_owned).collect();
    assert!(read(".dockerignore").lines().any(|line| line == "*"), "all else is ignored");
    let mut copied = Vec::new();
    for (_, arguments) in
        instructions().iter().filter(|(name, arguments)| name == "COPY" && !arguments.contains("--from"))
    {
        let mut words: Vec<_> = arguments.split_whitespace().collect();
        words.pop(); // Where to.
        copied.extend(words.into_iter().map(str::to_owned));
    }
    for source in &copied {
        assert!(root().join(source).exists(), "{source}");
        assert!(allowed.contains(source), "{source} is ignored");
    }
    assert_eq!(copied.len(), allowed.len(), "{copied:?}, {allowed:?}");
    // What the program embeds is there too: every folder that `src` reads from at compile time.
    let embedded = read("src/migrations/files.rs");
    assert!(embedded.contains("../../migrations/") && copied.contains(&"migrations".to_owned()));
}

#[test]
fn the_dockerfile_builds_what_is_locked_and_runs_as_nobody_special() {
    let all = instructions();
    let of = |name: &str| {
        all.iter().filter(|(found, _)| found == name).map(|(_, rest)| rest.clone()).collect::<Vec<_>>()
    };
    for build in of("RUN").iter().filter(|run| run.contains("cargo build")) {
        assert!(build.contains("cargo build --release --locked --bin usage-processor"), "{build}");
    }
    // Benches are declared in Cargo.toml: without their files cargo refuses the manifest.
    for bench in read("Cargo.toml").split("[[bench]]").skip(1) {
        let name = bench.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"');
        assert!(of("RUN")[0].contains(&format!("benches/{name}.rs")), "{name}");
    }
    for image in of("FROM") {
        let (_, tag) = image.split(' ').next().unwrap().split_once(':').unwrap();
        assert!(tag.contains('.'), "{image} is not pinned");
    }
    let rust = read("Cargo.toml")
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap()
        .trim_matches('"')
        .to_owned();
    assert!(of("FROM")[0].starts_with(&format!("rust:{rust}.")), "{:?} and {rust}", of("FROM"));
    assert_eq!(of("USER"), ["processor"]);
    assert_eq!(of("STOPSIGNAL"), ["SIGTERM"]);
    assert_eq!(of("ENTRYPOINT"), [r#"["/usr/bin/usage-processor"]"#]);
    // Ready it is not while a server is away, and would be killed for it.
    let asks = r#"["/usr/bin/usage-processor", "status", "--alive", "--url", "#;
    assert!(of("HEALTHCHECK")[0].contains(asks));
}

/// The compose file as docker-compose understands it, unless none is here.
#[track_caller]
fn compose() -> Option<String> {
    let file = root().join("docker/docker-compose.yml");
    for way in [["docker-compose"].as_slice(), &["docker", "compose"]] {
        let run = |arguments: &[&str]| {
            Command::new(way[0]).args(&way[1..]).arg("--file").arg(&file).args(arguments).output()
        };
        if run(&["version"]).is_ok_and(|output| output.status.success()) {
            let output = run(&["config"]).unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            return Some(String::from_utf8(output.stdout).unwrap());
        }
    }
    tool_is_missing("docker-compose", "docker/docker-compose.yml is not checked");
    None
}

#[test]
fn docker_compose_reads_the_file_and_what_it_mounts_is_there() {
    let Some(config) = compose() else { return };
    let services = config.split_once("services:").unwrap().1.lines();
    let services: Vec<_> = services
        .filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'))
        .filter(|name| !name.starts_with(' '))
        .collect();
    for service in ["database", "kafka", "topic", "migrate", "usage-processor", "prometheus", "grafana"] {
        assert!(services.contains(&service), "{service}: {config}");
    }
    let mut mounts = 0;
    for line in read("docker/docker-compose.yml").lines() {
        let Some((source, _)) = line.trim_start().strip_prefix("- .").and_then(|rest| rest.split_once(":/"))
        else {
            continue;
        };
        let path = root().join("docker").join(format!(".{source}"));
        assert!(path.exists(), "{line}");
        mounts += 1;
    }
    assert_eq!(mounts, 5);
}

#[test]
fn the_compose_file_pins_images_publishes_to_loopback_only_and_holds_no_secret() {
    let text = read("docker/docker-compose.yml");
    let of = |key: &str| {
        text.lines().filter_map(|line| line.trim().strip_prefix(key)).map(str::to_owned).collect::<Vec<_>>()
    };
    for image in of("image: ") {
        let (_, tag) = image.split_once(':').unwrap_or_else(|| panic!("{image} is not pinned"));
        assert!(image == "usage-processor:local" || tag.contains('.'), "{image} is not pinned");
    }
    assert_eq!(of("build:").len(), 1, "the image is built once, not by several services at a time");
    assert_eq!(of("COMMIT: "), ["${COMMIT:-no commit}"]);
    assert_eq!(of("pull_policy: "), ["never"], "no registry has it");
    let mut is_ports = false;
    for line in text.lines() {
        if is_ports && line.trim_start().starts_with("- ") {
            assert!(line.contains("- 127.0.0.1:"), "{line}");
        }
        is_ports = line.trim() == "ports:" || is_ports && line.trim_start().starts_with("- ");
    }
    assert!(!text.contains("://usage_processor"), "a URL with a password");
    assert!(read(".gitignore").lines().any(|line| line == "/docker/secrets"));
    let seconds = |text: &str| text.trim_end_matches('s').parse::<u64>().unwrap();
    let drain = seconds(&of("DRAIN_TIMEOUT: ")[0]);
    let grace =
        text.split_once("\n  usage-processor:\n").unwrap().1.split_once("stop_grace_period: ").unwrap().1;
    assert!(seconds(grace.lines().next().unwrap()) >= drain + 5, "killed while it drains");
    assert!(text.contains("--topic=usage-events") && text.contains("--partitions=16"));
    assert!(text.contains("shared_preload_libraries=timescaledb") && text.contains("max_connections=200"));
}

/// The one script, in a copy of the directory: what it makes is for the containers' users to read, and for nobody else on the host.
#[test]
fn secrets_are_made_once_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("make-secrets");
    fs::copy(root().join("docker/make-secrets"), &script).unwrap();
    let make = || {
        let status = Command::new("bash").arg(&script).stdout(std::process::Stdio::null()).status().unwrap();
        assert!(status.success());
        let files =
            fs::read_dir(directory.path().join("secrets")).unwrap().map(|entry| entry.unwrap().path());
        files
            .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
            .collect::<BTreeMap<PathBuf, String>>()
    };
    let first = make();
    assert_eq!(make(), first);
    let named = |name: &str| first[&directory.path().join("secrets").join(name)].clone();
    let password = named("database-password");
    assert!(password.len() == 48 && password.bytes().all(|byte| byte.is_ascii_hexdigit()), "{password:?}");
    assert_eq!(
        named("database-url"),
        format!("postgresql://usage_processor:{password}@database:5432/usage\n")
    );
    assert_ne!(named("grafana-password"), password);
    for name in first.keys().map(|path| path.file_name().unwrap().to_str().unwrap()) {
        assert!(read("docker/docker-compose.yml").contains(&format!("file: secrets/{name}")), "{name}");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory.path().join("secrets")), 0o700);
    assert!(first.keys().all(|path| mode(path) == 0o644));
}
