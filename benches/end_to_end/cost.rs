//! What the database server takes: CPU time by the kernel's count, and WAL.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

use postgres::Client;

use crate::Result;

/// What all of a PostgreSQL server has taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerCost {
    /// Of its processes, those that have ended included.
    pub(crate) cpu: Duration,
    /// What it has written, were it since its beginning or between two.
    pub(crate) wal_bytes: f64,
}

impl ServerCost {
    pub(crate) fn of(client: &mut Client) -> Result<Self> {
        let row = client.query_one(
            "SELECT pg_backend_pid(), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8",
            &[],
        )?;
        let pid: i32 = row.try_get(0)?;
        Ok(Self { cpu: cpu_of_server(pid.unsigned_abs())?, wal_bytes: row.try_get(1)? })
    }
}

/// Of the server that this backend is of.
fn cpu_of_server(pid: u32) -> Result<Duration> {
    let postmaster = Stat::read(pid).ok_or("the backend is not on this machine")?.parent;
    let own = Stat::read(postmaster).ok_or("the server is not on this machine")?;
    let children = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .filter(|stat| stat.parent == postmaster);
    let ticks = own.ticks + own.ended_ticks + children.map(|child| child.ticks).sum::<u64>();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_millis(ticks * 1_000 / per_second))
}

impl Sub for ServerCost {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), wal_bytes: self.wal_bytes - earlier.wal_bytes }
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
