//! The stages of an upgrade, and what ends each of them.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin::error::ApiError;
use crate::handover::channel::Interrupt;
use crate::handover::identity::Identity;
use crate::handover::predecessor::{SettlingSuccessor, SuccessorProcess, UpgradeError};

/// Where the result of an upgrade goes, if an operator has asked for it.
pub(super) type UpgradeResult = oneshot::Sender<Result<Identity, ApiError>>;

/// An upgrade in progress.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) stage: UpgradeStage,
    /// Ends the new process, until that accepts connections.
    pub(super) interrupt: Interrupt,
    pub(super) done: Option<UpgradeResult>,
    /// A reload was asked for: the new process may have read the files before.
    pub(super) reload: bool,
}

#[derive(Debug)]
pub(super) enum UpgradeStage {
    /// The new process reads its configuration.
    Starting(JoinHandle<Result<SuccessorProcess, UpgradeError>>),
    /// It takes over the state, until it accepts connections.
    HandingOver(JoinHandle<Result<SuccessorProcess, UpgradeError>>),
    /// It accepts connections. This process does not, but may again until this time.
    Settling(SettlingSuccessor, tokio::time::Instant),
}

/// What has happened to an upgrade.
#[derive(Debug)]
pub(super) enum UpgradeStep {
    Started(Result<SuccessorProcess, UpgradeError>),
    Serving(Result<SuccessorProcess, UpgradeError>),
    /// The settling time is over, or the new process asks for its end.
    Settled,
    /// The new process is gone.
    Gone,
}

/// Waits for the next step of an upgrade, if there is one. Cancel safe.
pub(super) async fn next_step(upgrade: &mut Option<Upgrade>) -> UpgradeStep {
    let Some(upgrade) = upgrade else {
        return std::future::pending().await;
    };
    match &mut upgrade.stage {
        UpgradeStage::Starting(task) => UpgradeStep::Started(joined(task).await),
        UpgradeStage::HandingOver(task) => UpgradeStep::Serving(joined(task).await),
        UpgradeStage::Settling(successor, until) => tokio::select! {
            asked = successor.asks_to_leave() => match asked {
                Ok(()) => UpgradeStep::Settled,
                Err(_) => UpgradeStep::Gone,
            },
            () = tokio::time::sleep_until(*until) => UpgradeStep::Settled,
        },
    }
}

/// Waits for a stage that runs on a blocking thread. Cancel safe.
pub(super) async fn joined<T>(
    task: &mut JoinHandle<Result<T, UpgradeError>>,
) -> Result<T, UpgradeError> {
    match task.await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
