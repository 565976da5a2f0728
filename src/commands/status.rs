//! `status`: asks a running process what its status page shows, and prints it.

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use clap::Args;
use console::Term;

use crate::clock::now_ms;
use crate::error_chain::error_chain;
use crate::status::{Status, terminal};

/// How long the process may take to answer.
const PATIENCE_S: u64 = 5;
/// Between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// A thousand partitions and ninety points of latency are a tenth of it.
const BYTES_MAX: u64 = 4 << 20;

/// `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// The process, such as `http://127.0.0.1:9465` [default: http://METRICS_ADDR].
    #[arg(long)]
    pub url: Option<String>,
    /// Where `run` serves status and metrics: host:port.
    #[arg(long, env = "METRICS_ADDR", default_value = "127.0.0.1:9464", value_name = "ADDR")]
    pub metrics_addr: String,
    /// Look again every two seconds, until Ctrl-C. As much is shown as fits the terminal.
    #[arg(long)]
    pub watch: bool,
    /// Print /status.json as it is, with --watch a line each time.
    #[arg(long)]
    pub json: bool,
    /// Exit with 0 as long as it is alive, ready or not: for a supervisor that kills what is unhealthy, which an outage of a
    /// server, being waited for, must not bring about.
    #[arg(long, conflicts_with = "watch")]
    pub alive: bool,
}

/// Why `status` exits with an error.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// There is nothing to ask.
    #[error("METRICS_ADDR is {address}, which names no place to ask: give --url")]
    NoAddress {
        /// What it is.
        address: String,
    },
    /// No process, or another address.
    #[error(
        "nobody answers at {url}; see whether `usage-processor run` is up on this host and its log says `serving \
         status and metrics at` that address, or give --url"
    )]
    NoAnswer {
        /// What was asked.
        url: String,
        /// What happened.
        source: minreq::Error,
    },
    /// It broke off.
    #[error("reading the answer of {url}")]
    Broken {
        /// What was asked.
        url: String,
        /// What happened.
        source: io::Error,
    },
    /// Something else listens there.
    #[error("{url} is no usage-processor of this version: it answers {what}")]
    Stranger {
        /// What was asked.
        url: String,
        /// What came.
        what: String,
    },
    /// It said no.
    #[error("{0}")]
    NotWell(String),
    /// Standard output is closed.
    #[error("printing the status")]
    Print(#[source] io::Error),
}

/// Asks once, or again and again.
pub fn run(args: &StatusArgs) -> Result<(), StatusError> {
    let url = status_url(args)?;
    let mut term = Term::buffered_stdout();
    if args.watch {
        return watch(args, &url, &mut term);
    }
    let text = fetch(&url)?;
    let status = parse(&url, &text)?;
    let print = |term: &mut Term| {
        if args.json {
            writeln!(term, "{}", text.trim_end())?;
        } else {
            let settings = terminal::settings(&status);
            for line in terminal::lines(&status).iter().chain([&String::new()]).chain(&settings) {
                writeln!(term, "{line}")?;
            }
        }
        term.flush()
    };
    print(&mut term).map_err(StatusError::Print)?;
    judge(&status, args.alive)
}

/// Whether it is alive and ready; or alive only.
fn judge(status: &Status, is_life_enough: bool) -> Result<(), StatusError> {
    let verdicts = [("not alive", &status.alive), ("not ready", &status.ready)];
    let counting = if is_life_enough { &verdicts[..1] } else { &verdicts[..] };
    let no = counting.iter().filter(|(_, verdict)| !verdict.is_ok);
    let words: Vec<_> = no.map(|(what, verdict)| format!("{what}: {}", verdict.reasons.join("; "))).collect();
    if words.is_empty() { Ok(()) } else { Err(StatusError::NotWell(words.join(" | "))) }
}

/// Ends with the process, by a signal; or when standard output is closed.
fn watch(args: &StatusArgs, url: &str, term: &mut Term) -> Result<(), StatusError> {
    let (mut lines, mut answered_ms) = (Vec::new(), now_ms());
    loop {
        let answer = fetch(url).and_then(|text| Ok((parse(url, &text)?, text)));
        let drawn = match answer {
            Ok((_, text)) if args.json => writeln!(term, "{}", text.trim_end()).and_then(|()| term.flush()),
            Ok((status, _)) => {
                (lines, answered_ms) = (terminal::lines(&status), now_ms());
                draw(term, &lines)
            }
            Err(error) if args.json => {
                log::error!("{}", error_chain(&error));
                Ok(())
            }
            // What was there last stays below.
            Err(error) => draw(term, &[terminal::silence(&error, answered_ms), lines.clone()].concat()),
        };
        drawn.map_err(StatusError::Print)?;
        thread::sleep(WATCH_INTERVAL);
    }
}

