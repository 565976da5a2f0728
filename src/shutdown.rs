//! The one flag that asks the process to stop. Set by a signal, by a stage that failed, or by the
//! poller's own end; read by the poller alone (and by `main`, for its deadline). All other stages
//! learn of it by hang-up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// A handle on the flag; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: Arc<AtomicBool>,
}

impl Shutdown {
    /// Asks for an orderly stop.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
    }

    /// Whether a stop has been asked for.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// SIGTERM and SIGINT request shutdown; a second one ends the process at once with 128 plus
    /// the signal's number. Nothing is lost by that: offsets not yet durable are not committed.
    pub fn on_signals(&self) -> io::Result<()> {
        for signal in [SIGTERM, SIGINT] {
            // The order matters: the first signal finds the flag down and only raises it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&self.requested))?;
            flag::register(signal, Arc::clone(&self.requested))?;
        }
        Ok(())
    }

    /// A guard that requests shutdown when dropped, unless disarmed.
    pub fn alarm(&self) -> Alarm {
        Alarm { shutdown: self.clone(), armed: true }
    }
}

/// Requests shutdown when dropped, so that an error and a panic take the same road.
#[derive(Debug)]
pub struct Alarm {
    shutdown: Shutdown,
    armed: bool,
}

impl Alarm {
    /// The stage ended as it should.
    pub fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.armed {
            self.shutdown.request();
        }
    }
}
