//! The end of the process: a drain with a grace period, at once, or when a successor accepts connections.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Exit;
use super::process::Process;
use super::signals::Signals;
use super::worker_mailbox::WorkerMessage;
use crate::admin::api::Api;
use crate::admin::command::ControlCommand;
use crate::admin::error::ApiError;
use crate::admin::http::serve_successor;
use crate::config::model::Shutdown;
use crate::handover::link::LinkEnd;
use crate::handover::predecessor::HandedOver;
use crate::observe::counters::Totals;
use crate::systemd;
use crate::tunnel::ended::Ended;

/// How long before the end of the grace period everything that is left is ended, so that it can send its last bytes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The part of a short grace period that this takes instead.
const LAST_SHARE: f64 = 0.05;

/// How long what has been cut at the end of the grace period may take to go.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);

/// What a tunnel has at least for its Close frames, however short the grace period is: a part of [`CUT_TIMEOUT`].
const LEAST_CLOSING: Duration = Duration::from_millis(250);

/// The grace period if the successor is gone: no connection is accepted before this process has exited.
const SUCCESSOR_GONE_GRACE: Duration = Duration::from_secs(2);

/// The part of the grace period over which tunnels and streams are closed; the rest is for their Close handshakes.
const CLOSING_SHARE: f64 = 0.9;

/// Why draining for a successor ended.
enum DrainEnd {
    /// No tunnel or request is left.
    Drained,
    /// A signal asked this process to stop.
    StopRequested,
    /// The successor is gone, and the service manager waits for this process to exit as well.
    SuccessorGone,
}

impl Process {
    /// Stops accepting, then waits for requests and tunnels, within the grace period.
    pub(super) async fn stop(self) -> Exit {
        let shutdown = self.reloader.server().shutdown;
        self.stop_by(shutdown, None).await
    }

    /// The link to `successor`, if there is one, is still at its place.
    async fn stop_by(mut self, shutdown: Shutdown, successor: Option<LinkEnd>) -> Exit {
        let grace = shutdown.grace;
        let mut signals = std::mem::replace(&mut self.signals, Signals::none());
        // First, so that a probe after this line in the log finds the process not ready.
        self.process_status.drain();
        let totals = self.totals();
        tracing::info!(
            tunnels = totals.tunnels_open,
            streams = totals.streams_open,
            grace = %humantime::format_duration(grace),
            "draining"
        );
        // Dropping the orders wakes the operators who wait: they are answered that the process is stopping.
        self.orders.close();
        while self.orders.try_recv().is_ok() {}
        self.probes = None;
        self.keepers.suspend();
        self.key_sharing.suspend();
        systemd::stopping("draining");
        let exit = tokio::select! {
            () = self.drain(shutdown) => Exit::Graceful,
            () = second_stop(&mut signals, successor) => Exit::Forced,
        };
        self.log_totals(exit);
        if exit == Exit::Graceful {
            self.membership.leave().await;
            self.send_last_spans(&mut signals).await;
        }
        exit
    }

