//! Values that are secrets: given as they are, or as the name of a file that holds them (mounted secrets), or by
//! systemd as a credential of that name (`database-url` for DATABASE_URL). Reads files; prints neither values
//! nor what is in the files.

use std::env;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Mistake;
use crate::cli::DatabaseArgs;
use crate::database_target::{ConninfoError, DatabaseTarget};
use crate::kafka_options::{KafkaOptions, ParseKafkaOptionsError};

/// A connection string or a list of options is far shorter; a wrong path may lead to anything.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Where the database is, for everything that writes events.
pub fn database_config(args: &DatabaseArgs) -> Result<DatabaseTarget, Mistake> {
    const VARIABLE: &str = "DATABASE_URL";
    let url = secret(
        VARIABLE,
        args.database_url.as_deref(),
        "DATABASE_URL_FILE",
        args.database_url_file.as_deref(),
    )?;
    url.as_deref().map_or_else(|| Err(url_mistake(VARIABLE, "is required")), |url| parse(VARIABLE, url))
}

/// Where the database is, for what needs more rights than writing events: the same place unless
/// MAINTENANCE_DATABASE_URL says otherwise.
pub fn maintenance_config(args: &DatabaseArgs) -> Result<DatabaseTarget, Mistake> {
    let url = maintenance_url(args)?;
    url.map_or_else(|| database_config(args), |url| parse(MAINTENANCE_URL, &url))
}

/// Whether MAINTENANCE_DATABASE_URL is given, in whichever way. A mistake in it is another's to tell.
pub(super) fn names_maintenance(args: &DatabaseArgs) -> bool {
    maintenance_url(args).is_ok_and(|url| url.is_some())
}

const MAINTENANCE_URL: &str = "MAINTENANCE_DATABASE_URL";

fn maintenance_url(args: &DatabaseArgs) -> Result<Option<String>, Mistake> {
    secret(
        MAINTENANCE_URL,
        args.maintenance_database_url.as_deref(),
        "MAINTENANCE_DATABASE_URL_FILE",
        args.maintenance_database_url_file.as_deref(),
    )
}

/// The settings in KAFKA_OPTIONS, or in the file that holds them; none when there are none. What is allowed among them is
/// another question.
pub fn kafka_options(text: &str, file: Option<&Path>) -> Result<KafkaOptions, Mistake> {
    const VARIABLE: &str = "KAFKA_OPTIONS";
    let text = secret(VARIABLE, Some(text), "KAFKA_OPTIONS_FILE", file)?.unwrap_or_default();
    text.parse().map_err(|error: ParseKafkaOptionsError| Mistake {
        variable: VARIABLE,
        value: None,
        allowed: error.to_string(),
    })
}

/// The URL may hold a password, so neither it nor the parser's quote of it is repeated.
fn parse(variable: &'static str, url: &str) -> Result<DatabaseTarget, Mistake> {
    let target =
        DatabaseTarget::parse(url, &|name| std::env::var(name).ok()).map_err(|error| match error {
            ConninfoError::Syntax => url_mistake(variable, &error.to_string()),
            error => Mistake { variable, value: None, allowed: error.to_string() },
        })?;
    if target.host_count() == 0 {
        return Err(url_mistake(variable, "names no host"));
    }
    target.check_tls_files().map_err(|error| Mistake {
        variable,
        value: None,
        allowed: error.to_string(),
    })?;
    Ok(target)
}

fn url_mistake(variable: &'static str, problem: &str) -> Mistake {
    Mistake {
        variable,
        value: None,
        allowed: format!("{problem}, such as postgresql://user:password@host:5432/database"),
    }
}

/// The value, or what the file holds, without white space at its ends; empty counts as not given.
fn secret(
    variable: &'static str,
    value: Option<&str>,
    file_variable: &'static str,
    file: Option<&Path>,
) -> Result<Option<String>, Mistake> {
    let value = value.map(str::trim).filter(|value| !value.is_empty());
    let Some(path) = file.filter(|path| !path.as_os_str().is_empty()) else {
        let directory = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        return or_credential(variable, value, directory.as_deref());
    };
    let mistake = |allowed: String| Mistake {
        variable: file_variable,
        value: Some(path.display().to_string()),
        allowed,
    };
    if value.is_some() {
        return Err(mistake(format!("{variable} is set too: give one of them")));
    }
    let text = read(path).map_err(|error| mistake(format!("the file cannot be read: {error}")))?;
    let text = text.trim();
    if text.is_empty() { Err(mistake("the file is empty".to_owned())) } else { Ok(Some(text.to_owned())) }
}

