//! PostgreSQL with TLS: each `sslmode`, client certificates, channel binding, password and service files; each
//! refusal with its words; and certificates that are replaced under a running process.

use postgres::error::SqlState;
use usage_processor::database_target::DatabaseTarget;

use super::Files;
use crate::database::{Database, profiles};
use crate::pipeline::{BACKLOG, Case, PATIENCE, traffic};
use crate::support::{Authority, Issued, PrivatePostgres, Processor, TestDatabase, TestTopic, eventually};

/// A server with TLS, and who has signed its certificate.
struct Server {
    postgres: PrivatePostgres,
    authority: Authority,
    /// `postgres:PASSWORD`.
    login: String,
    port: String,
}

impl Server {
    /// Its certificate is for `localhost`.
    fn start() -> Self {
        let postgres = PrivatePostgres::start();
        let url = postgres.url();
        let (login, rest) = url.split_once("://").unwrap().1.split_once('@').unwrap();
        let port = rest.split_once(':').unwrap().1.split_once('/').unwrap().0.to_owned();
        let authority = Authority::new("our CA");
        let server = Self { login: login.to_owned(), port, authority, postgres };
        server.postgres.put_file("root.crt", server.authority.pem().as_bytes());
        server.set("ssl_ca_file", "root.crt");
        server.certify(&server.authority.issue("localhost", &["localhost"]));
        server.set("ssl", "on");
        server
    }

    fn set(&self, name: &str, value: &str) {
        let mut client = postgres::Client::connect(&self.postgres.url(), postgres::NoTls).unwrap();
        client.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).unwrap();
        self.reload();
    }

    /// The server takes new files with a connection that begins afterwards; soon.
    fn certify(&self, issued: &Issued) {
        self.postgres.put_file("server.crt", issued.certificate.as_bytes());
        self.postgres.put_file("server.key", issued.key.as_bytes());
        self.reload();
    }

    /// Lets in only by these lines, and ourselves by the socket.
    fn let_in_by(&self, lines: &str) {
        self.postgres.put_file("pg_hba.conf", lines.as_bytes());
        self.reload();
    }

    fn reload(&self) {
        self.postgres.reload();
    }

    fn url(&self, host: &str, settings: &str) -> String {
        format!("postgresql://{}@{host}:{}/usage?{settings}", self.login, self.port)
    }

    /// What TLS a connection has, or why there is none.
    fn try_to(&self, host: &str, settings: &str) -> Result<String, String> {
        let target: DatabaseTarget = self.url(host, settings).parse().map_err(|error| format!("{error}"))?;
        let mut client = target.connect().map_err(|error| error.to_string())?;
        let row = client
            .query_one("SELECT coalesce(version, 'none') FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]);
        Ok(row.unwrap().get(0))
    }

    #[track_caller]
    fn eventually(&self, host: &str, settings: &str, expected: Result<&str, &str>) {
        eventually(settings, PATIENCE, || match (self.try_to(host, settings), expected) {
            (Ok(version), Ok(expected)) if version == expected => Ok(()),
            (Err(error), Err(expected)) if error.contains(expected) => Ok(()),
            (outcome, _) => Err(outcome),
        });
    }
}

#[test]
fn each_sslmode_means_what_libpq_means() {
    let (server, files) = (Server::start(), Files::new());
    let ours = format!("sslrootcert={}", files.put("ours.crt", &server.authority.pem()));
    let strangers = format!("sslrootcert={}", files.put("strangers.crt", &Authority::new("strangers").pem()));
    let unknown = "the server's certificate (CN=localhost) is refused: no CA in sslrootcert has signed it, its issuer is CN=our CA";
    let with = |mode: &str, root: &str| format!("sslmode={mode}&{root}");
    server.eventually("localhost", "sslmode=require", Ok("TLSv1.3"));
    for (host, settings, expected) in [
        ("localhost", "sslmode=disable".to_owned(), Ok("none")),
        ("localhost", "sslmode=prefer".to_owned(), Ok("TLSv1.3")),
        ("localhost", with("prefer", &strangers), Ok("TLSv1.3")),
        ("127.0.0.1", "sslmode=require".to_owned(), Ok("TLSv1.3")),
        ("localhost", with("require", &ours), Ok("TLSv1.3")),
        ("localhost", with("require", &strangers), Err(unknown)),
        ("127.0.0.1", with("verify-ca", &ours), Ok("TLSv1.3")),
        ("127.0.0.1", with("verify-ca", &strangers), Err(unknown)),
        ("localhost", with("verify-full", &ours), Ok("TLSv1.3")),
        ("localhost", with("verify-full", "sslrootcert=system"), Err(unknown)),
        (
            "127.0.0.1",
            with("verify-full", &ours),
            Err("it is for localhost, and not for 127.0.0.1; connect by a name"),
        ),
        // SCRAM bound to this very certificate, and without one to be bound to.
        ("localhost", with("verify-full", &format!("{ours}&channel_binding=require")), Ok("TLSv1.3")),
        ("localhost", "sslmode=disable&channel_binding=require".to_owned(), Err("channel binding")),
    ] {
        server.eventually(host, &settings, expected);
    }
    server.certify(&server.authority.issue_until("localhost", &["localhost"], -3_600));
    server.eventually(
        "localhost",
        &with("verify-ca", &ours),
        Err("(CN=localhost) is refused: it has expired on "),
    );
    server.set("ssl", "off");
    server.eventually("localhost", "sslmode=require", Err("server does not support TLS: it has `ssl = off`"));
    server.eventually("localhost", "sslmode=prefer", Ok("none"));
}

