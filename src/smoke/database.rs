//! The smoke test's questions to the database, in the role of MAINTENANCE_DATABASE_URL: the rows, the views, and the removal.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use super::{EVENT_COUNT, ORGANIZATION, Run, SentEvent, Trouble};
use crate::commands::connect::open;
use crate::config::Config;
use crate::error_chain::error_chain;

/// How often rows are looked for: a session that reads a standby may be behind.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Who asks, and what it may not read or do that it must.
const RIGHTS: &str = "\
SELECT current_user::text,
       (SELECT string_agg(name, ', ')
          FROM unnest(ARRAY['usage_events', 'usage_dead_letters', 'usage_ledger', 'usage_hourly', 'usage_daily', 'usage_monthly'])
               AS name
         WHERE NOT has_table_privilege(name, 'SELECT')),
       has_function_privilege('usage_remove_smoke_events(text, timestamptz)', 'EXECUTE')";

/// Parameters: time, request ids. Rows with one of them, distinct ones, and those that are billable. A day's margin: nothing but
/// the time tells apart two rows of one request.
const ROWS: &str = "\
SELECT count(*), count(DISTINCT request_id), count(*) FILTER (WHERE billable)
  FROM usage_events
 WHERE organization_id = $1::text::uuid AND time > $2::timestamptz - INTERVAL '1 day' AND time < $2::timestamptz + INTERVAL '1 day' AND request_id = ANY ($3)";

/// Parameters: topic, and a partition and an offset for each event.
const DEAD_LETTERS: &str = "\
SELECT string_agg(DISTINCT concat_ws(': ', reason, nullif(detail, '')), '; ')
  FROM usage_dead_letters JOIN unnest($2::int[], $3::bigint[]) AS sent (p, o) ON kafka_partition = p AND kafka_offset = o
 WHERE kafka_topic = $1";

/// Parameters: topic, partition, offset, group. Other groups that the ledger says have made this offset durable.
const OTHER_GROUPS: &str = "\
SELECT string_agg(DISTINCT consumer_group, ', ')
  FROM usage_ledger
 WHERE kafka_topic = $1 AND kafka_partition = $2 AND start_offset <= $3 AND end_offset > $3 AND consumer_group <> $4";

/// Parameter: time. One snapshot: what views say of its hour, day and month, and what the rows (for the month, the days) do.
const FIGURES: &str = "\
WITH at AS (
    SELECT date_trunc('hour', $2::timestamptz, 'UTC') AS hour, date_trunc('day', $2::timestamptz, 'UTC') AS day,
           date_trunc('month', $2::timestamptz, 'UTC') AS month, $1::text::uuid AS id
)
SELECT (SELECT count(*) FROM usage_events
         WHERE organization_id = id AND time >= hour AND time < hour + INTERVAL '1 hour'),
       (SELECT coalesce(sum(total_requests), 0)::bigint FROM usage_hourly WHERE organization_id = id AND bucket = hour),
       (SELECT count(*) FROM usage_events
         WHERE organization_id = id AND time >= day AND time < day + INTERVAL '1 day'),
       (SELECT coalesce(sum(total_requests), 0)::bigint FROM usage_daily WHERE organization_id = id AND bucket = day),
       (SELECT coalesce(sum(total_requests), 0)::bigint FROM usage_daily
         WHERE organization_id = id AND bucket >= month AND bucket < month + INTERVAL '31 days'
           AND date_trunc('month', bucket, 'UTC') = month),
       (SELECT coalesce(sum(total_requests), 0)::bigint FROM usage_monthly WHERE organization_id = id AND bucket = month),
       (SELECT coalesce(sum(billable_requests), 0)::bigint FROM usage_monthly WHERE organization_id = id AND bucket = month)
  FROM at";

/// A session that may read the rows and the views, and remove the smoke test's.
pub(super) struct Tables {
    client: Client,
    topic: String,
    group: String,
}

impl Tables {
    /// Connects, makes sure of the schema and the rights, and says what there is.
    pub(super) fn reach(config: &Config, keeps: bool, timeout: Duration) -> Result<(Self, String), Trouble> {
        let (mut client, server) = open(&config.maintenance).map_err(|error| {
            Trouble::new(
                format!("{}: {}", config.maintenance.describe(), error_chain(&error)),
                "check that it runs, MAINTENANCE_DATABASE_URL or else DATABASE_URL, and `usage-processor migrate status`",
            )
        })?;
        let limit = timeout.as_millis();
        let settings =
            format!("SET statement_timeout = {limit}; SET lock_timeout = {limit}; SET timezone = 'UTC'");
        let rights =
            client.batch_execute(&settings).and_then(|()| client.query_one(RIGHTS, &[])).and_then(|row| {
                Ok((
                    row.try_get::<_, String>(0)?,
                    row.try_get::<_, Option<String>>(1)?,
                    row.try_get::<_, bool>(2)?,
                ))
            });
        let (role, unreadable, removes) = rights.map_err(|error| failed("asking for its rights", &error))?;
        if let Some(unreadable) = unreadable {
            return Err(Trouble::new(
                format!("role {role} may not read {unreadable}"),
                "give the owner's URL as MAINTENANCE_DATABASE_URL",
            ));
        }
        if !removes && !keeps {
            return Err(Trouble::new(
                format!("role {role} may not remove the events again"),
                "give the owner's URL as MAINTENANCE_DATABASE_URL, or leave the events by --keep: nobody is billed for them",
            ));
        }
        let (topic, group) = (config.kafka_topic.clone(), config.kafka_group_id.clone());
        Ok((Self { client, topic, group }, format!("{server}, its schema current")))
    }

