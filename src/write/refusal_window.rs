//! How many rows the database may refuse before the table counts as at fault. Pure; one a writer.
//!
//! A bad row is the row's fault and becomes a dead letter. When most rows are refused, a constraint
//! or a type is wrong, and diverting them all would empty the topic into `usage_dead_letters`.

use std::collections::VecDeque;

/// Fewer rows than this prove nothing: the last batches are looked at until they have as many.
const ROWS_LOOKED_AT: usize = 100;

/// The latest batches that became durable, together `ROWS_LOOKED_AT` rows or the least more.
#[derive(Debug, Default)]
pub struct RefusalWindow {
    /// Rows and refused rows of each batch, oldest first; none without rows, so at most 100.
    batches: VecDeque<(usize, usize)>,
    row_count: usize,
}

impl RefusalWindow {
    /// How many rows of a batch of `row_count` may be refused: so many that not more than half of
    /// the last rows are, as far as there have been `ROWS_LOOKED_AT`.
    pub fn refused_max(&self, row_count: usize) -> usize {
        let (mut looked_at, mut refused) = (row_count, 0);
        for (rows, refused_rows) in self.batches.iter().rev() {
            if looked_at >= ROWS_LOOKED_AT {
                break;
            }
            looked_at += rows;
            refused += refused_rows;
        }
        if looked_at < ROWS_LOOKED_AT { row_count } else { (looked_at / 2).saturating_sub(refused) }
    }

    /// A batch became durable.
    pub fn record(&mut self, row_count: usize, refused_count: usize) {
        if row_count == 0 {
            return;
        }
        self.batches.push_back((row_count, refused_count));
        self.row_count += row_count;
        while let Some((oldest, _)) = self.batches.front()
            && self.row_count - oldest >= ROWS_LOOKED_AT
        {
            self.row_count -= oldest;
            self.batches.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_large_batch_may_be_refused() {
        let mut window = RefusalWindow::default();
        assert_eq!(window.refused_max(5_000), 2_500);
        window.record(5_000, 2_500);
        assert_eq!(window.refused_max(5_000), 2_500, "a large batch is judged alone");
    }

    #[test]
    fn of_small_batches_the_last_hundred_rows_decide() {
        let mut window = RefusalWindow::default();
        for _ in 0..99 {
            assert_eq!(window.refused_max(1), 1, "fewer rows prove nothing");
            window.record(1, 0);
        }
        let diverted = (0..200).take_while(|_| {
            let is_allowed = window.refused_max(1) >= 1;
            window.record(1, usize::from(is_allowed));
            is_allowed
        });
        assert_eq!(diverted.count(), 50);
        assert!(window.batches.len() <= ROWS_LOOKED_AT);
    }
}
