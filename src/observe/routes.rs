//! Which path is answered by what, and the answer's form.

use std::fmt::Write as _;

use prometheus::TEXT_FORMAT;

use super::exposition;
use super::instruments::Instruments;
use super::report;
use crate::health::{Health, Verdict};
use crate::status::page::page;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The answer.
    Get,
    /// The same without its body.
    Head,
}

/// An answer, which ends its connection.
#[derive(Debug)]
pub struct Answer {
    status: &'static str,
    content_type: &'static str,
    /// A further header line.
    header: Option<&'static str>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: &'static str, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, header: None, body: body.into() }
    }

    /// A line of text.
    pub(super) fn text(status: &'static str, text: &str) -> Self {
        Self::new(status, TEXT, format!("{text}\n"))
    }

    pub(super) fn with_header(self, header: &'static str) -> Self {
        Self { header: Some(header), ..self }
    }

    /// As it is sent. Nothing may be kept by a cache, guessed at, put into a frame, or load anything from elsewhere.
    pub(super) fn into_bytes(self, method: Method) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
             script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'\r\n",
            self.status,
            self.content_type,
            self.body.len()
        );
        if let Some(header) = self.header {
            // Writing to a String cannot fail.
            _ = write!(head, "{header}\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if method == Method::Get {
            bytes.extend(self.body);
        }
        bytes
    }
}

/// Answers from what the instruments say.
pub fn answer(instruments: &Instruments, health: &Health, path: &str) -> Answer {
    match path {
        "/" => Answer::new("200 OK", HTML, page(&report::status(instruments, health))),
        "/status.json" => json("200 OK", &report::status(instruments, health)),
        "/metrics" => match exposition::text(instruments) {
            Ok(text) => Answer::new("200 OK", TEXT_FORMAT, text),
            Err(error) => {
                log::error!("putting the metrics together: {error}");
                Answer::text("500 Internal Server Error", &error.to_string())
            }
        },
        "/healthz" => verdict(&health.liveness()),
        "/readyz" => verdict(&health.readiness()),
        _ => Answer::text("404 Not Found", "there are /, /status.json, /metrics, /healthz and /readyz"),
    }
}

fn verdict(verdict: &Verdict) -> Answer {
    json(if verdict.is_ok { "200 OK" } else { "503 Service Unavailable" }, verdict)
}

fn json(status: &'static str, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => Answer::new(status, JSON, body),
        Err(error) => Answer::text("500 Internal Server Error", &error.to_string()),
    }
}
