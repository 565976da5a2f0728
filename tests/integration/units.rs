//! The systemd units, by systemd's own judgement. Needs no server.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

const NAMES: [&str; 2] = ["usage-processor-maintain.service", "usage-processor-maintain.timer"];

fn unit(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)).unwrap()
}

#[test]
fn systemd_finds_nothing_to_say_about_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let paths = NAMES.map(|name| directory.path().join(name));
    for (name, path) in NAMES.iter().zip(&paths) {
        // It looks whether the program is there.
        let text =
            unit(name).replace("/usr/local/bin/usage-processor", env!("CARGO_BIN_EXE_usage-processor"));
        fs::write(path, text).unwrap();
    }
    let output = match Command::new("systemd-analyze").arg("verify").args(&paths).output() {
        Ok(output) => output,
        Err(_) => {
            // `eprintln!` would be captured.
            let line = b"\n*** NO systemd-analyze HERE: the systemd units are not verified ***\n\n";
            return std::io::stderr().lock().write_all(line).unwrap();
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_unit_calls_a_command_that_exists_and_hands_it_no_secret() {
    let service = unit(NAMES[0]);
    let command = service.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut words = command.split_whitespace();
    assert_eq!(words.next(), Some("/usr/local/bin/usage-processor"));
    let help =
        Command::new(env!("CARGO_BIN_EXE_usage-processor")).args(words).arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(help.status.success() && text.contains("MAINTENANCE_DATABASE_URL_FILE"), "{text}");
    assert!(!service.contains("://"), "a URL holds a password");
}