    /// A successor accepts connections now: waits for requests and tunnels of this process, and answers
    /// what operators ask through the successor.
    /// With `stops`, it also stops.
    pub(super) async fn drain_for_successor(mut self, to: HandedOver, stops: bool) -> Exit {
        let shutdown = self.reloader.server().shutdown;
        let over = self.reloader.server().upgrade.drain;
        let mut signals = std::mem::replace(&mut self.signals, Signals::none());
        // The receiver is moved into the task that refuses orders; this one takes its place.
        let (_nobody, none) = mpsc::channel(1);
        let orders = std::mem::replace(&mut self.orders, none);
        self.process_status.drain();
        self.probes = None;
        self.keepers.suspend();
        self.membership.pass_on();
        self.key_sharing.suspend();
        let api = Api {
            view: Arc::clone(self.admin.view()),
        };
        let mut asked = JoinSet::new();
        let successor = to.link.as_ref().and_then(|link| link.end().ok());
        if let Some(link) = to.link {
            asked.spawn(serve_successor(link, api));
        }
        let mut refusing = JoinSet::new();
        refusing.spawn(refuse(orders));
        let totals = self.totals();
        tracing::info!(
            tunnels = totals.tunnels_open,
            streams = totals.streams_open,
            over = over.map(|over| tracing::field::display(humantime::format_duration(over))),
            "draining; the new process accepts connections now"
        );
        let why = tokio::select! {
            biased;
            why = stop_requested(&mut signals, stops, successor.as_ref()) => why,
            () = successor_gone(&mut asked) => DrainEnd::SuccessorGone,
            () = self.wind_down(over, shutdown.close_code) => DrainEnd::Drained,
        };
        match why {
            DrainEnd::Drained => {}
            DrainEnd::StopRequested => {
                self.signals = signals;
                let exit = self.stop_by(shutdown, successor).await;
                if stops && exit == Exit::Graceful {
                    last_of_the_service(&mut asked, shutdown).await;
                }
                return exit;
            }
            // `stop_by` reports to systemd again, although the drain is short.
            DrainEnd::SuccessorGone => {
                return self
                    .stop_by(
                        Shutdown {
                            delay: Duration::ZERO,
                            grace: SUCCESSOR_GONE_GRACE.min(shutdown.grace),
                            ..shutdown
                        },
                        None,
                    )
                    .await;
            }
        }
        // The operator who asked for the upgrade may still be reading the response.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.admin.retired()).await;
        self.log_totals(Exit::Graceful);
        self.send_last_spans(&mut signals).await;
        Exit::Graceful
    }

    /// Sends the spans that are left, unless a signal asks this process not to wait.
    async fn send_last_spans(&mut self, signals: &mut Signals) {
        tokio::select! {
            () = self.span_exporter.finish() => {}
            () = signals.stop() => {
                tracing::info!("asked to stop at once; the last spans are not sent");
            }
        }
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
        // During the delay, load balancers in front notice that this process reports its drain.
        let began = Instant::now();
        self.reloader.listeners().stop().await;
        // All tunnels are about to be closed: moving some of them for their endpoints' sake is pointless.
        self.evict = None;
        let left = shutdown.grace.saturating_sub(began.elapsed());
        self.wind_down(Some(left), shutdown.close_code).await;
    }

    /// Waits for requests and tunnels to end; closes those that last within `time`, if there is a bound, and cuts
    /// what is left after that.
    /// No connections are accepted any more.
    async fn wind_down(&mut self, time: Option<Duration>, code: u16) {
        let mut finished = Vec::with_capacity(self.workers.len());
        for worker in self.workers.iter() {
            let (sender, receiver) = oneshot::channel();
            // A worker that is gone has nothing left to finish.
            if worker
                .mailbox
                .send(WorkerMessage::Finish(sender))
                .await
                .is_ok()
            {
                finished.push(receiver);
            }
        }
        let mut all_finished = std::pin::pin!(async {
            for receiver in finished {
                let _ = receiver.await;
            }
        });
        let Some(time) = time else {
            return all_finished.await;
        };
        let end = Instant::now() + time;
        self.process_status.set_drain_end(SystemTime::now() + time);
        let jobs = &self.admin.view().jobs;
        let closing = jobs.close_all(time.mul_f64(CLOSING_SHARE), code).await;
        let last = end - CLOSE_TIMEOUT.min(time.mul_f64(LAST_SHARE));
        if tokio::time::timeout_at(last, &mut all_finished)
            .await
            .is_ok()
        {
            return;
        }
        // Tunnels opened since the list was made, and those that the paced job has not reached.
        closing.iter().for_each(|job| job.stop());
        let ended = Instant::now();
        self.send_to_workers(|| WorkerMessage::EndSessions(Ended::Shutdown))
            .await;
        let cut = end.max(ended + LEAST_CLOSING);
        if tokio::time::timeout_at(cut, &mut all_finished)
            .await
            .is_ok()
        {
            return;
        }
        self.send_to_workers(|| WorkerMessage::CutSessions(Ended::Shutdown))
            .await;
        if tokio::time::timeout_at(end.max(ended) + CUT_TIMEOUT, all_finished)
            .await
            .is_err()
        {
            // Clients that have their last bytes and do not close, or handshakes without a response.
            tracing::info!("some connections were still open at the end of the grace period");
        }
    }

