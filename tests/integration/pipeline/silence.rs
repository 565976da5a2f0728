//! A database that takes everything and answers nothing any more, as through a proxy that has lost
//! its way back: the process stops by itself, and what it did not hear of is neither lost nor doubled.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Case, PATIENCE, event, now_ms};

/// Forwards to the test's PostgreSQL; once silenced, only towards it.
struct Proxy {
    url: String,
    is_silent: Arc<AtomicBool>,
}

impl Proxy {
    fn start(database_url: &str) -> Self {
        let (user, target) = database_url.split_once('@').unwrap();
        let (server, database) = target.rsplit_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{user}@{}/{database}", listener.local_addr().unwrap());
        let is_silent = Arc::new(AtomicBool::new(false));
        let (server, silence) = (server.to_owned(), Arc::clone(&is_silent));
        let accept = move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&server).unwrap();
                forward(client.try_clone().unwrap(), server.try_clone().unwrap(), None);
                forward(server, client, Some(Arc::clone(&silence)));
            }
        };
        thread::Builder::new().spawn(accept).unwrap();
        Self { url, is_silent }
    }

    fn silence(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }
}

/// Copies one direction until either end hangs up; what is read in silence is thrown away.
fn forward(mut from: TcpStream, mut to: TcpStream, silence: Option<Arc<AtomicBool>>) {
    let copy = move || {
        let mut buffer = [0; 16_384];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let is_silent = silence.as_ref().is_some_and(|silence| silence.load(Ordering::SeqCst));
            if !is_silent && to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        to.shutdown(std::net::Shutdown::Both).ok();
    };
    thread::Builder::new().spawn(copy).unwrap();
}

#[test]
fn a_server_that_never_answers_stops_the_process_and_loses_nothing() {
    let mut case = Case::new(4);
    let proxy = Proxy::start(&case.database.test.url());
    let mut processor = case
        .processor()
        .env("DATABASE_URL", &proxy.url)
        .env("STATEMENT_TIMEOUT", "1s")
        .env("LOCK_TIMEOUT", "500ms")
        .env("DRAIN_TIMEOUT", "2s")
        .spawn();
    let now = now_ms();
    let produce = |range: std::ops::Range<u32>| {
        let events: Vec<_> = range.map(|n| event(&format!("r-{n}"), now)).collect();
        case.produce(&events);
    };
    produce(0..500);
    case.wait_until_at_end();
    proxy.silence();
    // The server takes the rows; of their COMMIT nobody hears.
    produce(500..1_000);
    processor.wait_for_line("for the database: cancelling", PATIENCE);
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(1));
    processor.wait_for_line(
        "the server answers neither within STATEMENT_TIMEOUT nor to being cancelled",
        PATIENCE,
    );

    case.process_all();
    assert_eq!(case.rows(), 1_000);
    case.assert_at_end();
    let sums = case.database.text(
        "SELECT format('%s of %s', sum(written), (SELECT sum(written) FROM usage_ledger_days)) FROM usage_ledger",
    );
    assert_eq!(sums, "1000 of 1000");
}

#[test]
fn a_statement_that_takes_too_long_is_cancelled_and_tried_again() {
    let case = Case::new(1);
    let mut client = case.database.connect();
    client
        .batch_execute(
            "CREATE SEQUENCE calls;
             CREATE FUNCTION hesitate() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF nextval('calls') <= 2 THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$;
             CREATE TRIGGER hesitate BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION hesitate()",
        )
        .unwrap();
    case.produce(&[event("a", now_ms()), event("b", now_ms())]);
    let processor = case.processor().env("STATEMENT_TIMEOUT", "1s").env("LOCK_TIMEOUT", "500ms").spawn();
    processor.wait_for_line("canceling statement due to statement timeout (SQLSTATE 57014)", PATIENCE);
    case.wait_until_at_end();
    assert_eq!(case.rows(), 2);
}