/// The value, or what systemd has passed on. A credential that is empty or absent counts as not given, so that a unit
/// can load it whether or not the host has it.
fn or_credential(
    variable: &'static str,
    value: Option<&str>,
    directory: Option<&Path>,
) -> Result<Option<String>, Mistake> {
    let name = variable.to_lowercase().replace('_', "-");
    let mistake = |allowed: String| Mistake { variable, value: None, allowed };
    let text = match directory.map(|directory| read(&directory.join(&name))) {
        None => String::new(),
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Some(text) => {
            text.map_err(|error| mistake(format!("the credential {name} cannot be read: {error}")))?
        }
    };
    match (value, text.trim()) {
        (Some(_), text) if !text.is_empty() => {
            Err(mistake(format!("comes as the credential {name} too: give one of them")))
        }
        (Some(value), _) => Ok(Some(value.to_owned())),
        (None, text) => Ok((!text.is_empty()).then(|| text.to_owned())),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {SECRET_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const URL: &str = "postgresql://billing:hunter2@db/usage";

    fn args(value: Option<&str>, file: Option<PathBuf>) -> DatabaseArgs {
        DatabaseArgs {
            database_url: value.map(str::to_owned),
            database_url_file: file,
            maintenance_database_url: None,
            maintenance_database_url_file: None,
        }
    }

    #[test]
    fn a_secret_comes_from_a_file_without_its_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("url");
        std::fs::write(&path, format!("{URL}\n")).unwrap();
        let config = database_config(&args(None, Some(path.clone()))).unwrap();
        assert_eq!(config.config.get_password(), Some(&b"hunter2"[..]));
        let both = database_config(&args(Some(URL), Some(path.clone()))).unwrap_err();
        assert_eq!(
            (both.variable, both.allowed.as_str()),
            ("DATABASE_URL_FILE", "DATABASE_URL is set too: give one of them")
        );
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(database_config(&args(None, Some(path))).unwrap_err().allowed, "the file is empty");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_mistake_and_tells_nothing_of_its_text() {
        let directory = tempfile::tempdir().unwrap();
        let missing = database_config(&args(None, Some(directory.path().join("missing")))).unwrap_err();
        assert!(missing.allowed.starts_with("the file cannot be read: No such file"), "{missing:?}");
        let path = directory.path().join("url");
        std::fs::write(&path, "postgresql://billing:hunter2@db:port/usage").unwrap();
        let wrong = database_config(&args(None, Some(path.clone()))).unwrap_err();
        assert!(!format!("{wrong:?}").contains("hunter2"), "{wrong:?}");
        std::fs::write(&path, vec![b'x'; 65 << 10]).unwrap();
        let large = database_config(&args(None, Some(path))).unwrap_err();
        assert!(large.allowed.contains("more than 65536 bytes"), "{large:?}");
    }

    #[test]
    fn a_credential_is_a_secret_that_may_be_absent() {
        let directory = tempfile::tempdir().unwrap();
        let given = |value| or_credential("DATABASE_URL", value, Some(directory.path()));
        assert_eq!(given(Some(URL)).unwrap().as_deref(), Some(URL));
        assert_eq!(given(None).unwrap(), None);
        std::fs::write(directory.path().join("database-url"), "\n").unwrap();
        assert_eq!(given(Some(URL)).unwrap().as_deref(), Some(URL));
        assert_eq!(given(None).unwrap(), None);
        std::fs::write(directory.path().join("database-url"), format!("{URL}\n")).unwrap();
        assert_eq!(given(None).unwrap().as_deref(), Some(URL));
        let both = given(Some("postgresql://other@db/usage")).unwrap_err();
        assert_eq!(both.allowed, "comes as the credential database-url too: give one of them");
        let none = or_credential("DATABASE_URL", None, None).unwrap();
        assert_eq!(none, None, "no credentials outside of systemd");
    }

    #[test]
    fn maintenance_is_done_where_the_events_are_unless_told_otherwise() {
        let mut args = args(Some(URL), None);
        assert!(!names_maintenance(&args));
        assert_eq!(maintenance_config(&args).unwrap().config.get_user(), Some("billing"));
        args.maintenance_database_url = Some("postgresql://owner@db/usage".to_owned());
        assert_eq!(maintenance_config(&args).unwrap().config.get_user(), Some("owner"));
        assert!(names_maintenance(&args));
        args.maintenance_database_url = Some("postgresql://owner@db/usage?sslmode=verify-full".to_owned());
        assert_eq!(maintenance_config(&args).unwrap_err().variable, "MAINTENANCE_DATABASE_URL");
    }
}
