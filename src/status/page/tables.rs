//! What is no picture: what became of all messages, partitions, dead letters, servers, the dedup windows and the
//! configuration. Pure.

use maud::{Markup, html};

use super::{bar, card, count, fill, mark, time};
use crate::status::{LastDeadLetter, PartitionStatus, Status, text};

/// More partitions than these are not all listed: those with the most lag are.
const PARTITIONS_MAX: usize = 64;

/// The books.
pub(super) fn totals(status: &Status) -> Markup {
    let totals = &status.totals;
    let adds_up = totals.accounted() == totals.messages;
    card(
        "totals",
        "",
        "What became of all messages",
        &html! {
            table {
                thead { tr { th scope="col" { "since the start" } th.n scope="col" { "messages" } th.n scope="col" { "part" } } }
                tbody {
                    @for share in totals.shares() {
                        tr {
                            th scope="row" { (share.label) }
                            td.n { (count(share.id, share.count)) }
                            td.n { (text::percent(text::ratio(share.count, totals.messages))) }
                        }
                    }
                }
                tfoot {
                    tr { th scope="row" { "read from Kafka" } td.n { (count("messages", totals.messages)) } td {} }
                }
            }
            p.state.bad[!adds_up] {
                (mark(adds_up))
                @if adds_up { "It adds up." }
                @else { "It does not add up: the parts are " (text::count(totals.accounted())) "." }
            }
            (facts(&[
                ("duplicates a second", html! { (text::rate(status.rates.duplicates)) }),
                ("dead letters a second", html! { (text::rate(status.rates.dead_letters)) }),
            ]))
        },
    )
}

/// Where reading stands, and how far behind.
pub(super) fn partitions(status: &Status) -> Markup {
    let (shown, left_out) = status.partitions_shown(PARTITIONS_MAX);
    let lag_max = shown.iter().map(|partition| partition.lag).max().unwrap_or(0);
    card(
        "partitions",
        "",
        "Lag by partition",
        &html! {
            @if shown.is_empty() {
                p {
                    @if status.kafka.has_joined { "No partition is assigned: the group has more members than partitions. This instance takes over when another one leaves." }
                    @else { "The group has not said yet which partitions are ours." }
                }
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Lag of each partition" {
                    table {
                        thead { tr {
                            th.n scope="col" { "partition" }
                            th.lag scope="col" { span { "lag" } }
                            th.n scope="col" { "durable up to" }
                            th.n scope="col" { "committed" }
                            th.n scope="col" { "end" }
                        } }
                        tbody { @for partition in &shown { (partition_row(partition, lag_max)) } }
                    }
                }
                @if left_out > 0 { p.note { (left_out) " more, none with a greater lag, are in " code { "/metrics" } "." } }
            }
        },
    )
}

fn partition_row(of: &PartitionStatus, lag_max: u64) -> Markup {
    let number = of.partition;
    let known = |offset: Option<i64>| offset.map_or_else(|| text::UNKNOWN.to_owned(), text::offset);
    html! {
        tr {
            th.n scope="row" { (number) }
            td.lag { (count(&format!("partition.{number}.lag"), of.lag)) (bar(text::ratio(of.lag, lag_max))) }
            td.n { data id={ "partition." (number) ".watermark" } value=(of.watermark) { (text::offset(of.watermark)) } }
            td.n { (known(of.committed)) }
            td.n { (known(of.high_water_mark)) }
        }
    }
}

/// By reason, and the last ones.
pub(super) fn dead_letters(status: &Status) -> Markup {
    card(
        "dead-letters",
        "wide",
        "Dead letters",
        &html! {
            @if status.dead_letters.is_empty() { p { "None since the start." } }
            @else {
                div.beside {
                    (reasons(status))
                    @if !status.last_dead_letters.is_empty() { (last_letters(&status.last_dead_letters)) }
                }
            }
        },
    )
}

fn reasons(status: &Status) -> Markup {
    html! {
        table {
            thead { tr { th scope="col" { "reason" } th.n scope="col" { "messages" } th.n scope="col" { "part" } } }
            tbody {
                @for of in &status.dead_letters {
                    tr {
                        th scope="row" { code { (of.reason) } }
                        td.n { (count(&format!("dead_letters.{}", of.reason), of.count)) }
                        td.n { (text::percent(text::ratio(of.count, status.totals.dead_letters))) }
                    }
                }
            }
        }
    }
}

