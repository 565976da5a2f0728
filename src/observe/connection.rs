//! One HTTP connection, from its request to its end: what it may send, and how long it may take. No call here waits:
//! the server's thread serves all connections in turn.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::routes::{Answer, Method};

/// Most bytes of a request up to its body: a browser's are below 2 KiB.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Most header lines: a browser sends about 20.
const HEADERS_MAX: usize = 64;
/// From the connection to the end of the request, however steadily it trickles.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// For taking the answer, at most some hundred kilobytes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// For hanging up after the answer. Who closes a socket that holds unread bytes resets the connection, and the
/// client may never see the answer.
const LINGER: Duration = Duration::from_secs(1);
/// What a client may still send meanwhile.
const LINGER_BYTES_MAX: usize = 64 << 10;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
}

#[derive(Debug)]
enum State {
    /// The request so far.
    Request(Vec<u8>),
    /// What is left of the answer begins at this byte.
    Answer(Vec<u8>, usize),
    /// All is said; so many bytes were read and thrown away.
    Lingering(usize),
    Over,
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// Whether the server listens where this machine alone can reach it.
    is_loopback: bool,
    deadline: Instant,
    state: State,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, is_loopback: bool, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let deadline = now + REQUEST_TIMEOUT;
        Ok(Self { stream, is_loopback, deadline, state: State::Request(Vec::new()) })
    }

    /// Until when it must have done what it is at.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What the thread must wait for on its behalf.
    pub(super) fn interest(&self) -> Interest {
        if matches!(self.state, State::Answer(..)) { Interest::Write } else { Interest::Read }
    }

    /// Whether it has not asked for anything yet.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Request(_))
    }

    /// Whether it can be forgotten.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Does what is possible without waiting. `answer` is asked once, when the request is complete.
    pub(super) fn advance(&mut self, now: Instant, answer: impl FnOnce(&str) -> Answer) {
        if now >= self.deadline {
            self.state = State::Over; // Closing says enough: who is that slow waits for nothing.
            return;
        }
        let outcome = match &mut self.state {
            State::Request(_) => self.read_request(now, answer),
            State::Answer(..) => Ok(()),
            State::Lingering(_) => self.linger(),
            State::Over => return,
        };
        let outcome = outcome.and_then(|()| self.write_answer(now));
        if outcome.is_err() {
            self.state = State::Over; // The client has gone.
        }
    }

    fn read_request(&mut self, now: Instant, answer: impl FnOnce(&str) -> Answer) -> io::Result<()> {
        let State::Request(head) = &mut self.state else { return Ok(()) };
        let mut buffer = [0; 4 << 10];
        let Some(count) = read_some(&mut self.stream, &mut buffer)? else { return Ok(()) };
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..count]);
        if let Some((method, answer)) = respond(head, self.is_loopback, answer) {
            self.deadline = now + ANSWER_TIMEOUT;
            self.state = State::Answer(answer.into_bytes(method), 0);
        }
        Ok(())
    }

    fn write_answer(&mut self, now: Instant) -> io::Result<()> {
        let State::Answer(bytes, written) = &mut self.state else { return Ok(()) };
        while *written < bytes.len() {
            // Not `Write::write`, which clippy.toml bans: here a short write is expected, and counted.
            match rustix::io::write(&self.stream, &bytes[*written..]) {
                Ok(count) => *written += count,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.deadline = now + LINGER;
        self.state = State::Lingering(0);
        Ok(())
    }

    fn linger(&mut self) -> io::Result<()> {
        let State::Lingering(thrown_away) = &mut self.state else { return Ok(()) };
        let mut buffer = [0; 4 << 10];
        if let Some(count) = read_some(&mut self.stream, &mut buffer)? {
            *thrown_away += count;
            if count == 0 || *thrown_away > LINGER_BYTES_MAX {
                self.state = State::Over;
            }
        }
        Ok(())
    }
}

/// What is there, or nothing yet.
fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(buffer) {
        Ok(count) => Ok(Some(count)),
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The answer to a request, once it is complete or is known to be none. `is_loopback`: see [`Connection`].
fn respond(head: &[u8], is_loopback: bool, answer: impl FnOnce(&str) -> Answer) -> Option<(Method, Answer)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let refused = |status, text: &str| Some((Method::Get, Answer::text(status, text)));
    match request.parse(head) {
        Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => None,
        Ok(httparse::Status::Complete(len)) if len <= HEAD_BYTES_MAX => {
            let (Some(method), Some(target)) = (request.method, request.path) else {
                return refused("400 Bad Request", "no method and path");
            };
            let method = match method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                _ => {
                    let answer = Answer::text("405 Method Not Allowed", "only GET and HEAD are served");
                    return Some((Method::Get, answer.with_header("Allow: GET, HEAD")));
                }
            };
            let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
            if is_loopback && hosts.any(|host| !names_this_machine(host.value)) {
                return refused("421 Misdirected Request", "on loopback, ask for localhost or its address");
            }
            let path = target.split('?').next().unwrap_or_default();
            Some((method, answer(path)))
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            refused("431 Request Header Fields Too Large", "the request is larger than is served here")
        }
        Err(_) => refused("400 Bad Request", "this is no HTTP request"),
    }
}

