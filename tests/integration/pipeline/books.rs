//! The books: where reading starts is what the database says, an audit finds what does not add up,
//! and a database that has lost commits is made whole.

use usage_processor::migrations::Profile;

use super::{BACKLOG, Case, PATIENCE, event, now_ms, traffic};
use crate::database::{Database, profiles};
use crate::support::{PrivatePostgres, Processor, TestDatabase, TestTopic};

impl Case {
    /// The audit's exit code and what it printed.
    pub(super) fn audit(&self) -> (Option<i32>, String) {
        let mut audit = Processor::command("audit").database(&self.database.test).spawn();
        let code = audit.wait_exit(PATIENCE).code();
        (code, audit.lines().join("\n"))
    }

    #[track_caller]
    pub(super) fn assert_consistent(&self) {
        let (code, lines) = self.audit();
        assert_eq!(code, Some(0), "{lines}");
    }

    /// Changes something behind the program's back; the audit must find it, in these words.
    #[track_caller]
    fn assert_found(&mut self, change: &str, words: &str) {
        self.database.client.batch_execute(change).unwrap();
        let (code, lines) = self.audit();
        assert_eq!(code, Some(6), "{change}: {lines}");
        assert!(lines.contains(words), "{change}: {lines}");
    }

    /// A processed topic with rows, duplicates and dead letters, all of it older than what an audit
    /// calls in progress.
    fn processed(profile: Profile) -> Self {
        let mut case = Self::in_profile(profile, 2);
        case.generate(traffic(2_000, "50%"), BACKLOG);
        // Its bookkeeper is not to fold the ledger meanwhile.
        let lock = "pg_advisory_lock(hashtext('usage_fold_ledger'), 'usage_ledger'::regclass::oid::integer)";
        let unlock = lock.replace("lock(", "unlock(");
        case.database.client.batch_execute(&format!("SELECT {lock}")).unwrap();
        // Polled batches, and so spans, are a quarter as large.
        let mut processor = case.processor().env("BATCH_SIZE", "500").arg("--stop-at-end").spawn();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
        case.database.client.batch_execute(&format!("SELECT {unlock}")).unwrap();
        case.let_a_day_pass();
        case
    }

    /// Everything is committed, and nothing is missing in the books.
    #[track_caller]
    pub(super) fn assert_all_accounted_for(&self) {
        self.assert_at_end();
        self.let_a_day_pass();
        self.assert_consistent();
    }

    /// Makes what was written old, so that nothing counts as in progress.
    fn let_a_day_pass(&self) {
        self.database
            .connect()
            .batch_execute(
                "UPDATE usage_events SET created_at = created_at - interval '1 day';
                 UPDATE usage_ledger SET recorded_at = recorded_at - interval '1 day'",
            )
            .unwrap();
    }

    /// Folds everything into the figures.
    fn fold(&mut self) {
        let fold = "UPDATE usage_bounds SET fold_step = '100 years'; SELECT usage_begin_fold(now()); SELECT usage_fold()";
        self.database.client.batch_execute(fold).unwrap();
    }

    fn starts(&mut self) -> Vec<String> {
        self.database.texts(
            "SELECT concat_ws(' ', kafka_partition, epoch, start_offset, reason, lost_offsets)
               FROM usage_ledger_starts ORDER BY kafka_partition, epoch",
        )
    }
}

#[test]
fn what_was_processed_is_consistent_before_and_after_the_ledger_is_folded() {
    for profile in profiles() {
        let mut case = Case::processed(profile);
        case.assert_consistent();
        let sums = "SELECT concat_ws(' ', sum(messages), sum(written), sum(duplicates), sum(dead_letters))
                      FROM usage_ledger";
        let before = case.database.text(sums);
        case.database.client.batch_execute("SELECT usage_fold_ledger()").unwrap();
        case.assert_consistent();
        assert_eq!(case.count("usage_ledger"), 2, "one row a partition");
        assert_eq!(case.database.text(sums), before);
        // More of it, on top of what is folded.
        case.generate(traffic(2_000, "0%"), BACKLOG);
        case.process_all();
        case.assert_at_end();
        assert_eq!(case.starts().len(), 2, "reading went on, and began nowhere anew");
    }
}

#[test]
fn the_audit_finds_a_deleted_row() {
    for profile in profiles() {
        let mut case = Case::processed(profile);
        case.assert_found(
            "DELETE FROM usage_events WHERE (organization_id, time, request_id) =
                 (SELECT organization_id, time, request_id FROM usage_events LIMIT 1)",
            "INCONSISTENT  rows of each day",
        );
    }
}

