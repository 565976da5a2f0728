//! What other processes take: CPU time by the kernel's count.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

use crate::Result;

/// CPU time of all of a PostgreSQL server's processes, those that have ended included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerCost(pub(crate) Duration);

impl ServerCost {
    /// Of the server that this backend is of.
    pub(crate) fn of_backend(pid: u32) -> Result<Self> {
        let postmaster = Stat::read(pid).ok_or("the backend is not on this machine")?.parent;
        let own = Stat::read(postmaster).ok_or("the server is not on this machine")?;
        let children = fs::read_dir("/proc")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(Stat::read)
            .filter(|stat| stat.parent == postmaster);
        let ticks = own.ticks + own.ended_ticks + children.map(|child| child.ticks).sum::<u64>();
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Ok(Self(Duration::from_millis(ticks * 1_000 / per_second)))
    }
}

impl Sub for ServerCost {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Of `/proc/PID/stat`: the 4th field, the 14th and 15th, and of children that were waited for the 16th and 17th.
struct Stat {
    parent: u32,
    ticks: u64,
    ended_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<_> = fields.split_ascii_whitespace().collect();
        let number = |idx: usize| fields.get(idx)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
            ended_ticks: number(13)? + number(14)?,
        })
    }
}
