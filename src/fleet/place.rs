//! Which process this is, and whether another one on this machine still lives.

use std::fs;

/// Where the kernel has what distinguishes one boot of any machine from all others.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A process, in a way that other machines and containers do not have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessPlace {
    /// The boot of the machine and the namespace of process ids; empty if they cannot be found.
    pub place: Box<str>,
    /// The process id there.
    pub pid: u32,
    /// When it started, in ticks since the boot: process ids are used again.
    pub start: u64,
}

impl ProcessPlace {
    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id();
        let boot = fs::read_to_string(BOOT_ID).ok();
        let namespace = fs::read_link("/proc/self/ns/pid").ok();
        let place = boot.zip(namespace).map(|(boot, namespace)| {
            let namespace = namespace.to_string_lossy();
            format!("{} {namespace}", boot.trim())
        });
        Self {
            place: place.unwrap_or_default().into(),
            pid,
            start: start_of(pid).unwrap_or_default(),
        }
    }

    /// Whether the process lives; `None` if it is elsewhere, where that cannot be seen from `own`.
    pub fn is_alive(&self, own: &Self) -> Option<bool> {
        if self.place.is_empty() || self.place != own.place {
            return None;
        }
        Some(start_of(self.pid) == Some(self.start))
    }
}

/// When a process of this machine started, if there is one with this id (`proc_pid_stat(5)`).
fn start_of(pid: u32) -> Option<u64> {
    start_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn start_in(stat: &str) -> Option<u64> {
    // The name of the program may contain anything, also parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    // The start is field 22, the state field 3. One that has ended may still have an entry.
    let start = fields.nth(18)?;
    (!matches!(state, "Z" | "X")).then(|| start.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_its_child_does_until_it_ends() {
        let own = ProcessPlace::own();
        assert!(!own.place.is_empty());
        assert_eq!(own.is_alive(&own), Some(true));
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let other = ProcessPlace {
            pid: child.id(),
            start: start_of(child.id()).unwrap(),
            ..own.clone()
        };
        assert_eq!(other.is_alive(&own), Some(true));
        let earlier = ProcessPlace {
            start: other.start - 1,
            ..other.clone()
        };
        assert_eq!(earlier.is_alive(&own), Some(false));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(other.is_alive(&own), Some(false));
        let elsewhere = ProcessPlace {
            place: "another boot".into(),
            ..other
        };
        assert_eq!(elsewhere.is_alive(&own), None);
    }

    #[test]
    fn a_start_is_read_behind_any_name() {
        let fields = (4..22).map(|field| field.to_string()).collect::<Vec<_>>();
        let stat = |state: &str| format!("7 (a) b) {state} {} 4711 0", fields.join(" "));
        assert_eq!(start_in(&stat("S")), Some(4711));
        assert_eq!(start_in(&stat("Z")), None);
        assert_eq!(start_in("7 (a"), None);
    }
}