#[test]
fn the_audit_finds_a_doubled_row() {
    for profile in profiles() {
        let mut case = Case::processed(profile);
        case.assert_found(
            "DROP INDEX usage_events_identity_idx; INSERT INTO usage_events SELECT * FROM usage_events LIMIT 1",
            "INCONSISTENT  no request of an organization is there twice",
        );
        let (_, lines) = case.audit();
        assert!(lines.contains("INCONSISTENT  rows of each day"), "{lines}");
    }
}

#[test]
fn the_audit_finds_a_dead_letter_that_was_removed_by_hand() {
    let mut case = Case::processed(profiles().pop().unwrap());
    case.assert_found(
        "DELETE FROM usage_dead_letters WHERE ctid = (SELECT min(ctid) FROM usage_dead_letters)",
        "INCONSISTENT  dead letters are kept",
    );
}

#[test]
fn the_audit_finds_a_ledger_row_that_was_removed_by_hand() {
    let mut case = Case::processed(profiles().pop().unwrap());
    assert!(case.count("usage_ledger") > 2, "several spans, so that one lies below others");
    case.assert_found(
        "DELETE FROM usage_ledger WHERE ctid =
             (SELECT ctid FROM usage_ledger WHERE kafka_partition = 0 ORDER BY start_offset LIMIT 1)",
        "INCONSISTENT  spans tile every partition",
    );
    let (_, lines) = case.audit();
    assert!(lines.contains("INCONSISTENT  rows written are the same by span and by day"), "{lines}");
    assert!(lines.contains("no span covers offsets 0 to"), "{lines}");
}

#[test]
fn a_hole_below_young_spans_is_work_in_progress() {
    let mut case = Case::processed(profiles().pop().unwrap());
    case.database
        .client
        .batch_execute(
            "INSERT INTO usage_ledger SELECT consumer_group, kafka_topic, kafka_partition, epoch, end_offset + 5,
                    end_offset + 6, 1, 0, 1, 0, 0 FROM usage_ledger WHERE kafka_partition = 0
              ORDER BY end_offset DESC LIMIT 1",
        )
        .unwrap();
    let (code, lines) = case.audit();
    assert_eq!(code, Some(0), "{lines}");
    assert!(lines.contains("in progress   spans tile every partition"), "{lines}");
}

#[test]
fn the_audit_finds_a_wrong_figure() {
    for profile in profiles() {
        let mut case = Case::processed(profile);
        case.fold();
        case.assert_consistent();
        for (table, promise) in [
            ("usage_hourly_figures", "INCONSISTENT  hours agree with the rows"),
            ("usage_endpoint_hourly_figures", "INCONSISTENT  hours by endpoint agree with the rows"),
            ("usage_daily_figures", "INCONSISTENT  days agree with the rows"),
        ] {
            let change = format!(
                "UPDATE {table} SET billable_units = billable_units + 1
                  WHERE bucket = (SELECT min(bucket) FROM {table})"
            );
            case.assert_found(&change, promise);
        }
        // The rows are right: the figures are computed anew from them.
        case.database
            .client
            .batch_execute(
                "SELECT usage_rebuild_day(day) FROM (SELECT DISTINCT (time AT TIME ZONE 'UTC')::date AS day
                                                       FROM usage_events) AS days",
            )
            .unwrap();
        case.assert_consistent();
    }
}

#[test]
fn the_audit_finds_an_event_from_the_future_and_a_request_at_two_times() {
    let mut case = Case::processed(profiles().pop().unwrap());
    case.assert_found(
        "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                                   response_time_ms)
         SELECT now() + interval '1 hour', request_id, organization_id, api_key_id, endpoint, method, status_code,
                response_time_ms FROM usage_events LIMIT 1",
        "INCONSISTENT  no event lies in the future",
    );
    let (_, lines) = case.audit();
    assert!(lines.contains("INCONSISTENT  no request of an organization is there twice"), "{lines}");
}

