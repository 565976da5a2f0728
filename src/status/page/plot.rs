//! Latency over the last fifteen minutes: lines on a logarithmic scale, and the same as a table. Pure.
//!
//! The SVG is stretched over its box, so that lines fit any screen; what is written beside it is HTML, whose size
//! does not change with it. Where nothing was measured the lines have a gap.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::{card, time};
use crate::latency::Percentiles;
use crate::status::reading::PERCENTILES;
use crate::status::{LatencyPoint, Status, text};

/// What the x axis shows, in milliseconds.
const SPAN_MS: i64 = 15 * 60_000;
/// How long a point lasts; two that are further apart than half as much again have a gap between them.
const POINT_MS: i64 = 10_000;
/// The box that is stretched: a unit is a second, and a hundredth of the height.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 100.0;
/// The least the y axis shows: 1 to 100 ms. It grows by powers of ten.
const DECADES: (i32, i32) = (3, 5);

/// The powers of ten, in microseconds, that the y axis lies between.
#[derive(Debug, Clone, Copy)]
struct Scale {
    least: i32,
    greatest: i32,
}

/// The section.
pub(super) fn section(status: &Status) -> Markup {
    let from_ms = status.now_ms - SPAN_MS;
    let points: Vec<_> = status
        .latency
        .iter()
        .filter(|point| point.percentiles.count > 0 && point.at_ms > from_ms && point.at_ms <= status.now_ms)
        .collect();
    let scale = Scale::of(&points);
    card(
        "latency",
        "wide",
        "Latency, from Kafka\u{2019}s timestamp to durable",
        &html! {
            p.legend.curves aria-hidden="true" {
                @for (name, _) in PERCENTILES.iter().rev() { span { (sample(name)) (name) } }
            }
            div.beside {
                div.plot {
                    (axes(scale, status.now_ms))
                    (lines(&points, scale, from_ms))
                    @if points.is_empty() { p.empty { span { "Nothing became durable in the last 15 minutes." } } }
                }
                @if !points.is_empty() { div { (overview(&points, status)) (minutes(&points)) } }
            }
        },
    )
}

fn sample(name: &str) -> Markup {
    html! {
        svg.sample viewBox="0 0 28 6" width="28" height="6" { path class=(class(name)) d="M0 3h28" {} }
    }
}

/// In `page.css`.
fn class(name: &str) -> String {
    name.replace('.', "")
}

impl Scale {
    fn of(points: &[&LatencyPoint]) -> Self {
        let values =
            || points.iter().flat_map(|point| PERCENTILES.map(|(_, value)| value(&point.percentiles).max(1)));
        let least = values().min().map_or(DECADES.0, |micros| micros.ilog10().cast_signed());
        let greatest = values().max().map_or(DECADES.1, |micros| micros.ilog10().cast_signed() + 1);
        // Below a tenth of a millisecond there is nothing to see: Kafka's timestamps have whole ones.
        Self { least: least.clamp(2, DECADES.0), greatest: greatest.max(DECADES.1) }
    }

    /// 0 at the top, 1 at the bottom.
    fn y(self, micros: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
        let power = (micros.max(1) as f64).log10();
        let from_bottom = (power - f64::from(self.least)) / f64::from(self.greatest - self.least);
        1.0 - from_bottom.clamp(0.0, 1.0)
    }

    fn decades(self) -> impl Iterator<Item = u64> {
        (self.least..=self.greatest).map(|power| 10_u64.pow(power.cast_unsigned()))
    }
}

/// Numbers beside the picture; decoration, since the table says them.
fn axes(scale: Scale, now_ms: i64) -> Markup {
    html! {
        div.y aria-hidden="true" {
            @for micros in scale.decades() {
                span style={ "top:" (format!("{:.2}%", 100.0 * scale.y(micros))) } { (decade(micros)) }
            }
        }
        div.x aria-hidden="true" {
            @for minutes in [15, 10, 5, 0] {
                @let at = text::time_of_day(now_ms - minutes * 60_000);
                span { (at.get(..5).unwrap_or(&at)) }
            }
        }
    }
}

/// `1 ms`, `10 ms`, `1 s`, `1,000 s`.
fn decade(micros: u64) -> String {
    match micros {
        0..1_000 => format!("0.{} ms", micros / 100),
        1_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{} s", text::count(micros / 1_000_000)),
    }
}

fn lines(points: &[&LatencyPoint], scale: Scale, from_ms: i64) -> Markup {
    html! {
        svg role="img" aria-labelledby="latency-heading" aria-describedby=[(!points.is_empty()).then_some("latency-overview")]
            viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" {
            @for micros in scale.decades() {
                @let y = format!("{:.2}", HEIGHT * scale.y(micros));
                path.grid d={ "M0 " (y) "H" (WIDTH) } {}
            }
            @for (name, value) in PERCENTILES { path class=(class(name)) d=(curve(points, scale, from_ms, value)) {} }
            @for point in points {
                @let x = x(point, from_ms);
                rect.hit x=(format!("{:.1}", x - 10.0)) y="0" width="10" height=(HEIGHT) {
                    title { (describe(point)) }
                }
            }
        }
    }
}

