//! `tidegate run`.

use std::path::Path;
use std::process::ExitCode;

use tidegate::server::{self, Exit, StartError};

use super::{ExitStatus, check, err};

/// Runs the proxy until a signal stops it.
pub(super) fn run(path: &Path) -> ExitCode {
    match server::run(path) {
        Ok(Exit::Graceful) => ExitCode::SUCCESS,
        Ok(Exit::Forced) => ExitStatus::Forced.into(),
        Err(StartError::Config(report)) => check::refuse(path, &report),
        Err(error) => {
            err(&format!("error: {error}\n"));
            ExitStatus::Start.into()
        }
    }
}
