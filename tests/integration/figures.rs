//! The figures while writers run: exact in every snapshot, whoever folds, whatever is late, delayed or rolled back; and nobody
//! waits long for anybody. What one session can show is in `tests/cases`.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use postgres::error::SqlState;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::database::{Database, profiles};

const RUN_TIME: Duration = Duration::from_secs(4);
const RUN_TIME_MAX: Duration = Duration::from_secs(60);
const WRITERS: u64 = 4;
const SUMS: &str = "coalesce(sum(total_requests), 0)::bigint, coalesce(sum(billable_requests), 0)::bigint, \
                    coalesce(sum(billable_units), 0)::bigint, coalesce(sum(response_time_ms_sum), 0)::bigint, \
                    coalesce(sum(success_count), 0)::bigint, coalesce(sum(client_error_count), 0)::bigint, \
                    coalesce(sum(error_count), 0)::bigint";
const ROW_SUMS: &str = "count(*), count(*) FILTER (WHERE billable), \
                        coalesce(sum(weight) FILTER (WHERE billable), 0)::bigint, \
                        coalesce(sum(response_time_ms), 0)::bigint, \
                        count(*) FILTER (WHERE status_code BETWEEN 200 AND 299), \
                        count(*) FILTER (WHERE status_code BETWEEN 400 AND 499), \
                        count(*) FILTER (WHERE status_code BETWEEN 500 AND 599)";
const VIEWS: [&str; 4] = ["usage_hourly", "usage_endpoint_hourly", "usage_daily", "usage_monthly"];

/// Each pair must be equal: what cannot be added up is compared as the number of its cells.
const UNIQUES: &str = "SELECT (SELECT sum(unique_endpoints) FROM usage_hourly)
           = (SELECT count(DISTINCT (date_trunc('hour', time, 'UTC'), organization_id, api_key_id, endpoint)) FROM usage_events)
       AND (SELECT sum(unique_api_keys) FROM usage_daily)
           = (SELECT count(DISTINCT (date_trunc('day', time, 'UTC'), organization_id, api_key_id)) FROM usage_events)
       AND (SELECT sum(unique_api_keys) FROM usage_monthly)
           = (SELECT count(DISTINCT (date_trunc('month', time, 'UTC'), organization_id, api_key_id)) FROM usage_events)";

/// Requests, billable ones, units, milliseconds, 2xx, 4xx, 5xx.
type Sums = [i64; 7];

/// Events to be written by one statement, column by column.
#[derive(Default)]
struct Batch {
    ages_us: Vec<i64>,
    organizations: Vec<i32>,
    endpoints: Vec<i32>,
    statuses: Vec<i32>,
    billable: Vec<bool>,
    weights: Vec<i32>,
}

impl Batch {
    /// Most of the last three seconds, some of up to 89 days ago (few different days: each is a chunk to be made).
    fn random(random: &mut StdRng) -> Self {
        let mut batch = Self::default();
        for _ in 0..random.random_range(1..=40) {
            let late_days =
                if random.random_ratio(1, 8) { pick(random, [0, 1, 2, 7, 31, 60, 88]) } else { 0 };
            let late_hours = if random.random_ratio(1, 8) { random.random_range(0..=24) } else { 0 };
            let age_us = (late_days * 24 + late_hours) * 3_600_000_000 + random.random_range(0..3_000_000);
            batch.ages_us.push(age_us);
            batch.organizations.push(random.random_range(0..3));
            batch.endpoints.push(random.random_range(0..6));
            batch.statuses.push(pick(random, [200, 201, 302, 404, 429, 500]));
            batch.billable.push(random.random_ratio(4, 5));
            batch.weights.push(random.random_range(0..50));
        }
        batch
    }

