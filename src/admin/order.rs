//! What operators have the process itself do: it reads configurations, one at a time.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::fault::Fault;
use super::plan::{Guard, Plan};
use crate::handover::identity::Identity;

/// Orders that may wait.
pub const ORDERS: usize = 16;

/// How long one may take: names are looked up, files are read.
const ORDER_WITHIN: Duration = Duration::from_secs(100);

/// What the process is to do.
#[derive(Debug)]
pub enum Order {
    /// Tell what a reload would change.
    Plan(oneshot::Sender<Result<Plan, Fault>>),
    /// Reload.
    Reload(Guard, oneshot::Sender<Result<Reloaded, Fault>>),
    /// Take a listener out, or put it back.
    Listener(Steer, oneshot::Sender<Result<(), Fault>>),
    /// Hand over to a new process, of this program or of that which this one was started with.
    Upgrade(Option<PathBuf>, oneshot::Sender<Result<Identity, Fault>>),
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Whether only certificates had changed, and only they were swapped.
    pub certificates_only: bool,
    /// What is probably not meant so.
    pub warnings: Vec<String>,
}

/// What becomes of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steer {
    /// Its name.
    pub listener: String,
    /// Whether it is to be out.
    pub is_drained: bool,
}

/// Has `orders` do something, and waits for it.
///
/// # Errors
/// [`Fault`].
pub async fn give<T>(
    orders: &mpsc::Sender<Order>,
    order: impl FnOnce(oneshot::Sender<Result<T, Fault>>) -> Order,
) -> Result<T, Fault> {
    let (done, is_done) = oneshot::channel();
    let stopping = || Fault::busy("the process is stopping");
    let sent = orders.try_send(order(done));
    sent.map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Fault::busy("too many orders are waiting already"),
        mpsc::error::TrySendError::Closed(_) => stopping(),
    })?;
    let done = tokio::time::timeout(ORDER_WITHIN, is_done).await;
    let done = done.map_err(|_| Fault::busy("the process is busy with other orders"))?;
    done.map_err(|_| stopping())?
}
