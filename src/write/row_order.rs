//! In which order a batch's rows are copied. Pure; runs once a batch, on the writer threads.

use crate::messages::EncodedRow;

/// Puts the rows' indexes into `order`, by (organization, time): the order of the unique key, in which two writers
/// with the same keys cannot deadlock. COPY is no faster by it (tuning/pages/row-order.md).
pub fn sort(rows: &[EncodedRow], order: &mut Vec<u32>) {
    order.clear();
    order.extend(0..u32::try_from(rows.len()).unwrap_or(u32::MAX));
    order.sort_unstable_by_key(|&idx| {
        let row = &rows[idx as usize];
        (row.organization_id, row.time_micros, idx)
    });
}
