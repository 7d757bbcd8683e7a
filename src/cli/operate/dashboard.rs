//! `tidegate dashboard`: a page that shows a running tidegate live.
//!
//! The admin interface knows nothing of pages. This process reads it once a second, remembers five minutes, and serves
//! the page on a loopback port for as long as it runs. Any user and any web page of this machine can connect to that
//! port: `access` decides who may use it.

mod access;
mod connections;
mod digest;
mod history;
mod page;
mod relay;
mod site;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use self::access::PageAccess;
use self::digest::Digest;
use self::history::Feed;
use self::relay::PageRelay;
use self::site::DashboardSite;
use super::failed;
use super::live::reading::Reading;
use super::live::{LiveClock, READ_INTERVAL, READ_TIMEOUT};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::{ExitStatus, argument, err, out};

#[derive(Debug, Args)]
pub(in crate::cli) struct DashboardArgs {
    /// The port of the page on 127.0.0.1 [default: any free port]
    #[arg(long, value_parser = argument::whole::<u16>)]
    port: Option<u16>,
    /// Let the page drain endpoints, close tunnels and reload; without this, it only shows
    #[arg(long)]
    steer: bool,
    #[command(flatten)]
    client: AdminClient,
}

/// Why the page cannot be served.
enum DashboardFailure {
    /// No tidegate to show.
    Client(ClientError),
    /// No port to serve it on.
    Port(io::Error),
}

/// Serves the page until a signal ends this process.
pub(super) fn dashboard(args: &DashboardArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => Err(DashboardFailure::Port(error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(DashboardFailure::Client(failure)) => failed(&failure),
        Err(DashboardFailure::Port(error)) => {
            let port = args.port.unwrap_or_default();
            err(&format!(
                "error: cannot serve the page on 127.0.0.1:{port}: {error}\n"
            ));
            ExitStatus::Start.into()
        }
    }
}

async fn run(args: &DashboardArgs) -> Result<(), DashboardFailure> {
    let mut reader = args.client.clone();
    reader.timeout = Some(READ_TIMEOUT);
    // Before anything is printed: without a tidegate there is nothing to show.
    let clock = LiveClock::start();
    let first = Reading::of(&reader, &[]).await;
    let first = first.map_err(DashboardFailure::Client)?;
    let port = args.port.unwrap_or_default();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(DashboardFailure::Port)?;
    let address = listener.local_addr().map_err(DashboardFailure::Port)?;
    let access = PageAccess::new(address.port()).map_err(DashboardFailure::Port)?;
    let url = access.url();
    let feed = Arc::new(Feed::new());
    // Before anyone can ask: a stream always has a state to send.
    let mut digest = Digest::new();
    feed.add(digest.next(Ok(first), clock.now()));
    let site = DashboardSite::new(access, Arc::clone(&feed), PageRelay::new(args));
    welcome(args, address, &url);
    tokio::select! {
        () = follow(&reader, &feed, digest, clock) => {}
        () = site::serve(Arc::new(site), listener) => {}
        stopped = stopped() => stopped.map_err(DashboardFailure::Port)?,
    }
    Ok(())
}

fn welcome(args: &DashboardArgs, address: SocketAddr, url: &str) {
    if args.client.json {
        out(&format!("{}\n", json!({ "url": url, "steer": args.steer })));
        return;
    }
    let may = match args.steer {
        true => "The page may drain, close and reload (--steer).",
        false => "The page only shows; with --steer it may also drain, close and reload.",
    };
    let port = address.port();
    out(&format!(
        "Open this address in a browser. It works once, and then for that browser alone:\n\n  {url}\n\n\
         {may} It is there until Ctrl-C.\n\
         From another machine: ssh -L {port}:127.0.0.1:{port} this-host, then the same address.\n"
    ));
}

/// Reads the admin interface again and again.
async fn follow(client: &AdminClient, feed: &Feed, mut digest: Digest, clock: LiveClock) {
    let mut ticks = tokio::time::interval(READ_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one is over at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let read = Reading::of(client, &digest.processes()).await;
        let read = read.map_err(|failure| failure.to_string());
        feed.add(digest.next(read, clock.now()));
    }
}

/// Waits for a signal that ends this process.
async fn stopped() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
