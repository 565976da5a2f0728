//! libpq's service file: sections `[name]` of `key=value` lines, which stand in for a longer connection string.
//!
//! PGSERVICEFILE or `~/.pg_service.conf`, and then `pg_service.conf` in PGSYSCONFDIR (Debian's directory if that is
//! not set). LDAP is not asked.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

const BYTES_MAX: u64 = 1 << 20;
const SYSTEM_DIR: &str = "/etc/postgresql-common";

/// What the service says, or which file is at fault and how. A line is never repeated: it may be a password.
pub(super) fn read(
    service: &str,
    named: Option<String>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, (PathBuf, String)> {
    let variable = |name| environment(name).filter(|value| !value.is_empty());
    let own = named.or_else(|| variable("PGSERVICEFILE")).map(PathBuf::from);
    let at_home = || variable("HOME").map(|home| Path::new(&home).join(".pg_service.conf"));
    let own = own.or_else(at_home);
    let system =
        Path::new(&variable("PGSYSCONFDIR").unwrap_or_else(|| SYSTEM_DIR.to_owned())).join("pg_service.conf");
    for path in own.iter().chain([&system]) {
        let text = match text_of(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            outcome => outcome.map_err(|error| (path.clone(), format!("cannot be read: {error}")))?,
        };
        if let Some(pairs) = section(&text, service).map_err(|problem| (path.clone(), problem))? {
            return Ok(pairs);
        }
    }
    Err((own.unwrap_or(system), "has no such section, or is not there".to_owned()))
}

fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The first section of this name.
fn section(text: &str, service: &str) -> Result<Option<Vec<(String, String)>>, String> {
    let mut pairs: Option<Vec<(String, String)>> = None;
    for (line_idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            if pairs.is_some() {
                break;
            }
            pairs = (name == service).then(Vec::new);
            continue;
        }
        let Some(pairs) = &mut pairs else { continue };
        match line.split_once('=') {
            Some(("service" | "servicefile", _)) | None => {
                return Err(format!("line {} is no key=value that can stand there", line_idx + 1));
            }
            // The first of two counts.
            Some((key, _)) if pairs.iter().any(|(given, _)| given == key) => {}
            Some((key, value)) => pairs.push((key.to_owned(), value.to_owned())),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[other]\nhost=nowhere\n\n[usage]\n  host=db1,db2\npassword=a=b \nhost=later\n[usage]\nuser=x\n";

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let pairs = section(FILE, "usage").unwrap().unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("host", "db1,db2"), ("password", "a=b")]);
        assert_eq!(section(FILE, "none").unwrap(), None);
        let error = section("[usage]\nhunter2\n", "usage").unwrap_err();
        assert_eq!(error, "line 2 is no key=value that can stand there");
        assert!(section("[usage]\nservice=other\n", "usage").is_err());
    }

    #[test]
    fn the_file_is_where_the_variable_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services");
        std::fs::write(&path, FILE).unwrap();
        let path = path.display().to_string();
        let environment = |name: &str| (name == "PGSERVICEFILE").then(|| path.clone());
        assert_eq!(read("other", None, &environment).unwrap(), [("host".to_owned(), "nowhere".to_owned())]);
        let (_, problem) = read("missing", None, &environment).unwrap_err();
        assert_eq!(problem, "has no such section, or is not there");
    }
}
