//! Kafka with TLS and SASL: each way in on a real broker, and what is said where somebody is not let in.

use usage_processor::generate::{Traffic, Truth};

use super::Files;
use crate::database::{Database, profiles};
use crate::pipeline::{BACKLOG, Case, PATIENCE, traffic};
use crate::support::{Authority, PrivateBroker, Processor, ProcessorBuilder, TestDatabase, TestTopic};

/// A broker with a listener for each way in, all on one topic.
struct Secured {
    broker: PrivateBroker,
    case: Case,
    authority: Authority,
    files: Files,
    ca: String,
}

impl Secured {
    fn start() -> Self {
        let (authority, files) = (Authority::new("our CA"), Files::new());
        let ca = files.put("ca.pem", &authority.pem());
        let keystore = |names: &[&str]| {
            let issued = authority.issue("broker", names);
            files.put(&format!("{}.keystore.pem", names[0]), &format!("{}{}", issued.key, issued.certificate))
        };
        let (own, other) = (keystore(&["localhost"]), keystore(&["kafka.internal"]));
        let mut settings: Vec<String> =
            ["+TLS=SSL", "+MUTUAL=SSL", "+OTHER=SSL", "+SASL=SASL_SSL"].map(str::to_owned).into();
        for (listener, keystore) in [("tls", &own), ("mutual", &own), ("other", &other), ("sasl", &own)] {
            settings.push(format!("listener.name.{listener}.ssl.keystore.type=PEM"));
            settings.push(format!("listener.name.{listener}.ssl.keystore.location={keystore}"));
        }
        settings.extend([
            "listener.name.mutual.ssl.client.auth=required".to_owned(),
            "listener.name.mutual.ssl.truststore.type=PEM".to_owned(),
            format!("listener.name.mutual.ssl.truststore.location={ca}"),
            "listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".to_owned(),
            format!("listener.name.sasl.plain.sasl.jaas.config={} user_billing=\"plain-secret\";", module("plain.Plain")),
            format!("listener.name.sasl.scram-sha-256.sasl.jaas.config={};", module("scram.Scram")),
            format!("listener.name.sasl.scram-sha-512.sasl.jaas.config={};", module("scram.Scram")),
            format!(
                "listener.name.sasl.oauthbearer.sasl.jaas.config={} unsecuredLoginStringClaim_sub=\"broker\";",
                module("oauthbearer.OAuthBearer")
            ),
            "--scram=SCRAM-SHA-256=[name=billing,password=scram-secret]".to_owned(),
            "--scram=SCRAM-SHA-512=[name=billing,password=scram-secret]".to_owned(),
        ]);
        let settings: Vec<_> = settings.iter().map(String::as_str).collect();
        let broker = PrivateBroker::start_with(&settings);
        let topic = TestTopic::create_at(&broker.address(), 2);
        let case = Case::with(topic, Database::migrated(profiles().pop().unwrap()));
        Self { broker, case, authority, files, ca }
    }

    /// A command that comes by this listener.
    fn command(&self, name: &str, listener: &str, options: &str) -> ProcessorBuilder {
        let database: &TestDatabase = &self.case.database.test;
        Processor::command(name)
            .source(&self.case.topic, &self.case.group)
            .database(database)
            .env("KAFKA_BROKERS", &self.broker.address_of(listener))
            .env("KAFKA_OPTIONS", options)
    }

    fn tls(&self) -> String {
        format!("security.protocol=SSL,ssl.ca.location={}", self.ca)
    }

    fn sasl(&self, rest: &str) -> String {
        format!("security.protocol=SASL_SSL,ssl.ca.location={},{rest}", self.ca)
    }

    fn mutual(&self, name: &str, authority: &Authority) -> String {
        let (certificate, key) = self.files.put_issued(name, &authority.issue("billing", &[]));
        format!("{},ssl.certificate.location={certificate},ssl.key.location={key}", self.tls())
    }
}

fn module(name: &str) -> String {
    format!("org.apache.kafka.common.security.{name}LoginModule required")
}

fn credentials(mechanism: &str, password: &str) -> String {
    format!("sasl.mechanism={mechanism},sasl.username=billing,sasl.password={password}")
}

#[test]
fn brokers_let_in_whom_they_should_and_others_learn_why_not() {
    let mut secured = Secured::start();
    let own = Authority::new("their CA");
    secured.each_way_in_leads_to_rows();
    secured.dead_letters_rewind_and_the_generator_come_the_same_way();
    secured.who_is_not_let_in_learns_why(&own);
    secured.a_wrong_password_ends_the_process_and_a_strange_broker_is_waited_for(&own);
}

impl Secured {
    fn each_way_in_leads_to_rows(&mut self) {
        let unsecured = "sasl.mechanism=OAUTHBEARER,enable.sasl.oauthbearer.unsecure.jwt=true,sasl.oauthbearer.config=principal=billing";
        let ways = [
            ("TLS", self.tls()),
            ("MUTUAL", self.mutual("ours", &self.authority)),
            ("SASL", self.sasl(&credentials("PLAIN", "plain-secret"))),
            ("SASL", self.sasl(&credentials("SCRAM-SHA-256", "scram-secret"))),
            ("SASL", self.sasl(&credentials("SCRAM-SHA-512", "scram-secret"))),
            ("SASL", self.sasl(unsecured)),
        ];
        let mut truth = Truth::default();
        for (seed, (listener, options)) in (1..).zip(ways) {
            truth.merge(&self.case.generate(Traffic { seed, ..traffic(100, "50%") }, BACKLOG));
            let mut processor = self.command("run", listener, &options).arg("--stop-at-end").spawn();
            assert_eq!(
                processor.wait_exit(PATIENCE).code(),
                Some(0),
                "{listener} {options}: {:?}",
                processor.lines()
            );
        }
        self.case.assert_at_end();
        self.case.assert_truth(&truth);
    }

