// Runs statements on TimescaleDB in WebAssembly and says what each answered; judges nothing.
//
//   stdin   { "migrations": [file, ...], "cases": [[sql, ...], ...] }   each case in a fresh, migrated database
//   stdout  [[answer, ...], ...]   as many; an answer is { "rows": [text, ...] } or { "error": SQLSTATE, "message": "..." }
//
// One connection and no background workers.

import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { PGlite } from '@electric-sql/pglite';
import { timescaledb } from '@electric-sql/pglite/timescaledb';

const { migrations, cases } = JSON.parse(await text(process.stdin));
const answers = [];
for (const statements of cases) {
  const db = await migrated();
  const answered = [];
  for (const sql of statements) answered.push(await answer(db, sql));
  answers.push(answered);
  await db.close();
}
process.stdout.write(JSON.stringify(answers));

async function migrated() {
  const db = await PGlite.create({ extensions: { timescaledb } });
  await db.exec('CREATE EXTENSION timescaledb');
  for (const file of migrations) {
    await db.transaction((transaction) => transaction.exec(readFileSync(file, 'utf8')));
  }
  return db;
}

async function answer(db, sql) {
  try {
    const { rows, fields } = await db.query(sql, [], { rowMode: 'array' });
    const isText = rows.every(([value]) => fields.length === 1 && (value === null || typeof value === 'string'));
    return isText ? { rows: rows.map(([value]) => value ?? '(null)') } : { error: '-', message: 'not one column of text' };
  } catch (error) {
    return { error: error.code ?? '-', message: error.message };
  }
}
