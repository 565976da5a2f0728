//! The page at `/`: one HTML document with everything in it, made of a [`Status`]. Pure.
//!
//! All numbers are in the HTML. `page.js` fetches the page every two seconds and puts what has changed in its
//! place; without it the browser loads the page anew every five. Nothing else is loaded, from anywhere: the
//! server's Content-Security-Policy allows inline styles and scripts and a `data:` icon, and no more. maud
//! escapes every text.
//!
//! `pipeline.rs` is the picture, `plot.rs` latency over time, `tables.rs` everything else. A number that a
//! program may look for is a `<data id=... value=...>`, where id is the field of `/status.json`.

mod pipeline;
mod plot;
mod tables;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Status, Verdict, text};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
/// How often a browser without JavaScript loads the page.
const RELOAD_S: u32 = 5;

/// The page, a complete document in UTF-8.
pub fn page(status: &Status) -> String {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            (head(status))
            body {
                div.top {
                    (summary(status))
                    // The script's own corner: what it writes here stays when the rest is replaced.
                    div.refresh {
                        p #connection role="status" {}
                        button #pause type="button" aria-pressed="false" hidden { "Pause" }
                    }
                }
                main #status data-live {
                    (figures(status))
                    (pipeline::section(status))
                    (plot::section(status))
                    div.column { (tables::totals(status)) (tables::dedup(status)) }
                    (tables::partitions(status))
                    (tables::dead_letters(status))
                    (tables::kafka(status))
                    (tables::database(status))
                    (tables::settings(status))
                }
                footer {
                    nav aria-label="The same for programs" {
                        @for path in ["metrics", "status.json", "healthz", "readyz"] {
                            a href=(path) { "/" (path) }
                        }
                    }
                    p { "In a terminal: " code { "usage-processor status --watch" } ". All times are UTC." }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    document.into_string()
}

fn head(status: &Status) -> Markup {
    let mark = if status.is_well() { "" } else { "\u{2717} " };
    let lag = text::count(status.lag());
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            // A page of another version is not put into this one.
            meta name="version" content=(status.version);
            noscript { meta http-equiv="refresh" content=(RELOAD_S); }
            title { (mark) (status.verdict()) ", lag " (lag) " \u{b7} " (status.host) " \u{b7} usage-processor" }
            link #icon rel="icon" href=(icon(status.is_well()));
            style { (PreEscaped(STYLE)) }
        }
    }
}

/// A disc with a tick, or a square with a cross: the form says it too.
fn icon(is_well: bool) -> String {
    let drawing = if is_well {
        "<circle cx='8' cy='8' r='8' fill='%231a7f4b'/><path d='M4 8.5l3 3 5-6' fill='none' stroke='white' stroke-width='2'/>"
    } else {
        "<rect width='16' height='16' rx='2' fill='%23c0281c'/><path d='M4 4l8 8m0-8l-8 8' stroke='white' stroke-width='2'/>"
    };
    format!("data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>{drawing}</svg>")
}

fn summary(status: &Status) -> Markup {
    html! {
        header #summary data-live {
            h1 { "usage-processor" }
            p.where {
                span { (status.host) }
                span { (status.version) }
                span { "up " (text::span(status.uptime_s)) }
                span { "as of " (time(status.now_ms)) }
            }
            div.verdicts {
                (verdict("alive", "Alive", "Stuck", &status.alive))
                (verdict("ready", "Ready", "Not ready", &status.ready))
            }
        }
    }
}

fn verdict(id: &str, yes: &str, no: &str, verdict: &Verdict) -> Markup {
    html! {
        div.verdict.bad[!verdict.is_ok] {
            strong {
                data id=(id) value=(verdict.is_ok) {
                    (mark(verdict.is_ok)) @if verdict.is_ok { (yes) } @else { (no) }
                }
            }
            @for (idx, reason) in verdict.reasons.iter().enumerate() {
                span.reason { @if idx > 0 { "\u{2022} " } (reason) }
            }
        }
    }
}

/// A tick or a cross, before the word that says the same.
fn mark(is_ok: bool) -> Markup {
    html! {
        span.mark aria-hidden="true" { @if is_ok { "\u{2713}" } @else { "\u{2717}" } }
    }
}

/// What one looks for first.
fn figures(status: &Status) -> Markup {
    let latency =
        status.latency_now().map_or_else(|| text::UNKNOWN.to_owned(), |of| text::latency(of.p99_micros));
    html! {
        section.figures aria-label="At a glance" {
            dl {
                (figure("Reading", html! { (text::rate(status.rates.messages)) }, "messages/s"))
                (figure("Writing", html! { (text::rate(status.rates.written)) }, "rows/s"))
                (figure("Lag", html! { (count("lag", status.lag())) }, "messages"))
                (figure("Latency p99", html! { (latency) }, "last 10 s"))
                (figure("In flight", html! { (text::count(status.totals.in_flight)) }, "messages"))
                (figure("Dead letters", html! { (text::count(status.totals.dead_letters)) }, "since the start"))
            }
        }
    }
}

