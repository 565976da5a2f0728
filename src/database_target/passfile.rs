//! Passwords from a file, as libpq reads `.pgpass`: a line a server, `host:port:database:user:password`.
//!
//! A `*` stands for anything, `\` quotes the character after it, `#` begins a comment, and the first line that
//! fits counts. A file that others may read is not used.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A line for each database of a large company is far less; a wrong path may lead to anything.
const BYTES_MAX: u64 = 1 << 20;
/// Where servers listen without a network, which lines for `localhost` mean too.
const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Why the file was not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassfileError {
    #[error("the password file {} is open to others: chmod 600", .0.display())]
    Open(PathBuf),
    #[error("the password file {} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// The file that is named, or PGPASSFILE, or the one at home.
pub(super) fn location(
    named: Option<String>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    let at_home = || environment("HOME").map(|home| Path::new(&home).join(".pgpass"));
    named
        .or_else(|| environment("PGPASSFILE"))
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(at_home)
}

/// The password for this server, database and user; none if there is no line for it, or no file.
pub(super) fn password(
    path: &Path,
    host: &str,
    port: u16,
    database: &str,
    user: &str,
) -> Result<Option<String>, PassfileError> {
    let failed = |source| PassfileError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        outcome => outcome.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a plain file")));
    }
    // Root's may be readable by a group, as keys may: so systemd hands over its credentials.
    let open_to_others = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & open_to_others != 0 {
        return Err(PassfileError::Open(path.to_owned()));
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(find(&text, host, port, database, user))
}

fn find(text: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let host = if SOCKET_DIRS.contains(&host) { "localhost" } else { host };
    let wanted = [host, &port.to_string(), database, user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for value in wanted {
            let (field, is_quoted, after) = take_field(rest)?;
            if field != value && (field != "*" || is_quoted) {
                return None;
            }
            rest = after;
        }
        Some(unquote(rest)).filter(|password| !password.is_empty())
    })
}

/// What is before the next colon that is not quoted, whether any of it was quoted, and what is after that colon.
fn take_field(text: &str) -> Option<(String, bool, &str)> {
    let mut field = String::new();
    let mut is_quoted = false;
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            ':' => return Some((field, is_quoted, &text[at + 1..])),
            '\\' => {
                is_quoted = true;
                field.extend(chars.next().map(|(_, quoted)| quoted));
            }
            char => field.push(char),
        }
    }
    None
}

fn unquote(text: &str) -> String {
    let mut chars = text.chars();
    let mut unquoted = String::with_capacity(text.len());
    while let Some(char) = chars.next() {
        unquoted.push(if char == '\\' { chars.next().unwrap_or(char) } else { char });
    }
    unquoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# host:port:database:user:password\n\
        db1:5432:usage:billing:first\n\
        db1:5432:usage:billing:second\n\
        fe80\\:\\:1:*:*:billing:pass\\:word\\\\\n\
        \\*:1:*:*:quoted\n\
        localhost:5432:*:*:socket\n\
        short:line\n\
        *:6432:*:*:any\n";

    #[test]
    fn the_first_line_that_fits_counts() {
        let find = |host, port, user| find(FILE, host, port, "usage", user);
        assert_eq!(find("db1", 5432, "billing").as_deref(), Some("first"));
        assert_eq!(find("fe80::1", 1, "billing").as_deref(), Some("pass:word\\"));
        assert_eq!(find("/var/run/postgresql", 5432, "x").as_deref(), Some("socket"));
        assert_eq!(find("db2", 6432, "x").as_deref(), Some("any"));
        assert_eq!(find("db2", 1, "x"), None, "a quoted star is a name");
        assert_eq!(find("db1", 5432, "other"), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        assert!(matches!(password(&path, "db1", 5432, "usage", "billing"), Ok(None)));
        std::fs::write(&path, FILE).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = password(&path, "db1", 5432, "usage", "billing").unwrap_err().to_string();
        assert!(refused.ends_with("is open to others: chmod 600"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(password(&path, "db1", 5432, "usage", "billing").unwrap().as_deref(), Some("first"));
    }

    #[test]
    fn the_file_is_the_named_one_before_the_variable_and_the_one_at_home() {
        let environment = |name: &str| match name {
            "HOME" => Some("/home/b".to_owned()),
            "PGPASSFILE" => Some("/run/pass".to_owned()),
            _ => None,
        };
        assert_eq!(location(Some("/x".to_owned()), &environment), Some("/x".into()));
        assert_eq!(location(None, &environment), Some("/run/pass".into()));
        let home_only = |name: &str| environment(name).filter(|_| name == "HOME");
        assert_eq!(location(None, &home_only), Some("/home/b/.pgpass".into()));
    }
}
