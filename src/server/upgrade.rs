//! Upgrade: handing over to a new process. `handover` describes the whole exchange.
//!
//! An upgrade goes on beside everything else that the process does: each of its stages ends with a step,
//! which the loop of the process awaits like any other event.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::blocking::blocking;
use super::process::Process;
use super::reload::Source;
use super::upgrade_stage::{
    END_TIMEOUT, Upgrade, UpgradeResult, UpgradeStage, UpgradeStep, give_up,
};
use crate::admin::error::ApiError;
use crate::drain::Urgency;
use crate::handover::identity::{Identity, shown};
use crate::handover::predecessor::{
    HandedOver, PassedDescriptors, SuccessorCommand, SuccessorProcess, UpgradeError,
};
use crate::handover::state::HandoverState;
use crate::systemd;

impl Process {
    /// Begins to hand over to a new process that runs `binary`, or the program that this one was started
    /// with. The result goes to `done`.
    pub(super) fn begin_upgrade(&mut self, binary: Option<PathBuf>, done: Option<UpgradeResult>) {
        if self.upgrade.is_some() {
            tracing::warn!("an upgrade is in progress already");
            if let Some(done) = done {
                let _ = done.send(Err(in_progress()));
            }
            return;
        }
        let binary = binary.unwrap_or_else(|| self.program.clone());
        tracing::info!(binary = %binary.display(), "starting a new process to hand over to");
        let command = self
            .may_upgrade()
            .and_then(|()| SuccessorCommand::new(&binary, self.reloader.path()))
            .and_then(|command| Ok((command.interrupt()?, command)));
        match command {
            Ok((interrupt, command)) => {
                let task = tokio::task::spawn_blocking(move || command.start());
                self.upgrade = Some(Upgrade {
                    stage: UpgradeStage::starting(task),
                    interrupt,
                    done,
                    reload: false,
                });
            }
            Err(error) => report_failure(&error, done),
        }
    }

    /// Reacts to a step of the upgrade; returns the link to the successor once this process has left.
    pub(super) async fn advance(&mut self, step: UpgradeStep) -> Option<HandedOver> {
        let mut upgrade = self.upgrade.take()?;
        let result = match step {
            UpgradeStep::Started(Ok(successor)) => {
                upgrade.stage = self.hand_state(successor);
                Ok(false)
            }
            UpgradeStep::Serving(Ok(successor)) => self.settle(successor, &mut upgrade).await,
            UpgradeStep::Settled => Ok(true),
            UpgradeStep::Started(Err(error)) | UpgradeStep::Serving(Err(error)) => Err(error),
            UpgradeStep::Late => Err(UpgradeError::Late),
            UpgradeStep::Gone => Err(UpgradeError::Unsettled(None)),
        };
        match result {
            // Leaving cannot be undone, and its request to leave may have been its last act.
            Ok(true) if upgrade.stage.is_gone() => {
                self.fail(upgrade, UpgradeError::Unsettled(None)).await;
                None
            }
            Ok(false) => {
                self.upgrade = Some(upgrade);
                None
            }
            Ok(true) => self.leave(upgrade, false).await,
            Err(error) => {
                self.fail(upgrade, error).await;
                None
            }
        }
    }

    /// Hands over the state, and waits until the new process accepts connections.
    fn hand_state(&mut self, successor: SuccessorProcess) -> UpgradeStage {
        // From the copy of the state until the outcome is known, a change by an operator would be lost.
        let view = Arc::clone(self.admin.view());
        view.handing_over.store(true, Ordering::Relaxed);
        let (state, descriptors) = self.handover_state(successor.settles());
        let exchange = move || successor.hand_over(&state, &descriptors);
        UpgradeStage::handing_over(tokio::task::spawn_blocking(exchange))
    }

