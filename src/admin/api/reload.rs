//! The running configuration, and reloading it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::command::{self, ControlCommand, ReloadResponse};
use crate::admin::error::ApiError;
use crate::admin::reload_plan::{Guard, ReloadPlan};
use crate::admin::view::View;
use crate::config;
use crate::handover::identity::shown;

/// The running configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigInfo {
    /// Every file that was read, the configuration file first.
    pub files: Vec<String>,
    /// When it was loaded.
    pub loaded: String,
    /// The effective configuration with all defaults, in the structure of the file. Values of headers and
    /// queries are left out, and secrets are replaced by the name of their file.
    pub config: serde_json::Value,
}

/// How many tunnels a reload may displace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Refuse the reload if more live tunnels than this would have their route or endpoint removed or
    /// drained; default: half of all tunnels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_displaced: Option<u64>,
    /// Reload even if most tunnels would have their route or endpoint removed or drained.
    #[serde(default)]
    pub force: bool,
}

/// The running configuration.
pub fn config(view: &View) -> ConfigInfo {
    let loaded = view.loaded.load();
    ConfigInfo {
        files: loaded.files.clone(),
        loaded: shown(loaded.at),
        config: config::effective(&loaded.sources),
    }
}

/// Works out what a reload would change.
///
/// # Errors
/// [`ApiError`].
pub async fn plan(view: &View) -> Result<ReloadPlan, ApiError> {
    command::send(&view.commands, ControlCommand::Plan).await
}

/// Reloads the configuration.
///
/// # Errors
/// [`ApiError`]; the previous configuration stays in effect then.
pub async fn reload(view: &View, reload: ReloadRequest) -> Result<ReloadResponse, ApiError> {
    let guard = match reload.max_displaced {
        _ if reload.force => Guard::Force,
        Some(max) => Guard::Max(max),
        None => Guard::Half,
    };
    command::send(&view.commands, |done| ControlCommand::Reload(guard, done)).await
}
