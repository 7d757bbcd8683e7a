//! The command line. Only this module and those below it print.

mod check;
mod client;
mod completions;
mod demo;
mod man;
mod operate;
mod probe;
mod run;
mod schema;
mod table;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

/// A reverse proxy and load balancer made for WebSocket fleets.
#[derive(Debug, Parser)]
#[command(name = "tidegate", arg_required_else_help = true, after_help = EXIT_CODES)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print the version
    // clap's own ends before it has seen what else there is.
    #[arg(long, short = 'V')]
    version: bool,
    /// With --version: and the target, the TLS provider, the driver of tunnels, the crates that matter
    #[arg(long, requires = "version")]
    verbose: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for `run`: stopped in order
  1  the configuration has mistakes
  2  the command line has mistakes
  3  could not start: an address is taken, a folder cannot be written
  4  stopped at once by a second signal
  5  the probe failed
  6  no running tidegate answers
  7  the running tidegate refused

Signals to `run`:
  SIGHUP           reload the configuration; a broken one changes nothing
  SIGUSR2          hand over to a new process of the same path; this one drains
  SIGTERM, SIGINT  stop in order; a second one stops at once";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what a configuration file says, until a signal stops it
    Run {
        /// The configuration file
        #[arg(
            long,
            short,
            value_name = "FILE",
            default_value = "/etc/tidegate/config.toml"
        )]
        config: PathBuf,
    },
    /// Check a configuration file, and the files that it names, and tell all that is wrong
    Check {
        /// The configuration file
        #[arg(value_name = "FILE")]
        config: PathBuf,
        /// Print one JSON object instead
        #[arg(long)]
        json: bool,
    },
    /// Try it: three backends, a certificate and a page, all made on the spot
    Demo {
        /// The port of the page; 0 for any that is free [default: 8443, or any if that is taken]
        #[arg(long)]
        port: Option<u16>,
    },
    #[command(flatten)]
    Operate(operate::Verb),
    /// Open a WebSocket through a URL, Ping, close, and tell how long each leg took
    Probe(probe::Args),
    /// Print the JSON schema of the configuration file, for editors
    Schema,
    /// Print what makes a shell complete the command line
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write that of every command
    Man {
        /// Write tidegate.1, tidegate-run.1 and so on into this folder, which is there
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// How the program ends; documented in `--help`.
#[derive(Debug, Clone, Copy)]
enum ExitStatus {
    Config = 1,
    Start = 3,
    Forced = 4,
    Probe = 5,
    Unreached = 6,
    Refused = 7,
}

impl From<ExitStatus> for ExitCode {
    fn from(code: ExitStatus) -> Self {
        Self::from(code as u8)
    }
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.version {
        return version::version(cli.verbose);
    }
    let Some(command) = cli.command else {
        let missing = "a command is missing; `tidegate --help` lists them";
        Cli::command()
            .error(ErrorKind::MissingSubcommand, missing)
            .exit();
    };
    match command {
        Command::Run { config } => run::run(&config, |_| {}),
        Command::Check { config, json } => check::check(&config, json),
        Command::Demo { port } => demo::demo(port),
        Command::Operate(verb) => operate::operate(verb),
        Command::Schema => schema::print(),
        Command::Probe(args) => probe::probe(&args),
        Command::Completions { shell } => completions::completions(shell),
        Command::Man { out } => man::man(out.as_deref()),
    }
}

/// Prints what was asked for. A reader that has gone away wants no more of it.
fn out(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints what went wrong.
fn err(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Whether what goes to standard error may be coloured (<https://no-color.org>).
fn colour() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && wants_colour()
}

/// The same for standard output.
fn colour_out() -> bool {
    use std::io::IsTerminal;
    std::io::stdout().is_terminal() && wants_colour()
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
}
