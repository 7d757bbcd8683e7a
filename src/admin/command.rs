//! Commands that only the process itself can carry out, one at a time: it owns the configuration and
//! the listeners.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::error::ApiError;
use super::reload_plan::{Guard, ReloadPlan};
use crate::acme::TrialCertificate;
use crate::handover::identity::Identity;

/// Commands that may wait.
pub const COMMAND_QUEUE: usize = 16;

/// How long a command may take. The longest is an upgrade: 35 s for the start, 65 s for the exchange of the
/// state, and the settling time, 10 s by default. A longer settling time may outlast it; the upgrade goes on.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(150);

/// A command, and where its result goes.
#[derive(Debug)]
pub enum ControlCommand {
    /// Show what a reload would change.
    Plan(oneshot::Sender<Result<ReloadPlan, ApiError>>),
    /// Reload the configuration, unless that displaces too many tunnels.
    Reload(Guard, oneshot::Sender<Result<ReloadResponse, ApiError>>),
    /// Drain a listener, or put it back into service.
    Listener(SteerListener, oneshot::Sender<Result<(), ApiError>>),
    /// Renew the certificates of this name now. The result is how many there are.
    Renew(String, oneshot::Sender<Result<usize, ApiError>>),
    /// Order the certificate of this name at staging.
    TryCertificate(String, oneshot::Sender<Result<TrialCertificate, ApiError>>),
    /// Hand over to a new process of this binary, or of the one that this process was started from.
    Upgrade(Option<PathBuf>, oneshot::Sender<Result<Identity, ApiError>>),
}

/// The result of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadResponse {
    /// Whether only certificates had changed, so that only they were replaced.
    pub certificates_only: bool,
    /// Warnings about the configuration: what is valid but probably not intended.
    pub warnings: Vec<String>,
}

/// Whether a listener is to be drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteerListener {
    /// The name of the listener.
    pub listener: String,
    /// Whether it is to be drained, or put back into service.
    pub is_drained: bool,
}

/// Sends a command to the process, and waits for its result.
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
            ApiError::unavailable("too many commands are waiting already; try again later")
        }
        mpsc::error::TrySendError::Closed(_) => stopping(),
    })?;
    let done = tokio::time::timeout(COMMAND_TIMEOUT, is_done).await;
    let done = done.map_err(|_| {
        ApiError::unavailable("no result in time: the process is busy with other commands")
    })?;
    done.map_err(|_| stopping())?
}