/// Over what was there, without a blank moment in between; into a file one after the other.
fn draw(term: &mut Term, lines: &[String]) -> io::Result<()> {
    if !term.is_term() {
        lines.iter().try_for_each(|line| writeln!(term, "{line}"))?;
        writeln!(term)?;
        return term.flush();
    }
    let (rows, columns) = term.size();
    let rows = usize::from(rows.max(2)) - 1;
    let (shown, hidden) = lines.split_at(if lines.len() > rows { rows - 1 } else { lines.len() });
    term.move_cursor_to(0, 0)?;
    for line in shown {
        // `\x1b[K` clears what is left of an older line.
        writeln!(term, "{}\x1b[K", console::truncate_str(line, columns.into(), "\u{2026}"))?;
    }
    if !hidden.is_empty() {
        write!(term, "{} more lines: make the window higher", hidden.len())?;
    }
    // And this what is left of the screen.
    write!(term, "\x1b[J")?;
    term.flush()
}

/// Of `/status.json`.
fn status_url(args: &StatusArgs) -> Result<String, StatusError> {
    let base = match &args.url {
        Some(url) if url.contains("://") => url.clone(),
        Some(url) => format!("http://{url}"),
        None if args.metrics_addr == "none" || args.metrics_addr.ends_with(":0") => {
            return Err(StatusError::NoAddress { address: args.metrics_addr.clone() });
        }
        None => format!("http://{}", args.metrics_addr),
    };
    let base = base.trim_end_matches('/');
    Ok(format!("{}/status.json", base.strip_suffix("/status.json").unwrap_or(base)))
}

fn fetch(url: &str) -> Result<String, StatusError> {
    let request = minreq::get(url).with_timeout(PATIENCE_S).with_follow_redirects(false);
    let answer =
        request.send_lazy().map_err(|source| StatusError::NoAnswer { url: url.to_owned(), source })?;
    if answer.status_code != 200 {
        let what = format!("{} {}", answer.status_code, answer.reason_phrase);
        return Err(StatusError::Stranger { url: url.to_owned(), what });
    }
    let mut text = String::new();
    answer
        .take(BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|source| StatusError::Broken { url: url.to_owned(), source })?;
    Ok(text)
}

fn parse(url: &str, text: &str) -> Result<Status, StatusError> {
    serde_json::from_str(text)
        .map_err(|error| StatusError::Stranger { url: url.to_owned(), what: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Verdict;

    fn url(url: Option<&str>, address: &str) -> Result<String, StatusError> {
        status_url(&StatusArgs {
            url: url.map(str::to_owned),
            metrics_addr: address.to_owned(),
            watch: false,
            json: false,
            alive: false,
        })
    }

    #[test]
    fn who_waits_is_alive_and_who_is_stuck_is_not() {
        let mut status = crate::status::samples::loaded();
        assert!(judge(&status, false).is_ok() && judge(&status, true).is_ok());
        status.ready = Verdict { is_ok: false, reasons: vec!["the database is away".to_owned()] };
        assert!(judge(&status, true).is_ok());
        assert_eq!(judge(&status, false).unwrap_err().to_string(), "not ready: the database is away");
        status.alive = Verdict { is_ok: false, reasons: vec!["a".to_owned(), "b".to_owned()] };
        assert_eq!(judge(&status, true).unwrap_err().to_string(), "not alive: a; b");
        let both = "not alive: a; b | not ready: the database is away";
        assert_eq!(judge(&status, false).unwrap_err().to_string(), both);
    }

    #[test]
    fn an_address_is_enough() {
        let expected = "http://127.0.0.1:9465/status.json";
        for given in ["http://127.0.0.1:9465", "127.0.0.1:9465/", "http://127.0.0.1:9465/status.json"] {
            assert_eq!(url(Some(given), "none").unwrap(), expected);
        }
        assert_eq!(url(None, "127.0.0.1:9465").unwrap(), expected);
        assert_eq!(url(None, "[::1]:9464").unwrap(), "http://[::1]:9464/status.json");
        for nowhere in ["none", "127.0.0.1:0"] {
            assert!(matches!(url(None, nowhere), Err(StatusError::NoAddress { .. })));
        }
    }
}