/// Of a point's end, in the units of the box.
fn x(point: &LatencyPoint, from_ms: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
    let seconds = (point.at_ms - from_ms) as f64 / 1_000.0;
    seconds
}

/// Lines between neighbours, and a dot (a line of no length with round ends) for a point that has none.
fn curve(points: &[&LatencyPoint], scale: Scale, from_ms: i64, value: fn(&Percentiles) -> u64) -> String {
    let mut path = String::new();
    let mut last_ms: Option<i64> = None;
    for point in points {
        let is_neighbour = last_ms.is_some_and(|last_ms| point.at_ms - last_ms <= POINT_MS * 3 / 2);
        let (x, y) = (x(point, from_ms), HEIGHT * scale.y(value(&point.percentiles)));
        let written =
            if is_neighbour { write!(path, "L{x:.1} {y:.2}") } else { write!(path, "M{x:.1} {y:.2}h0") };
        // A String takes everything.
        written.ok();
        last_ms = Some(point.at_ms);
    }
    path
}

/// What stands under the pointer.
fn describe(point: &LatencyPoint) -> String {
    let of = &point.percentiles;
    let [p50, p99, p999] = [of.p50_micros, of.p99_micros, of.p999_micros].map(text::latency);
    let (at, rows) = (text::time_of_day(point.at_ms), text::plural(of.count, "row"));
    format!("{at}: p50 {p50}, p99 {p99}, p99.9 {p999}, {rows}")
}

/// The picture in a few numbers.
fn overview(points: &[&LatencyPoint], status: &Status) -> Markup {
    let now = status.latency_now();
    html! {
        table #latency-overview {
            caption.quiet { "Ten seconds each, in the last 15 minutes" }
            thead { tr { th scope="col" { "percentile" } th.n scope="col" { "now" } th.n scope="col" { "least" } th.n scope="col" { "most" } } }
            tbody {
                @for (name, value) in PERCENTILES {
                    @let values = || points.iter().map(|point| value(&point.percentiles));
                    tr {
                        th scope="row" { (name) }
                        td.n { (now.as_ref().map_or_else(|| text::UNKNOWN.to_owned(), |of| text::latency(value(of)))) }
                        td.n { (text::latency(values().min().unwrap_or(0))) }
                        td.n { (text::latency(values().max().unwrap_or(0))) }
                    }
                }
            }
        }
    }
}

/// The picture as a table: percentiles of different tens of seconds cannot be merged, so a minute has its worst.
fn minutes(points: &[&LatencyPoint]) -> Markup {
    html! {
        details {
            summary { "minute by minute" }
            div.scroll tabindex="0" role="region" aria-label="Latency minute by minute" {
                table {
                    caption.quiet { "The slowest ten seconds of each minute" }
                    thead { tr { th scope="col" { "minute" } th.n scope="col" { "rows" } @for (name, _) in PERCENTILES { th.n scope="col" { (name) } } } }
                    tbody {
                        @for of_minute in points.chunk_by(|a, b| a.at_ms / 60_000 == b.at_ms / 60_000).rev() {
                            tr {
                                th scope="row" { (time(of_minute[0].at_ms / 60_000 * 60_000)) }
                                td.n { (text::count(of_minute.iter().map(|point| point.percentiles.count).sum())) }
                                @for (_, value) in PERCENTILES {
                                    td.n { (text::latency(of_minute.iter().map(|point| value(&point.percentiles)).max().unwrap_or(0))) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_s: i64, micros: u64) -> LatencyPoint {
        let percentiles =
            Percentiles { count: 1, p50_micros: micros, p99_micros: micros, p999_micros: micros };
        LatencyPoint { at_ms: at_s * 1_000, percentiles }
    }

    #[test]
    fn a_line_has_gaps_where_nothing_was_measured() {
        let points = [point(10, 1_000), point(20, 10_000), point(40, 100_000)];
        let points: Vec<_> = points.iter().collect();
        let scale = Scale::of(&points);
        assert_eq!((scale.least, scale.greatest), (3, 6));
        let path = curve(&points, scale, 0, |of| of.p50_micros);
        assert_eq!(path, "M10.0 100.00h0L20.0 66.67M40.0 33.33h0");
    }

    #[test]
    fn the_scale_holds_whatever_was_measured() {
        for micros in [0, 1, 999, 1_000, 86_400_000_000, u64::MAX / 2] {
            let points = [point(10, micros)];
            let scale = Scale::of(&points.iter().collect::<Vec<_>>());
            assert!((0.0..=1.0).contains(&scale.y(micros)), "{micros}");
            assert!(scale.decades().count() >= 3, "{micros}");
        }
        assert_eq!(
            [100, 1_000, 10_000, 1_000_000, 1_000_000_000].map(decade),
            ["0.1 ms", "1 ms", "10 ms", "1 s", "1,000 s"]
        );
    }
}
