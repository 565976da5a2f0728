//! The careful path: puts a batch's rows into the table when not all of them can go there at once.
//! Runs inside the batch's transaction, each attempt under a savepoint, on the writer threads.
//!
//! Rows that exist already are left out through the staging table; rows that the table refuses are
//! found and left out one by one. The server usually names the row that broke a COPY. That row is
//! tried by itself, so that none is refused on hearsay: what it cannot enter alone, it is at fault.
//!
//! Cost: a single bad row among any number takes two COPYs beyond the first, itself and the rest.
//! Every further one takes three, of at most [`SLICE_ROWS_MAX`] rows; without a named row, halving
//! takes two for each power of two.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use postgres::{GenericClient, Statement};

use super::error::WriteError;
use super::session::{COMPARE_STAGED, Statements};
use super::settlement::{Fate, day_of};
use super::sqlstate::{self, Remedy};
use super::watchdog::Watch;
use crate::copy_tuple::CopyStream;
use crate::messages::WriteBatch;

/// Most rows of a COPY once a second row has been refused: what one more bad row sends again.
const SLICE_ROWS_MAX: usize = 512;
/// Slices shrink while rows keep being refused, down to this.
const SLICE_ROWS_MIN: usize = 16;

/// How rows are put into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// COPY into the table.
    Copy,
    /// COPY into the staging table, and from there what does not exist yet.
    Stage,
}

/// Rows still to be placed: a range of `order`.
#[derive(Debug)]
struct Step {
    rows: Range<usize>,
    way: Way,
    /// One row, which the server named as the one that broke a COPY.
    is_suspect: bool,
}

/// What sends rows: one writer's means, lent for a batch.
#[derive(Debug)]
pub(super) struct CopyMeans<'a> {
    pub(super) statements: &'a Statements,
    pub(super) stream: &'a mut CopyStream,
    pub(super) watch: &'a Watch,
    /// Counts every COPY.
    pub(super) copy_count: &'a mut u64,
}

/// One batch's rows on their way into the table.
pub(super) struct Placement<'a, C> {
    /// In a transaction.
    client: &'a mut C,
    means: CopyMeans<'a>,
    batch: &'a WriteBatch,
    /// Row indexes in COPY order; a suspect is moved behind its range.
    order: &'a mut [u32],
    fates: Vec<Fate>,
    refused_count: usize,
    refused_max: usize,
    slice_rows: usize,
    /// Until a row that the server named turned out innocent.
    trusts_named_rows: bool,
    has_staged: bool,
}

impl<'a, C: GenericClient> Placement<'a, C> {
    /// All rows still to be placed, of which `refused_max` may be refused.
    pub(super) fn new(
        client: &'a mut C,
        means: CopyMeans<'a>,
        batch: &'a WriteBatch,
        order: &'a mut [u32],
        refused_max: usize,
    ) -> Self {
        Self {
            client,
            means,
            batch,
            order,
            fates: vec![Fate::Written; batch.rows.len()],
            refused_count: 0,
            refused_max,
            slice_rows: usize::MAX,
            trusts_named_rows: true,
            has_staged: false,
        }
    }

    /// Places every row, given how a COPY of all of them failed; gives what became of each.
    pub(super) fn run(mut self, first_error: WriteError) -> Result<Vec<Fate>, WriteError> {
        let mut steps = Vec::new();
        let whole = Step { rows: 0..self.order.len(), way: Way::Copy, is_suspect: false };
        self.divide(whole, first_error, &mut steps)?;
        self.work_off(steps)
    }

    /// Places every row beside what exists, without having tried a COPY of all of them.
    pub(super) fn run_staged(self) -> Result<Vec<Fate>, WriteError> {
        let whole = Step { rows: 0..self.order.len(), way: Way::Stage, is_suspect: false };
        self.work_off(vec![whole])
    }

