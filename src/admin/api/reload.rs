//! The configuration in force, and a new one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::command::{self, ControlCommand, ReloadResponse};
use crate::admin::error::ApiError;
use crate::admin::plan::{Guard, ReloadPlan};
use crate::admin::view::View;
use crate::config;
use crate::handover::identity::shown;

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigInfo {
    /// Every file that was read, the configuration file first.
    pub files: Vec<String>,
    /// When it was loaded.
    pub loaded: String,
    /// What it says in full, in the shape of the file. Values of headers and queries are left out, and
    /// of secrets there is only the name of their file.
    pub config: serde_json::Value,
}

/// How to reload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Live tunnels whose route or endpoint may go or be drained: half of all if nothing is said.
    /// Beyond, nothing is reloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_displaced: Option<u64>,
    /// However many that are.
    #[serde(default)]
    pub force: bool,
}

/// The configuration in force.
pub fn config(view: &View) -> ConfigInfo {
    let taken = view.loaded.load();
    ConfigInfo {
        files: taken.files.clone(),
        loaded: shown(taken.at),
        config: config::effective(&taken.source),
    }
}

/// What a reload would change.
///
/// # Errors
/// [`ApiError`].
pub async fn plan(view: &View) -> Result<ReloadPlan, ApiError> {
    command::send(&view.commands, ControlCommand::Plan).await
}

/// Reloads.
///
/// # Errors
/// [`ApiError`]; what ran before runs on then.
pub async fn reload(view: &View, reload: ReloadRequest) -> Result<ReloadResponse, ApiError> {
    let guard = match reload.max_displaced {
        _ if reload.force => Guard::Force,
        Some(max) => Guard::Max(max),
        None => Guard::Half,
    };
    command::send(&view.commands, |done| ControlCommand::Reload(guard, done)).await
}