#[test]
fn rows_that_retention_drops_and_months_that_are_closed_stay_accounted_for() {
    for profile in profiles() {
        let mut case = Case::processed(profile);
        let old = "(date_trunc('day', now(), 'UTC') - interval '95 days' + interval '1 hour')";
        let old_day = format!("({old} AT TIME ZONE 'UTC')::date");
        if profile == Profile::PostgreSql {
            let made = format!("SELECT usage_ensure_partitions({old_day}, {old_day})");
            case.database.client.batch_execute(&made).unwrap();
        }
        case.database
            .client
            .batch_execute(&format!(
                "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                           status_code, response_time_ms, created_at)
                 SELECT {old}, 'old', organization_id, api_key_id, endpoint, method, status_code, response_time_ms,
                        now() - interval '1 day' FROM usage_events LIMIT 1;
                 INSERT INTO usage_ledger_days (event_day, source, written) VALUES ({old_day}, 'replay', 1)"
            ))
            .unwrap();
        case.assert_consistent();
        let rows = case.rows();
        case.fold();
        case.assert_consistent();
        let close = format!("SELECT usage_close_month(date_trunc('month', {old_day})::date)::text");
        assert_eq!(case.database.text(&close), "1");
        // By a job whose owner looks for names elsewhere. The first call says what will be dropped, the second does it.
        case.database.client.batch_execute("SET search_path = pg_temp").unwrap();
        for dropped in ["0", "1", "0"] {
            let apply = "SELECT public.usage_apply_retention()::text";
            assert_eq!(case.database.text(apply), dropped, "{profile}");
        }
        assert_eq!(case.rows(), rows - 1);
        case.assert_consistent();

        case.database.client.batch_execute("SET search_path = public").unwrap();
        case.assert_found(
            "ALTER TABLE usage_invoice_basis DISABLE TRIGGER USER; UPDATE usage_invoice_basis SET billable_units = 0",
            "INCONSISTENT  closed months are as they were frozen",
        );
        case.assert_found(
            &format!("DELETE FROM usage_daily_figures WHERE bucket = date_trunc('day', {old}, 'UTC')"),
            "INCONSISTENT  days without rows have the requests that were dropped",
        );
    }
}

#[test]
fn reading_starts_where_the_ledger_ends_whatever_kafka_has_committed() {
    let mut case = Case::new(1);
    let now = now_ms();
    case.produce(&["a", "b", "c"].map(|id| event(id, now)));
    case.process_all();
    assert_eq!(case.starts(), ["0 1 0 first start 0"]);
    // As if the process had died between COMMIT and the offset commit.
    commit(&case, 1);
    case.produce(&[event("d", now)]);
    let processor = case.process_all();
    let line = processor.wait_for_line("Stats - Messages: 1,", PATIENCE);
    assert!(line.contains("Duplicates: 0,"), "nothing that is durable was read again: {line}");
    case.assert_at_end();
    assert_eq!(case.rows(), 4);
}

#[test]
fn a_group_from_before_the_ledger_goes_on_where_it_was() {
    let mut case = Case::new(1);
    let now = now_ms();
    case.produce(&["a", "b", "c"].map(|id| event(id, now)));
    commit(&case, 2);
    case.process_all();
    assert_eq!(case.rows(), 1);
    assert_eq!(case.starts(), ["0 1 2 adopted committed offset 0"]);
    case.assert_consistent();
}

#[test]
fn an_accepted_loss_is_recorded_in_the_database() {
    let mut case = Case::new(1);
    let now = now_ms();
    case.produce(&[event("a", now)]);
    case.process_all();
    case.produce(&["b", "c", "d"].map(|id| event(id, now)));
    case.topic.delete_before(0, 3);
    let mut processor = case.processor().arg("--stop-at-end").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(5));
    assert_eq!(case.starts(), ["0 1 0 first start 0"], "nothing is accepted unasked");
    let mut processor = case.processor().arg("--accept-loss").arg("--stop-at-end").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(case.starts(), ["0 1 0 first start 0", "0 2 3 loss accepted 2"]);
    case.assert_consistent();
}

#[test]
fn a_rewind_reads_again_and_doubles_nothing() {
    let mut case = Case::new(1);
    let now = now_ms();
    case.produce(&["a", "b", "b", "c", "broken\""].map(|id| event(id, now)));
    case.process_all();
    let (rows, letters) = (case.rows(), case.dead_letters());
    assert_eq!((rows, letters), (3, 1));
    let rewind = |option: &str, value: &str| {
        let mut rewind = Processor::command("rewind")
            .source(&case.topic, &case.group)
            .database(&case.database.test)
            .arg(option)
            .arg(value)
            .spawn();
        (rewind.wait_exit(PATIENCE).code(), rewind.lines().join("\n"))
    };
    // Not while somebody reads.
    let mut reading = case.processor().spawn();
    reading.wait_for_line("assigned 1 partitions", PATIENCE);
    let (code, lines) = rewind("--to-offset", "1");
    assert_eq!(code, Some(3), "{lines}");
    assert!(lines.contains("stop all its processors first"), "{lines}");
    reading.terminate();
    assert_eq!(reading.wait_exit(PATIENCE).code(), Some(0));

    for (option, value, messages) in [("--to-offset", "1", 4), ("--to-time", "2026-01-01T00:00:00Z", 5)] {
        let (code, lines) = rewind(option, value);
        assert_eq!(code, Some(0), "{lines}");
        let processor = case.process_all();
        processor.wait_for_line(&format!("Stats - Messages: {messages}, Written: 0,"), PATIENCE);
        case.assert_at_end();
        assert_eq!((case.rows(), case.dead_letters()), (rows, letters));
    }
    let (code, lines) = rewind("--to-offset", "5");
    assert_eq!(code, Some(3), "forwards would skip events: {lines}");
    assert_eq!(case.starts(), ["0 1 0 first start 0", "0 2 1 rewind 0", "0 3 0 rewind 0"]);
    case.assert_consistent();
}