    async fn send_to_workers(&self, message: impl Fn() -> WorkerMessage) {
        for worker in self.workers.iter() {
            // A worker that is gone needs no message.
            let _ = worker.mailbox.send(message()).await;
        }
    }

    fn totals(&self) -> Totals {
        Totals::of(self.workers.iter().map(|worker| &*worker.counters))
    }
}

/// Waits for a signal to stop, unless there was one `already`. The service manager sends one to the processes that
/// are left when the successor, its main process, has died, and that may arrive before the end of the link is
/// noticed: without a look at the link, the service would start again only after the whole grace period.
//
// A successor that was asked to stop as well, and has ended since, looks the same. That is the lesser evil: the
// tunnels of this process are closed in less time then.
async fn stop_requested(
    signals: &mut Signals,
    already: bool,
    successor: Option<&LinkEnd>,
) -> DrainEnd {
    if already {
        return DrainEnd::StopRequested;
    }
    signals.stop().await;
    if systemd::is_available() && successor.is_some_and(LinkEnd::has_come) {
        report_successor_gone();
        return DrainEnd::SuccessorGone;
    }
    DrainEnd::StopRequested
}

fn report_successor_gone() {
    tracing::error!("the new process is gone; no process accepts connections");
}

/// Waits for a signal to stop at once. After the end of its main process, the successor, the service manager
/// repeats the signal to those that are left: that is not a second one.
async fn second_stop(signals: &mut Signals, successor: Option<LinkEnd>) {
    signals.stop().await;
    if systemd::is_available() && successor.is_some_and(|link| link.has_come()) {
        tracing::info!("the service manager has repeated the signal to stop");
        signals.stop().await;
    }
}

/// Both processes were asked to stop while this one was the main process of the service, which it stays for
/// the service manager: waits for the end of the successor (which ends `asked`). If this one were gone first,
/// the manager would repeat the signal to stop, and that would cut the successor's tunnels.
async fn last_of_the_service(asked: &mut JoinSet<()>, shutdown: Shutdown) {
    if systemd::is_available() {
        let end = async { while asked.join_next().await.is_some() {} };
        let limit = shutdown.delay + shutdown.grace + CUT_TIMEOUT + 2 * CLOSE_TIMEOUT;
        let _ = tokio::time::timeout(limit, end).await;
    }
}

/// Returns if the successor is gone (which ends `asked`) and there is a service manager. The manager starts
/// the service again only when this process has exited as well, and no connection is accepted until then.
async fn successor_gone(asked: &mut JoinSet<()>) {
    while asked.join_next().await.is_some() {}
    report_successor_gone();
    if !systemd::is_available() {
        std::future::pending().await
    }
}

/// Refuses orders that only the process that accepts connections can execute.
async fn refuse(mut orders: mpsc::Receiver<ControlCommand>) {
    while let Some(order) = orders.recv().await {
        let fault = || {
            ApiError::conflict(
                "this generation is draining; ask the process that accepts connections",
            )
        };
        // The operator may have stopped waiting.
        match order {
            ControlCommand::Plan(done) => drop(done.send(Err(fault()))),
            ControlCommand::Reload(_, done) => drop(done.send(Err(fault()))),
            ControlCommand::Listener(_, done) => drop(done.send(Err(fault()))),
            ControlCommand::Upgrade(_, done) => drop(done.send(Err(fault()))),
            ControlCommand::Renew(_, done) => drop(done.send(Err(fault()))),
            ControlCommand::TryCertificate(_, done) => drop(done.send(Err(fault()))),
        }
    }
}
