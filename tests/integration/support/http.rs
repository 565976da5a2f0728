//! What a running processor says of itself over HTTP, asked by raw sockets.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::{Processor, SERVER_TIMEOUT};

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Processor {
    /// HOST:PORT of its metrics, of one that was started with METRICS_ADDR=127.0.0.1:0.
    #[track_caller]
    pub(crate) fn metrics_address(&self) -> String {
        const SERVING: &str = "serving status and metrics at http://";
        let line = self.wait_for_line(SERVING, SERVER_TIMEOUT);
        let (_, address) = line.split_once(SERVING).unwrap();
        address.trim_end_matches('/').to_owned()
    }

    /// GET.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        get(&self.metrics_address(), path)
    }

    /// By series, labels included.
    #[track_caller]
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        series(&answer.body)
    }

    /// `/status.json`.
    #[track_caller]
    pub(crate) fn status(&self) -> usage_processor::status::Status {
        let answer = self.get("/status.json");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }
}

/// GET.
#[track_caller]
pub(crate) fn get(address: &str, path: &str) -> Answer {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
}

/// Sends this and reads to the end of the connection.
#[track_caller]
pub(crate) fn exchange(address: &str, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).expect("connect to the processor's HTTP server");
    stream.set_read_timeout(Some(SERVER_TIMEOUT + Duration::from_secs(30))).unwrap();
    stream.write_all(request).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read its answer");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Lines such as `name{label="value"} 12`.
pub(crate) fn series(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        })
        .collect()
}
