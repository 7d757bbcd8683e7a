//! What operators have the process itself do: it reads configurations, one at a time.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::error::ApiError;
use super::plan::{Guard, ReloadPlan};
use crate::handover::identity::Identity;

/// Orders that may wait.
pub const COMMAND_QUEUE: usize = 16;

/// How long one may take: names are looked up, files are read.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(100);

/// What the process is to do.
#[derive(Debug)]
pub enum ControlCommand {
    /// Tell what a reload would change.
    Plan(oneshot::Sender<Result<ReloadPlan, ApiError>>),
    /// Reload.
    Reload(Guard, oneshot::Sender<Result<ReloadResponse, ApiError>>),
    /// Take a listener out, or put it back.
    Listener(SteerListener, oneshot::Sender<Result<(), ApiError>>),
    /// Hand over to a new process, of this program or of that which this one was started with.
    Upgrade(Option<PathBuf>, oneshot::Sender<Result<Identity, ApiError>>),
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadResponse {
    /// Whether only certificates had changed, and only they were swapped.
    pub certificates_only: bool,
    /// What is probably not meant so.
    pub warnings: Vec<String>,
}

/// What becomes of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteerListener {
    /// Its name.
    pub listener: String,
    /// Whether it is to be out.
    pub is_drained: bool,
}

/// Has `orders` do something, and waits for it.
///
/// # Errors
/// [`ApiError`].
pub async fn send<T>(
    commands: &mpsc::Sender<ControlCommand>,
    command: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> ControlCommand,
) -> Result<T, ApiError> {
    let (done, is_done) = oneshot::channel();
    let stopping = || ApiError::unavailable("the process is stopping");
    let sent = commands.try_send(command(done));
    sent.map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            ApiError::unavailable("too many orders are waiting already")
        }
        mpsc::error::TrySendError::Closed(_) => stopping(),
    })?;
    let done = tokio::time::timeout(COMMAND_TIMEOUT, is_done).await;
    let done = done.map_err(|_| ApiError::unavailable("the process is busy with other orders"))?;
    done.map_err(|_| stopping())?
}