    /// The new process accepts connections: pauses accepting for the settling time. Returns whether there is
    /// none.
    async fn settle(
        &mut self,
        successor: SuccessorProcess,
        upgrade: &mut Upgrade,
    ) -> Result<bool, UpgradeError> {
        // Last chance to go on without a pause: one that dies right after `serving` serves no client.
        if successor.is_gone() {
            let ended = tokio::time::timeout(END_TIMEOUT, blocking(move || successor.end()));
            let status = ended.await.ok().flatten();
            let how = status.map_or_else(String::new, |status| format!(": {status}"));
            let error = io::Error::other(format!("it exited{how}"));
            return Err(UpgradeError::NoResponse(error));
        }
        let settles = successor.settles() && !upgrade.reload;
        let settle = self.reloader.server().upgrade.settle;
        let settle = settle.filter(|_| settles).unwrap_or_default();
        let successor = successor.settling()?;
        self.reloader.listeners().pause().await;
        tracing::info!(
            pid = successor.pid(),
            settle = %humantime::format_duration(settle),
            "the new process accepts connections"
        );
        let until = tokio::time::Instant::now() + settle;
        upgrade.stage = UpgradeStage::Settling(successor, until);
        Ok(settle.is_zero())
    }

    /// Leaves everything to the new process, for good; with `stops`, that is to stop as well. From now on this
    /// process drains.
    async fn leave(&mut self, upgrade: Upgrade, stops: bool) -> Option<HandedOver> {
        let UpgradeStage::Settling(successor, _) = upgrade.stage else {
            return None;
        };
        let view = Arc::clone(self.admin.view());
        view.handing_over.store(false, Ordering::Relaxed);
        let identity = Identity {
            generation: view.generation + 1,
            pid: successor.pid(),
            version: successor.version().to_owned(),
            started: shown(SystemTime::now()),
        };
        // Before systemd learns of it: it looks then whether the new process is its own child.
        let successor = successor.release();
        // First: systemd ignores what the new process reports until it is the main process.
        systemd::succeeded_by(identity.pid);
        // Before the listeners stop, so that no late message of this process passes for the service's.
        self.notifier = None;
        let urgency = match self.reloader.server().upgrade.drain {
            Some(_) => Urgency::Low,
            None => Urgency::Unbounded,
        };
        let listeners = self.reloader.listeners();
        listeners.stop_for_successor(urgency).await;
        self.admin.retire();
        // Older generations are followed by the successor from now on: with two links open they would not
        // notice its death.
        view.generations.leave();
        self.admin.publish(&mut self.reloader);
        if upgrade.reload {
            successor.reload();
        }
        let link = successor.leave(stops).await;
        let link = link
            .inspect_err(|error| tracing::error!(%error, "lost the connection to the new process"));
        let (generation, pid) = (identity.generation, identity.pid);
        tracing::info!(generation, pid, "handover complete");
        if let Some(done) = upgrade.done {
            // The operator may have stopped waiting.
            let _ = done.send(Ok(identity));
        }
        Some(HandedOver { link: link.ok() })
    }

    /// Stays in service, as before the upgrade.
    async fn fail(&mut self, upgrade: Upgrade, mut error: UpgradeError) {
        // In every stage: the new process may have set options of the sockets before it said that it serves.
        self.reloader.listeners().resume().await;
        match upgrade.stage {
            UpgradeStage::Settling(successor, _) => {
                let ended = blocking(move || successor.give_up());
                let status = tokio::time::timeout(END_TIMEOUT, ended).await;
                error = UpgradeError::Unsettled(status.ok().flatten());
            }
            UpgradeStage::Starting(task, _) | UpgradeStage::HandingOver(task, _)
                if matches!(error, UpgradeError::Late) =>
            {
                give_up(task, &upgrade.interrupt).await;
            }
            _ => {}
        }
        let view = self.admin.view();
        view.handing_over.store(false, Ordering::Relaxed);
        report_failure(&error, upgrade.done);
        if upgrade.reload {
            self.reload(Source::File, Duration::ZERO).await;
        }
    }

