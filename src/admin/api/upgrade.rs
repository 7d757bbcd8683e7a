//! Upgrade: a new process takes over.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::command::{self, ControlCommand};
use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::handover::identity::Identity;

/// Which binary takes over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// Binary of the new process; default: the path that this process was started from. Accepted over a
    /// unix socket only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
}

/// Hands over to a new process, and returns which process serves from now on.
///
/// # Errors
/// [`ApiError`]; this process keeps serving then.
pub async fn upgrade(
    view: &View,
    how: UpgradeRequest,
    over_tcp: bool,
) -> Result<Identity, ApiError> {
    if over_tcp && how.binary.is_some() {
        return Err(ApiError::bad_request(
            "`binary` is not accepted over TCP; use the unix socket, or omit it to restart the same path",
        ));
    }
    command::send(&view.commands, |done| {
        ControlCommand::Upgrade(how.binary, done)
    })
    .await
}
