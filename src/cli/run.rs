//! `tidegate run`.

use std::path::Path;
use std::process::ExitCode;

use tidegate::server::{self, Exit, ServingProcess, StartError};

use super::{ExitStatus, check, colour, err};

/// Runs the proxy until a signal stops it.
pub(super) fn run(path: &Path, ready: impl FnOnce(&ServingProcess)) -> ExitCode {
    match server::run(path, ready) {
        Ok(Exit::Graceful) => ExitCode::SUCCESS,
        Ok(Exit::Forced) => ExitStatus::Forced.into(),
        Err(StartError::Config(report)) => {
            err(&report.render(colour()));
            err(&format!(
                "{}: {}\n",
                path.display(),
                check::verdict(&report)
            ));
            ExitStatus::Config.into()
        }
        Err(error) => {
            err(&format!("error: {error}\n"));
            ExitStatus::Start.into()
        }
    }
}