fn last_letters(letters: &[LastDeadLetter]) -> Markup {
    html! {
        div {
            h3 { "The last ones" }
            ol.letters {
                @for letter in letters {
                    li {
                        p { (time(letter.at_ms)) " " code { (letter.reason) } " " (letter.detail) }
                        p { code.command { "usage-processor dead-letters show " (letter.partition) " " (letter.offset) } }
                    }
                }
            }
        }
    }
}

/// The broker's side.
pub(super) fn kafka(status: &Status) -> Markup {
    let kafka = &status.kafka;
    let is_connected = kafka.brokers_up > 0;
    card(
        "kafka",
        "",
        "Kafka",
        &html! {
            p.state.bad[!is_connected] {
                (mark(is_connected))
                (kafka.brokers_up) " of " (text::plural(kafka.brokers_known, "known broker")) " connected"
            }
            p.state.bad[!kafka.has_joined] {
                (mark(kafka.has_joined))
                @if kafka.has_joined { "member of the group" } @else { "not a member of the group yet" }
            }
            @if kafka.is_paused { p.paused { "Reading is paused: the pipeline is full." } }
            (facts(&[
                ("brokers", html! { (kafka.brokers.replace(',', ", ")) }),
                ("topic", html! { (kafka.topic) }),
                ("group", html! { (kafka.group) }),
                ("partitions", html! { (status.partitions.len()) }),
                ("rebalances", html! { (count("rebalances", kafka.rebalances)) }),
            ]))
        },
    )
}

/// The database's side.
pub(super) fn database(status: &Status) -> Markup {
    let database = &status.database;
    let unknown = || html! { (text::UNKNOWN) };
    card(
        "database",
        "",
        "Database",
        &html! {
            p.state.bad[!database.is_reachable] {
                (mark(database.is_reachable))
                @if database.is_reachable { "answering" } @else { "not answering" (away(status)) }
            }
            @if let Some(error) = &database.last_error { p.error { (error) } }
            (facts(&[
                ("target", html! { (database.target) }),
                ("server", html! { @if database.server.is_empty() { (text::UNKNOWN) } @else { (database.server) } }),
                ("batches tried again", html! { (count("retries", database.retries)) }),
                ("reconnects", html! { (count("reconnects", database.reconnects)) }),
                ("figures hold events until", database.folded_until_ms.map_or_else(unknown, time)),
                ("size of the table of events", database.table_bytes.map_or_else(unknown, |n| html! { (text::bytes(n)) })),
            ]))
        },
    )
}

/// ` for 1 min 24 s`, if that is known.
pub(super) fn away(status: &Status) -> String {
    let since_ms = status.database.unreachable_since_ms;
    since_ms
        .map_or_else(String::new, |since_ms| format!(" for {}", text::span_since(status.now_ms, since_ms)))
}

/// What duplicates are found by.
pub(super) fn dedup(status: &Status) -> Markup {
    let dedup = &status.dedup;
    let part = text::ratio(dedup.entries, dedup.entries_max);
    card(
        "dedup",
        "",
        "Duplicates",
        &html! {
            p { "The windows are " b { (text::percent(part)) } " full." }
            (fill(part))
            (facts(&[
                ("events remembered", count("dedup.entries", dedup.entries)),
                ("at most", html! { (text::count(dedup.entries_max)) }),
                ("memory for them", html! { (text::bytes(dedup.bytes)) }),
                ("left early for want of room", count("dedup.evictions", dedup.evictions)),
                ("found so far", html! { (text::count(status.totals.duplicates())) }),
            ]))
            @if dedup.evictions > 0 {
                p.error { "Copies of events that left early are no longer recognized. Raise DEDUP_MAX_ENTRIES." }
            }
        },
    )
}

/// Without secrets.
pub(super) fn settings(status: &Status) -> Markup {
    card(
        "settings",
        "wide",
        "Configuration",
        &html! {
            details {
                summary { (text::plural(status.settings.len() as u64, "setting")) ", secrets left out" }
                table.settings {
                    thead { tr { th scope="col" { "variable" } th scope="col" { "value" } } }
                    tbody {
                        @for setting in &status.settings {
                            tr { th scope="row" { code { (setting.name) } } td { code { (setting.value) } } }
                        }
                    }
                }
            }
        },
    )
}

fn facts(facts: &[(&str, Markup)]) -> Markup {
    html! {
        dl.facts { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } }
    }
}