fn figure(name: &str, value: Markup, unit: &str) -> Markup {
    html! {
        div { dt { (name) } dd { b { (value) } " " span.unit { (unit) } } }
    }
}

/// A card with a heading that names it.
fn card(id: &str, class: &str, heading: &str, content: &Markup) -> Markup {
    let heading_id = format!("{id}-heading");
    html! {
        section id=(id) class={ "card " (class) } aria-labelledby=(heading_id) {
            h2 id=(heading_id) { (heading) }
            (content)
        }
    }
}

/// A number that a program may look for.
fn count(id: &str, n: u64) -> Markup {
    html! { data id=(id) value=(n) { (text::count(n)) } }
}

/// A time of day, with its date for programs and under the pointer.
fn time(at_ms: i64) -> Markup {
    let whole = text::rfc3339(at_ms);
    html! { time datetime=(whole) title=(whole) { (text::time_of_day(at_ms)) } }
}

/// A part of the most there is. Decoration: the number stands beside it.
fn bar(part: f64) -> Markup {
    html! { span.bar aria-hidden="true" { span style={ "width:" (width(part)) } {} } }
}

/// How full something is; striped when it is nearly so. Decoration as well.
fn fill(part: f64) -> Markup {
    html! { span.bar.full[part >= 0.9] aria-hidden="true" { span style={ "width:" (width(part)) } {} } }
}

/// Of a part, 0 to 1, in CSS.
fn width(part: f64) -> String {
    format!("{:.1}%", 100.0 * part.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples;

    const HOSTILE: &str =
        "\"'></title></style></script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;";

    #[test]
    fn no_text_becomes_markup() {
        for (name, status) in samples::all() {
            let page = page(&samples::spoilt(&status, HOSTILE));
            assert!(page.contains("&lt;script&gt;alert(1)"), "{name}");
            assert_eq!(page.matches("<script>").count(), 1, "{name}");
            assert_eq!(page.matches("</script>").count(), 1, "{name}");
            assert_eq!(page.matches("<img").count(), 0, "{name}");
            assert_eq!(page.matches("</style>").count(), 1, "{name}");
        }
    }

    #[test]
    fn nothing_is_loaded_from_anywhere() {
        for (name, status) in samples::all() {
            let page = page(&status);
            let addresses =
                page.split("http").filter(|rest| rest.starts_with("://") || rest.starts_with("s://"));
            let foreign: Vec<_> =
                addresses.filter(|rest| !rest.starts_with("://www.w3.org/2000/svg")).collect();
            assert!(foreign.is_empty(), "{name}: {foreign:?}");
            for attribute in [" src=", " onclick=", " onload=", "@import", "url("] {
                assert!(!page.contains(attribute), "{name}: {attribute}");
            }
        }
    }

    #[test]
    fn every_number_is_in_the_html() {
        let page = page(&samples::loaded());
        for (id, value) in [
            ("messages", "44422596"),
            ("written", "43180377"),
            ("memory_duplicates", "1204118"),
            ("database_duplicates", "388"),
            ("dead_letters", "21502"),
            ("returned", "12000"),
            ("in_flight", "4211"),
            ("dedup.entries", "3612004"),
            ("partition.15.lag", "255"),
            ("partition.15.watermark", "2830114"),
            ("dead_letters.invalid_json", "15210"),
            ("queue.decoder-0", "3"),
            ("alive", "true"),
            ("ready", "true"),
        ] {
            assert!(page.contains(&format!("<data id=\"{id}\" value=\"{value}\">")), "{id}");
        }
        assert!(page.contains(">44,422,596<"));
    }

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let page = page(&samples::broken());
        for words in [
            "Not ready",
            "the database has not been reached for 84 s",
            "Connection refused (os error 111)",
            "not answering for 1 min 24 s",
            "retrying &gt;99 %",
            "paused",
        ] {
            assert!(page.contains(words), "{words}");
        }
        assert!(!samples::broken().is_well());
    }

    /// With `STATUS_PAGES` set to a directory, it gets the page and the JSON of each state to look at.
    #[test]
    fn each_state_has_a_page() {
        let directory = std::env::var_os("STATUS_PAGES");
        for (name, status) in samples::all() {
            let page = page(&status);
            assert!(page.starts_with("<!DOCTYPE html><html") && page.ends_with("</html>"), "{name}");
            assert!(page.len() < 200_000, "{name}: {} bytes every two seconds", page.len());
            if let Some(directory) = &directory {
                let file = |extension| std::path::Path::new(directory).join(format!("{name}.{extension}"));
                std::fs::write(file("html"), page).unwrap();
                std::fs::write(file("json"), serde_json::to_string(&status).unwrap()).unwrap();
            }
        }
    }
}
