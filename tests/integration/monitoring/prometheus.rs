//! A real Prometheus with the configuration that is in `monitoring/prometheus`, only more often: it scrapes and evaluates every
//! second. On a free port of 127.0.0.1, its data in a directory of its own; ended when dropped.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::directory;
use crate::support::{Processor, SERVER_TIMEOUT, eventually};

/// A further one is drawn when somebody else takes the port first.
const ATTEMPTS: u32 = 5;

pub(crate) struct Prometheus {
    address: String,
    process: Processor,
    _data: TempDir,
}

impl Prometheus {
    /// Scrapes these addresses.
    #[track_caller]
    pub(crate) fn watching(targets: &[&str]) -> Self {
        for _ in 0..ATTEMPTS {
            if let Some(prometheus) = Self::start(targets) {
                return prometheus;
            }
        }
        panic!("Prometheus does not start");
    }

    fn start(targets: &[&str]) -> Option<Self> {
        let data = tempfile::tempdir().unwrap();
        for name in ["prometheus.yml", "rules.yml"] {
            let text = fs::read_to_string(directory().join("prometheus").join(name)).unwrap();
            let every_second = text
                .replace("_interval: 15s", "_interval: 1s\n  scrape_timeout: 1s")
                .replacen("\n  scrape_timeout: 1s", "", 1);
            fs::write(data.path().join(name), every_second).unwrap();
        }
        let targets = serde_json::json!([{ "targets": targets }]); // JSON is YAML.
        fs::write(data.path().join("targets.yml"), targets.to_string()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", data.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let mut prometheus = Self { address, process: Processor::spawn(command), _data: data };
        eventually("Prometheus answers", SERVER_TIMEOUT, || match prometheus.process.exit_status() {
            Some(_) => Ok(false),
            None => get(&prometheus.address, "/-/ready")
                .filter(|(status, _)| *status == 200)
                .map(|_| true)
                .ok_or("not yet"),
        })
        .then_some(prometheus)
    }

    /// The result of an expression now: a list of samples, or why there is none.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.api(&format!("query?query={encoded}"))?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// What `/api/v1/PATH` says.
    pub(crate) fn api(&self, path: &str) -> Result<Value, String> {
        let (_, body) = get(&self.address, &format!("/api/v1/{path}")).ok_or("no answer")?;
        let mut answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        if answer["status"] == "success" {
            Ok(answer["data"].take())
        } else {
            Err(answer["error"].to_string())
        }
    }
}

/// Status and body. By HTTP 1.0, in which a body ends with the connection.
pub(crate) fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(SERVER_TIMEOUT)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
