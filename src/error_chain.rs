//! An error and its causes on one line, for the log and for the end of the program.

use std::error::Error;

/// Joins an error and its sources by colons. What a cause repeats of the one before is left out;
/// of what PostgreSQL says, its DETAIL is left out too: it quotes the row.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut chain = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let server = error.downcast_ref::<postgres::Error>().and_then(postgres::Error::as_db_error);
        let text = server.map_or_else(
            || error.to_string(),
            |server| format!("{} (SQLSTATE {})", server.message(), server.code().code()),
        );
        if !chain.ends_with(&text) {
            if !chain.is_empty() {
                chain.push_str(": ");
            }
            chain.push_str(&text);
        }
        next = if server.is_some() { None } else { error.source() };
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let root = Layer { text: "connection refused", source: None };
        let middle = Layer { text: "connecting: connection refused", source: Some(Box::new(root)) };
        let top = Layer { text: "writing", source: Some(Box::new(middle)) };
        assert_eq!(error_chain(&top), "writing: connecting: connection refused");
    }
}
