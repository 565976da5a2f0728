//! The last minutes, kept by a thread beside the pipeline: rates and how busy each stage was over ten seconds,
//! latencies over a quarter of an hour. It only reads counters, never a server; nothing waits for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use hdrhistogram::CreationError;

use super::activity::Activity;
use super::instruments::Instruments;
use crate::clock;
use crate::commit::tally::Tally;
use crate::latency::DurableLatency;
use crate::status::LatencyPoint;

/// How often counters are noted down.
const TICK: Duration = Duration::from_secs(1);
/// Rates are over so many ticks: short enough to follow, long enough not to jump.
const RATE_TICKS: usize = 10;
/// A point of the latency plot is made of so many ticks.
const LATENCY_TICKS: u32 = 10;
/// Fifteen minutes of points.
const LATENCY_POINTS_MAX: usize = 90;

/// What was noted down.
#[derive(Debug, Default)]
pub struct History {
    /// Oldest first.
    samples: VecDeque<Sample>,
    /// Oldest first.
    latency: VecDeque<LatencyPoint>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    tally: Tally,
    /// By stage and activity, summed over its threads.
    nanos: [[u64; Activity::ALL.len()]; 4],
}

/// What happened within the last ten seconds, or since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recent {
    /// How long that is; zero as long as nothing is known.
    pub seconds: f64,
    /// Counts of that time.
    pub tally: Tally,
    /// Nanoseconds by stage and activity, summed over its threads.
    pub nanos: [[u64; Activity::ALL.len()]; 4],
}

impl History {
    fn note(&mut self, sample: Sample) {
        if self.samples.len() > RATE_TICKS {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    fn note_latency(&mut self, point: LatencyPoint) {
        if self.latency.len() == LATENCY_POINTS_MAX {
            self.latency.pop_front();
        }
        self.latency.push_back(point);
    }

    /// What happened lately.
    pub fn recent(&self) -> Recent {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return Recent::default();
        };
        let mut nanos = last.nanos;
        for (stage, before) in nanos.iter_mut().zip(&first.nanos) {
            stage.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
        }
        Recent {
            seconds: last.at.duration_since(first.at).as_secs_f64(),
            tally: last.tally.since(&first.tally),
            nanos,
        }
    }

    /// Oldest first.
    pub fn latency(&self) -> Vec<LatencyPoint> {
        self.latency.iter().copied().collect()
    }
}

/// Starts the thread; it ends when the pipeline hangs up. `hang_up` is never sent through.
///
/// # Errors
/// When the thread cannot be started, or there are no histograms.
pub fn spawn(instruments: Arc<Instruments>, hang_up: Receiver<Infallible>) -> Result<(), ObserverError> {
    let mut durable = DurableLatency::new(&instruments.latencies)?;
    let run = move || {
        let mut tick = 0_u32;
        loop {
            instruments.history.lock().note(sample(&instruments));
            if tick == LATENCY_TICKS {
                tick = 0;
                let (percentiles, _) = durable.take_interval();
                let point = LatencyPoint { at_ms: clock::now_ms(), percentiles };
                instruments.history.lock().note_latency(point);
            }
            tick += 1;
            if hang_up.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    thread::Builder::new().name("observer".to_owned()).spawn(run)?;
    Ok(())
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum ObserverError {
    /// No histograms.
    #[error("creating latency histograms")]
    Histograms(#[from] CreationError),
    /// No thread.
    #[error("starting the thread observer")]
    Spawn(#[from] io::Error),
}

fn sample(instruments: &Instruments) -> Sample {
    let nanos = instruments.stages().map(|(_, threads)| {
        threads.iter().fold([0; 4], |mut sum, thread| {
            sum.iter_mut().zip(thread.read().nanos).for_each(|(sum, nanos)| *sum += nanos);
            sum
        })
    });
    Sample { at: Instant::now(), tally: instruments.board.snapshot(), nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_the_last_ten_seconds() {
        let mut history = History::default();
        assert!(history.recent().seconds.abs() < f64::EPSILON);
        let began = Instant::now();
        for second in 0..60 {
            let tally = Tally { messages: 100 * second, ..Tally::default() };
            let at = began + Duration::from_secs(second);
            history.note(Sample { at, tally, nanos: [[7 * second; 4]; 4] });
        }
        let recent = history.recent();
        assert!((recent.seconds - 10.0).abs() < 1e-9);
        assert_eq!((recent.tally.messages, recent.nanos), (1_000, [[70; 4]; 4]));
    }

    #[test]
    fn a_quarter_of_an_hour_of_latencies_is_kept() {
        let mut history = History::default();
        for n in 0..200 {
            history
                .note_latency(LatencyPoint { at_ms: n, percentiles: crate::latency::Percentiles::default() });
        }
        let kept = history.latency();
        assert_eq!((kept.len(), kept[0].at_ms, kept[89].at_ms), (90, 110, 199));
    }
}