#[test]
fn a_client_shows_its_certificate_and_others_are_not_let_in() {
    let (server, files) = (Server::start(), Files::new());
    let (certificate, key) = files.put_issued("ours", &server.authority.issue("postgres", &[]));
    let (strange, strange_key) =
        files.put_issued("strange", &Authority::new("strangers").issue("postgres", &[]));
    let with = |certificate: &str, key: &str| format!("sslmode=require&sslcert={certificate}&sslkey={key}");
    // No password is asked for: the certificate's name is the user's.
    server.let_in_by("local all all scram-sha-256\nhostssl usage all 127.0.0.1/32 cert\n");
    server.eventually("127.0.0.1", &with(&certificate, &key), Ok("TLSv1.3"));
    server.eventually(
        "127.0.0.1",
        "sslmode=require",
        Err("a valid client certificate (SQLSTATE 28000): it wants a client certificate: set sslcert"),
    );
    server.eventually(
        "127.0.0.1",
        &with(&strange, &strange_key),
        Err("it does not accept the certificate in sslcert"),
    );
    server.eventually(
        "127.0.0.1",
        &with(&certificate, &strange_key),
        Err("it is not the key of the certificate in sslcert"),
    );
    server.eventually(
        "127.0.0.1",
        &with(&certificate, &certificate),
        Err("there is no key in it; wanted is PEM"),
    );

    // As libpq: what is to come without TLS comes without, if that was left open.
    server.let_in_by("local all all scram-sha-256\nhostnossl usage all 127.0.0.1/32 scram-sha-256\n");
    server.eventually("127.0.0.1", "sslmode=prefer", Ok("none"));
    server.eventually("127.0.0.1", "sslmode=require", Err("no pg_hba.conf entry"));
}

#[test]
fn a_statement_is_cancelled_over_tls_too() {
    let (server, files) = (Server::start(), Files::new());
    let root = files.put("root.crt", &server.authority.pem());
    let settings = format!("sslmode=verify-full&sslrootcert={root}");
    server.eventually("localhost", &settings, Ok("TLSv1.3"));
    let target: DatabaseTarget = server.url("localhost", &settings).parse().unwrap();
    let mut client = target.connect().unwrap();
    let canceller = target.canceller(&client);
    let session =
        std::thread::Builder::new().spawn(move || client.batch_execute("SELECT pg_sleep(600)")).unwrap();
    // It is verified who is asked to: with a stranger there, nothing is sent.
    files.put("root.crt", &Authority::new("strangers").pem());
    let refused = canceller.cancel().unwrap_err().to_string();
    assert!(refused.contains("no CA in sslrootcert has signed it"), "{refused}");
    files.put("root.crt", &server.authority.pem());
    eventually("the statement is cancelled", PATIENCE, || {
        canceller.cancel().unwrap();
        if session.is_finished() { Ok(()) } else { Err("it goes on") }
    });
    let error = session.join().unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
}