/// Whether a `Host` header is `localhost` or an address, with or without a port. Any other name on loopback is one that
/// somebody's DNS has made to lead here, so that a page from there can read what only this machine may (DNS rebinding).
fn names_this_machine(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_name = address.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok();
    is_name && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &str) -> Option<String> {
        status_at(false, head)
    }

    fn status_at(is_loopback: bool, head: &str) -> Option<String> {
        let (method, answer) = respond(head.as_bytes(), is_loopback, |path| Answer::text("200 OK", path))?;
        let text = String::from_utf8(answer.into_bytes(method)).unwrap();
        let status = text.lines().next().unwrap().strip_prefix("HTTP/1.1 ").unwrap();
        Some(format!("{status}: {}", text.rsplit("\r\n").next().unwrap().trim_end()))
    }

    #[test]
    fn only_whole_small_get_and_head_requests_are_answered() {
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\n"), None);
        assert_eq!(status("GET /metrics?x=1 HTTP/1.0\r\n\r\n").unwrap(), "200 OK: /metrics");
        assert_eq!(status("HEAD /metrics HTTP/1.1\r\n\r\n").unwrap(), "200 OK: ");
        assert!(status("POST /metrics HTTP/1.1\r\n\r\n").unwrap().starts_with("405 "));
        assert!(status("GARBAGE\r\n\r\n").unwrap().starts_with("400 "));
        assert!(status("\u{16}\u{3}\u{1}\u{2}").unwrap().starts_with("400 "), "a TLS client");
        let line = |len: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(len));
        assert!(status(&line(HEAD_BYTES_MAX)).unwrap().starts_with("431 "));
        assert!(status(&(line(HEAD_BYTES_MAX) + "\r\n")).unwrap().starts_with("431 "));
        let headers = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert!(status(&format!("GET / HTTP/1.1\r\n{headers}\r\n")).unwrap().starts_with("431 "));
    }

    #[test]
    fn on_loopback_a_foreign_name_is_misdirected() {
        let from = |host: &str| status_at(true, &format!("GET / HTTP/1.1\r\nhOST: {host}\r\n\r\n")).unwrap();
        for host in ["localhost", "LOCALHOST:9464", "127.0.0.1:9464", "127.0.0.1", "[::1]:9464", "[::1]"] {
            assert_eq!(from(host), "200 OK: /", "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:9464", "localhost.evil.example", "localhost:x", "::1:a"]
        {
            assert!(from(host).starts_with("421 "), "{host}");
        }
        assert_eq!(status_at(true, "GET / HTTP/1.0\r\n\r\n").unwrap(), "200 OK: /", "no Host at all");
        assert_eq!(status("GET / HTTP/1.1\r\nHost: billing-1.internal:9464\r\n\r\n").unwrap(), "200 OK: /");
    }
}
