//! A connection string taken apart: a URL or `key=value` pairs, as libpq reads them. Pure, but for the service file.
//!
//! The `postgres` crate parses what it knows; what it refuses (`sslrootcert`, `verify-full`, `service` ...) is
//! taken out before. The part of a URL before its query, which has the user and the password, goes to the
//! crate as it is. Errors repeat nothing of the text: any part of it may be a password.

use std::path::PathBuf;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::service_file;
use super::tls::TlsFileError;

/// What libpq takes from the environment when neither the text nor the service says it.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGPASSWORD", "password"),
];

/// What libpq knows and this program does not: leaving it out in silence might mean less security than was asked for.
const UNSUPPORTED: [&str; 15] = [
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslcertmode",
    "sslsni",
    "sslcompression",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "require_auth",
    "requirepeer",
    "gssencmode",
    "krbsrvname",
    "gsslib",
    "client_encoding",
    "replication",
];

/// The same as variables of the environment, as far as they are about security.
const UNSUPPORTED_ENVIRONMENT: [&str; 6] = [
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLMAXPROTOCOLVERSION",
];

/// Why a connection string cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConninfoError {
    /// It is none.
    #[error("is not a URL or key=value pairs that PostgreSQL knows")]
    Syntax,
    /// It asks for what this program cannot do.
    #[error("has the setting {0}, which is not supported")]
    Unsupported(&'static str),
    /// The environment does.
    #[error("is read beside the variable {0}, which is not supported")]
    UnsupportedVariable(&'static str),
    /// A setting has a value that it cannot have, alone or beside another.
    #[error("{0}")]
    Value(String),
    /// The service is not to be had.
    #[error("names a service, but {}: {problem}", path.display())]
    Service {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate or key cannot be used.
    #[error(transparent)]
    TlsFile(#[from] TlsFileError),
}

/// A connection string taken apart.
pub(super) struct Conninfo {
    /// A URL up to its query.
    base: Option<String>,
    /// What the base says already.
    base_keys: Vec<&'static str>,
    pairs: Vec<(String, String)>,
}

impl Conninfo {
    pub(super) fn parse(text: &str) -> Result<Self, ConninfoError> {
        let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        let info = if is_url {
            let (base, query) = split_url(text);
            Self { base_keys: keys_of(base)?, base: Some(base.to_owned()), pairs: parse_query(query)? }
        } else {
            Self { base: None, base_keys: Vec::new(), pairs: parse_pairs(text)? }
        };
        info.refuse_unsupported()?;
        Ok(info)
    }

    fn refuse_unsupported(&self) -> Result<(), ConninfoError> {
        match UNSUPPORTED.iter().find(|key| self.is_given(key)) {
            Some(key) => Err(ConninfoError::Unsupported(key)),
            None => Ok(()),
        }
    }

    /// Adds what the service says, and then what the environment says, where nothing is said yet.
    pub(super) fn complete(
        &mut self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ConninfoError> {
        let variable = |name| environment(name).filter(|value| !value.is_empty());
        if let Some(name) = UNSUPPORTED_ENVIRONMENT.into_iter().find(|name| variable(name).is_some()) {
            return Err(ConninfoError::UnsupportedVariable(name));
        }
        if let Some(service) = self.take("service").or_else(|| variable("PGSERVICE")) {
            let found = service_file::read(&service, self.take("servicefile"), environment);
            for (key, value) in found.map_err(|(path, problem)| ConninfoError::Service { path, problem })? {
                self.add(key, value);
            }
            self.refuse_unsupported()?;
        }
        for (name, key) in ENVIRONMENT {
            variable(name).into_iter().for_each(|value| self.add(key.to_owned(), value));
        }
        Ok(())
    }

    fn add(&mut self, key: String, value: String) {
        if !self.is_given(&key) {
            self.pairs.push((key, value));
        }
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        self.base_keys.contains(&key) || self.pairs.iter().any(|(given, _)| given == key)
    }

    /// Takes a setting out; the last one counts, and an empty one is as good as none.
    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let mut value = None;
        self.pairs.retain(|(given, text)| {
            if given == key {
                value = Some(text.clone());
            }
            given != key
        });
        value.filter(|value| !value.is_empty())
    }

    /// What is left, as the crate understands it.
    pub(super) fn into_config(self) -> Result<postgres::Config, ConninfoError> {
        let text = match self.base {
            Some(base) => {
                let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                // In a URL the crate takes a list of hosts for the name of one.
                let each = self.pairs.iter().flat_map(|(key, value)| {
                    let values: Vec<_> =
                        if key == "host" { value.split(',').collect() } else { vec![value.as_str()] };
                    let encoded =
                        values.into_iter().map(|value| format!("{}={}", encode(key), encode(value)));
                    encoded.collect::<Vec<_>>()
                });
                format!("{base}?{}", each.collect::<Vec<_>>().join("&"))
            }
            None => {
                let quote = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
                let each = self.pairs.iter().map(|(key, value)| format!("{key}='{}'", quote(value)));
                each.collect::<Vec<_>>().join(" ")
            }
        };
        text.parse().map_err(|_| ConninfoError::Syntax)
    }
}

/// At the question mark that the crate takes for the query's: the first one after the first `@`, if there is one.
fn split_url(text: &str) -> (&str, &str) {
    let start = text.find("://").map_or(0, |at| at + 3);
    let authority = &text[start..];
    // As libpq: an `@` behind a slash ends no credentials.
    let credentials = authority.find('@').filter(|at| !authority[..*at].contains('/'));
    let after = start + credentials.map_or(0, |at| at + 1);
    text[after..].find('?').map_or((text, ""), |at| (&text[..after + at], &text[after + at + 1..]))
}

fn keys_of(base: &str) -> Result<Vec<&'static str>, ConninfoError> {
    let config: postgres::Config = base.parse().map_err(|_| ConninfoError::Syntax)?;
    let has = [
        ("user", config.get_user().is_some_and(|user| !user.is_empty())),
        ("password", config.get_password().is_some()),
        ("dbname", config.get_dbname().is_some()),
        ("host", !config.get_hosts().is_empty()),
        ("port", !config.get_hosts().is_empty()),
    ];
    Ok(has.into_iter().filter(|(_, is_there)| *is_there).map(|(key, _)| key).collect())
}

fn parse_query(query: &str) -> Result<Vec<(String, String)>, ConninfoError> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or(ConninfoError::Syntax)?;
        let (key, value) = (decode(key), decode(value));
        Ok((key.map_err(|_| ConninfoError::Syntax)?, value.map_err(|_| ConninfoError::Syntax)?))
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// `key = value key='it\'s'`.
fn parse_pairs(text: &str) -> Result<Vec<(String, String)>, ConninfoError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(ConninfoError::Syntax)?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(ConninfoError::Syntax);
        }
        let (value, after) = take_value(after.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

fn take_value(text: &str) -> Result<(String, &str), ConninfoError> {
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted.is_some() => return Ok((value, &body[at + 1..])),
            char if char.is_whitespace() && quoted.is_none() => return Ok((value, &body[at..])),
            char => value.push(char),
        }
    }
    if quoted.is_some() { Err(ConninfoError::Syntax) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> postgres::Config {
        Conninfo::parse(text).unwrap().into_config().unwrap()
    }

    #[test]
    fn what_the_crate_knows_means_what_it_meant() {
        for text in [
            "postgresql://u:p%40%3F@a:1,[::1]:2/d?connect_timeout=3&options=-c%20x%3Dy",
            "postgresql://%2Fvar%2Frun:5432/d",
            "postgres://u:p?q@h/d",
            "postgresql:///d?user=u&host=%2Ftmp",
            "host=a,b port=1,2 user='it\\'s me' password=p\\ q dbname = d",
            "host=h password='a=b c'",
        ] {
            let (ours, theirs) = (config(text), text.parse::<postgres::Config>().unwrap());
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{text}");
            assert_eq!(ours.get_password(), theirs.get_password(), "{text}");
        }
    }

    #[test]
    fn what_it_does_not_know_is_taken_out() {
        let texts = [
            "postgresql://u:p@h/d?sslmode=verify-full&sslrootcert=%2Fa%20b%2Fca.pem&connect_timeout=3",
            "user=u password=p host=h dbname=d sslmode=verify-full sslrootcert='/a b/ca.pem' connect_timeout=3",
        ];
        for text in texts {
            let mut info = Conninfo::parse(text).unwrap();
            assert_eq!(info.take("sslmode").as_deref(), Some("verify-full"));
            assert_eq!(info.take("sslrootcert").as_deref(), Some("/a b/ca.pem"));
            let config = info.into_config().unwrap();
            assert_eq!((config.get_user(), config.get_password()), (Some("u"), Some(&b"p"[..])));
            assert_eq!(config.get_connect_timeout().unwrap().as_secs(), 3);
        }
        // More than the crate can: an `@` in a query without credentials, hosts of a list in a query.
        let config = config("postgresql:///d?host=a,b&user=x@y");
        assert_eq!((config.get_hosts().len(), config.get_user()), (2, Some("x@y")));
    }

    #[test]
    fn the_text_comes_before_the_environment_and_the_last_of_two_counts() {
        let environment = |name: &str| match name {
            "PGSSLMODE" => Some("require".to_owned()),
            "PGPASSWORD" => Some("secret".to_owned()),
            "PGSSLCERT" => Some(String::new()),
            _ => None,
        };
        let mut info = Conninfo::parse("postgresql://u@h/d?sslmode=prefer&sslmode=disable").unwrap();
        info.complete(&environment).unwrap();
        assert_eq!(info.take("sslmode").as_deref(), Some("disable"));
        assert!(!info.is_given("sslcert"));
        assert_eq!(info.into_config().unwrap().get_password(), Some(&b"secret"[..]));
        let mut info = Conninfo::parse("postgresql://u:own@h/d").unwrap();
        info.complete(&environment).unwrap();
        assert_eq!(info.take("sslmode").as_deref(), Some("require"));
        assert_eq!(info.into_config().unwrap().get_password(), Some(&b"own"[..]));
    }

    #[test]
    fn mistakes_are_told_without_the_text() {
        for text in
            ["hunter2", "host=h pass word=hunter2", "host=h password='hunter2", "postgresql://h/d?hunter2"]
        {
            let Err(error) = Conninfo::parse(text) else { panic!("{text}") };
            assert!(matches!(error, ConninfoError::Syntax), "{text}");
        }
        let Err(error) = Conninfo::parse("host=h sslcrl=x") else { panic!("sslcrl is not supported") };
        assert_eq!(error.to_string(), "has the setting sslcrl, which is not supported");
        let unknown = Conninfo::parse("host=h hunter2=x").unwrap().into_config();
        assert!(matches!(unknown, Err(ConninfoError::Syntax)));
    }
}
