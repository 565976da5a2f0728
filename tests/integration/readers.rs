//! What roles may see and do that do not write: readers of all organizations, and tenants of some.

use postgres::error::SqlState;
use postgres::{Client, NoTls};

use crate::database::{Database, profiles};

const A: &str = "00000000-0000-0000-0000-00000000000a";
const B: &str = "00000000-0000-0000-0000-00000000000b";
const TABLES: [&str; 18] = [
    "usage_events",
    "usage_unfolded",
    "usage_dead_letters",
    "usage_hourly_figures",
    "usage_endpoint_hourly_figures",
    "usage_daily_figures",
    "usage_late_figures",
    "usage_arrivals",
    "usage_bounds",
    "usage_closed_months",
    "usage_invoice_basis",
    "usage_adjustments",
    "usage_retention_drops",
    "usage_ledger",
    "usage_ledger_starts",
    "usage_ledger_days",
    "usage_tenants",
    "usage_schema_migrations",
];
const VIEWS: [&str; 4] = ["usage_hourly", "usage_endpoint_hourly", "usage_daily", "usage_monthly"];

/// A role of the server that may do what a statement grants it; dropped with that.
struct Role {
    name: String,
    client: Client,
    owner: Client,
}

impl Role {
    fn create(database: &mut Database, kind: &str, grants: &[String]) -> Self {
        let of = database.test.name().trim_start_matches("test_").to_owned();
        let name = format!("{kind}_{}", &of[of.len().saturating_sub(40)..]);
        database.client.batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'x'")).unwrap();
        for grant in grants {
            database.client.batch_execute(&grant.replace("ROLE", &name)).unwrap();
        }
        let (_, server) =
            database.test.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let client = Client::connect(&format!("postgresql://{name}:x@{server}"), NoTls).unwrap();
        Self { name, client, owner: database.connect() }
    }

    #[track_caller]
    fn may_not(&mut self, sql: &str) {
        let error = self.client.batch_execute(sql).expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {error:?}");
    }

    fn texts(&mut self, sql: &str) -> Vec<String> {
        let rows = self.client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.owner.batch_execute(&format!("DROP OWNED BY {0}; DROP ROLE {0}", self.name)).ok();
    }
}

/// Two organizations with events in the figures, late ones and unfolded ones; a closed month.
fn filled(database: &mut Database) {
    for (organization, count) in [(A, 3), (B, 5)] {
        for age in ["100 days", "1 day", "0 days"] {
            let sql = format!(
                "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                                           response_time_ms)
                 SELECT now() - INTERVAL '{age}', 'r' || n, '{organization}', '{organization}', '/' || n, 'GET', 200, 1
                   FROM generate_series(1, {count}) AS n"
            );
            let day = format!("(now() - INTERVAL '{age}')::date");
            if database.text("SELECT (to_regproc('usage_ensure_partitions') IS NOT NULL)::text") == "true" {
                let ensure = format!("SELECT usage_ensure_partitions({day}, {day})");
                database.client.batch_execute(&ensure).unwrap();
            }
            database.client.batch_execute(&sql).unwrap();
        }
    }
    for sql in [
        "UPDATE usage_bounds SET fold_step = '1 year', retention = '1 year'",
        "SELECT usage_begin_fold(now() - INTERVAL '1 hour')",
        "SELECT usage_fold()",
        "SELECT usage_close_month(date_trunc('month', now() - INTERVAL '100 days')::date)",
    ] {
        database.client.batch_execute(sql).unwrap();
    }
}

