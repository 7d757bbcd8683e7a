//! `tidegate demo`: everything that is needed to see tidegate work, created on the spot.
//!
//! tidegate runs in processes of its own, with a configuration file as anywhere else, so that it can be
//! reloaded and upgraded. This process has the rest: the backends, the simulated clients, and the page with
//! its controls. Nothing remains after it has stopped.

mod admin;
mod backend;
mod background;
mod control;
mod crowd;
mod fleet;
mod overview;
mod proxy;
mod site;
mod sockets;
mod stage;
mod state;
mod supervisor;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::admin::DemoAdmin;
use self::background::background;
use self::control::DemoControl;
use self::crowd::Crowd;
use self::fleet::DemoFleet;
use self::proxy::DemoProxy;
use self::stage::Stage;
use super::{ExitStatus, argument, err, out};

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// The port of the page; 0 selects any free port [default: 8443, or any free port if it is in use]
    #[arg(long, value_parser = argument::whole::<u16>)]
    port: Option<u16>,
    /// Run the tidegate of a demo, whose files are in this folder, until standard input ends.
    // Not for users: the demo starts itself with it.
    #[arg(long, value_name = "DIR", hide = true)]
    supervise: Option<PathBuf>,
}

/// Runs the demo until a signal stops it.
pub(super) fn demo(args: &DemoArgs) -> ExitCode {
    if let Some(folder) = &args.supervise {
        return supervisor::supervise(folder);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime.and_then(|runtime| runtime.block_on(run(args.port)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            err(&format!("error: the demo does not run: {error}\n"));
            ExitStatus::Start.into()
        }
    }
}

async fn run(port: Option<u16>) -> io::Result<()> {
    // Before anything exists that a signal would leave behind.
    let mut stop = StopSignals::new()?;
    let fleet = Arc::new(DemoFleet::start()?);
    let stage = Arc::new(Stage::new(port, fleet.addresses())?);
    let admin = DemoAdmin::new(stage.admin_socket());
    let crowd = Arc::new(Crowd::new(stage.clients_socket()));
    let control = DemoControl {
        fleet,
        stage: Arc::clone(&stage),
        admin: admin.clone(),
        crowd: Arc::clone(&crowd),
    };
    let site = site::listen(&stage.page_socket())?;
    background(site::serve(Arc::new(control), site));
    let mut proxy = DemoProxy::start(stage.folder())?;
    let address = tokio::select! {
        address = admin.page_address() => address,
        () = proxy.ended() => return Err(proxy.failure()),
        () = stop.asked() => {
            proxy.stop().await;
            return Ok(());
        }
    };
    crowd.enter();
    out(&stage.welcome(&address));
    let ended_early = tokio::select! {
        () = stop.asked() => false,
        () = proxy.ended() => true,
    };
    if ended_early {
        return Err(io::Error::other("tidegate has ended"));
    }
    proxy.stop().await;
    Ok(())
}

/// The signals that end the demo.
struct StopSignals([tokio::signal::unix::Signal; 4]);

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::quit())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one of them.
    async fn asked(&mut self) {
        let [interrupt, terminate, quit, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = quit.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