    /// Every request has the response time 3 ms for each unit of weight.
    fn insert(&self, client: &mut impl postgres::GenericClient) -> Result<u64, postgres::Error> {
        client.execute(
            "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                                       response_time_ms, billable, weight)
             SELECT clock_timestamp() - age * interval '1 microsecond', gen_random_uuid()::text,
                    ('00000000-0000-0000-0000-00000000000' || o)::uuid,
                    ('00000000-0000-0000-0000-00000000000' || e % 2)::uuid, '/' || e, 'GET', s, 3 * w, b, w
               FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::integer[], $5::boolean[], $6::integer[])
                    AS t (age, o, e, s, b, w)",
            &[&self.ages_us, &self.organizations, &self.endpoints, &self.statuses, &self.billable, &self.weights],
        )
    }

    fn add_to(&self, truth: &[AtomicI64; 7]) {
        let class = |class| self.statuses.iter().map(|status| i64::from(*status / 100 == class)).sum();
        let billed = || self.weights.iter().zip(&self.billable).filter(|(_, billable)| **billable);
        let sums: Sums = [
            self.weights.iter().map(|_| 1).sum(),
            billed().map(|_| 1).sum(),
            billed().map(|(weight, _)| i64::from(*weight)).sum(),
            self.weights.iter().map(|weight| 3 * i64::from(*weight)).sum(),
            class(2),
            class(4),
            class(5),
        ];
        for (total, sum) in truth.iter().zip(sums) {
            total.fetch_add(sum, Ordering::Relaxed);
        }
    }
}

fn pick<T: Copy, const N: usize>(random: &mut StdRng, values: [T; N]) -> T {
    values[random.random_range(0..N)]
}

/// Writes batches in transactions of one or two, some committed late, some rolled back; adds up what was committed.
fn write(mut client: Client, seed: u64, seen: &Seen) {
    let mut random = StdRng::seed_from_u64(seed);
    while !seen.is_over() {
        let mut transaction = client.transaction().unwrap();
        let batches: Vec<_> = (0..random.random_range(1..=2)).map(|_| Batch::random(&mut random)).collect();
        for batch in &batches {
            batch.insert(&mut transaction).unwrap();
            if random.random_ratio(1, 4) {
                thread::sleep(Duration::from_millis(random.random_range(0..150)));
            }
        }
        if random.random_ratio(1, 6) {
            transaction.rollback().unwrap();
        } else {
            transaction.commit().unwrap();
            batches.iter().for_each(|batch| batch.add_to(&seen.written));
        }
    }
}

/// Folds without a pause what is older than a second.
fn fold(mut client: Client, seen: &Seen) {
    while !seen.is_over() {
        let sql = "SELECT usage_begin_fold(clock_timestamp() - interval '1 second')";
        client.execute(sql, &[]).unwrap();
        let count: i64 = client.query_one("SELECT usage_fold()", &[]).unwrap().get(0);
        seen.folded.fetch_add(count, Ordering::Relaxed);
    }
}

fn sums(client: &mut impl postgres::GenericClient, columns: &str, table: &str) -> Sums {
    let row = client.query_one(&format!("SELECT {columns} FROM {table}"), &[]).unwrap();
    std::array::from_fn(|idx| row.get(idx))
}

