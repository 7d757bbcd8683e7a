//! `tidegate probe`: one WebSocket through a URL, opened as a client would open it, each leg timed.
//!
//! What is told is what clients would meet: names, certificates and answers are judged as a browser
//! judges them. [`leg`] has the legs, `report` what is printed of them.

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

/// What to probe, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to: ws://HOST[:PORT][/PATH] or wss://…
    #[arg(value_name = "URL", value_parser = Url::parse)]
    url: Url,
    /// The page that asks, as browsers tell it: https://chat.example.com
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<HeaderValue>,
    /// A field of the handshake besides; can be given several times
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = handshake::field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A subprotocol to offer; can be given several times
    #[arg(long = "subprotocol", value_name = "NAME", value_parser = handshake::subprotocol)]
    subprotocols: Vec<Box<str>>,
    /// Believe the certificate authorities in this file (PEM), not those of the operating system
    #[arg(
        long,
        value_name = "FILE",
        value_parser = Authorities::read,
        value_hint = ValueHint::FilePath,
        conflicts_with = "insecure"
    )]
    ca: Option<Authorities>,
    /// Go on with a certificate that is not to be believed, and say so
    #[arg(long)]
    insecure: bool,
    /// Connect to this address, IP or IP:PORT, whatever the name says; it stays in Host and SNI
    #[arg(long, value_name = "ADDRESS", value_parser = url::instead)]
    resolve: Option<(IpAddr, Option<u16>)>,
    /// How long each leg may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("nothing can be done in no time".into()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("write `250ms`, `10s` or `1m`".into()),
    }
}

/// Probes, and tells.
pub(super) fn probe(args: &Args) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            err(&format!("error: cannot start: {error}\n"));
            return ExitStatus::Start.into();
        }
    };
    // The first chance in a process takes tens of milliseconds to gather, which are no leg's.
    let _ = messages::random::<1>();
    let mut report = ProbeReport::new(&args.url, args.json);
    let outcome = runtime.block_on(walk(args, &mut report));
    // A look-up in a thread of its own may still go on; nobody waits for it any more.
    runtime.shutdown_background();
    let passed = outcome.is_ok();
    report.finish(outcome.err().as_ref());
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitStatus::Probe.into()
    }
}

/// Goes leg by leg, as far as it leads.
async fn walk(args: &Args, report: &mut ProbeReport) -> Result<(), FailedLeg> {
    let url = &args.url;
    let mut way = ProbeRun {
        limit: args.timeout,
        report,
    };
    let addresses = match fixed(args) {
        Some(address) => vec![address],
        None => way.leg(ProbeLeg::Name, connect::name(url)).await?,
    };
    let connecting = connect::connect(&addresses, args.timeout);
    let socket = Socket::Tcp(way.leg(ProbeLeg::Connect, connecting).await?);
    let stream = if url.secure {
        let trust = ServerTrust::of(args.ca.as_ref(), args.insecure);
        let securing = tls::begin(url, &trust, socket);
        way.leg(ProbeLeg::Tls, securing).await?
    } else {
        Stream::Plain(socket)
    };
    let shaking = handshake::open(url, wishes(args), stream);
    let mut tunnel = way.leg(ProbeLeg::Handshake, shaking).await?;
    way.leg(ProbeLeg::Ping, messages::ping(&mut tunnel)).await?;
    way.leg(ProbeLeg::Close, messages::close(&mut tunnel))
        .await?;
    messages::farewell(tunnel).await;
    Ok(())
}

/// The address to connect to, where no name has to be looked up.
fn fixed(args: &Args) -> Option<SocketAddr> {
    let (address, port) = match args.resolve {
        Some((address, port)) => (address, port),
        None => (args.url.host.parse().ok()?, None),
    };
    Some(SocketAddr::new(address, port.unwrap_or(args.url.port)))
}

fn wishes(args: &Args) -> handshake::RequestExtras {
    let mut headers = args.headers.clone();
    headers.extend(args.origin.clone().map(|origin| (ORIGIN, origin)));
    handshake::RequestExtras {
        headers,
        subprotocols: args.subprotocols.clone(),
    }
}

/// A probe under way.
struct ProbeRun<'a> {
    limit: Duration,
    report: &'a mut ProbeReport,
}

impl ProbeRun<'_> {
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
            Ok((value, told)) => {
                self.report.leg(leg, took, &told);
                Ok(value)
            }
            Err(failure) => {
                self.report.leg(leg, took, &failure.told);
                Err(FailedLeg { leg, failure })
            }
        }
    }
}
