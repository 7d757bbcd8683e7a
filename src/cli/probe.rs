//! `tidegate probe`: opens one WebSocket as a client would, and reports the time of each step.
//!
//! The result is what clients would see: names, certificates and responses are checked as browsers
//! check them. [`leg`] declares the steps, `report` prints them.

mod connect;
mod handshake;
mod leg;
mod messages;
mod report;
mod text;
mod tls;
mod url;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueHint;
use http::header::ORIGIN;
use http::{HeaderName, HeaderValue};
use tidegate::net::stream::{Socket, Stream};
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout};

use self::leg::{FailedLeg, LegFailure, LegOutcome, ProbeLeg};
use self::report::ProbeReport;
use self::tls::{Authorities, ServerTrust};
use self::url::Url;
use super::{ExitStatus, err};

/// What to probe, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The URL to open: ws://HOST[:PORT][/PATH] or wss://…
    #[arg(value_name = "URL", value_parser = Url::parse)]
    url: Url,
    /// The Origin header, as browsers send it: https://chat.example.com
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<HeaderValue>,
    /// An additional request header; repeatable
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = handshake::field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A subprotocol to offer; repeatable
    #[arg(long = "subprotocol", value_name = "NAME", value_parser = handshake::subprotocol)]
    subprotocols: Vec<Box<str>>,
    /// Trust the CA certificates in this file (PEM) instead of the operating system's
    #[arg(
        long,
        value_name = "FILE",
        value_parser = Authorities::read,
        value_hint = ValueHint::FilePath,
        conflicts_with = "insecure"
    )]
    ca: Option<Authorities>,
    /// Continue with an untrusted certificate, and report what is wrong with it
    #[arg(long)]
    insecure: bool,
    /// Connect to this IP or IP:PORT instead of resolving the name; Host and SNI keep the name
    #[arg(long, value_name = "ADDRESS", value_parser = url::address)]
    resolve: Option<(IpAddr, Option<u16>)>,
    /// The time limit for each step
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("the time limit must be greater than zero".into()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("use e.g. `250ms`, `10s` or `1m`".into()),
    }
}

/// Runs the probe and prints its report.
pub(super) fn probe(args: &Args) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            err(&format!("error: cannot start: {error}\n"));
            return ExitStatus::Start.into();
        }
    };
    // The first random bytes of a process take tens of milliseconds, which belong to no step.
    let _ = messages::random::<1>();
    let mut report = ProbeReport::new(&args.url, args.json);
    let outcome = runtime.block_on(steps(args, &mut report));
    // A name lookup may still run on a thread of its own; waiting for it would delay the exit.
    runtime.shutdown_background();
    let passed = outcome.is_ok();
    report.finish(outcome.err().as_ref());
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitStatus::Probe.into()
    }
}

/// Runs one step after the other until one fails.
async fn steps(args: &Args, report: &mut ProbeReport) -> Result<(), FailedLeg> {
    let url = &args.url;
    let mut run = ProbeRun {
        limit: args.timeout,
        report,
    };
    let addresses = match fixed(args) {
        Some(address) => vec![address],
        None => run.leg(ProbeLeg::Name, connect::name(url)).await?,
    };
    let connecting = connect::connect(&addresses, args.timeout);
    let socket = Socket::Tcp(run.leg(ProbeLeg::Connect, connecting).await?);
    let stream = if url.secure {
        let trust = ServerTrust::of(args.ca.as_ref(), args.insecure);
        let securing = tls::begin(url, &trust, socket);
        run.leg(ProbeLeg::Tls, securing).await?
    } else {
        Stream::Plain(socket)
    };
    let shaking = handshake::open(url, request_extras(args), stream);
    let mut tunnel = run.leg(ProbeLeg::Handshake, shaking).await?;
    run.leg(ProbeLeg::Ping, messages::ping(&mut tunnel)).await?;
    run.leg(ProbeLeg::Close, messages::close(&mut tunnel))
        .await?;
    messages::await_end(tunnel).await;
    Ok(())
}

/// The address to connect to, if no name has to be looked up.
fn fixed(args: &Args) -> Option<SocketAddr> {
    let (address, port) = match args.resolve {
        Some((address, port)) => (address, port),
        None => (args.url.host.parse().ok()?, None),
    };
    Some(SocketAddr::new(address, port.unwrap_or(args.url.port)))
}

fn request_extras(args: &Args) -> handshake::RequestExtras {
    let mut headers = args.headers.clone();
    headers.extend(args.origin.clone().map(|origin| (ORIGIN, origin)));
    handshake::RequestExtras {
        headers,
        subprotocols: args.subprotocols.clone(),
    }
}

/// A probe in progress.
struct ProbeRun<'a> {
    limit: Duration,
    report: &'a mut ProbeReport,
}

impl ProbeRun<'_> {
    /// Runs one step within the time limit and reports it.
    async fn leg<T>(
        &mut self,
        leg: ProbeLeg,
        work: impl Future<Output = LegOutcome<T>>,
    ) -> Result<T, FailedLeg> {
        let begun = Instant::now();
        let outcome = match timeout(self.limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(LegFailure::late(leg, self.limit)),
        };
        let took = begun.elapsed();
        match outcome {
            Ok((value, findings)) => {
                self.report.leg(leg, took, &findings);
                Ok(value)
            }
            Err(failure) => {
                self.report.leg(leg, took, &failure.findings);
                Err(FailedLeg { leg, failure })
            }
        }
    }
}
