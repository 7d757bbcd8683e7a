//! `tidegate completions`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, out};

/// Prints what `shell` reads to complete the command line.
pub(super) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
    out(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
