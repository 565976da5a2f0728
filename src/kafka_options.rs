//! Settings for the Kafka client as a person writes them: `key=value,key=value`. Pure.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// Settings in the order in which they were written; `Debug` shows no value, as one may be a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaOptions(Vec<(String, String)>);

/// Something that is no `key=value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("wanted is key=value,key=value,... where a comma within a value is written \\,")]
pub struct ParseKafkaOptionsError;

impl Deref for KafkaOptions {
    type Target = [(String, String)];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl FromStr for KafkaOptions {
    type Err = ParseKafkaOptionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pair = |option: String| {
            let (name, value) = option.split_once('=').ok_or(ParseKafkaOptionsError)?;
            let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
            if name.is_empty() { Err(ParseKafkaOptionsError) } else { Ok((name, value)) }
        };
        split_at_commas(text)
            .into_iter()
            .filter(|option| !option.trim().is_empty())
            .map(pair)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn split_at_commas(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' if chars.peek() == Some(&',') => part.extend(chars.next()),
            ',' => parts.push(std::mem::take(&mut part)),
            char => part.push(char),
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_pairs_and_commas_can_be_escaped() {
        let options: KafkaOptions = r"ssl.cipher.suites=a\,b, client.id = c,,x=a=b".parse().unwrap();
        let pairs: Vec<_> = options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("ssl.cipher.suites", "a,b"), ("client.id", "c"), ("x", "a=b")]);
        assert!("".parse::<KafkaOptions>().unwrap().is_empty());
        for text in ["sasl.password", "=x", "a=b,c"] {
            assert_eq!(text.parse::<KafkaOptions>(), Err(ParseKafkaOptionsError), "{text}");
        }
    }

    #[test]
    fn values_are_not_shown() {
        let options: KafkaOptions = "sasl.password=hunter2".parse().unwrap();
        assert_eq!(format!("{options:?}"), r#"["sasl.password"]"#);
    }
}
