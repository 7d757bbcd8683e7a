//! Everything that closes live tunnels on purpose, so that their clients come back elsewhere.
//!
//! An operator's `close`, a stop or an upgrade, endpoints that are down, drained or removed (`evict`), endpoints that
//! have more than their share (`rebalance`), and client certificates that were revoked (`revoke`) all do the same:
//! they choose tunnels with a filter and leave closing them at a pace to a job. All of it runs on the control
//! runtime. What only a worker knows or can do, it is asked for through a queue of its own and in short steps, so
//! that no question delays its connections.

pub mod tunnel_filter;
pub mod tunnel_page;
pub mod worker_queries;
pub mod live_tunnels;
pub mod fleet;
pub mod jobs;
pub mod periodic;
pub mod evict;
pub mod rebalance;
pub mod revoke;

use std::sync::Arc;

use self::jobs::Jobs;
use self::worker_queries::Workers;
use crate::session::Shared;

/// What `evict`, `rebalance` and `revoke` work with.
#[derive(Debug, Clone)]
pub struct Displacer {
    /// The workers, which hold the tunnels.
    pub workers: Arc<Workers>,
    /// The jobs, which close them.
    pub jobs: Arc<Jobs>,
    /// The running configuration, and the state of the process: nothing is moved while it drains.
    pub shared: Arc<Shared>,
}
