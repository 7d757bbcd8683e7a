//! `tidegate upgrade`.

use std::path::PathBuf;

use clap::Args;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::upgrade;
use tidegate::handover::identity::Identity;

use super::show_json;
use crate::cli::client::{Failure, Reach};
use crate::cli::out;
use crate::cli::table::harmless;

#[derive(Debug, Args)]
pub(in crate::cli) struct Upgrade {
    /// The program of the new process [default: the path that the running one was started from]
    #[arg(value_name = "BINARY")]
    binary: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn upgrade(verb: &Upgrade) -> Result<(), Failure> {
    let binary = verb.binary.as_ref();
    let how = upgrade::Upgrade {
        // The running one may be in another folder.
        binary: binary.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
    };
    let answer = verb.reach.ask(Operation::Upgrade, "", Some(&how))?;
    if verb.reach.json {
        show_json(&answer);
        return Ok(());
    }
    let now: Identity = verb.reach.read(&answer)?;
    let (generation, pid, version) = (now.generation, now.pid, harmless(&now.version));
    out(&format!(
        "generation {generation} serves: tidegate {version}, process {pid}; `tidegate status` shows \
         how the one before drains\n"
    ));
    Ok(())
}
