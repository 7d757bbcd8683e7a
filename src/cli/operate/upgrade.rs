//! `tidegate upgrade`.

use std::path::PathBuf;

use clap::Args;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::upgrade;
use tidegate::handover::identity::Identity;

use super::show_json;
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::table::harmless;

#[derive(Debug, Args)]
pub(in crate::cli) struct UpgradeArgs {
    /// Binary of the new process [default: the path that the running process was started from]
    #[arg(value_name = "BINARY")]
    binary: Option<PathBuf>,
    #[command(flatten)]
    client: AdminClient,
}

pub(super) fn upgrade(verb: &UpgradeArgs) -> Result<(), ClientError> {
    let binary = verb.binary.as_ref();
    let how = upgrade::UpgradeRequest {
        // The running process may have another working directory.
        binary: binary.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
    };
    let response = verb.client.ask(Operation::Upgrade, "", Some(&how))?;
    if verb.client.json {
        show_json(&response);
        return Ok(());
    }
    let now: Identity = verb.client.read(&response)?;
    let (generation, pid, version) = (now.generation, now.pid, harmless(&now.version));
    out(&format!(
        "generation {generation} (tidegate {version}, process {pid}) has taken over; `tidegate status` shows \
         how the previous generation drains\n"
    ));
    Ok(())
}