#[test]
fn a_reader_sees_usage_and_statements_and_no_table() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        filled(&mut database);
        let grant = "SELECT usage_grant_reader('ROLE')".to_owned();
        let mut reader = Role::create(&mut database, "reader", &[grant.clone(), grant]);
        for view in VIEWS {
            let sql = format!("SELECT sum(total_requests)::text FROM {view}");
            assert_eq!(reader.texts(&sql), ["24"], "{profile}: {view}");
        }
        let month = "date_trunc('month', now() - INTERVAL '100 days')::date";
        let numbers = [
            (
                format!("SELECT (SELECT total_requests <= 6 FROM get_current_month_usage('{A}'))::text"),
                "true",
            ),
            (
                format!(
                    "SELECT sum(total_requests)::text FROM usage_by_day('{A}', current_date - 1, current_date)"
                ),
                "6",
            ),
            (
                format!("SELECT count(*)::text FROM usage_top_endpoints('{B}', now() - INTERVAL '2 days')"),
                "5",
            ),
            (
                format!(
                    "SELECT total_requests::text FROM usage_error_rate('{B}', now() - INTERVAL '2 days')"
                ),
                "10",
            ),
            (format!("SELECT total_requests::text FROM usage_statement('{A}', {month})"), "3"),
            (
                format!("SELECT length(usage_month_checksum({month}::timestamp AT TIME ZONE 'UTC'))::text"),
                "64",
            ),
        ];
        for (sql, expected) in numbers {
            assert_eq!(reader.texts(&sql), [expected], "{profile}: {sql}");
        }
        for table in TABLES {
            reader.may_not(&format!("SELECT FROM {table}"));
        }
        for sql in [
            "INSERT INTO usage_hourly (bucket) VALUES (now())",
            "DELETE FROM usage_hourly",
            "SELECT usage_maintain()",
            "SELECT usage_fold()",
            "SELECT usage_begin_fold()",
            "SELECT usage_fold_ledger()",
            "SELECT usage_close_month('2020-01-01')",
            "SELECT usage_rebuild_day('2020-01-01')",
            "SELECT usage_apply_retention()",
            "SELECT usage_prove_figures(now(), now())",
            "SELECT usage_grant_reader(current_user)",
            "CREATE TABLE mine ()",
        ] {
            // Of a view that cannot be written to the server says that first.
            if sql.contains(" usage_hourly") {
                reader.client.batch_execute(sql).expect_err(sql);
            } else {
                reader.may_not(sql);
            }
        }
    }
}

#[test]
fn a_tenant_sees_its_organizations_and_nothing_of_others() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        filled(&mut database);
        let grant = |organization: &str| format!("SELECT usage_grant_tenant('ROLE', '{organization}')");
        let mut one = Role::create(&mut database, "tenant", &[grant(A), grant(A)]);
        let mut other = Role::create(&mut database, "another", &[grant(B)]);
        let mut both = Role::create(&mut database, "both", &[grant(A), grant(B)]);
        let mut none = Role::create(
            &mut database,
            "none",
            &["GRANT SELECT ON usage_tenant_hourly, usage_tenant_endpoint_hourly, usage_tenant_daily, usage_tenant_monthly TO ROLE"
                .to_owned()],
        );
        for view in VIEWS {
            let view = view.replace("usage_", "usage_tenant_");
            let sql = format!(
                "SELECT right(organization_id::text, 1) || ' ' || sum(total_requests) FROM {view} GROUP BY organization_id ORDER BY 1"
            );
            assert_eq!(one.texts(&sql), ["a 9"], "{profile}: {view}");
            assert_eq!(other.texts(&sql), ["b 15"], "{profile}: {view}");
            assert_eq!(both.texts(&sql), ["a 9", "b 15"], "{profile}: {view}");
            assert_eq!(none.texts(&sql), [""; 0], "{profile}: {view}");
            let of_other = format!("SELECT organization_id::text FROM {view} WHERE organization_id = '{B}'");
            assert_eq!(one.texts(&of_other), [""; 0], "{profile}: {view}");
            // A function that looks at every row it gets, and is the cheapest condition of all.
            one.client
                .batch_execute(
                    "CREATE OR REPLACE FUNCTION pg_temp.spy(organization_id uuid, requests bigint) RETURNS boolean
                     LANGUAGE plpgsql COST 0.0000001 AS $$
                     BEGIN
                         IF organization_id::text LIKE '%b' THEN
                             RAISE EXCEPTION 'seen: % with %', organization_id, requests;
                         END IF;
                         RETURN true;
                     END $$",
                )
                .unwrap();
            let spied = format!(
                "SELECT sum(total_requests)::text FROM {view} WHERE pg_temp.spy(organization_id, total_requests)"
            );
            assert_eq!(one.texts(&spied), ["9"], "{profile}: {view}");
            // A value of another's row that makes a condition fail would tell of it too.
            let divided = format!(
                "SELECT count(*)::text FROM {view} WHERE 1 / (CASE WHEN organization_id = '{B}' THEN 0 ELSE 1 END) = 1 AND false"
            );
            assert_eq!(one.texts(&divided), ["0"], "{profile}: {view}");
        }
        for name in TABLES.iter().chain(&VIEWS) {
            one.may_not(&format!("SELECT FROM {name}"));
        }
        for sql in [
            format!("SELECT * FROM get_current_month_usage('{B}')"),
            format!("SELECT * FROM usage_statement('{B}', '2020-01-01')"),
            format!("INSERT INTO usage_tenants VALUES (current_user, '{B}')"),
            format!("SELECT usage_grant_tenant(current_user, '{B}')"),
            format!("SET ROLE {}", other.name),
            "SELECT usage_fold()".to_owned(),
        ] {
            one.may_not(&sql);
        }
    }
}

