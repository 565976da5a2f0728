//! The same as the page, for a terminal: lines of at most a hundred columns. Pure, but for one question: colours are
//! left out where standard output is no terminal or NO_COLOR is set (`console` decides).

use std::error::Error;
use std::iter;

use console::{StyledObject, style};

use super::reading::PERCENTILES;
use super::{LatencyPoint, Status, Verdict, text};
use crate::latency::Percentiles;

/// As many partitions are listed at most: those with the most lag.
const PARTITIONS_MAX: usize = 32;
/// Characters of a bar.
const BAR_CHARS: u32 = 20;
/// Characters of a line over the last fifteen minutes, and how long one is.
const LINE_CHARS: i64 = 45;
const LINE_CHAR_MS: i64 = 20_000;

/// Everything but the configuration.
pub fn lines(status: &Status) -> Vec<String> {
    let mut lines = head(status);
    for section in [
        stages(status),
        totals(status),
        latency(status),
        partitions(status),
        dead_letters(status),
        servers(status),
    ] {
        lines.push(String::new());
        lines.extend(section);
    }
    lines
}

/// That nobody answers any more, and why: the cause first, which must not be cut off.
pub fn silence(error: &(dyn Error + 'static), answered_ms: i64) -> Vec<String> {
    let cause = iter::successors(Some(error), |error| (*error).source()).last().map(ToString::to_string);
    let words = format!("not answering since {} UTC", text::time_of_day(answered_ms));
    let cause = plain(&cause.unwrap_or_default());
    vec![format!("{}  {cause}", judged(false, &words)), plain(&error.to_string()), String::new()]
}

/// The configuration.
pub fn settings(status: &Status) -> Vec<String> {
    let settings = status.settings.iter();
    let mut lines = vec![heading("CONFIGURATION")];
    lines.extend(settings.map(|of| format!("{:<34} {}", plain(&of.name), plain(&of.value))));
    lines
}

fn heading(words: &str) -> String {
    style(words).bold().to_string()
}

/// Without anything that a terminal would obey.
fn plain(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

fn judged(is_ok: bool, words: &str) -> StyledObject<String> {
    if is_ok {
        style(format!("\u{2713} {words}")).green()
    } else {
        style(format!("\u{2717} {words}")).red().bold()
    }
}

fn head(status: &Status) -> Vec<String> {
    let verdict = |verdict: &Verdict, yes, no| {
        let reasons = plain(&verdict.reasons.join("; "));
        format!("{}  {reasons}", judged(verdict.is_ok, if verdict.is_ok { yes } else { no }))
            .trim_end()
            .to_owned()
    };
    vec![
        format!(
            "usage-processor {} on {}, up {}, as of {} UTC",
            plain(&status.version),
            style(plain(&status.host)).bold(),
            text::span(status.uptime_s),
            text::date_time(status.now_ms)
        ),
        verdict(&status.alive, "alive", "STUCK"),
        verdict(&status.ready, "ready", "NOT READY"),
    ]
}

fn stages(status: &Status) -> Vec<String> {
    let columns = format!(
        "{:<12}{:>8}{:>14}{:>11}{:>11}{:>11}{:>11}",
        "STAGE", "THREADS", "A SECOND", "WORKING", "BLOCKED", "RETRYING", "STARVED"
    );
    let mut lines = vec![heading(&columns)];
    for of in &status.stages {
        // The committer has no rate.
        let rate = if of.name == "committer" { String::new() } else { text::rate(of.rate) };
        let [working, blocked, retrying, starved] = [of.working, of.blocked, of.retrying, of.starved]
            .map(|part| format!("{:>11}", text::percent(part)));
        let retrying = if of.retrying > 0.0 { style(retrying).red() } else { style(retrying) };
        let blocked = if of.blocked > 0.1 { style(blocked).yellow() } else { style(blocked) };
        let name = plain(&of.name);
        lines.push(format!("{name:<12}{:>8}{rate:>14}{working}{blocked}{retrying}{starved}", of.threads));
    }
    for queue in &status.queues {
        let (part, name) = (text::ratio(queue.length, queue.capacity), plain(&queue.name));
        let level = format!("{} of {}", text::count(queue.length), text::count(queue.capacity));
        lines.push(format!("{:<12}{:>22}  {}", format!("  {name}"), level, bar(part)));
    }
    lines
}

/// `####----`, by a part of 0 to 1; what is there has at least one `#`.
fn bar(part: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 20")]
    let filled = (part.clamp(0.0, 1.0) * f64::from(BAR_CHARS)).ceil() as usize;
    let empty = usize::try_from(BAR_CHARS).unwrap_or(0) - filled;
    let drawn = style("#".repeat(filled));
    let drawn = if part >= 0.9 { drawn.yellow() } else { drawn.blue() };
    format!("{drawn}{}", style("-".repeat(empty)).dim())
}

fn totals(status: &Status) -> Vec<String> {
    let totals = &status.totals;
    let mut lines = vec![heading(&format!("{:<30}{:>18}{:>8}", "MESSAGES", "SINCE THE START", "PART"))];
    for share in totals.shares() {
        let part = text::percent(text::ratio(share.count, totals.messages));
        lines.push(format!("{:<30}{:>18}{part:>8}", share.label, text::count(share.count)));
    }
    let adds_up = totals.accounted() == totals.messages;
    let words = if adds_up { "it adds up" } else { "IT DOES NOT ADD UP" };
    let read = text::count(totals.messages);
    lines.push(format!("{:<30}{read:>18}          {}", "read from Kafka", judged(adds_up, words)));
    lines
}

fn latency(status: &Status) -> Vec<String> {
    let mut lines = vec![heading(&format!("{:<12}{:>12}   THE LAST 15 MINUTES", "LATENCY", "NOW"))];
    let now = status.latency_now();
    for (name, value) in PERCENTILES {
        let at_now = now.as_ref().map_or_else(|| text::UNKNOWN.to_owned(), |of| text::latency(value(of)));
        lines.push(format!("{name:<12}{at_now:>12}   {}", line(status, value)));
    }
    lines
}

/// A character for each twenty seconds, by the slower ten of them: two steps for each power of ten above a
/// millisecond, and a blank where nothing was measured. Then the range.
fn line(status: &Status, value: fn(&Percentiles) -> u64) -> String {
    const STEPS: [char; 8] =
        ['\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];
    let slowest = |column: i64| {
        let end_ms = status.now_ms - (LINE_CHARS - 1 - column) * LINE_CHAR_MS;
        let is_inside = |point: &&LatencyPoint| {
            point.percentiles.count > 0 && point.at_ms <= end_ms && point.at_ms > end_ms - LINE_CHAR_MS
        };
        status.latency.iter().filter(is_inside).map(|point| value(&point.percentiles)).max()
    };
    let columns: Vec<_> = (0..LINE_CHARS).map(slowest).collect();
    let Some((least, most)) = columns.iter().flatten().min().zip(columns.iter().flatten().max()) else {
        return "nothing became durable".to_owned();
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "one of eight steps"
    )]
    let step =
        |micros: u64| (((micros.max(1_000) as f64 / 1_000.0).log10() * 2.0) as usize).min(STEPS.len() - 1);
    let drawn: String =
        columns.iter().map(|column| column.map_or(' ', |micros| STEPS[step(micros)])).collect();
    format!("{}  {} to {}", style(drawn).blue(), text::latency(*least), text::latency(*most))
}

fn partitions(status: &Status) -> Vec<String> {
    let (shown, left_out) = status.partitions_shown(PARTITIONS_MAX);
    let columns = format!(
        "{:<12}{:>14}{:>22}{:>16}{:>16}{:>16}",
        "PARTITION", "LAG", "", "DURABLE UP TO", "COMMITTED", "END"
    );
    let mut lines = vec![heading(&columns)];
    if shown.is_empty() {
        lines.push("none is assigned".to_owned());
        return lines;
    }
    let lag_max = shown.iter().map(|of| of.lag).max().unwrap_or(0);
    let known = |offset: Option<i64>| offset.map_or_else(|| text::UNKNOWN.to_owned(), text::offset);
    for of in shown {
        lines.push(format!(
            "{:<12}{:>14}  {}{:>16}{:>16}{:>16}",
            of.partition,
            text::count(of.lag),
            bar(0.89 * text::ratio(of.lag, lag_max)),
            text::offset(of.watermark),
            known(of.committed),
            known(of.high_water_mark)
        ));
    }
    let all = format!("{:<12}{:>14}", "all", text::count(status.lag()));
    lines.push(if left_out > 0 { format!("{all}  {left_out} more have no greater lag") } else { all });
    lines
}

fn dead_letters(status: &Status) -> Vec<String> {
    let mut lines = vec![heading(&format!("{:<30}{:>18}{:>8}", "DEAD LETTERS", "SINCE THE START", "PART"))];
    if status.dead_letters.is_empty() {
        lines.push("none".to_owned());
    }
    for of in &status.dead_letters {
        let part = text::percent(text::ratio(of.count, status.totals.dead_letters));
        lines.push(format!("{:<30}{:>18}{part:>8}", plain(&of.reason), text::count(of.count)));
    }
    for of in &status.last_dead_letters {
        let (at, reason, detail) = (text::time_of_day(of.at_ms), plain(&of.reason), plain(&of.detail));
        lines.push(format!("{at}  {} {}  {reason}: {detail}", of.partition, of.offset));
    }
    lines
}

fn servers(status: &Status) -> Vec<String> {
    let (kafka, database, dedup) = (&status.kafka, &status.database, &status.dedup);
    let is_well = kafka.brokers_up > 0 && kafka.has_joined;
    let brokers =
        format!("{} of {} connected", kafka.brokers_up, text::plural(kafka.brokers_known, "broker"));
    let joined = if kafka.has_joined { "member of the group" } else { "not a member of the group yet" };
    let paused = if kafka.is_paused { style(", READING IS PAUSED").yellow() } else { style("") };
    let state = if database.is_reachable {
        "answering".to_owned()
    } else {
        let since_ms = database.unreachable_since_ms;
        let away =
            since_ms.map_or_else(String::new, |at| format!(" for {}", text::span_since(status.now_ms, at)));
        format!("NOT ANSWERING{away}")
    };
    let known = |text: Option<String>| text.unwrap_or_else(|| text::UNKNOWN.to_owned());
    let mut lines = vec![
        format!("{}{}, {joined}{paused}", heading("KAFKA       "), judged(is_well, &brokers)),
        format!("            {}, topic {}", plain(&kafka.brokers), plain(&kafka.topic)),
        format!("            group {}, {}", plain(&kafka.group), text::plural(kafka.rebalances, "rebalance")),
        format!("{}{}", heading("DATABASE    "), judged(database.is_reachable, &state)),
    ];
    lines.extend(
        database.last_error.as_ref().map(|error| format!("            {}", style(plain(error)).red())),
    );
    lines.extend([
        format!("            {}, {}", plain(&database.target), plain(&database.server)),
        format!(
            "            batches tried again: {}, reconnects: {}, figures until {}, {} of events",
            text::count(database.retries),
            text::count(database.reconnects),
            known(database.folded_until_ms.map(text::time_of_day)),
            known(database.table_bytes.map(text::bytes))
        ),
        format!(
            "{}{} of {} events remembered, {}, {} left early",
            heading("DUPLICATES  "),
            text::count(dedup.entries),
            text::count(dedup.entries_max),
            text::bytes(dedup.bytes),
            text::count(dedup.evictions)
        ),
    ]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples;

    /// As printed into a file.
    fn plainly(lines: &[String]) -> String {
        console::strip_ansi_codes(&lines.join("\n")).into_owned()
    }

    #[test]
    fn everything_is_there_in_a_hundred_columns() {
        let text = plainly(&lines(&samples::loaded()));
        for words in [
            "\u{2713} alive",
            "\u{2713} ready",
            "44,422,596          \u{2713} it adds up",
            "invalid_json",
            "3 of 8",
            "12,340",
            "3 of 3 brokers connected, member of the group",
            "batches tried again: 3, reconnects: 2",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        // What others have written is as long as it is.
        let ours = text.lines().filter(|line| !line.contains("Kafka timestamp"));
        let wide: Vec<_> = ours.filter(|line| console::measure_text_width(line) > 100).collect();
        assert!(wide.is_empty(), "{wide:#?}");
        assert!(plainly(&lines(&samples::idle())).contains("nothing became durable"));
        assert!(plainly(&settings(&samples::loaded())).contains("DEDUP_WINDOW                       5m"));
    }

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let text = plainly(&lines(&samples::broken()));
        for words in
            ["\u{2717} NOT READY  the database", "NOT ANSWERING for 1 min 24 s", "READING IS PAUSED", ">99 %"]
        {
            assert!(text.contains(words), "{words}:\n{text}");
        }
    }

    #[test]
    fn a_terminal_is_not_obeyed() {
        let status = samples::spoilt(&samples::broken(), "\u{1b}[2J\n\u{1b}]0;title\u{7}");
        let all = [lines(&status), settings(&status)].concat();
        let text = plainly(&all);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}') && text.contains("\\u{1b}[2J"), "{text}");
        assert_eq!(text.lines().count(), all.len());
    }
}
