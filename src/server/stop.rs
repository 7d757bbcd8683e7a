//! The end of the process: in order, at once, or after another one has taken over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::Exit;
use super::mailbox::WorkerMessage;
use super::process::Process;
use super::signals::Signals;
use crate::admin::api::Api;
use crate::admin::command::ControlCommand;
use crate::admin::error::ApiError;
use crate::admin::http::serve_successor;
use crate::config::model::Shutdown;
use crate::handover::link::Link;
use crate::observe::counters::Totals;
use crate::systemd;
use crate::tunnel::ended::Ended;

/// What is left to ended tunnels to have their last bytes taken.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What tunnels have where nobody is served before this process has left.
const SUCCESSOR_GONE_GRACE: Duration = Duration::from_secs(2);

/// The share of their time over which tunnels are closed; the rest is for their last words.
const CLOSING_SHARE: f64 = 0.9;

/// Why a process that drains for its successor goes on to something else.
enum DrainEnd {
    /// Nothing is left.
    Drained,
    /// It is told to stop.
    StopRequested,
    /// The successor is gone, and the service manager waits for this process to go, too.
    SuccessorGone,
}

impl Process {
    /// Listeners first, then requests, then tunnels, as far as the time allows.
    pub(super) async fn stop(self) -> Exit {
        let shutdown = self.reloader.server().shutdown;
        self.stop_by(shutdown).await
    }

    async fn stop_by(mut self, shutdown: Shutdown) -> Exit {
        let grace = shutdown.grace;
        let mut signals = std::mem::replace(&mut self.signals, Signals::none());
        tracing::info!(tunnels = self.totals().tunnels_open, ?grace, "draining");
        // Whoever waits for one is told that there is none any more.
        self.orders.close();
        while self.orders.try_recv().is_ok() {}
        self.process_status.drain();
        systemd::stopping("draining");
        let exit = tokio::select! {
            () = self.drain(shutdown) => Exit::Graceful,
            () = signals.stop() => Exit::Forced,
        };
        self.log_totals(exit);
        exit
    }

    /// Another process serves: ends what there still is, at its pace, and does what that one asks.
    pub(super) async fn drain_for_successor(mut self, link: Option<Link>) -> Exit {
        let shutdown = self.reloader.server().shutdown;
        let over = self.reloader.server().upgrade.drain;
        let mut signals = std::mem::replace(&mut self.signals, Signals::none());
        let (_nobody, none) = mpsc::channel(1);
        let orders = std::mem::replace(&mut self.orders, none);
        self.process_status.drain();
        let api = Api {
            view: Arc::clone(self.admin.view()),
            over_tcp: false,
        };
        let mut asked = JoinSet::new();
        if let Some(link) = link {
            asked.spawn(serve_successor(link, api));
        }
        let mut refusing = JoinSet::new();
        refusing.spawn(refuse(orders));
        let tunnels = self.totals().tunnels_open;
        tracing::info!(tunnels, ?over, "draining: another process serves");
        let why = tokio::select! {
            biased;
            () = signals.stop() => DrainEnd::StopRequested,
            () = successor_gone(&mut asked) => DrainEnd::SuccessorGone,
            () = self.wind_down(over, shutdown.close_code) => DrainEnd::Drained,
        };
        match why {
            DrainEnd::Drained => {}
            DrainEnd::StopRequested => {
                self.signals = signals;
                return self.stop().await;
            }
            // Already as fast as can be: the manager, which now hears of it, may say so all the same.
            DrainEnd::SuccessorGone => {
                return self
                    .stop_by(Shutdown {
                        delay: Duration::ZERO,
                        grace: SUCCESSOR_GONE_GRACE.min(shutdown.grace),
                        ..shutdown
                    })
                    .await;
            }
        }
        // Whoever has asked for the upgrade wants to hear of it.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.admin.retired()).await;
        self.log_totals(Exit::Graceful);
        Exit::Graceful
    }

    fn log_totals(&self, exit: Exit) {
        let totals = self.totals();
        tracing::info!(
            connections = totals.connections,
            requests = totals.requests,
            rejections = totals.rejections,
            tunnels = totals.tunnels,
            forced = exit == Exit::Forced,
            "stopped"
        );
        self.reloader.flush_logs();
    }

    async fn drain(&mut self, shutdown: Shutdown) {
        tokio::time::sleep(shutdown.delay).await;
        self.reloader.listeners().stop().await;
        // What endpoints do meanwhile no longer matters.
        self.evict = None;
        self.wind_down(Some(shutdown.grace), shutdown.close_code)
            .await;
    }

    /// Nobody comes any more: waits for requests and tunnels to end, and ends them within `time`, if
    /// that is bounded.
    async fn wind_down(&mut self, time: Option<Duration>, code: u16) {
        let mut done = Vec::with_capacity(self.workers.len());
        for worker in self.workers.iter() {
            let (sender, receiver) = oneshot::channel();
            // A worker that is gone has nothing left to finish.
            if worker
                .mailbox
                .send(WorkerMessage::Finish(sender))
                .await
                .is_ok()
            {
                done.push(receiver);
            }
        }
        let mut all = std::pin::pin!(async {
            for receiver in done {
                let _ = receiver.await;
            }
        });
        let Some(time) = time else {
            return all.await;
        };
        let jobs = &self.admin.view().jobs;
        let closing = jobs.close_all(time.mul_f64(CLOSING_SHARE), code).await;
        if tokio::time::timeout(time, &mut all).await.is_ok() {
            return;
        }
        // Those that came too late for that, and those that could not be told yet.
        closing.iter().for_each(|job| job.stop());
        self.send_to_workers(|| WorkerMessage::EndTunnels(Ended::Shutdown))
            .await;
        if tokio::time::timeout(CLOSE_TIMEOUT, &mut all).await.is_ok() {
            return;
        }
        self.send_to_workers(|| WorkerMessage::CutTunnels).await;
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::warn!("some requests did not finish in time");
        }
    }

    async fn send_to_workers(&self, message: impl Fn() -> WorkerMessage) {
        for worker in self.workers.iter() {
            // A worker that is gone has nothing to be told.
            let _ = worker.mailbox.send(message()).await;
        }
    }

    fn totals(&self) -> Totals {
        Totals::of(self.workers.iter().map(|worker| &*worker.counters))
    }
}

/// Ends if the successor is gone, by which `asked` ends, and there is a service manager. That starts
/// the service anew once this process has gone, too: until then it does not even hear of the end of a
/// process that is no child of its own, and nobody is served.
async fn successor_gone(asked: &mut JoinSet<()>) {
    while asked.join_next().await.is_some() {}
    tracing::error!("the process that has taken over is gone: nobody accepts connections");
    if !systemd::is_available() {
        std::future::pending().await
    }
}

/// What only the process that serves can do.
async fn refuse(mut orders: mpsc::Receiver<ControlCommand>) {
    while let Some(order) = orders.recv().await {
        let fault = || ApiError::conflict("this generation drains: ask the one that serves");
        // Whoever ordered it may have stopped waiting.
        match order {
            ControlCommand::Plan(done) => drop(done.send(Err(fault()))),
            ControlCommand::Reload(_, done) => drop(done.send(Err(fault()))),
            ControlCommand::Listener(_, done) => drop(done.send(Err(fault()))),
            ControlCommand::Upgrade(_, done) => drop(done.send(Err(fault()))),
        }
    }
}