/// Compares the views with the rows, in one snapshot.
fn read(client: &mut Client, who: &str) -> Sums {
    let mut snapshot = client
        .build_transaction()
        .isolation_level(postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .unwrap();
    let rows = sums(&mut snapshot, ROW_SUMS, "usage_events");
    for view in VIEWS {
        assert_eq!(sums(&mut snapshot, SUMS, view), rows, "{who}: {view} is not what the rows are");
    }
    let is_exact: bool = snapshot.query_one(UNIQUES, &[]).unwrap().get(0);
    assert!(is_exact, "{who}: distinct endpoints or keys are not those of the rows");
    rows
}

/// What happened at the same time.
#[derive(Default)]
struct Seen {
    is_over: AtomicBool,
    written: [AtomicI64; 7],
    folded: AtomicI64,
    reads: AtomicI64,
    /// Reads before which there were late events that were not folded.
    late_reads: AtomicI64,
}

impl Seen {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Whether it is worth something: a busy machine may need more than `RUN_TIME` for that.
    fn is_enough(&self) -> bool {
        let at_least = |count: &AtomicI64, least| count.load(Ordering::Relaxed) >= least;
        at_least(&self.written[0], 1000)
            && at_least(&self.folded, 500)
            && at_least(&self.reads, 10)
            && at_least(&self.late_reads, 1)
    }
}

/// Writers, two who fold, and one who reads and compares.
fn write_fold_and_read(database: &Database, seen: &Seen) {
    let started = Instant::now();
    thread::scope(|scope| {
        for seed in 0..WRITERS {
            let client = database.connect();
            scope.spawn(move || write(client, seed, seen));
        }
        for _ in 0..2 {
            let client = database.connect();
            scope.spawn(move || fold(client, seen));
        }
        let mut client = database.connect();
        let reader = scope.spawn(move || {
            while !seen.is_over() {
                let late = client.query_one("SELECT count(*) FROM usage_late_figures", &[]).unwrap();
                seen.late_reads.fetch_add(i64::from(late.get::<_, i64>(0) > 0), Ordering::Relaxed);
                read(&mut client, "while writers run");
                seen.reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        while !reader.is_finished()
            && (started.elapsed() < RUN_TIME || !seen.is_enough())
            && started.elapsed() < RUN_TIME_MAX
        {
            thread::sleep(Duration::from_millis(20));
        }
        seen.is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn every_read_is_exact_while_writers_run() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        // So that the bound need not come here from 89 days ago, ten minutes and then some at a time.
        insert(&mut database.client, "now()");
        fold_everything(&mut database);
        let seen = Seen::default();
        write_fold_and_read(&database, &seen);
        assert!(seen.is_enough(), "{profile}: not enough has happened at the same time");

        let first = [1, 1, 1, 1, 1, 0, 0];
        let truth: Sums = std::array::from_fn(|idx| first[idx] + seen.written[idx].load(Ordering::Relaxed));
        assert_eq!(read(&mut database.client, "before the last fold"), truth, "{profile}");
        fold_everything(&mut database);
        assert_eq!(read(&mut database.client, "after the last fold"), truth, "{profile}");
        let proof = "SELECT row_count || ' ' || difference_count
                     FROM usage_prove_figures(date_trunc('day', now() - interval '91 days', 'UTC'),
                                              date_trunc('day', now() + interval '1 day', 'UTC'))";
        assert_eq!(database.text(proof), format!("{} 0", truth[0]), "{profile}");
    }
}

/// What is written by now. A bound that somebody announced and did not get to fold up to is reached first; a job that folds
/// at this moment is waited for.
fn fold_everything(database: &mut Database) {
    let any_time = "UPDATE usage_bounds SET fold_step = '1000 years', announce_after = '-infinity'";
    let started = Instant::now();
    loop {
        for step in [any_time, "SELECT usage_begin_fold(now() + interval '1 second')", "SELECT usage_fold()"]
        {
            database.client.batch_execute(step).unwrap();
        }
        let left = database.text("SELECT count(*)::text FROM usage_unfolded");
        if left == "0" {
            return;
        }
        assert!(started.elapsed() < RUN_TIME_MAX, "{left} events are not folded");
    }
}

/// One event of an organization at that time.
fn insert(client: &mut impl postgres::GenericClient, time: &str) {
    let sql = format!(
        "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                                   response_time_ms)
         VALUES ({time}, gen_random_uuid()::text, '00000000-0000-0000-0000-00000000000a',
                 '00000000-0000-0000-0000-000000000001', '/', 'GET', 200, 1)"
    );
    client.execute(&sql, &[]).unwrap();
}

/// A transaction that sees what is there now.
fn snapshot(client: &mut Client) -> postgres::Transaction<'_> {
    let mut snapshot =
        client.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start().unwrap();
    assert_eq!(sums(&mut snapshot, ROW_SUMS, "usage_events")[0], 5);
    snapshot
}

#[test]
fn a_snapshot_older_than_a_fold_is_answered_exactly_or_not_at_all() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        for days in 0..5 {
            insert(&mut database.client, &format!("now() - interval '{days} days'"));
        }
        let mut clients = [database.connect(), database.connect(), database.connect()];
        let [mut reader, mut older, mut oldest] = clients.each_mut().map(snapshot);
        let mut all_views_are_exact = |when: &str| {
            for view in VIEWS {
                assert_eq!(sums(&mut reader, SUMS, view)[0], 5, "{profile}: {view} {when}");
            }
        };
        // Everything is folded under its eyes.
        fold_everything(&mut database);
        insert(&mut database.client, "now()");
        all_views_are_exact("folded");
        database.client.execute("SELECT usage_fold()", &[]).unwrap();
        all_views_are_exact("folded again");

        // An hour later the planner is told that it need not look at days that were folded then.
        let hour_later = "UPDATE usage_bounds SET next_floor_at = next_floor_at - interval '61 minutes'";
        let chunks = "SELECT count(*)::text FROM usage_unfolded";
        database.client.execute(hour_later, &[]).unwrap();
        let before = plan_lines(&mut database, chunks);
        database.client.execute("SELECT usage_fold()", &[]).unwrap();
        assert!(plan_lines(&mut database, chunks) < before, "{profile}: the old days are still planned for");
        assert_eq!(read(&mut database.client, "with a floor")[0], 6);
        for (reader, view) in [(&mut older, "usage_daily"), (&mut oldest, "usage_unfolded")] {
            let error = reader.query(&format!("SELECT {SUMS} FROM {view}"), &[]).unwrap_err();
            let code = error.code().cloned();
            assert_eq!(code, Some(SqlState::T_R_SERIALIZATION_FAILURE), "{profile}: {view}: {error:?}");
        }
    }
}

fn plan_lines(database: &mut Database, sql: &str) -> usize {
    database.texts(&format!("EXPLAIN {sql}")).len()
}

#[test]
fn a_stuck_writer_holds_nobody_up_for_long() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        database.client.execute("UPDATE usage_bounds SET fold_step = '1 day'", &[]).unwrap();
        // All of one day: who makes a chunk holds up others that need it until it commits.
        let noon = database.text("SELECT (date_trunc('day', now(), 'UTC') - interval '12 hours')::text");
        let before_noon = |interval: &str| format!("timestamptz '{noon}' - interval '{interval}'");
        insert(&mut database.client, &before_noon("1 hour"));
        database.client.batch_execute("SET statement_timeout = '20s'").unwrap();
        let mut stuck_client = database.connect();
        let mut stuck = stuck_client.transaction().unwrap();
        insert(&mut stuck, &before_noon("2 hours"));

        let mut other = database.connect();
        other.batch_execute("SET statement_timeout = '20s'").unwrap();
        let begin = "SELECT usage_begin_fold(now())";
        let (announced, took, waited) = thread::scope(|scope| {
            let announcing = scope.spawn(|| {
                let started = Instant::now();
                database.client.execute(begin, &[]).unwrap();
                started.elapsed()
            });
            thread::sleep(Duration::from_millis(100));
            let started = Instant::now();
            insert(&mut other, &before_noon("3 hours"));
            let waited = started.elapsed();
            (
                other.query_one("SELECT isfinite(folding_until) FROM usage_bounds", &[]),
                announcing.join(),
                waited,
            )
        });
        let took = took.unwrap();
        assert!(took > Duration::from_millis(400) && took < Duration::from_secs(15), "{profile}: {took:?}");
        assert!(waited < Duration::from_secs(15), "{profile}: another writer waited {waited:?}");
        assert!(!announced.unwrap().get::<_, bool>(0), "{profile}: the stuck writer does not know the bound");

        stuck.commit().unwrap();
        // For ten seconds nobody tries again, however many there are.
        assert_eq!(database.text("SELECT usage_begin_fold(now())::text"), "false");
        assert_eq!(database.text("SELECT (folding_until > folded_until)::text FROM usage_bounds"), "false");
        database.client.execute("UPDATE usage_bounds SET announce_after = now()", &[]).unwrap();
        database.client.execute(begin, &[]).unwrap();
        // Once a bound is announced, who is stuck does not keep it from being reached.
        let mut stuck = stuck_client.transaction().unwrap();
        insert(&mut stuck, &before_noon("30 minutes"));
        assert_eq!(database.text("SELECT usage_fold()::text"), "3");
        stuck.commit().unwrap();
        assert_eq!(read(&mut database.client, "with a late one")[0], 4);
        assert_eq!(database.text("SELECT usage_fold()::text"), "1");
        assert_eq!(read(&mut database.client, "with all folded")[0], 4);
    }
}

#[test]
fn of_two_folds_at_once_the_second_does_nothing() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        insert(&mut database.client, "now() - interval '1 hour'");
        database.client.execute("SELECT usage_begin_fold(now())", &[]).unwrap();
        insert(&mut database.client, "now() - interval '2 hours'");

        let mut first_client = database.connect();
        let mut first = first_client.transaction().unwrap();
        assert_eq!(first.query_one("SELECT usage_fold()", &[]).unwrap().get::<_, i64>(0), 2);
        database.client.batch_execute("SET lock_timeout = '1s'").unwrap();
        assert_eq!(database.text("SELECT usage_fold()::text"), "0");
        assert_eq!(database.text("SELECT usage_begin_fold(now())::text"), "false");
        // Neither do writers and readers wait for the one that is at it.
        insert(&mut database.client, "now() - interval '2 hours'");
        assert_eq!(read(&mut database.client, "while a fold is open")[0], 3);
        first.commit().unwrap();

        assert_eq!(read(&mut database.client, "after the fold")[0], 3);
        assert_eq!(database.text("SELECT usage_fold()::text"), "1");
        assert_eq!(read(&mut database.client, "after the next fold")[0], 3);
    }
}