    /// A reload is asked for: does it, or has the new process do it, if there is one. Returns the link to the
    /// successor if this process has left now.
    pub(super) async fn reload_or_pass_on(&mut self) -> Option<HandedOver> {
        let Some(upgrade) = &mut self.upgrade else {
            self.reload(Source::File, Duration::ZERO).await;
            return None;
        };
        upgrade.reload = true;
        match upgrade.stage {
            UpgradeStage::Settling(..) => self.advance(UpgradeStep::Settled).await,
            _ => None,
        }
    }

    /// This process is asked to stop. A new process that accepts connections already is to stop as well, and
    /// this one has left then; one that does not is ended.
    pub(super) async fn stop_upgrade(&mut self) -> Option<HandedOver> {
        let upgrade = self.upgrade.take()?;
        let Some(upgrade) = upgrade.stop().await else {
            tracing::warn!("upgrade abandoned: this process is asked to stop");
            return None;
        };
        self.leave(upgrade, true).await
    }

    fn may_upgrade(&self) -> Result<(), UpgradeError> {
        if std::process::id() == 1 {
            return Err(UpgradeError::NotAllowed(
                "this is process 1: when it exits, the container stops; replace the container instead"
                    .to_owned(),
            ));
        }
        let limit = self.reloader.server().upgrade.max_generations;
        let older = self.admin.view().generations.all();
        if older.len() + 1 < limit {
            return Ok(());
        }
        let Some(oldest) = older.first() else {
            return Err(UpgradeError::NotAllowed(
                "`server.upgrade.max_generations` is 1".to_owned(),
            ));
        };
        let number = oldest.identity.generation;
        let (open, kind) = match oldest.open() {
            (tunnels, 0) => (format!("{tunnels} tunnels"), ""),
            (tunnels, streams) => (
                format!("{tunnels} tunnels and {streams} streams"),
                " --kind all",
            ),
        };
        Err(UpgradeError::NotAllowed(format!(
            "generation {number} is still draining {open}, and \
             `server.upgrade.max_generations` is {limit}: wait, or close them with \
             `tidegate close --generation {number} --all{kind} --over 1m --yes`"
        )))
    }

    fn handover_state(&mut self, settles: bool) -> (HandoverState, PassedDescriptors) {
        let view = Arc::clone(self.admin.view());
        let older = view.generations.all();
        let listeners = self.reloader.listeners();
        let handed = listeners.hand_over_sockets().into_iter();
        let (places, sockets) = handed.chain(self.admin.hand_over()).unzip();
        let listeners = self.reloader.listeners();
        let (names, passed) = listeners.passed().hand_over().into_iter().unzip();
        let state = HandoverState {
            from: view.identity(),
            sockets: places,
            passed: names,
            older: older
                .iter()
                .map(|process| process.identity.clone())
                .collect(),
            tickets: listeners.hand_over_tickets(),
            drained: listeners.hand_over_drained(),
            settle: self.reloader.server().upgrade.settle.filter(|_| settles),
            revocations: Some(view.shared.revocations.hand_over()),
            upstreams: self.reloader.registry().hand_over(Instant::now()),
            limits: self.reloader.snapshot().shared_limits().hand_over(),
            fleet_instance: Some(self.membership.instance().into()),
            shared_keys: self.key_sharing.hand_over(),
        };
        let descriptors = PassedDescriptors {
            sockets,
            passed,
            older: older
                .iter()
                .map(|process| Arc::clone(process.link()))
                .collect(),
        };
        (state, descriptors)
    }
}

/// The response to what has to wait for the end of an upgrade.
pub(super) fn in_progress() -> ApiError {
    ApiError::unavailable("an upgrade is in progress; try again when it is complete")
}

fn report_failure(error: &UpgradeError, done: Option<UpgradeResult>) {
    let details = error.details();
    for line in &details {
        tracing::error!(error = line, "upgrade failed");
    }
    tracing::error!(%error, "upgrade failed; this process stays in service");
    if let Some(done) = done {
        let message = format!("upgrade failed, this process stays in service: {error}");
        // The operator may have stopped waiting.
        let _ = done.send(Err(ApiError::conflict(message).with_details(details)));
    }
}