    /// Adds to what was found wrong with the group that it is another one that consumes.
    pub(super) fn explain(&mut self, trouble: Trouble, sent: &[SentEvent]) -> Trouble {
        let Some(event) = sent.first() else { return trouble };
        let row =
            self.client.query_one(OTHER_GROUPS, &[&self.topic, &event.partition, &event.offset, &self.group]);
        match row.and_then(|row| row.try_get::<_, Option<String>>(0)) {
            Ok(Some(groups)) => Trouble::new(
                trouble.found,
                format!(
                    "the ledger has them by another group, {groups}: if that is the one meant, give it as KAFKA_GROUP_ID"
                ),
            ),
            Ok(None) => trouble,
            Err(error) => {
                log::debug!("asking for other groups: {}", error_chain(&error));
                trouble
            }
        }
    }

    /// Finds each event as one row.
    pub(super) fn find_rows(
        &mut self,
        run: &Run,
        sent: &[SentEvent],
        timeout: Duration,
    ) -> Result<String, Trouble> {
        let deadline = Instant::now() + timeout;
        let ids: Vec<_> = sent.iter().map(|event| event.request_id.as_str()).collect();
        loop {
            let counts = self.client.query_one(ROWS, &[&ORGANIZATION, &run.time(), &ids]).and_then(|row| {
                Ok((row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?, row.try_get::<_, i64>(2)?))
            });
            let (rows, distinct, billable) =
                counts.map_err(|error| failed("looking for the rows", &error))?;
            let wanted = i64::try_from(EVENT_COUNT).unwrap_or(i64::MAX);
            if (rows, distinct, billable) == (wanted, wanted, 0) {
                return Ok(format!("{rows} rows in usage_events, each event once, none billable"));
            }
            if rows < wanted && Instant::now() < deadline && self.dead_letters(sent)?.is_none() {
                thread::sleep(ASK_INTERVAL);
                continue;
            }
            let found = format!("{rows} rows of {distinct} events, {billable} of them billable");
            return Err(match self.dead_letters(sent)? {
                Some(reasons) => Trouble::new(
                    format!("{found}; dead letters: {reasons}"),
                    "see the reason in the README; too_old and too_far_ahead are a clock, of this host or of the broker",
                ),
                None if rows > wanted => Trouble::new(found, "run `usage-processor audit`"),
                None => Trouble::new(
                    found,
                    "the group has passed the events, so they were written elsewhere: is DATABASE_URL of the processors the \
                     database looked at here, and no standby that is behind?",
                ),
            });
        }
    }

    /// Reasons for which events became dead letters, if any did.
    fn dead_letters(&mut self, sent: &[SentEvent]) -> Result<Option<String>, Trouble> {
        let (partitions, offsets): (Vec<_>, Vec<_>) =
            sent.iter().map(|event| (event.partition, event.offset)).unzip();
        self.client
            .query_one(DEAD_LETTERS, &[&self.topic, &partitions, &offsets])
            .and_then(|row| row.try_get(0))
            .map_err(|error| failed("looking for dead letters", &error))
    }

    /// Compares the views with the rows of this organization, whoever else tests at the same time.
    pub(super) fn find_figures(&mut self, run: &Run) -> Result<String, Trouble> {
        let row = self.client.query_one(FIGURES, &[&ORGANIZATION, &run.time()]);
        let figures =
            row.and_then(|row| (0..7).map(|idx| row.try_get::<_, i64>(idx)).collect::<Result<Vec<_>, _>>());
        let figures = figures.map_err(|error| failed("reading the views", &error))?;
        let [hour_rows, hour, day_rows, day, days, month, billable] = figures[..] else {
            return Err(Trouble::new("the views gave no figures", "run `usage-processor audit`"));
        };
        let found = format!(
            "usage_hourly {hour}, usage_daily {day}, usage_monthly {month} requests, {billable} billable"
        );
        let wanted = i64::try_from(EVENT_COUNT).unwrap_or(i64::MAX);
        if (hour, day, month) == (hour_rows, day_rows, days) && hour >= wanted {
            return Ok(found);
        }
        Err(Trouble::new(
            format!(
                "{found}; rows: {hour_rows} of this hour, {day_rows} of this day, and days of this month add up to {days}"
            ),
            "run `usage-processor audit`; SELECT usage_rebuild_day(...) computes a day anew from its rows",
        ))
    }

    /// Says what stays.
    #[expect(clippy::unused_self, reason = "beside `clean_up`")]
    pub(super) fn keep(&self, run: &Run) -> String {
        format!("left as asked, not billable; as the owner, `{}` removes them", run.removal())
    }

    /// Removes the run's rows, and books it.
    pub(super) fn clean_up(&mut self, run: &Run) -> Result<String, Trouble> {
        let later =
            format!("they are not billable and may stay; as the owner, `{}` removes them", run.removal());
        let removed = self
            .client
            .query_one("SELECT usage_remove_smoke_events($1, $2)", &[&run.name, &run.time()])
            .and_then(|row| row.try_get::<_, i64>(0));
        match removed {
            Ok(removed) if usize::try_from(removed) == Ok(EVENT_COUNT) => {
                Ok(format!("{removed} rows removed, figures too, and booked in the ledger"))
            }
            Ok(removed) => Err(Trouble::new(format!("{removed} of {EVENT_COUNT} rows removed"), later)),
            Err(error) => Err(Trouble::new(format!("removing the events: {}", error_chain(&error)), later)),
        }
    }
}

fn failed(what: &str, error: &postgres::Error) -> Trouble {
    Trouble::new(
        format!("{what}: {}", error_chain(error)),
        "look at the database's log; the role of MAINTENANCE_DATABASE_URL must be the tables' owner",
    )
}
