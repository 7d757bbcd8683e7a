//! The command line. Only this module and those below it print.

mod admin_address;
mod admin_tls;
mod argument;
mod check;
mod client;
mod completions;
mod demo;
mod init;
mod man;
mod operate;
mod probe;
mod run;
mod schema;
mod screen;
mod table;
mod unreached;
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
    // clap's own flag exits before clap has seen `--verbose`.
    #[arg(long, short = 'V')]
    version: bool,
    /// With --version: also print the target, the TLS provider, the tunnel driver and security-relevant crates
    #[arg(long, requires = "version")]
    verbose: bool,
}

/// The configuration file of `run` and `check` unless they are given another one.
const DEFAULT_CONFIG: &str = "/etc/tidegate/config.toml";

const EXIT_CODES: &str = "\
Exit codes:
  0  success; for `run`: an orderly stop
  1  the configuration is not valid
  2  the command line is not valid
  3  tidegate could not start, for example because an address is in use
  4  a second signal stopped tidegate immediately
  5  the probe failed
  6  no running tidegate responded
  7  the running tidegate rejected the request
  8  a part of tidegate panicked, which is a bug; the log has the message
  9  with `--fleet`: done on all nodes that are known, but the list of them may be out of date

Signals to `run`:
  SIGHUP                    reload the configuration; one that is not valid changes nothing
  SIGUSR1                   open log files again
  SIGUSR2                   hand over to a new process, started from the same path; this one drains
  SIGTERM, SIGINT, SIGQUIT  stop in order; a second signal stops immediately
  others                    nothing, except those that suspend, report a fault or kill";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy with a configuration file until a signal stops it
    Run {
        /// The configuration file
        #[arg(
            long,
            short,
            value_name = "FILE",
            default_value = DEFAULT_CONFIG
        )]
        config: PathBuf,
    },
    /// Check a configuration file and everything it references; report all problems
    Check {
        /// The configuration file; `-` reads it from standard input
        #[arg(value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Print the result as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write a small configuration to begin with, from a few options
    Init(init::InitArgs),
    /// Run a demo: a page, three backends, simulated clients and a certificate, all created on the spot
    Demo(demo::DemoArgs),
    #[command(flatten)]
    Operate(operate::Verb),
    /// Open a WebSocket to a URL, send a Ping, close it, and report how long each step took
    Probe(probe::Args),
    /// Print the JSON schema of the configuration file, for editors
    Schema,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write the manual pages of all commands
    Man {
        /// Write tidegate.1, tidegate-run.1 and so on into this existing folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// The exit status of the program on failure; `--help` documents it.
#[derive(Debug, Clone, Copy)]
enum ExitStatus {
    Config = 1,
    Usage = 2,
    Start = 3,
    Forced = 4,
    Probe = 5,
    Unreached = 6,
    Refused = 7,
    // 8 is that of a panic.
    Incomplete = 9,
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
        Command::Run { config } => run::run(&config),
        Command::Check { config, json } => check::check(&config, json),
        Command::Init(args) => init::init(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Operate(verb) => operate::operate(verb),
        Command::Schema => schema::print(),
        Command::Probe(args) => probe::probe(&args),
        Command::Completions { shell } => completions::completions(shell),
        Command::Man { out } => man::man(out.as_deref()),
    }
}

/// Prints the result of a command. A reader that has closed the pipe is not an error.
fn out(text: &str) {
    let _ = try_out(text);
}

/// Prints a part of a result that goes on; an error means that its reader has gone away.
fn try_out(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut output = std::io::stdout();
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// Prints an error message.
fn err(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Whether output to standard error may be coloured (<https://no-color.org>).
fn colour() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && wants_colour()
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
}
