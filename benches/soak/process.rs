//! A process as proc(5) shows it. The successors of tidegate are its own children, so this program
//! makes itself the parent of orphans to learn how they end.

use std::fs;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

/// A process, by its pid and its start time, because a pid can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    began: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It still runs.
    Not,
    /// It has exited with this code; `None` after a signal.
    Code(Option<i32>),
    /// It is gone, and another process has collected its exit status.
    Unknown,
}

/// The resources of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holds {
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
    pub(crate) resident_kib: u64,
}

/// Makes this process the parent of descendants that lose theirs.
pub(crate) fn adopt_orphans() {
    set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

impl Process {
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let began = stat(pid)?.get(19)?.parse().ok()?;
        Some(Self { pid, began })
    }

    /// How it ended, if it has.
    pub(crate) fn end(self) -> End {
        if let Ok(Some((_, status))) = waitpid(Some(self.id()), WaitOptions::NOHANG) {
            return End::Code(status.exit_status());
        }
        let known = stat(self.pid).filter(|stat| stat[0] != "Z" && stat[0] != "X");
        match known.and_then(|stat| stat[19].parse::<u64>().ok()) {
            Some(began) if self.began == began => End::Not,
            _ => End::Unknown,
        }
    }

    pub(crate) fn holds(self) -> Option<Holds> {
        let pid = self.pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Some(Holds {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: value("Threads:")?,
            resident_kib: value("VmRSS:")?,
        })
    }

    /// Sends a signal, unless the pid belongs to another process by now.
    pub(crate) fn signal(self, signal: Signal) {
        if Self::of(self.pid) == Some(self) {
            let _ = kill_process(self.id(), signal);
        }
    }

    fn id(self) -> Pid {
        Pid::from_raw(self.pid.try_into().unwrap()).unwrap()
    }
}

/// The fields of `/proc/PID/stat`, beginning with the state.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(ToOwned::to_owned).collect())
}
