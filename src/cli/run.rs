//! `tidegate run`.

use std::path::Path;
use std::process::ExitCode;

use tidegate::server::{self, Exit, StartError};

use super::{ExitStatus, check, colour, err};

/// Runs the proxy until a signal stops it.
pub(super) fn run(path: &Path) -> ExitCode {
    match server::run(path) {
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