#[test]
fn a_tenant_sees_nothing_once_it_is_revoked_and_needs_nothing_of_everybodys() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        // As where not everybody may execute functions.
        database
            .client
            .batch_execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
            .unwrap();
        filled(&mut database);
        let mut reader =
            Role::create(&mut database, "reader", &["SELECT usage_grant_reader('ROLE')".to_owned()]);
        assert_eq!(
            reader.texts(&format!("SELECT total_requests::text FROM get_current_month_usage('{B}')")).len(),
            1
        );
        let mut tenant =
            Role::create(&mut database, "tenant", &[format!("SELECT usage_grant_tenant('ROLE', '{A}')")]);
        let endpoints = "SELECT (sum(unique_endpoints) > 0)::text FROM";
        assert_eq!(reader.texts(&format!("{endpoints} usage_hourly")), ["true"], "{profile}");
        assert_eq!(tenant.texts(&format!("{endpoints} usage_tenant_hourly")), ["true"], "{profile}");
        let usage = "SELECT sum(total_requests)::text FROM usage_tenant_daily HAVING count(*) > 0";
        assert_eq!(tenant.texts(usage), ["9"], "{profile}");
        let revoke = format!("SELECT usage_revoke_tenant('{}', '{A}')", tenant.name);
        database.client.batch_execute(&revoke).unwrap();
        assert_eq!(tenant.texts(usage), [""; 0], "{profile}");
    }
}

#[test]
fn a_tenants_filter_reaches_the_index_of_the_figures() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        database
            .client
            .batch_execute(
                "INSERT INTO usage_hourly_figures
                 SELECT date_trunc('hour', now(), 'UTC') - h * INTERVAL '1 hour', md5(o::text)::uuid, md5(o::text)::uuid,
                        1, 1, 1, 1, 1, 0, 0, '{1}' FROM generate_series(1, 200) AS o, generate_series(1, 100) AS h;
                 INSERT INTO usage_endpoint_hourly_figures
                 SELECT bucket, organization_id, '/', 'GET', 1, 1, 1, 1, 1, 0, 0 FROM usage_hourly_figures;
                 INSERT INTO usage_daily_figures
                 SELECT day, date_trunc('month', day, 'UTC'), md5(o::text)::uuid, md5(o::text)::uuid, 1, 1, 1, 1, 1, 0, 0
                   FROM generate_series(1, 200) AS o, generate_series(1, 100) AS d,
                        date_trunc('day', now() - d * INTERVAL '1 day', 'UTC') AS day;
                 ANALYZE usage_hourly_figures, usage_endpoint_hourly_figures, usage_daily_figures",
            )
            .unwrap();
        let mut tenant = Role::create(
            &mut database,
            "tenant",
            &["SELECT usage_grant_tenant('ROLE', md5('7')::uuid)".to_owned()],
        );
        for (view, index) in [
            ("usage_tenant_hourly", "usage_hourly_figures_pkey"),
            ("usage_tenant_endpoint_hourly", "usage_endpoint_hourly_figures_pkey"),
            ("usage_tenant_daily", "usage_daily_figures_pkey"),
        ] {
            let sql = format!("EXPLAIN SELECT * FROM {view} WHERE bucket >= now() - INTERVAL '2 days'");
            let plan = tenant.texts(&sql);
            let at = plan.iter().position(|line| line.contains(&format!(" on {index}")));
            let condition = at.and_then(|at| plan.get(at + 1));
            let is_used = condition.is_some_and(|line| {
                line.contains("Index Cond: ((organization_id = ANY") && line.contains("(bucket >= ")
            });
            assert!(is_used, "{profile}: {view}: {plan:#?}");
        }
        let plan = tenant.texts(
            "EXPLAIN SELECT * FROM usage_tenant_monthly WHERE bucket = date_trunc('month', now(), 'UTC')",
        );
        let is_used =
            |line: &&String| line.contains("Index Cond: ") && line.contains("organization_id = ANY");
        assert!(plan.iter().any(|line| is_used(&line)), "{profile}: {plan:#?}");
        assert!(
            !plan.iter().any(|line| line.contains("Seq Scan on usage_daily_figures")),
            "{profile}: {plan:#?}"
        );
    }
}
