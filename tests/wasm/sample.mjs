// A small binary COPY stream and the figures that it must lead to, worked out by hand. Written apart from the
// program's encoder: where the two disagree, one of them misreads the format.

const COLUMNS = ['time', 'request_id', 'organization_id', 'api_key_id', 'endpoint', 'method', 'status_code',
  'response_time_ms', 'billable', 'weight'];
const MICROSECONDS_1970_TO_2000 = 946684800000000n;

const A = '00000000-0000-0000-0000-00000000000a';
const B = '00000000-0000-0000-0000-00000000000b';
const K1 = '00000000-0000-0000-0000-000000000001';
const K2 = '00000000-0000-0000-0000-000000000002';

/** Events of one UTC day, three days before `now`, and the figures of their hours, day and month. */
export function sample(now) {
  const day = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate() - 3));
  const at = (hours, minutes, microseconds = 0) =>
    day.getTime() * 1000 + (hours * 60 + minutes) * 60_000_000 + microseconds;
  const rows = [
    row(at(10, 0), 'r1', A, K1, '/a', 200, 10, true, 1),
    row(at(10, 30), 'r2', A, K1, '/ä', 404, 20, true, 3),
    row(at(10, 59, 59_999_999), 'r3', A, K1, '/a', 500, 31, false, 7),
    row(at(23, 59, 59_999_999), 'r4', A, K2, '/a', 302, 40, true, 2),
    row(at(10, 0), 'r1', B, K2, '/a', 201, 5, false, 2147483647),
  ];
  const hour = (hours) => utc(new Date(at(hours, 0) / 1000));
  const month = utc(new Date(Date.UTC(day.getUTCFullYear(), day.getUTCMonth(), 1)));
  const rollup = (bucket) => [
    { bucket, organization_id: A, ...sums(4, 3, 6, 101, 1, 1, 1), unique_api_keys: 2 },
    { bucket, organization_id: B, ...sums(1, 0, 0, 5, 1, 0, 0), unique_api_keys: 1 },
  ];
  const expected = {
    columns: COLUMNS,
    rows,
    hourly: [
      { bucket: hour(10), organization_id: A, api_key_id: K1, ...sums(3, 2, 4, 61, 1, 1, 1), unique_endpoints: 2 },
      { bucket: hour(23), organization_id: A, api_key_id: K2, ...sums(1, 1, 2, 40, 0, 0, 0), unique_endpoints: 1 },
      { bucket: hour(10), organization_id: B, api_key_id: K2, ...sums(1, 0, 0, 5, 1, 0, 0), unique_endpoints: 1 },
    ],
    daily: rollup(utc(day)),
    monthly: rollup(month),
  };
  return { copyBytes: encode(rows), expected };
}

function row(time_us, request_id, organization_id, api_key_id, endpoint, status_code, response_time_ms, billable, weight) {
  return { time_us, request_id, organization_id, api_key_id, endpoint, method: 'GET', status_code, response_time_ms,
    billable, weight };
}

function sums(total_requests, billable_requests, billable_units, response_time_ms_sum, success_count,
  client_error_count, error_count) {
  return { total_requests, billable_requests, billable_units, response_time_ms_sum, success_count,
    client_error_count, error_count };
}

const utc = (date) => date.toISOString().replace('.000Z', 'Z');

/** Header: signature, flags, length of the extension. Tuple: field count, then length and bytes of each. Trailer: -1. */
function encode(rows) {
  const header = Buffer.concat([Buffer.from('PGCOPY\n\xff\r\n\0', 'latin1'), int32(0), int32(0)]);
  const tuples = rows.map((row) => Buffer.concat([int16(COLUMNS.length), ...fields(row).map(field)]));
  return Buffer.concat([header, ...tuples, int16(-1)]);
}

function fields(row) {
  const time = Buffer.alloc(8);
  time.writeBigInt64BE(BigInt(row.time_us) - MICROSECONDS_1970_TO_2000);
  const uuid = (text) => Buffer.from(text.replaceAll('-', ''), 'hex');
  return [time, Buffer.from(row.request_id), uuid(row.organization_id), uuid(row.api_key_id), Buffer.from(row.endpoint),
    Buffer.from(row.method), int32(row.status_code), int32(row.response_time_ms), Buffer.from([row.billable ? 1 : 0]),
    int32(row.weight)];
}

const field = (bytes) => Buffer.concat([int32(bytes.length), bytes]);

function int16(value) {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
}

function int32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}
