//! The README's SQL, taken from the README and run: on both profiles, on a database with events, figures and dead letters.

use std::fs;
use std::path::Path;

use postgres::SimpleQueryMessage;
use usage_processor::migrations::{self, Profile};

use crate::database::{Database, choice, profiles};

/// The organization of the README's examples.
const ORGANIZATION: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

fn blocks() -> Vec<(String, String)> {
    blocks_of(&page("README.md"))
}

fn page(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A page's `sql` blocks, each with the section that it stands in.
pub(crate) fn blocks_of(text: &str) -> Vec<(String, String)> {
    let (mut section, mut block, mut blocks) = (String::new(), None, Vec::new());
    for line in text.lines() {
        block = match (block, line) {
            (None, "```sql") => Some(String::new()),
            (Some(sql), "```") => {
                blocks.push((section.clone(), sql));
                None
            }
            (Some(sql), line) => Some(sql + line + "\n"),
            (None, line) => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut section);
                }
                None
            }
        };
    }
    assert!(block.is_none(), "a block of SQL has no end");
    blocks
}

/// The statements that are meant for a profile. A comment on its own line that begins with a profile's name
/// holds up to the next comment.
pub(crate) fn statements(sql: &str, profile: Profile) -> Vec<String> {
    let other = match profile {
        Profile::TimescaleDb => "-- PostgreSQL profile",
        Profile::PostgreSql => "-- TimescaleDB profile",
    };
    let (mut is_meant, mut statement, mut statements) = (true, String::new(), Vec::new());
    for line in sql.lines() {
        if line.starts_with("--") {
            is_meant = !line.starts_with(other);
            continue;
        }
        let code = line.split(" --").next().unwrap_or_default().trim_end();
        statement += code;
        statement += "\n";
        if code.ends_with(';') {
            let whole = std::mem::take(&mut statement);
            statements.extend(is_meant.then_some(whole));
        }
    }
    assert_eq!(statement.trim(), "", "a statement without an end");
    statements
}

/// How many rows a statement returns.
pub(crate) fn row_count(database: &mut Database, sql: &str) -> usize {
    let messages = database.client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}{error:?}"));
    messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count()
}

/// Two days of events, most of them folded.
const EVENTS: &str = "
INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code, response_time_ms)
SELECT now() - n * interval '10 minutes', 'r' || n, '6ba7b810-9dad-41d1-80b4-00c04fd430c8', md5('k' || n % 3)::uuid,
       '/e' || n % 20, 'GET', (ARRAY[200, 404, 503])[1 + n % 3], n
  FROM generate_series(0, 300) AS n";

pub(crate) fn filled(profile: Profile) -> Database {
    let mut database = Database::migrated(profile);
    database
        .client
        .batch_execute(&format!(
            "CREATE TABLE organizations (id uuid, name text);
             INSERT INTO organizations VALUES ('{ORGANIZATION}', 'Acme');
             {EVENTS};
             INSERT INTO usage_dead_letters (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, payload, reason, detail)
             VALUES ('usage-events', 0, 1, now(), '{{', 'invalid_json', 'at byte 1');
             UPDATE usage_bounds SET fold_step = '1 year'"
        ))
        .unwrap();
    database.client.batch_execute("SELECT usage_begin_fold(now() - interval '1 hour')").unwrap();
    database.client.batch_execute("SELECT usage_fold()").unwrap();
    database
}

#[test]
fn the_readmes_queries_answer_with_rows() {
    for profile in profiles() {
        let mut database = filled(profile);
        let all: Vec<String> = blocks()
            .iter()
            .filter(|(section, _)| section == "Queries")
            .flat_map(|(_, sql)| statements(sql, profile))
            .collect();
        assert!(all.len() >= 13, "{}", all.len());
        for sql in &all {
            assert_ne!(row_count(&mut database, sql), 0, "{profile}: no row from {sql}");
        }
        let of = |start: &str| all.iter().find(|sql| sql.contains(start)).unwrap().clone();
        let rows = |database: &mut Database, start: &str| row_count(database, &of(start));
        assert_eq!(rows(&mut database, "ORDER BY time DESC LIMIT 20"), 1, "of the last minute");
        // The hour may have ended since the others came.
        let one_more = EVENTS.replace("'r'", "'now'").replace("0, 300", "0, 0");
        database.client.batch_execute(&one_more).unwrap();
        assert_eq!(
            rows(&mut database, "AS api_keys"),
            25,
            "an hour is missing of the last 24 and the current one"
        );
        assert_eq!(rows(&mut database, "usage_top_endpoints"), 10);
        assert_eq!(rows(&mut database, "usage_by_day"), 30);
    }
}

/// Roles, statements, and whatever comes: it must run; what it changes is taken back.
#[test]
fn the_readmes_other_sql_runs() {
    for profile in profiles() {
        let mut database = filled(profile);
        for (section, sql) in blocks() {
            if section == "Queries" {
                continue;
            }
            database
                .client
                .batch_execute("BEGIN; UPDATE usage_bounds SET folding_until = 'infinity'")
                .unwrap();
            database.client.batch_execute("UPDATE usage_bounds SET folded_until = 'infinity'").unwrap();
            for statement in statements(&sql, profile) {
                if statement.contains("usage_statement(") {
                    let month = statement.split('\'').nth(3).unwrap();
                    let close = format!("SELECT usage_close_month('{month}') WHERE NOT EXISTS (
                                             SELECT FROM usage_closed_months WHERE month = '{month} 00:00+00')");
                    database.client.batch_execute(&close).unwrap();
                }
                row_count(&mut database, &statement);
            }
            database.client.batch_execute("ROLLBACK").unwrap();
        }
    }
}

/// What `migrate adopt` refuses: text for ids, absent values, no partitions. Copied as the page says.
#[test]
fn the_documented_way_to_copy_a_table_keeps_every_row() {
    for profile in profiles() {
        let mut database = Database::create();
        database
            .client
            .batch_execute(&format!(
                "CREATE TABLE usage_events (time timestamptz, request_id text, organization_id text, api_key_id text,
                     endpoint text, method text, status_code int, response_time_ms int, billable boolean, weight int);
                 CREATE INDEX usage_events_api_key_idx ON usage_events (api_key_id);
                 {EVENTS}"
            ))
            .unwrap();
        let blocks = blocks_of(&page("migrations/ADOPTING.md"));
        let [(_, sql)] = &blocks[..] else { panic!("{blocks:?}") };
        let (aside, copy) = sql.split_once("-- now `usage-processor migrate up`").unwrap();
        for statement in statements(aside, profile) {
            row_count(&mut database, &statement);
        }
        migrations::up(&mut database.client, choice(profile)).unwrap();
        let (_, copy) = copy.split_once('\n').unwrap();
        for statement in statements(copy, profile) {
            row_count(&mut database, &statement);
        }
        let sums = |database: &mut Database, table: &str| {
            database.text(&format!("SELECT concat_ws(' ', count(*), sum(response_time_ms)) FROM {table}"))
        };
        let old = sums(&mut database, "adopted.usage_events");
        assert_eq!(sums(&mut database, "usage_events"), old, "{profile}");
        let billed =
            "SELECT concat_ws(' ', sum(total_requests), sum(response_time_ms_sum)) FROM usage_monthly";
        assert_eq!(database.text(billed), old, "{profile}");
        let index = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname = 'usage_events_api_key_idx'";
        assert_eq!(
            database.texts(index).len(),
            1,
            "{profile}: the old index has not taken the new one's name"
        );
    }
}
