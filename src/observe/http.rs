//! The HTTP server for metrics, health and status: one thread, which serves all connections in turn and waits in
//! `poll(2)` for any of them. Nothing it is sent can make it wait, or take more than a bounded piece of memory.
//!
//! tiny_http and what builds on it have no limit on how long a request may take, nor on connections. So the parsing
//! is httparse's, and what is left is small. An answer ends its connection: a scrape each 15 s needs no more.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::{Connection, Interest};
use super::routes::Answer;

/// Connections at a time, 8 KiB each until they have asked. One more takes the place of the oldest that has not: so
/// clients that only hold connections keep nobody out.
const CONNECTIONS_MAX: usize = 64;
/// How soon the end of the process is seen.
const END_CHECK: Duration = Duration::from_millis(500);
/// Before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server; ends when it is dropped, soon after.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl Server {
    /// Binds the address, so that an error is known at once, and starts the thread.
    ///
    /// # Errors
    /// When the address cannot be bound, or the thread not be started.
    pub fn start(address: SocketAddr, answer: impl Fn(&str) -> Answer + Send + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        // `::ffff:127.0.0.1` too.
        let is_loopback = address.ip().to_canonical().is_loopback();
        let mut serving = Serving { listener, is_loopback, connections: Vec::new(), answer };
        let end = Arc::clone(&is_over);
        let run = move || {
            let mut last_error = String::new();
            while !end.load(Ordering::Acquire) {
                let Err(error) = serving.turn() else { continue };
                let said = error.to_string();
                if said != last_error {
                    log::warn!("serving status and metrics: {said}; going on");
                    last_error = said;
                }
                thread::sleep(ACCEPT_PAUSE);
            }
        };
        thread::Builder::new().name("http".to_owned()).spawn(run)?;
        Ok(Self { address, is_over })
    }

    /// Where it listens; the port is a real one also if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

struct Serving<F> {
    listener: TcpListener,
    is_loopback: bool,
    /// Oldest first.
    connections: Vec<Connection>,
    answer: F,
}

impl<F: Fn(&str) -> Answer> Serving<F> {
    /// Waits until something can be done, or is overdue, and does it.
    fn turn(&mut self) -> io::Result<()> {
        let (is_client_waiting, are_ready) = self.wait()?;
        let now = Instant::now();
        for (connection, is_ready) in self.connections.iter_mut().zip(are_ready) {
            if is_ready || now >= connection.deadline() {
                connection.advance(now, &self.answer);
            }
        }
        self.connections.retain(|connection| !connection.is_over());
        if is_client_waiting { self.accept(now) } else { Ok(()) }
    }

    fn wait(&self) -> io::Result<(bool, Vec<bool>)> {
        let now = Instant::now();
        let deadlines = self.connections.iter().map(Connection::deadline);
        let wait = deadlines.map(|at| at.saturating_duration_since(now)).fold(END_CHECK, Duration::min);
        let mut waited_for = vec![PollFd::new(&self.listener, PollFlags::IN)];
        waited_for.extend(self.connections.iter().map(|connection| {
            let flags = match connection.interest() {
                Interest::Read => PollFlags::IN,
                Interest::Write => PollFlags::OUT,
            };
            PollFd::new(&connection.stream, flags)
        }));
        // Rounded up, or it would spin through the last millisecond before a deadline.
        let wait = wait + Duration::from_millis(1);
        let timeout = Timespec::try_from(wait).map_err(io::Error::other)?;
        match poll(&mut waited_for, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut are_ready = waited_for.iter().map(|waited| !waited.revents().is_empty());
        let is_client_waiting = are_ready.next().unwrap_or(false);
        Ok((is_client_waiting, are_ready.collect()))
    }

    /// Takes the clients that are waiting in. A scrape is mostly answered right here.
    fn accept(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..CONNECTIONS_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // It has gone already.
                Err(error)
                    if [ErrorKind::ConnectionAborted, ErrorKind::Interrupted].contains(&error.kind()) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.connections.len() >= CONNECTIONS_MAX {
                let oldest_idle = self.connections.iter().position(Connection::is_idle);
                self.connections.remove(oldest_idle.unwrap_or(0));
            }
            if let Ok(mut connection) = Connection::new(stream, self.is_loopback, now) {
                connection.advance(now, &self.answer);
                self.connections.push(connection);
            }
        }
        Ok(())
    }
}
