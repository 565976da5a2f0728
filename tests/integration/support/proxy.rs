//! A TCP proxy in front of a server, for what a server cannot be asked to do: to lose answers, to
//! cut connections at a chosen byte, to be slow, to take everything and say nothing.
//!
//! A thread a direction; they end with their connection. A proxy lives as long as the test.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// PostgreSQL's simple query `COMMIT`: type, length with itself, text, NUL.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// Forwards, until it is told otherwise; see the module.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: String,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// HOST:PORT of the server; empty: connections are refused.
    server: Mutex<String>,
    connections: Mutex<Vec<TcpStream>>,
    /// Answers are thrown away.
    is_silent: AtomicBool,
    /// Milliseconds by which everything is late, each way.
    delay_ms: AtomicU64,
    /// So many of the next COMMITs reach the server and are not answered.
    commits_to_cut: AtomicU32,
}

impl Proxy {
    /// On a free port, with no server behind it yet.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let accepting = Arc::clone(&state);
        let accept = move || {
            for client in listener.incoming().map_while(Result::ok) {
                accepting.connect(client);
            }
        };
        thread::Builder::new().name("proxy".to_owned()).spawn(accept).unwrap();
        Self { address, state }
    }

    /// In front of a database; gives the URL that leads through it.
    pub(crate) fn before_database(database_url: &str) -> (Self, String) {
        let (user, target) = database_url.split_once('@').unwrap();
        let (server, database) = target.rsplit_once('/').unwrap();
        let proxy = Self::start();
        proxy.lead_to(server);
        let url = format!("{user}@{}/{database}", proxy.address);
        (proxy, url)
    }

    /// HOST:PORT of the proxy itself.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The server behind it.
    pub(crate) fn lead_to(&self, server: &str) {
        server.clone_into(&mut self.state.server.lock().unwrap());
    }

    /// Takes everything and answers nothing, on old connections and new ones; or answers again.
    pub(crate) fn silence(&self, is_silent: bool) {
        self.state.is_silent.store(is_silent, Ordering::SeqCst);
    }

    /// Everything takes so much longer, each way.
    pub(crate) fn delay(&self, delay: Duration) {
        self.state.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Cuts every connection that there is.
    pub(crate) fn cut(&self) {
        for connection in self.state.connections.lock().unwrap().drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
    }

    /// Lets the next COMMITs reach the server, and cuts the connection before the answer.
    pub(crate) fn cut_after_commits(&self, count: u32) {
        self.state.commits_to_cut.store(count, Ordering::SeqCst);
    }
}

impl State {
    fn connect(self: &Arc<Self>, client: TcpStream) {
        let server = self.server.lock().unwrap().clone();
        // The client of a proxy without a server behind it is hung up on.
        let Ok(server) = TcpStream::connect(server) else { return };
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        let ends = [&client, &server].map(|end| end.try_clone().unwrap());
        self.connections.lock().unwrap().extend(ends);
        self.forward(client.try_clone().unwrap(), server.try_clone().unwrap(), true);
        self.forward(server, client, false);
    }

    /// Copies one direction until either end hangs up.
    fn forward(self: &Arc<Self>, mut from: TcpStream, mut to: TcpStream, is_from_client: bool) {
        let state = Arc::clone(self);
        let copy = move || {
            let mut buffer = [0; 16_384];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let bytes = &buffer[..count];
                thread::sleep(Duration::from_millis(state.delay_ms.load(Ordering::SeqCst)));
                if !is_from_client && state.is_silent.load(Ordering::SeqCst) {
                    continue;
                }
                if is_from_client && state.is_to_be_cut(bytes) {
                    // The server has all of it and loses its client; the client never hears.
                    from.shutdown(Shutdown::Both).ok();
                    to.write_all(bytes).ok();
                    break;
                }
                if to.write_all(bytes).is_err() {
                    break;
                }
            }
            from.shutdown(Shutdown::Both).ok();
            to.shutdown(Shutdown::Both).ok();
        };
        thread::Builder::new().name("proxy".to_owned()).spawn(copy).unwrap();
    }

    fn is_to_be_cut(&self, bytes: &[u8]) -> bool {
        bytes.windows(COMMIT.len()).any(|window| window == COMMIT)
            && self
                .commits_to_cut
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1))
                .is_ok()
    }
}
