//! CPU time and memory of a process and its children, from proc(5).

use std::fs;
use std::time::Duration;

/// CPU time of `pid` and all its descendants, system time included.
pub(crate) fn cpu(pid: u32) -> Duration {
    let nanoseconds: u64 = family(pid)
        .into_iter()
        .flat_map(|pid| tasks(pid).into_iter().map(move |task| (pid, task)))
        .filter_map(|(pid, task)| {
            // The first field is the time on a CPU, in nanoseconds.
            let text = fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        })
        .sum();
    Duration::from_nanos(nanoseconds)
}

/// Anonymous memory of `pid` and all its descendants, in bytes: without mapped files.
pub(crate) fn memory(pid: u32) -> u64 {
    let kib = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    family(pid).iter().filter_map(kib).sum::<u64>() * 1024
}

fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(&pid) = family.get(at) {
        for task in tasks(pid) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{task}/children"));
            let children = children.unwrap_or_default();
            family.extend(
                children
                    .split_whitespace()
                    .filter_map(|each| each.parse::<u32>().ok()),
            );
        }
        at += 1;
    }
    family
}

fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}
