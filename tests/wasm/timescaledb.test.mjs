// The schema and the encoder's bytes on a real TimescaleDB: the extension compiled to WebAssembly, inside Node.
// Needs no server, so it runs everywhere. One connection and no background workers: jobs are run by hand.
//
//   COPY_FILE      a binary COPY stream (PGCOPY header, tuples, trailer) as the encoder makes it
//   EXPECTED_FILE  what must be in the database afterwards, as JSON:
//
//   {
//     "columns": ["time", "request_id", ...],          the COPY's column list, in the stream's order
//     "rows": [{ "time_us": 1795000000000000,          microseconds since 1970, an integer
//                "request_id": "...", "organization_id": "<uuid>", "api_key_id": "<uuid>", "endpoint": "...",
//                "method": "...", "status_code": 200, "response_time_ms": 12, "billable": true, "weight": 1 }],
//     "hourly":  [{ "bucket": "2026-11-21T10:00:00Z", "organization_id": "<uuid>", "api_key_id": "<uuid>",
//                   "total_requests": 1, "billable_requests": 1, "billable_units": 1, "response_time_ms_sum": 12,
//                   "success_count": 1, "client_error_count": 0, "error_count": 0, "unique_endpoints": 1 }],
//     "daily":   [{ ... without api_key_id and unique_endpoints, with "unique_api_keys" }],
//     "monthly": [{ ... as daily }]
//   }
//
// Lists may come in any order. Times must lie within the last 88 days, or the refresh policies leave them to the
// real-time views. Without the two variables a small stream made by sample.mjs is loaded.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { PGlite } from '@electric-sql/pglite';
import { timescaledb } from '@electric-sql/pglite/timescaledb';
import { sample } from './sample.mjs';

const MIGRATIONS = new URL('../../migrations/timescaledb/', import.meta.url);
const ROW_COLUMNS = ['time_us', 'request_id', 'organization_id', 'api_key_id', 'endpoint', 'method', 'status_code',
  'response_time_ms', 'billable', 'weight'];
const SUMS = ['total_requests', 'billable_requests', 'billable_units', 'response_time_ms_sum', 'success_count',
  'client_error_count', 'error_count'];
const AGGREGATES = {
  hourly: ['bucket', 'organization_id', 'api_key_id', ...SUMS, 'unique_endpoints'],
  daily: ['bucket', 'organization_id', ...SUMS, 'unique_api_keys'],
  monthly: ['bucket', 'organization_id', ...SUMS, 'unique_api_keys'],
};

const { copyBytes, expected } = loadInput();
let db;

before(async () => {
  db = await PGlite.create({ extensions: { timescaledb } });
  // Half an hour off UTC: whoever buckets by the session's zone is caught.
  await db.exec("CREATE EXTENSION timescaledb; SET TimeZone = 'Asia/Kolkata'");
});
after(() => db?.close());

test('the migrations go up, down to nothing, and up again', async (t) => {
  const [{ version }] = await select("SELECT extversion AS version FROM pg_extension WHERE extname = 'timescaledb'");
  t.diagnostic(`TimescaleDB ${version} in WebAssembly`);
  const empty = await objects();
  await migrate('up');
  assert.ok((await objects()).length > empty.length);
  await migrate('down');
  assert.deepEqual(await objects(), empty);
  await migrate('up');
  await migrate('up'); // Safe twice.
});

test('the copy stream becomes exactly the expected rows', async () => {
  await copy();
  const rows = await select(`SELECT (extract(epoch FROM time) * 1000000)::bigint AS time_us, * FROM usage_events`);
  assert.deepEqual(sorted(rows, ROW_COLUMNS), sorted(expected.rows, ROW_COLUMNS));
});

test('the same stream again is refused by the unique key', async () => {
  await assert.rejects(copy(), { code: '23505' });
});

test('the aggregates equal the expected figures in real time', () => assertAggregates());

test('the aggregates equal the expected figures once the policies ran', async () => {
  await runJobs('policy_refresh_continuous_aggregate');
  await assertAggregates();
});

test('the aggregates equal the expected figures with every closed bucket materialized', async () => {
  await refreshAll();
  await assertAggregates();
});

test('the current month is one row, zeros for nothing, and includes the current hour', async () => {
  const organization = 'ffffffff-ffff-ffff-ffff-ffffffffffff';
  const usage = () => select('SELECT * FROM get_current_month_usage($1)', [organization]);
  assert.deepEqual(await usage(), [{ total_requests: 0, billable_units: 0, avg_response_time_ms: '0' }]);
  await insertDaysAgo(0, 'now', organization);
  const [{ total_requests, billable_units, avg_response_time_ms }] = await usage();
  assert.deepEqual([total_requests, billable_units, Number(avg_response_time_ms)], [1, 1, 1]);
});

