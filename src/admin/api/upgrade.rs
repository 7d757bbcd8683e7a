//! Handing over to a new process.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::command::{self, ControlCommand};
use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::handover::identity::Identity;

/// How to hand over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// The program of the new process; that which this one was started with if nothing is said. Only
    /// over a unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
}

/// Hands over: tells who serves from now on.
///
/// # Errors
/// [`ApiError`]; what runs runs on then.
pub async fn upgrade(
    view: &View,
    how: UpgradeRequest,
    over_tcp: bool,
) -> Result<Identity, ApiError> {
    if over_tcp && how.binary.is_some() {
        return Err(ApiError::bad_request(
            "over TCP nobody says which program is run: leave `binary` out",
        ));
    }
    command::send(&view.commands, |done| {
        ControlCommand::Upgrade(how.binary, done)
    })
    .await
}
