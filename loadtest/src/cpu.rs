//! CPU time of a program with all its processes, from `/proc` (proc_pid_stat(5)).
//!
//! Postgres makes a process per connection and forgets none: when one ends, the postmaster reaps it and the kernel adds its
//! time to the postmaster's `cutime` and `cstime`. So the sum over the living processes of user and system time, own and of
//! reaped children, only ever grows, and misses nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// `USER_HZ`: the unit of `/proc/<pid>/stat` on every architecture that Linux exports it for, whatever the kernel's own tick.
const TICKS_PER_SECOND: u64 = 100;
/// A process that ends while `/proc` is read would be counted twice or not at all; a second look sees it.
const LOOKS_MAX: usize = 10;

/// What a process has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// Its own user and system time.
    own_ticks: u64,
    /// That of its reaped children.
    reaped_ticks: u64,
}

/// CPU time so far of the process with this id, its descendants, and those of them that were reaped. In steps of 10 ms for
/// each process. Errors when there is no such process.
pub fn used(root: i32) -> Result<Duration> {
    let mut before = BTreeSet::new();
    for _ in 0..LOOKS_MAX {
        let family = family(root)?;
        let pids: BTreeSet<i32> = family.keys().copied().collect();
        if pids == before {
            return Ok(duration(family.values().map(|stat| stat.own_ticks + stat.reaped_ticks).sum()));
        }
        before = pids;
    }
    anyhow::bail!("the processes below {root} come and go too fast to be added up")
}

/// CPU time so far of this process alone, without the servers that it has started, and that of its reaped children.
pub fn of_self() -> Result<(Duration, Duration)> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let Stat { own_ticks, reaped_ticks, .. } = parse(&text).context("the kernel's stat has its fields")?;
    Ok((duration(own_ticks), duration(reaped_ticks)))
}

/// The most memory that a process has had resident, in bytes (`VmHWM`).
pub fn peak_rss_bytes(pid: i32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// The memory that a process has resident, in bytes (`VmRSS`).
pub fn rss_bytes(pid: i32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

fn status_bytes(pid: i32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("no process {pid}"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} of {pid}"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// The process and its descendants.
fn family(root: i32) -> Result<BTreeMap<i32, Stat>> {
    let all: BTreeMap<i32, Stat> = fs::read_dir("/proc")?.flatten().filter_map(|entry| stat_of(&entry)).collect();
    ensure!(all.contains_key(&root), "there is no process {root}");
    let belongs = |pid: i32| {
        let mut at = pid;
        while at != root {
            match all.get(&at) {
                Some(stat) if stat.parent > 0 => at = stat.parent,
                _ => return false,
            }
        }
        true
    };
    Ok(all.iter().filter(|(pid, _)| belongs(**pid)).map(|(pid, stat)| (*pid, *stat)).collect())
}

/// None for what is no process, or no longer one.
fn stat_of(entry: &fs::DirEntry) -> Option<(i32, Stat)> {
    let pid = entry.file_name().to_str()?.parse().ok()?;
    Some((pid, parse(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
}

/// Reads `/proc/<pid>/stat`. The program's name stands in brackets and may hold anything, brackets too.
fn parse(stat: &str) -> Option<Stat> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let sum = |fields: &[&str]| fields.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>();
    // Fields 14 to 17 of the manual, which counts from 1 and has two before these.
    let (own_ticks, reaped_ticks) = (sum(fields.get(11..13)?)?, sum(fields.get(13..15)?)?);
    Some(Stat { parent: fields.get(1)?.parse().ok()?, own_ticks, reaped_ticks })
}

fn duration(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

#[cfg(test)]
#[path = "cpu/tests.rs"]
mod tests;
