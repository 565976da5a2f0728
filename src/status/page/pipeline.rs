//! The picture of the pipeline: servers, stages and queues on the way of an event, as an ordered list that CSS
//! lays out from left to right, or from top to bottom on a narrow screen. Pure.

use maud::{Markup, html};

use super::{card, count, fill, mark, width};
use crate::status::{QueueStatus, StageStatus, Status, text};

/// The queue that is not between poller and decoders.
const PROGRESS: &str = "progress";
/// More queues than these are summed up, and listed on demand.
const QUEUES_SHOWN_MAX: usize = 4;

/// The section.
pub(super) fn section(status: &Status) -> Markup {
    let stage = |name: &str| status.stages.iter().find(|stage| stage.name == name);
    let (progress, decoders): (Vec<_>, Vec<_>) =
        status.queues.iter().partition(|queue| queue.name == PROGRESS);
    card(
        "pipeline",
        "wide",
        "Pipeline",
        &html! {
            ol.flow {
                (kafka(status))
                (node(stage("poller"), "poller", "messages/s"))
                (queues("queue", "batches waiting", &decoders))
                (node(stage("decoders"), "decoders", "messages/s"))
                (node(stage("writers"), "writers", "rows/s"))
                (database(status))
                (queues("progress", "writers\u{2019} reports waiting", &progress))
                (node(stage("committer"), "committer", ""))
                li.node.offsets { span { "offsets, every second" } }
            }
            p.legend aria-hidden="true" {
                @for activity in ["working", "blocked", "retrying", "starved"] {
                    span { span class={ "swatch " (activity) } {} (activity) }
                }
            }
            p.note {
                "Parts of the last ten seconds: at work, waiting for room in the next stage (blocked), before another "
                "attempt (retrying), or for something to do (starved)."
            }
        },
    )
}

fn kafka(status: &Status) -> Markup {
    let kafka = &status.kafka;
    let is_ok = kafka.brokers_up > 0 && kafka.has_joined;
    html! {
        li.node.server.kafka.bad[!is_ok] {
            h3 { "Kafka" }
            p.state {
                (mark(is_ok))
                @if kafka.brokers_up == 0 { "no broker connected" }
                @else if kafka.has_joined { (kafka.brokers_up) " of " (text::plural(kafka.brokers_known, "broker")) }
                @else { "joining the group" }
            }
            @if kafka.is_paused { p.paused { "reading is paused" } }
            p { (text::plural(status.partitions.len() as u64, "partition")) }
            p { "lag " (text::count(status.lag())) }
        }
    }
}

fn database(status: &Status) -> Markup {
    let database = &status.database;
    html! {
        li.node.server.database.bad[!database.is_reachable] {
            h3 { "Database" }
            p.state {
                (mark(database.is_reachable))
                @if database.is_reachable { "answering" } @else { "not answering" (super::tables::away(status)) }
            }
            @if let Some(bytes) = database.table_bytes { p { (text::bytes(bytes)) " of events" } }
            @if let Some(folded_until_ms) = database.folded_until_ms {
                p { "figures " (text::span_since(status.now_ms, folded_until_ms)) " old" }
            }
        }
    }
}

fn node(stage: Option<&StageStatus>, name: &str, unit: &str) -> Markup {
    html! {
        li class={ "node stage " (name) } {
            h3 {
                (name)
                @if let Some(stage) = stage { " " span.threads { (text::plural(stage.threads.into(), "thread")) } }
            }
            @if let Some(stage) = stage {
                @if !unit.is_empty() { p.rate { b { (text::rate(stage.rate)) } " " span.unit { (unit) } } }
                (activities(stage))
            } @else {
                p.quiet { "not started" }
            }
        }
    }
}

/// What the threads did: a bar for the eye, and the same in words.
fn activities(stage: &StageStatus) -> Markup {
    let shares = [
        ("working", stage.working),
        ("blocked", stage.blocked),
        ("retrying", stage.retrying),
        ("starved", stage.starved),
    ];
    html! {
        span.activities aria-hidden="true" {
            @for (name, part) in shares { span class=(name) style={ "width:" (width(part)) } {} }
        }
        p.shares {
            @for (name, part) in shares {
                @if part >= 0.005 { span { (name) " " (text::percent(part)) } " " }
            }
        }
    }
}

fn queues(class: &str, what: &str, queues: &[&QueueStatus]) -> Markup {
    let sum =
        |of: fn(&QueueStatus) -> u64| queues.iter().fold(0_u64, |sum, queue| sum.saturating_add(of(queue)));
    let (length, capacity) = (sum(|queue| queue.length), sum(|queue| queue.capacity));
    html! {
        li class={ "node queues " (class) } {
            h3 { (what) }
            @if queues.len() > QUEUES_SHOWN_MAX {
                p { (text::count(length)) " of " (text::count(capacity)) " in " (queues.len()) " queues" }
                (fill(text::ratio(length, capacity)))
                details { summary { "each" } (queue_list(queues)) }
            } @else {
                (queue_list(queues))
            }
        }
    }
}

fn queue_list(queues: &[&QueueStatus]) -> Markup {
    html! {
        ul {
            @for queue in queues {
                li {
                    span.name { (queue.name) }
                    span.level {
                        (count(&format!("queue.{}", queue.name), queue.length)) " of " (text::count(queue.capacity))
                    }
                    (fill(text::ratio(queue.length, queue.capacity)))
                }
            }
        }
    }
}
