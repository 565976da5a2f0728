//! Lines in a coordinate system, as an SVG: for percentiles by `latency --plot`, and for whatever else is
//! measured against a setting. Text is drawn by the viewer with its own sans-serif font.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;

/// What to draw.
pub struct Plot<'a> {
    /// Above it.
    pub title: &'a str,
    /// What x is, with its unit.
    pub x_label: &'a str,
    /// What y is, with its unit.
    pub y_label: &'a str,
    /// How a number on the x axis is written.
    pub x_tick: &'a dyn Fn(f64) -> String,
    /// In the order of the legend.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub label: String,
    /// x and y, x ascending.
    pub points: Vec<(f64, f64)>,
}

impl std::fmt::Debug for Plot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plot").field("title", &self.title).field("lines", &self.lines).finish_non_exhaustive()
    }
}

const SIZE: (u32, u32) = (960, 560);
/// Okabe and Ito's palette, which people tell apart who do not see all colours; without yellow and black.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

impl Plot<'_> {
    /// Writes the SVG.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(io::Error::other)?;
        fs::write(path, svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let y_end = self.range(|point| point.1).end;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 22))
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(72)
            .build_cartesian_2d(self.range(|point| point.0), 0.0..y_end * 1.05)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .x_label_formatter(&|x| (self.x_tick)(*x))
            .y_label_formatter(&|y| number(*y))
            .label_style(("sans-serif", 15))
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))?
                .label(line.label.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        }
        if !self.lines.is_empty() {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .label_font(("sans-serif", 15))
                .draw()?;
        }
        area.present()?;
        Ok(())
    }

    /// From the least to the greatest of one coordinate; never empty.
    fn range(&self, coordinate: fn(&(f64, f64)) -> f64) -> Range<f64> {
        let all =
            self.lines.iter().flat_map(|line| &line.points).map(coordinate).filter(|value| value.is_finite());
        let (least, greatest) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, greatest), value| {
            (least.min(value), greatest.max(value))
        });
        if least < greatest {
            least..greatest
        } else if least.is_finite() {
            least..least + 1.0
        } else {
            0.0..1.0
        }
    }
}

/// At most three decimals, and none that say nothing.
fn number(value: f64) -> String {
    format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(lines: Vec<Line>) -> String {
        let plot = Plot {
            title: "Speed & size",
            x_label: "rows",
            y_label: "rows/s",
            x_tick: &|x| format!("{x:.0}"),
            lines,
        };
        let mut svg = String::new();
        plot.draw(&mut svg).unwrap();
        svg
    }

    #[test]
    fn each_line_is_drawn_and_named() {
        let line = |label: &str, y| Line { label: label.to_owned(), points: vec![(0.0, y), (10.0, 2.0 * y)] };
        let svg = svg(vec![line("1 < 2 writers", 5.0), line("four", 7.0)]);
        // A line, and its sample in the legend.
        for colour in ["#0072B2", "#D55E00"] {
            assert_eq!(svg.matches(&format!("stroke=\"{colour}\"")).count(), 2, "{svg}");
        }
        assert_eq!([0.1 + 0.2, 1_500.0, 0.0].map(number), ["0.3", "1500", "0"]);
        for text in ["Speed &amp; size", "1 &lt; 2 writers", "four", "rows/s"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn nothing_and_a_single_point_can_be_drawn() {
        svg(vec![]);
        svg(vec![Line { label: "one".to_owned(), points: vec![(1.0, 0.0)] }]);
    }
}
