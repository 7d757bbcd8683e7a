//! Resource limits of the process: file descriptors and core dumps.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};

/// The limit that is assumed where the system has none: admission needs a number.
const UNLIMITED: u64 = 1 << 20;

/// Raises the soft limit on open files to the hard limit and returns it. The soft default of 1024 exists
/// for programs that use `select(2)`.
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

/// Disables core dumps, and reading the process's memory by other processes of the same user: there are
/// private keys in it.
pub(super) fn forbid_core_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // A core dump handler behind a pipe ignores the limit, but respects the dumpable flag.
    let limited = setrlimit(Resource::Core, none);
    let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = limited.and(hidden) {
        tracing::warn!(%error, "cannot disable core dumps");
    }
}

/// The number of file descriptors that the process has open now.
pub(super) fn open_descriptors() -> u64 {
    /// Assumed without `/proc`: event queues of a few workers, logs, signals.
    const USUAL: u64 = 64;
    std::fs::read_dir("/proc/self/fd").map_or(USUAL, |entries| entries.count() as u64)
}
