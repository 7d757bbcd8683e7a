//! File descriptors, and the connection limit that they allow.

use std::sync::Arc;

use crate::net::admission::Admission;
use crate::server::limits;

/// The file descriptors of the process, and how many connections they allow.
#[derive(Debug)]
pub(super) struct DescriptorBudget {
    admission: Arc<Admission>,
    /// The limit on open files.
    limit: u64,
    /// Descriptors in use before the first listening socket.
    used: u64,
}

impl DescriptorBudget {
    /// Counts the descriptors in use, now that all threads of the process have been started. `there` of them
    /// are inherited listening sockets.
    pub(super) fn new(admission: &Arc<Admission>, limit: u64, there: usize) -> Self {
        let descriptors = Self {
            admission: Arc::clone(admission),
            limit,
            used: limits::open_descriptors().saturating_sub(there as u64),
        };
        descriptors.reserve_for_sockets(0);
        descriptors
    }

    /// Sets the connection limit to the descriptors that `sockets` listening sockets leave.
    pub(super) fn reserve_for_sockets(&self, sockets: usize) {
        let limit = Admission::limit_for(self.limit, self.used + sockets as u64);
        self.admission.set_limit(limit);
    }
}