#[test]
fn what_libpq_takes_from_files_and_variables_is_taken_from_there() {
    let (server, files) = (Server::start(), Files::new());
    let root = files.put("root.crt", &server.authority.pem());
    let (user, password) = server.login.split_once(':').unwrap();
    let (certificate, key) =
        files.put_issued("short", &server.authority.issue_until("postgres", &[], 3 * 86_400 + 600));
    let services = format!(
        "[usage]\nhost=nowhere.invalid,localhost\nport=1,{}\ndbname=usage\nuser={user}\n",
        server.port
    );
    let check = |passfile: &str| {
        let mut process = Processor::command("check-config")
            .env("DATABASE_URL", "postgresql://?service=usage")
            .env("KAFKA_BROKERS", "127.0.0.1:1")
            .env("PGSERVICEFILE", &files.put("services", &services))
            .env("PGPASSFILE", &files.put("passwords", passfile))
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", &root)
            .env("PGSSLCERT", &certificate)
            .env("PGSSLKEY", &key)
            .spawn();
        assert_eq!(process.wait_exit(PATIENCE).code(), Some(3));
        process.lines().join("\n")
    };
    server.eventually("localhost", "sslmode=require", Ok("TLSv1.3"));
    let said = check(&format!("other:*:*:*:wrong\nlocalhost:{}:usage:{user}:{password}\n", server.port));
    let target = format!(
        "DATABASE_URL                       database usage at nowhere.invalid:1, localhost:{} as postgres",
        server.port
    );
    for part in [
        target.as_str(),
        &format!(", sslmode=verify-full, sslrootcert={root}, sslcert={certificate}, sslkey={key}"),
        // Connected, and then: the schema is not there yet.
        "database            the database has no usage schema",
        "certificates        sslcert CN=postgres ends in 3 days",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert!(!said.contains(password), "{said}");
    let said = check("");
    assert!(
        said.contains(&format!("; localhost:{}: ", server.port)) && said.contains("nowhere.invalid:1: "),
        "{said}"
    );
}

#[test]
fn a_certificate_is_replaced_while_events_flow() {
    let (server, files) = (Server::start(), Files::new());
    let root = files.put("root.crt", &server.authority.pem());
    let settings = format!("sslmode=verify-full&sslrootcert={root}");
    let database = TestDatabase::create_at(&server.postgres.url());
    let mut case =
        Case::with(TestTopic::create(4), Database::migrated_in(database, profiles().pop().unwrap()));
    server.eventually("localhost", &settings, Ok("TLSv1.3"));
    let url =
        server.url("localhost", &settings).replace("/usage?", &format!("/{}?", case.database.test.name()));
    let mut processor = case.processor().env("DATABASE_URL", &url).env("METRICS_ADDR", "127.0.0.1:0").spawn();
    let mut truth = case.generate(traffic(2_000, "50%"), BACKLOG);
    case.wait_until_at_end();
    let certificates = |processor: &Processor| {
        let of = |name: &str| {
            name.starts_with("usage_certificate_expiry_timestamp_seconds{certificate=\"sslrootcert ")
        };
        let ends: Vec<_> = processor.metrics().into_iter().filter(|(name, _)| of(name)).collect();
        let now = usage_processor::clock::now_ms() / 1_000;
        assert!(ends.iter().all(|(_, end)| *end > now as f64), "{ends:?}");
        ends.len()
    };
    assert_eq!(certificates(&processor), 1);

    // Another CA's certificate, which the clients do not know yet, and nobody may stay connected.
    let new = Authority::new("the new CA");
    server.certify(&new.issue("localhost", &["localhost"]));
    server.eventually("localhost", &settings, Err("its issuer is CN=the new CA"));
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'usage-processor %'";
    case.database.client.batch_execute(end).unwrap();
    truth.merge(
        &case.generate(usage_processor::generate::Traffic { seed: 7, ..traffic(2_000, "50%") }, BACKLOG),
    );
    let line =
        processor.wait_for_line("no CA in sslrootcert has signed it, its issuer is CN=the new CA", PATIENCE);
    assert!(line.contains("localhost:"), "{line}");
    processor.wait_for_line("in a way that waiting may not cure", PATIENCE);

    // Old and new, as a rotation begins; no restart.
    files.put("root.crt", &format!("{}{}", server.authority.pem(), new.pem()));
    case.wait_until_at_end();
    assert_eq!(certificates(&processor), 2, "files are read anew");
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    case.assert_truth(&truth);

    // A start with a server that nobody has vouched for ends at once, for a person to look.
    files.put("root.crt", &server.authority.pem());
    let mut refused = case.processor().env("DATABASE_URL", &url).spawn();
    assert_eq!(refused.wait_exit(PATIENCE).code(), Some(3));
    refused.wait_for_line("is refused: no CA in sslrootcert has signed it", PATIENCE);
}