    fn dead_letters_rewind_and_the_generator_come_the_same_way(&self) {
        let options = self.sasl(&credentials("SCRAM-SHA-512", "scram-secret"));
        let letters = TestTopic::create_at(&self.broker.address(), 1);
        let command = |name| self.command(name, "SASL", &options);
        // From a file too, as secrets come.
        let file = self.files.put("kafka-options", &options);
        let generate = command("generate").env("KAFKA_OPTIONS", "").env("KAFKA_OPTIONS_FILE", &file);
        let commands = [
            generate.arg("--count=200").arg("--malformed=10%").arg("--seed=77"),
            command("run").arg("--stop-at-end").env("DEAD_LETTER_TOPIC", letters.name()),
            command("rewind").arg("--to-offset=0"),
            command("check-config"),
        ];
        for command in commands {
            let mut process = command.spawn();
            assert_eq!(process.wait_exit(PATIENCE).code(), Some(0), "{:?}", process.lines());
        }
        assert!(letters.messages().len() > 10);
    }

    fn who_is_not_let_in_learns_why(&self, strangers: &Authority) {
        let strange_ca = self.files.put("strange.pem", &strangers.pem());
        let strange = format!("security.protocol=SSL,ssl.ca.location={strange_ca}");
        let refused = "check sasl.mechanism, sasl.username and sasl.password in KAFKA_OPTIONS";
        let unverified = "the broker's certificate has expired, is not signed by a CA in ssl.ca.location";
        let wants_certificate =
            "the broker wants a client certificate that a CA in its truststore has signed";
        let misfit = "security.protocol may not fit the broker's listener";
        let wrong = [
            ("SASL", self.sasl(&credentials("PLAIN", "wrong-secret")), 3, refused),
            ("SASL", self.sasl(&credentials("SCRAM-SHA-256", "wrong-secret")), 3, refused),
            ("SASL", self.sasl(&credentials("SCRAM-SHA-512", "wrong-secret")), 3, refused),
            ("SASL", self.sasl("sasl.mechanism=OAUTHBEARER"), 2, "OIDC is not compiled in"),
            (
                "SASL",
                self.sasl("sasl.mechanism=GSSAPI"),
                3,
                "Current build options: PLAIN SASL_SCRAM OAUTHBEARER",
            ),
            ("SASL", self.tls(), 3, misfit),
            (
                "TLS",
                self.sasl(&credentials("PLAIN", "plain-secret")),
                3,
                "the listener does not take this sasl.mechanism, or no SASL",
            ),
            ("TLS", strange, 3, unverified),
            ("TLS", String::new(), 3, misfit),
            ("OTHER", self.tls(), 3, unverified),
            ("MUTUAL", self.tls(), 3, wants_certificate),
            ("MUTUAL", self.mutual("strange", strangers), 3, wants_certificate),
        ];
        // Two at a time: each waits, or most of its time does.
        for pair in wrong.chunks(2) {
            let mut checks: Vec<_> = pair
                .iter()
                .map(|(listener, options, ..)| self.command("check-config", listener, options).spawn())
                .collect();
            for (check, (listener, options, code, said)) in checks.iter_mut().zip(pair) {
                assert_eq!(check.wait_exit(PATIENCE).code(), Some(*code), "{listener} {options}");
                let lines = check.lines().join("\n");
                assert!(lines.contains(said), "{listener} {options}: {lines}");
                assert!(!lines.contains("-secret"), "{lines}");
            }
        }
    }

    fn a_wrong_password_ends_the_process_and_a_strange_broker_is_waited_for(&self, strangers: &Authority) {
        let wrong = self.sasl(&credentials("SCRAM-SHA-512", "wrong-secret"));
        let mut refused = self.command("run", "SASL", &wrong).spawn();
        assert_eq!(refused.wait_exit(PATIENCE).code(), Some(3), "{:?}", refused.lines());
        refused.wait_for_line("Kafka refuses us; check the credentials in KAFKA_OPTIONS", PATIENCE);
        let mut refused = self.command("generate", "SASL", &wrong).arg("--count=1").spawn();
        assert_eq!(refused.wait_exit(PATIENCE).code(), Some(1));
        refused.wait_for_line("Authentication failed", PATIENCE);

        let nowhere = self.command("run", "TLS", "security.protocol=SSL,ssl.ca.location=/nowhere");
        assert_eq!(
            nowhere.spawn().wait_exit(PATIENCE).code(),
            Some(2),
            "a file that is not there is a mistake"
        );
        let ca = self.files.put("strange.pem", &strangers.pem());
        let strange = format!("security.protocol=SSL,ssl.ca.location={ca}");
        let mut waiting = self.command("run", "TLS", &strange).spawn();
        let line =
            waiting.wait_for_line("the broker's certificate has expired, is not signed by a CA in", PATIENCE);
        assert!(line.contains("ERROR") && line.ends_with("; trying again"), "{line}");
        waiting.terminate();
        assert_eq!(waiting.wait_exit(PATIENCE).code(), Some(0));
    }
}