    fn work_off(mut self, mut steps: Vec<Step>) -> Result<Vec<Fate>, WriteError> {
        while let Some(mut step) = steps.pop() {
            if step.rows.len() > self.slice_rows {
                let slice_end = step.rows.start + self.slice_rows;
                steps.push(Step { rows: slice_end..step.rows.end, ..step });
                step.rows.end = slice_end;
            }
            match self.attempt(&step) {
                Ok(()) => {
                    self.trusts_named_rows &= !step.is_suspect;
                    if self.slice_rows < SLICE_ROWS_MAX {
                        self.slice_rows *= 2;
                    }
                }
                Err(error) => self.divide(step, error, &mut steps)?,
            }
        }
        Ok(self.fates)
    }

    /// Turns a step that failed into smaller ones, the next one last, or refuses its only row. Gives
    /// the error back when it is no row's doing.
    fn divide(&mut self, step: Step, error: WriteError, steps: &mut Vec<Step>) -> Result<(), WriteError> {
        let Step { rows, way, .. } = step;
        match error.remedy() {
            Remedy::SkipExistingRows if way == Way::Copy => {
                steps.push(Step { rows, way: Way::Stage, is_suspect: false });
                return Ok(());
            }
            Remedy::RefuseRow => {}
            _ => return Err(error),
        }
        if rows.len() <= 1 {
            return self.refuse(rows.start, error);
        }
        let part = |rows: Range<usize>| Step { rows, way, is_suspect: false };
        let is_first = self.slice_rows == usize::MAX && self.refused_count == 0 && steps.is_empty();
        match self.named_row(&rows, &error) {
            Some(named) if is_first => {
                // Behind the others, which stay in order, so that they can go in one piece.
                self.order[named..rows.end].rotate_left(1);
                let last = rows.end - 1;
                steps.push(part(rows.start..last));
                steps.push(Step { is_suspect: true, ..part(last..rows.end) });
                return Ok(());
            }
            Some(named) => {
                steps.push(part(named + 1..rows.end));
                steps.push(Step { is_suspect: true, ..part(named..named + 1) });
                steps.push(part(rows.start..named));
                steps.retain(|step| !step.rows.is_empty());
            }
            None => {
                let middle = rows.start + rows.len() / 2;
                steps.push(part(middle..rows.end));
                steps.push(part(rows.start..middle));
            }
        }
        self.slice_rows = (self.slice_rows / 2).clamp(SLICE_ROWS_MIN, SLICE_ROWS_MAX);
        Ok(())
    }

    /// The place in `order` of the row that the server names, if it does and has been right so far.
    fn named_row(&self, rows: &Range<usize>, error: &WriteError) -> Option<usize> {
        let named = rows.start + sqlstate::copy_row_idx(error.server()?.where_()?)?;
        (self.trusts_named_rows && rows.contains(&named)).then_some(named)
    }

    /// One row that the table does not take even by itself.
    fn refuse(&mut self, place: usize, error: WriteError) -> Result<(), WriteError> {
        self.refused_count += 1;
        let said = error
            .server()
            .map(|server| format!("{}: {}", server.code().code(), server.message()))
            .unwrap_or_default();
        match error {
            WriteError::Copy { source, .. } | WriteError::Insert { source, .. }
                if self.refused_count > self.refused_max =>
            {
                let row_count = self.batch.rows.len();
                Err(WriteError::MostRowsRefused { refused_max: self.refused_max, row_count, source })
            }
            WriteError::Copy { .. } | WriteError::Insert { .. } => {
                self.fates[self.order[place] as usize] = Fate::Refused(said);
                Ok(())
            }
            other => Err(other),
        }
    }

    /// Tries a step under a savepoint: one that fails for a row's sake leaves no trace.
    fn attempt(&mut self, step: &Step) -> Result<(), WriteError> {
        self.execute("SAVEPOINT attempt")?;
        let outcome = match step.way {
            Way::Copy => self.copy(&step.rows),
            Way::Stage => self.stage(&step.rows),
        };
        match outcome {
            Ok(()) => self.execute("RELEASE SAVEPOINT attempt"),
            Err(error) => {
                // With any other error the batch is given up.
                if matches!(error.remedy(), Remedy::SkipExistingRows | Remedy::RefuseRow) {
                    self.execute("ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt")?;
                }
                Err(error)
            }
        }
    }

