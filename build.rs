//! Tells the program which commit it was built from.

use std::path::Path;
use std::process::Command;

fn main() {
    // Where there is no repository to ask, as in docker/Dockerfile, whoever builds may say it.
    println!("cargo::rerun-if-env-changed=USAGE_PROCESSOR_COMMIT");
    let commit = std::env::var("USAGE_PROCESSOR_COMMIT").ok();
    let commit = commit
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "no commit".to_owned());
    println!("cargo::rustc-env=USAGE_PROCESSOR_COMMIT={commit}");
    // Grows with each commit and checkout of this worktree. What does not exist would have everything built again each time.
    if let Some(path) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists())
    {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// What git prints, if it can.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
