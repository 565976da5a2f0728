//! A TCP proxy in front of a server, for what a server cannot be asked to do: to lose answers, to
//! cut or reset connections at a chosen moment, to be slow, to take everything and say nothing.
//!
//! A thread a direction; they end with their connection. A proxy lives as long as the test.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

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
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Answers are thrown away.
    is_silent: AtomicBool,
    /// Milliseconds by which everything is late, each way.
    delay_ms: AtomicU64,
    /// So many of the next COMMITs are carried out by the server and not answered.
    commits_to_cut: AtomicU32,
}

/// A client and its server.
#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// A COMMIT is on its way whose answer the client is never to see.
    is_answer_to_be_lost: AtomicBool,
    is_reset: AtomicBool,
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

    /// Ends every connection that there is in order, with FIN to either end.
    pub(crate) fn cut(&self) {
        for connection in self.state.connections.lock().unwrap().drain(..) {
            connection.cut();
        }
    }

    /// Ends every connection that there is with RST to either end, as a host does that has forgotten it.
    pub(crate) fn reset(&self) {
        for connection in self.state.connections.lock().unwrap().drain(..) {
            connection.reset();
        }
    }

    /// Lets the next COMMITs reach the server, and cuts the connection once it has answered.
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
        let (is_answer_to_be_lost, is_reset) = (AtomicBool::new(false), AtomicBool::new(false));
        let connection = Arc::new(Connection { client, server, is_answer_to_be_lost, is_reset });
        let mut connections = self.connections.lock().unwrap();
        // Those that nobody forwards any more.
        connections.retain(|connection| Arc::strong_count(connection) > 1);
        connections.push(Arc::clone(&connection));
        drop(connections);
        let (state, to_server) = (Arc::clone(self), Arc::clone(&connection));
        spawn(move || to_server.end_after(|| state.forward_requests(&to_server)));
        let state = Arc::clone(self);
        spawn(move || connection.end_after(|| state.forward_answers(&connection)));
    }

    fn forward_requests(&self, connection: &Connection) -> io::Result<()> {
        // The end of what was sent before: a COMMIT may arrive in two pieces.
        let mut sent = Vec::new();
        forward(&connection.client, &connection.server, |bytes| {
            self.delay();
            sent.extend_from_slice(bytes);
            if sent.windows(COMMIT.len()).any(|window| window == COMMIT) {
                sent.clear();
                connection.is_answer_to_be_lost.store(self.takes_commit(), Ordering::SeqCst);
            }
            sent.drain(..sent.len().saturating_sub(COMMIT.len() - 1));
            Verdict::Forward
        })
    }

    fn forward_answers(&self, connection: &Connection) -> io::Result<()> {
        forward(&connection.server, &connection.client, |_| {
            self.delay();
            if self.is_silent.load(Ordering::SeqCst) {
                Verdict::Lose
            } else if connection.is_answer_to_be_lost.load(Ordering::SeqCst) {
                Verdict::Cut
            } else {
                Verdict::Forward
            }
        })
    }

    fn delay(&self) {
        thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)));
    }

    fn takes_commit(&self) -> bool {
        self.commits_to_cut
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1))
            .is_ok()
    }
}

/// What becomes of bytes that have arrived.
enum Verdict {
    Forward,
    Lose,
    Cut,
}

/// Copies one direction until either end hangs up or is cut.
fn forward(
    mut from: &TcpStream,
    mut to: &TcpStream,
    mut judge: impl FnMut(&[u8]) -> Verdict,
) -> io::Result<()> {
    let mut buffer = [0; 16_384];
    loop {
        let count = from.read(&mut buffer)?;
        let bytes = &buffer[..count];
        if bytes.is_empty() {
            return Ok(());
        }
        match judge(bytes) {
            Verdict::Forward => to.write_all(bytes)?,
            Verdict::Lose => {}
            Verdict::Cut => return Ok(()),
        }
    }
}

impl Connection {
    /// What becomes of one direction ends both; why it ended is of no interest here.
    fn end_after(&self, forward: impl FnOnce() -> io::Result<()>) {
        forward().ok();
        if !self.is_reset.load(Ordering::SeqCst) {
            self.cut();
        }
    }

    fn cut(&self) {
        self.client.shutdown(Shutdown::Both).ok();
        self.server.shutdown(Shutdown::Both).ok();
    }

    /// Wakes both threads; the last of them closes sockets that have no time to linger, which is an RST.
    fn reset(&self) {
        self.is_reset.store(true, Ordering::SeqCst);
        for end in [&self.client, &self.server] {
            SockRef::from(end).set_linger(Some(Duration::ZERO)).ok();
            end.shutdown(Shutdown::Read).ok();
        }
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name("proxy".to_owned()).spawn(body).unwrap();
}