    fn execute(&mut self, sql: &str) -> Result<(), WriteError> {
        self.means.watch.renew();
        self.client.batch_execute(sql).map_err(WriteError::Begin)
    }

    fn copy(&mut self, rows: &Range<usize>) -> Result<(), WriteError> {
        copy_rows(self.client, &mut self.means, self.batch, &self.order[rows.clone()])
    }

    fn stage(&mut self, rows: &Range<usize>) -> Result<(), WriteError> {
        if std::mem::replace(&mut self.has_staged, true) {
            self.execute("TRUNCATE usage_events_staging")?;
        }
        let order = &self.order[rows.clone()];
        let failed = |source| WriteError::Insert { row_count: order.len(), source };
        self.means.stream.start();
        for &idx in order {
            self.means.stream.push_numbered(self.batch.tuple(idx), idx);
        }
        let statements = self.means.statements;
        send_copy(self.client, &statements.copy_staging, &mut self.means, failed)?;
        self.means.watch.renew();
        let inserted = self.client.query(&statements.insert_staged, &[]).map_err(failed)?;
        let mut present: BTreeSet<i32> = order.iter().map(|idx| idx.cast_signed()).collect();
        for row in inserted {
            present.remove(&row.get::<_, i32>(0));
        }
        self.compare(present)
    }

    /// Decides of rows that were not inserted whether they are the rows that stood in the way.
    fn compare(&mut self, present: BTreeSet<i32>) -> Result<(), WriteError> {
        if present.is_empty() {
            return Ok(());
        }
        let row_count = present.len();
        let failed = |source| WriteError::Compare { row_count, source };
        let mut present_by_day: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for row_idx in present {
            let row = &self.batch.rows[row_idx.cast_unsigned() as usize];
            present_by_day.entry(day_of(row.time_micros)).or_default().push(row_idx);
        }
        let mut compared_count = 0;
        for (day, row_idxs) in &present_by_day {
            self.means.watch.renew();
            let day_start_s = i64::from(*day) * 86_400;
            let rows = self.client.query(COMPARE_STAGED, &[&day_start_s, row_idxs]).map_err(failed)?;
            compared_count += rows.len();
            for row in rows {
                let (row_idx, is_same): (i32, bool) = (row.get(0), row.get(1));
                self.fates[row_idx.cast_unsigned() as usize] =
                    if is_same { Fate::Present } else { Fate::Conflict };
            }
        }
        if compared_count == row_count {
            Ok(())
        } else {
            Err(WriteError::Vanished { row_count: row_count - compared_count })
        }
    }
}

/// Takes rows that are no longer retained out of `order`, and gives them.
pub(super) fn take_expired(batch: &WriteBatch, order: &mut Vec<u32>, retained_since_micros: i64) -> Vec<u32> {
    order.extract_if(.., |idx| batch.rows[*idx as usize].time_micros < retained_since_micros).collect()
}

/// Copies rows of `batch`, by index, straight into the table.
pub(super) fn copy_rows(
    client: &mut impl GenericClient,
    means: &mut CopyMeans<'_>,
    batch: &WriteBatch,
    order: &[u32],
) -> Result<(), WriteError> {
    means.stream.start();
    for &idx in order {
        means.stream.push(batch.tuple(idx));
    }
    let statement = &means.statements.copy_rows;
    send_copy(client, statement, means, |source| WriteError::Copy { row_count: order.len(), source })
}

/// Sends the stream as one slice: fed row by row, the client would block once per 4 KiB.
fn send_copy(
    client: &mut impl GenericClient,
    statement: &Statement,
    means: &mut CopyMeans<'_>,
    failed: impl Fn(postgres::Error) -> WriteError,
) -> Result<(), WriteError> {
    use std::io::Write as _;
    means.watch.renew();
    *means.copy_count += 1;
    let bytes = means.stream.finish();
    let mut writer = client.copy_in(statement).map_err(&failed)?;
    writer.write_all(bytes).map_err(|source| WriteError::Send { byte_count: bytes.len(), source })?;
    writer.finish().map_err(failed)?;
    Ok(())
}