#[test]
fn a_database_restored_from_a_base_backup_is_made_whole() {
    let server = PrivatePostgres::start();
    let database = Database::migrated_in(TestDatabase::create_at(&server.url()), Profile::PostgreSql);
    let mut case = Case::with(TestTopic::create(4), database);
    case.generate(traffic(3_000, "0%"), BACKLOG);
    case.process_all();
    let backup = tempfile::tempdir().unwrap();
    server.stop();
    server.copy_data(backup.path());
    server.restart();

    let now = now_ms();
    let later: Vec<_> = (0..500).map(|n| event(&format!("later-{n}"), now)).collect();
    case.produce(&later);
    case.process_all();
    let complete = case.rows();
    case.assert_at_end();

    // The disk is gone, and what was committed since the backup with it. Kafka knows nothing of that.
    server.crash();
    server.restore_data(backup.path());
    server.restart();
    case.database.reconnect();
    assert_eq!(case.rows(), complete - 500);
    case.assert_at_end();

    let processor = case.process_all();
    processor.wait_for_line("the database has lost commits", PATIENCE);
    processor.wait_for_line("reading these 500 offsets again", PATIENCE);
    assert_eq!(case.rows(), complete);
    case.assert_consistent();
}

#[test]
fn a_database_that_loses_commits_under_a_running_processor_stops_it_and_is_made_whole() {
    let server = PrivatePostgres::start();
    let database = Database::migrated_in(TestDatabase::create_at(&server.url()), Profile::PostgreSql);
    let mut case = Case::with(TestTopic::create(4), database);
    let now = now_ms();
    let produce = |case: &Case, name: &str| {
        case.produce(&(0..300).map(|n| event(&format!("{name}-{n}"), now)).collect::<Vec<_>>());
    };
    let mut processor = case.processor().spawn();
    produce(&case, "kept");
    case.wait_until_at_end();
    let behind = tempfile::tempdir().unwrap();
    server.stop();
    server.copy_data(behind.path());
    server.restart();
    produce(&case, "lost");
    case.wait_until_at_end();
    // A standby that was behind takes over, at the same address.
    server.crash();
    server.restore_data(behind.path());
    server.restart();
    // It may be noticed before these are read, or after.
    produce(&case, "after");
    processor.wait_for_line("the database has lost commits while we ran: partition", PATIENCE);
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(1));
    case.database.reconnect();
    assert!(case.rows() <= 600, "{}", case.rows());
    case.process_all();
    assert_eq!(case.rows(), 900);
    case.assert_consistent();
}

#[test]
fn a_database_that_knows_nothing_of_the_group_gets_everything() {
    let mut case = Case::new(1);
    let now = now_ms();
    case.produce(&["a", "b", "c"].map(|id| event(id, now)));
    case.process_all();
    // A new database, or one from before the first start; Kafka's offsets are at the end.
    case.database = Database::migrated(profiles().pop().unwrap());
    let processor = case.process_all();
    processor.wait_for_line("this database's ledger knows nothing of it", PATIENCE);
    assert_eq!(case.rows(), 3);
    case.assert_at_end();
    case.assert_consistent();
}

/// Sets the group's committed offset, with the group stopped.
fn commit(case: &Case, offset: i64) {
    use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", case.topic.brokers())
        .set("group.id", &case.group)
        .create()
        .unwrap();
    let mut offsets = rdkafka::TopicPartitionList::new();
    offsets.add_partition_offset(case.topic.name(), 0, rdkafka::Offset::Offset(offset)).unwrap();
    crate::support::eventually("the offset is committed", PATIENCE, || {
        consumer.commit(&offsets, CommitMode::Sync)
    });
}
