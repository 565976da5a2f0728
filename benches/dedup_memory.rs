//! What the dedup windows take: resident bytes of an identity while they grow, when identities come and go, and at the
//! worst moment; and how long a message waits at most. `cargo bench --bench dedup_memory`; `tuning/README.md` keeps results.
//!
//! Each line is a process of its own, so that no memory of another is reused. Pauses are CPU time of the
//! thread: on a shared machine the clock on the wall shows the neighbours.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot go on must stop")]
#![expect(clippy::cast_precision_loss, reason = "far below 2^52")]

#[path = "micro/identity.rs"]
mod identity;

use std::process::Command;
use std::time::{Duration, Instant};

use identity::identity;
use rustix::time::{ClockId, clock_gettime};
use usage_processor::decode::dedup::{DedupBudget, Verdict, Window};

/// Identities, and over how many windows they are spread.
const CASES: [(usize, usize); 6] =
    [(1_000_000, 16), (1_000_000, 1), (5_000_000, 16), (5_000_000, 1), (3_600_000, 1), (4_000_000, 1)];
const LENGTH_MS: i64 = 300_000;
/// How often the identities are replaced by others.
const ROUNDS: usize = 4;

fn main() {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [identity_count, window_count] = &args[..] {
        let number = |arg: &String| arg.parse().expect("a number");
        return Case::new(number(identity_count), number(window_count)).run();
    }
    println!(
        "| identities | windows | bytes each, grown | after {ROUNDS} rounds | worst | peak / steady | longest pause µs: insert | expire | after silence | ns a message |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (identity_count, window_count) in CASES {
        let itself = std::env::current_exe().expect("the path of this program");
        let args = [identity_count.to_string(), window_count.to_string()];
        let status = Command::new(itself).args(args).status().expect("start this program again");
        assert!(status.success());
    }
}

struct Case {
    windows: Vec<Window>,
    live: usize,
    resident_before: usize,
    next_id: usize,
    time: i64,
}

impl Case {
    fn new(live: usize, window_count: usize) -> Self {
        let resident_before = resident_bytes();
        // `DEDUP_MAX_ENTRIES` by default, or twice that.
        let budget = DedupBudget::new(if live <= 4_000_000 { 4_000_000 } else { 8_000_000 });
        let length = Duration::from_millis(LENGTH_MS.unsigned_abs());
        let windows = (0..window_count).map(|_| Window::new(length, budget.clone())).collect();
        Self { windows, live, resident_before, next_id: 0, time: 0 }
    }

    fn bytes_each(&self, resident: usize) -> f64 {
        let held: usize = self.windows.iter().map(Window::len).sum();
        (resident - self.resident_before) as f64 / held as f64
    }

    /// A new identity, at a time at which `live` of them lie within a window.
    fn judge_next(&mut self) {
        let id = self.next_id;
        self.next_id += 1;
        self.time = i64::try_from(id).expect("small") * LENGTH_MS / i64::try_from(self.live).expect("small");
        let window_idx = id % self.windows.len();
        let offset = i64::try_from(id).expect("small");
        let verdict = self.windows[window_idx].judge(identity(id as u64), offset, self.time, i64::MAX);
        assert!(verdict == Verdict::New);
    }

    /// The longest of `count` messages, in microseconds.
    fn longest_pause(&mut self, count: usize, mut each: impl FnMut(&mut Self)) -> f64 {
        let mut longest = Duration::ZERO;
        let mut before = thread_time();
        for _ in 0..count {
            self.judge_next();
            let after = thread_time();
            longest = longest.max(after.saturating_sub(before));
            each(self);
            before = thread_time();
        }
        longest.as_secs_f64() * 1e6
    }

    fn run(mut self) {
        let (live, sample) = (self.live, self.live / 256);
        let mut worst: f64 = 0.0;
        let insert = self.longest_pause(live, |case| {
            // Before that, what the program takes by itself counts too much.
            if case.next_id.is_multiple_of(sample) && case.next_id >= live / 8 {
                worst = worst.max(case.bytes_each(resident_bytes()));
            }
        });
        let grown = self.bytes_each(resident_bytes());
        let expire = self.longest_pause(live * (ROUNDS - 1), |case| {
            if case.next_id.is_multiple_of(sample) {
                worst = worst.max(case.bytes_each(resident_bytes()));
            }
        });
        let start = Instant::now();
        (0..live).for_each(|_| self.judge_next());
        let nanos = start.elapsed().as_secs_f64() * 1e9 / live as f64;
        let resident = resident_bytes();
        let (steady, peak) = (self.bytes_each(resident), self.bytes_each(peak_bytes()));
        // Nothing for a whole window: then everything has left it at once.
        self.next_id += 2 * live;
        let silence = self.longest_pause(live / 16, |_| ());
        println!(
            "| {live} | {} | {grown:.1} | {steady:.1} | {worst:.1} | {:.2} | {insert:.0} | {expire:.0} | {silence:.0} | {nanos:.0} |",
            self.windows.len(),
            peak / steady,
        );
    }
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("a time since the thread began")
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("read this process's size");
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number of pages") * rustix::param::page_size()
}

/// The most that was ever resident.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("read this process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of KiB") * 1_024
}
