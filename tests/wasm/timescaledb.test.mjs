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
// Lists may come in any order. Without the two variables a small stream made by sample.mjs is loaded. What the figures do
// beyond that is shown by the cases (cases.mjs).

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { PGlite } from '@electric-sql/pglite';
import { timescaledb } from '@electric-sql/pglite/timescaledb';
import { sample } from './sample.mjs';

const MIGRATIONS = ['common', 'timescaledb'].map((folder) => new URL(`../../migrations/${folder}/`, import.meta.url));
const ROW_COLUMNS = ['time_us', 'request_id', 'organization_id', 'api_key_id', 'endpoint', 'method', 'status_code',
  'response_time_ms', 'billable', 'weight'];
const SUMS = ['total_requests', 'billable_requests', 'billable_units', 'response_time_ms_sum', 'success_count',
  'client_error_count', 'error_count'];
const LEVELS = {
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

test('the figures equal the expected ones before they are folded', () => assertFigures());

test('the figures equal the expected ones when all is announced, and when all is folded', async () => {
  await db.exec(`UPDATE usage_bounds SET fold_step = INTERVAL '1000 years'; SELECT usage_begin_fold('infinity')`);
  await assertFigures();
  assert.deepEqual(await select('SELECT usage_fold() AS events'), [{ events: expected.rows.length }]);
  assert.deepEqual(await select('SELECT count(*) FROM usage_unfolded'), [{ count: 0 }]);
  await assertFigures();
});

test('the job that maintains the figures runs', async () => {
  const jobs = await select(`SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'usage_maintain_job'`);
  assert.equal(jobs.length, 1);
  await db.exec(`CALL run_job(${jobs[0].job_id})`);
  await assertFigures();
});

function loadInput() {
  const { COPY_FILE, EXPECTED_FILE } = process.env;
  if (!COPY_FILE && !EXPECTED_FILE) return sample(new Date());
  assert.ok(COPY_FILE && EXPECTED_FILE, 'COPY_FILE and EXPECTED_FILE go together');
  return { copyBytes: readFileSync(COPY_FILE), expected: JSON.parse(readFileSync(EXPECTED_FILE, 'utf8')) };
}

async function migrate(way) {
  const found = MIGRATIONS.flatMap((folder) => readdirSync(folder).map((name) => ({ name, folder })));
  const files = found.filter(({ name }) => name.endsWith(`.${way}.sql`)).sort((a, b) => (a.name < b.name ? -1 : 1));
  assert.ok(files.length > 0);
  if (way === 'down') files.reverse();
  for (const { name, folder } of files) {
    const sql = readFileSync(new URL(name, folder), 'utf8');
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

async function assertFigures() {
  for (const [level, columns] of Object.entries(LEVELS)) {
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

async function select(sql, parameters = []) {
  return (await db.query(sql, parameters)).rows;
}
