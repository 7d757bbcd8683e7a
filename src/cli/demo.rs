//! `tidegate demo`.

use std::process::ExitCode;

/// Placeholder until the next commit.
pub(super) fn demo(_port: Option<u16>) -> ExitCode {
    ExitCode::FAILURE
}
