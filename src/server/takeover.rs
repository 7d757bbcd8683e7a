//! The end of a handover in the new process: it accepts connections already, but does nothing that cannot be
//! undone until its predecessor has left.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::handover::identity::Identity;
use crate::handover::link::Link;
use crate::handover::successor::{LeavingPredecessor, Predecessor};

/// How long the predecessor may take to leave once it is asked to.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A process that has not taken over everything yet.
#[derive(Debug)]
pub(super) struct Takeover {
    /// `None` if there is none, or if it is gone.
    pub(super) predecessor: Option<LeavingPredecessor>,
    until: Instant,
    /// Older generations, which the predecessor still follows.
    pub(super) older: Vec<(Identity, Link)>,
}

impl Takeover {
    /// This process accepts connections: reports it to the predecessor, if there is one.
    pub(super) fn start(predecessor: Option<Predecessor>, older: Vec<(Identity, Link)>) -> Self {
        let predecessor = predecessor.map(Predecessor::serving);
        let predecessor = predecessor.and_then(|serving| serving.inspect_err(unconfirmed).ok());
        let timeout = predecessor.as_ref().map(LeavingPredecessor::timeout);
        Self {
            predecessor,
            until: Instant::now() + timeout.unwrap_or_default(),
            older,
        }
    }

    /// Waits until the predecessor has left; returns whether this process is to stop, too. Cancel safe.
    pub(super) async fn left(takeover: &mut Option<Self>) -> bool {
        let Some(takeover) = takeover else {
            return std::future::pending().await;
        };
        takeover.is_over().await
    }

    /// As [`left`](Self::left).
    pub(super) async fn is_over(&mut self) -> bool {
        let Some(predecessor) = &mut self.predecessor else {
            return false;
        };
        let left = tokio::time::timeout_at(self.until, predecessor.left()).await;
        let left = left.unwrap_or_else(|late| Err(late.into()));
        // Not fatal: this process accepts connections, and the predecessor is most likely gone.
        left.inspect_err(unconfirmed).unwrap_or_default()
    }

    /// Asks the predecessor to leave before the settling time is over.
    pub(super) async fn ask_to_leave(&mut self) {
        if let Some(predecessor) = &self.predecessor {
            // An error means that the predecessor is gone, which is found out next.
            let _ = predecessor.ask_to_leave().await;
            self.until = Instant::now() + LEAVE_TIMEOUT;
        }
    }
}

fn unconfirmed(error: &io::Error) {
    tracing::warn!(%error, "no confirmation from the previous process that it stopped accepting");
}
