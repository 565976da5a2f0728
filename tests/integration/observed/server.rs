//! The HTTP server: what it refuses, and that nobody can keep others from being served. A processor that waits for a
//! database that is not there serves as any other does.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{Processor, exchange, get};

/// How long the server lets a request take; a busy machine takes longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing listens where its database is said to be.
fn waiting_processor() -> Processor {
    Processor::run()
        .env("METRICS_ADDR", "127.0.0.1:0")
        .env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
        .spawn()
}

#[test]
fn only_get_and_head_of_what_is_there_are_served() {
    let processor = waiting_processor();
    let address = processor.metrics_address();
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/status.json", "application/json"),
        ("/metrics", "text/plain; version=0.0.4"),
        ("/metrics?name=x", "text/plain; version=0.0.4"),
        ("/healthz", "application/json"),
    ] {
        let answer = get(&address, path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.head);
        assert!(answer.head.contains(&format!("Content-Type: {content_type}\r\n")), "{}", answer.head);
        assert!(!answer.body.is_empty() && answer.head.contains("Connection: close\r\n"));
        let head = exchange(&address, format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert!(head.head.contains("Content-Length: ") && !head.head.contains("Content-Length: 0"));
    }
    assert_eq!(get(&address, "/secret").status, 404);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"] {
        let request =
            format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc");
        let answer = exchange(&address, request.as_bytes());
        assert_eq!(answer.status, 405, "{method}: {}", answer.head);
        assert!(answer.head.contains("Allow: GET, HEAD"));
    }
}

/// A page of elsewhere whose name is made to lead here has its own name in `Host`. Whoever listens for others has a name.
#[test]
fn on_loopback_a_foreign_name_gets_nothing() {
    let foreign = b"GET /status.json HTTP/1.1\r\nHost: elsewhere.example:9464\r\n\r\n";
    for (address, status) in [("127.0.0.1:0", 421), ("[::ffff:127.0.0.1]:0", 421), ("0.0.0.0:0", 200)] {
        let processor = Processor::run()
            .env("METRICS_ADDR", address)
            .env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
            .spawn();
        let answer = exchange(&processor.metrics_address(), foreign);
        assert_eq!((answer.status, answer.body.contains("version")), (status, status == 200), "{address}");
    }
}

#[test]
fn oversized_and_malformed_requests_are_refused() {
    let processor = waiting_processor();
    let address = processor.metrics_address();
    let header = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(1 << 20));
    assert_eq!(exchange_as_far_as_taken(&address, header.as_bytes()), Some(431));
    let lines = "X: y\r\n".repeat(100);
    assert_eq!(exchange(&address, format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes()).status, 431);
    assert_eq!(exchange(&address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").status, 400);
    assert_eq!(exchange(&address, b"GET /\r\n\r\n").status, 400);
}

/// The server stops reading and hangs up, which resets what is still being sent.
fn exchange_as_far_as_taken(address: &str, request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).unwrap();
    for part in request.chunks(4 << 10) {
        if stream.write_all(part).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 1 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

#[test]
fn a_request_that_trickles_in_is_cut_off() {
    let processor = waiting_processor();
    let started = Instant::now();
    let mut stream = TcpStream::connect(processor.metrics_address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    loop {
        assert!(started.elapsed() < PATIENCE, "it is still waited for");
        // Each line comes well in time; all of them do not.
        let is_over = stream.write_all(b"X: y\r\n").is_err() || matches!(stream.read(&mut [0; 64]), Ok(0));
        if is_over {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(started.elapsed() >= REQUEST_TIMEOUT, "a slow client has some time");
    assert_eq!(processor.get("/healthz").status, 200);
}

#[test]
fn idle_connections_keep_nobody_out() {
    let processor = waiting_processor();
    let address = processor.metrics_address();
    let started = Instant::now();
    let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(&address).unwrap()).collect();
    assert_eq!(get(&address, "/metrics").status, 200);
    if started.elapsed() < REQUEST_TIMEOUT {
        // Or all of them would have been closed for their own slowness.
        let closed = idle.iter().filter(|stream| {
            stream.set_nonblocking(true).unwrap();
            matches!((&**stream).read(&mut [0; 1]), Ok(0) | Err(_)) && !is_open(stream)
        });
        assert!(closed.count() >= 100, "connections have a bound");
    }
}

fn is_open(mut stream: &TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn an_address_that_is_taken_ends_the_process_which_may_start_again() {
    let processor = waiting_processor();
    let mut second = Processor::run()
        .env("METRICS_ADDR", &processor.metrics_address())
        .env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
        .spawn();
    assert_eq!(second.wait_exit(PATIENCE).code(), Some(1));
    second.wait_for_line("each instance needs an address of its own, or none", PATIENCE);
}

#[test]
fn it_listens_to_this_host_only_unless_it_is_told_otherwise() {
    let output = Processor::command("check-config")
        .env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
        .arg("--offline")
        .spawn();
    let line = output.wait_for_line("METRICS_ADDR", PATIENCE);
    assert!(line.contains("127.0.0.1:9464"), "{line}");
}
