//! How many descriptors the process may have, and has.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};

/// Where the system knows no limit we still keep books; no process serves more.
const UNLIMITED: u64 = 1 << 20;

/// Raises the soft limit to the hard one and returns it: the default of 1024 is there for programs
/// that use `select(2)`.
pub(super) fn raise_descriptors() -> u64 {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit on open files");
        return before.current.unwrap_or(UNLIMITED);
    }
    before.maximum.unwrap_or(UNLIMITED)
}

/// Keeps the kernel from writing the memory to disk when the process crashes, and other processes of
/// the same user from looking into it: there are keys in it.
pub(super) fn forbid_core_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // A handler that core dumps are piped to does not ask for the limit, but for the other one.
    let limited = setrlimit(Resource::Core, none);
    let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = limited.and(hidden) {
        tracing::warn!(%error, "cannot switch core dumps off");
    }
}

/// Those that the process has by now, listeners and connections not yet among them.
pub(super) fn open_descriptors() -> u64 {
    /// Where the system does not tell: event queues of a few workers, logs, signals.
    const USUAL: u64 = 64;
    std::fs::read_dir("/proc/self/fd").map_or(USUAL, |entries| entries.count() as u64)
}