test('a late event in a compressed chunk is billed, its copy is refused', async () => {
  await db.exec('TRUNCATE usage_events');
  await insertDaysAgo(10, 'compressed');
  await refreshAll();
  await runJobs('policy_compression');
  const [{ count }] = await select(`SELECT count(*) FROM timescaledb_information.chunks
                                    WHERE hypertable_name = 'usage_events' AND is_compressed`);
  assert.equal(count, 1);
  const again = `INSERT INTO usage_events SELECT * FROM usage_events WHERE request_id = 'compressed'`;
  await assert.rejects(db.exec(again), { code: '23505' });
  await insertDaysAgo(10, 'late');
  await runJobs('policy_refresh_continuous_aggregate');
  assert.deepEqual(await billed(), [2, 2, 2]);
});

test('retention and late events never erase what was billed', async () => {
  await db.exec('TRUNCATE usage_events');
  await refreshAll();
  for (const [index, days] of [200, 120, 100, 100, 95, 92, 88, 60, 30, 2].entries()) {
    await insertDaysAgo(days, `history ${index}`);
  }
  await refreshAll();
  assert.deepEqual(await billed(), [10, 10, 10]);

  await runJobs('usage_apply_retention_job');
  const [{ count }] = await select('SELECT count(*) FROM usage_events');
  assert.equal(count, 4, 'older chunks are dropped');
  await runJobs('policy_refresh_continuous_aggregate');
  assert.deepEqual(await billed(), [10, 10, 10], 'history stays');

  // Late, but retained: billed at every level. Too late: it must not replace the two that its hour held.
  for (const days of [88, 31, 100]) await insertDaysAgo(days, 'late');
  await runJobs('policy_refresh_continuous_aggregate');
  assert.deepEqual(await billed(), [12, 12, 12]);
});

function loadInput() {
  const { COPY_FILE, EXPECTED_FILE } = process.env;
  if (!COPY_FILE && !EXPECTED_FILE) return sample(new Date());
  assert.ok(COPY_FILE && EXPECTED_FILE, 'COPY_FILE and EXPECTED_FILE go together');
  return { copyBytes: readFileSync(COPY_FILE), expected: JSON.parse(readFileSync(EXPECTED_FILE, 'utf8')) };
}

async function migrate(way) {
  const files = readdirSync(MIGRATIONS).filter((name) => name.endsWith(`.${way}.sql`)).sort();
  assert.ok(files.length > 0);
  if (way === 'down') files.reverse();
  for (const name of files) {
    const sql = readFileSync(new URL(name, MIGRATIONS), 'utf8');
    await db.transaction((transaction) => transaction.exec(sql)).catch((cause) => {
      throw new Error(`applying ${name}: ${cause.message}`, { cause });
    });
  }
}

/** Names of what no extension owns: tables, views, indexes and functions in public, and the jobs of users. */
async function objects() {
  const rows = await select(`
    SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
    UNION ALL
    SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
    UNION ALL
    SELECT 'job ' || job_id FROM timescaledb_information.jobs WHERE job_id >= 1000
    ORDER BY 1`);
  return rows.map((row) => row.name);
}

function copy() {
  const sql = `COPY usage_events (${expected.columns.join(', ')}) FROM '/dev/blob' (FORMAT binary)`;
  return db.query(sql, [], { blob: new Blob([copyBytes]) });
}

async function assertAggregates() {
  for (const [level, columns] of Object.entries(AGGREGATES)) {
    const rows = await select(`
      SELECT *, to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS bucket,
             abs(avg_response_time_ms - response_time_ms_sum::numeric / total_requests) < 0.000001 AS is_mean
      FROM usage_${level}`);
    assert.ok(rows.every((row) => row.is_mean), `usage_${level}: a mean is not its sum by its count`);
    assert.deepEqual(sorted(rows, columns), sorted(expected[level], columns), `usage_${level}`);
  }
}

/** The named columns of each row as an array, in an order that does not depend on where the rows came from. */
function sorted(rows, columns) {
  return rows.map((row) => JSON.stringify(columns.map((column) => row[column]))).sort();
}

async function runJobs(procedure) {
  const jobs = await select(
    'SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = $1 ORDER BY job_id', [procedure]);
  assert.ok(jobs.length > 0, `no job runs ${procedure}`);
  for (const { job_id } of jobs) await db.exec(`CALL run_job(${job_id})`);
}

/**
 * By hand and over all that is past, which no policy of ours does: only safe while nothing has been dropped. Not
 * beyond now: a bucket that is materialized before it is over stays as it was then until it is over.
 */
async function refreshAll() {
  for (const level of Object.keys(AGGREGATES)) {
    await db.exec(`CALL refresh_continuous_aggregate('usage_${level}', NULL, now())`);
  }
}

async function insertDaysAgo(days, requestId, organization = '00000000-0000-0000-0000-00000000000a') {
  await db.query(
    `INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                               response_time_ms)
     VALUES (now() - $1 * interval '1 day', $2, $3, '00000000-0000-0000-0000-000000000001', '/', 'GET', 200, 1)`,
    [days, requestId, organization]);
}

async function billed() {
  const figures = [];
  for (const level of Object.keys(AGGREGATES)) {
    const [{ units }] = await select(`SELECT sum(billable_units)::bigint AS units FROM usage_${level}`);
    figures.push(units);
  }
  return figures;
}

async function select(sql, parameters = []) {
  return (await db.query(sql, parameters)).rows;
}
