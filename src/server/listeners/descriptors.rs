//! What listening sockets leave of the descriptors that the process may have.

use std::sync::Arc;

use crate::net::admission::Admission;
use crate::server::limits;

/// What the descriptors of the process are for, besides connections.
#[derive(Debug)]
pub(super) struct DescriptorBudget {
    admission: Arc<Admission>,
    /// The limit of the process.
    limit: u64,
    /// In use before there was any socket.
    taken: u64,
}

impl DescriptorBudget {
    /// All threads of the process have been started: what is left of the `limit` is for sockets, of
    /// which so many are there already.
    pub(super) fn new(admission: &Arc<Admission>, limit: u64, there: usize) -> Self {
        let descriptors = Self {
            admission: Arc::clone(admission),
            limit,
            taken: limits::open_descriptors().saturating_sub(there as u64),
        };
        descriptors.reserve_for_sockets(0);
        descriptors
    }

    /// What is left beside so many listening sockets is for connections.
    pub(super) fn reserve_for_sockets(&self, sockets: usize) {
        let most = Admission::limit_for(self.limit, self.taken + sockets as u64);
        self.admission.set_limit(most);
    }
}
