//! Percentile tables (`.hgrm`), as the Java HdrHistogram prints them (`outputPercentileDistribution`)
//! and the plotting pages read them: values in milliseconds. Pure.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// Steps between a percentile and the one half as far from 100 %, as the Java tools have by default.
const TICKS_PER_HALF_DISTANCE: f64 = 5.0;
const NANOS_PER_MILLI: f64 = 1e6;

/// The table of a histogram in nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "printed with three decimals")]
pub(super) fn table(histogram: &Histogram<u64>) -> String {
    let millis = |nanos: u64| nanos as f64 / NANOS_PER_MILLI;
    let mut table =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for (value, percent, count) in steps(histogram) {
        let quantile = percent / 100.0;
        // Writing into a string cannot fail.
        _ = write!(table, "{:>12.3} {quantile:1.12} {count:>10}", millis(value));
        if percent < 100.0 {
            _ = write!(table, " {:>14.2}", 1.0 / (1.0 - quantile));
        }
        table.push('\n');
    }
    let [mean, deviation] = [histogram.mean(), histogram.stdev()].map(|nanos| nanos / NANOS_PER_MILLI);
    _ = write!(
        table,
        "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]\n\
         #[Max     = {:>12.3}, Total count    = {:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]\n",
        millis(histogram.max()),
        histogram.len(),
        histogram.buckets(),
        // Three digits take 2,048, of which each doubling uses the upper half.
        2_048,
    );
    table
}

/// The lines of a table: value, percentile, events up to there. Java's `PercentileIterator`; the crate's own counts
/// in quantiles, whose steps are no exact numbers, and so is a line off where events end at one.
#[expect(clippy::cast_precision_loss, reason = "as Java does")]
fn steps(histogram: &Histogram<u64>) -> Vec<(u64, f64, u64)> {
    let (mut steps, mut percent, mut count) = (Vec::new(), 0.0, 0);
    for recorded in histogram.iter_recorded() {
        count += recorded.count_since_last_iteration();
        let value = recorded.value_iterated_to();
        while 100.0 * count as f64 / histogram.len() as f64 >= percent {
            steps.push((value, percent, count));
            let halvings = ((100.0 / (100.0 - percent)).ln() / 2_f64.ln()).floor();
            percent += 100.0 / (TICKS_PER_HALF_DISTANCE * 2_f64.powf(halvings + 1.0));
            if count == histogram.len() {
                steps.push((value, 100.0, count));
                return steps;
            }
        }
    }
    steps
}

/// The rows of a table: quantile, nanoseconds, events up to there. `None` if it is no such table.
pub(super) fn rows(table: &str) -> Option<Vec<(f64, u64, u64)>> {
    let mut lines = table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_table = lines.next()?.split_whitespace().take(2).eq(["Value", "Percentile"]);
    let row = |line: &str| {
        let mut columns = line.split_whitespace();
        let millis: f64 = columns.next()?.parse().ok()?;
        let quantile = columns.next()?.parse().ok()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length, rounded")]
        let nanos = (millis * NANOS_PER_MILLI).round() as u64;
        Some((quantile, nanos, columns.next()?.parse().ok()?))
    };
    is_table.then(|| lines.map(row).collect::<Option<Vec<_>>>()).flatten().filter(|rows| !rows.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_back() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1_000, 1 << 50, 3).unwrap();
        histogram.record_n(2_000_000, 99).unwrap();
        histogram.record_n(50_000_000, 1).unwrap();
        let rows = rows(&table(&histogram)).unwrap();
        let near = |(quantile, nanos, count): (f64, u64, u64), expected: (f64, u64, u64)| {
            quantile >= expected.0 && nanos.abs_diff(expected.1) <= expected.1 / 1_000 && count == expected.2
        };
        assert!(near(rows[0], (0.0, 2_000_000, 99)), "{rows:?}");
        assert!(near(rows[rows.len() - 1], (1.0, 50_000_000, 100)), "{rows:?}");
        assert_eq!(super::rows("Value Other\n1 2 3\n"), None);
        assert_eq!(super::rows(""), None);
    }

    /// As Java has it: seven of eight are 87.5 %, not a step later.
    #[test]
    fn events_that_end_at_a_step_are_on_its_line() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1_000, 1 << 50, 3).unwrap();
        histogram.record_n(2_000_000, 7).unwrap();
        histogram.record_n(50_000_000, 1).unwrap();
        let lines = steps(&histogram);
        let last: Vec<_> =
            lines[lines.len() - 3..].iter().map(|(_, percent, count)| (*percent, *count)).collect();
        assert_eq!(last, [(87.5, 7), (88.75, 8), (100.0, 8)]);
    }
}
