//! Upgrade: handing over to a new process. `handover` describes the whole exchange.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use super::blocking::blocking;
use super::process::Process;
use crate::admin::error::ApiError;
use crate::handover::identity::{Identity, shown};
use crate::handover::predecessor::{HandedOver, PassedDescriptors, SuccessorProcess, UpgradeError};
use crate::handover::state::HandoverState;
use crate::systemd;

impl Process {
    /// Hands over to a new process that runs `binary`, or the program that this one was started with. Once
    /// the new process accepts connections, this one has stopped accepting.
    ///
    /// # Errors
    /// [`ApiError`]: this process stays in service.
    pub(super) async fn upgrade(
        &mut self,
        binary: Option<PathBuf>,
    ) -> Result<HandedOver, ApiError> {
        let binary = binary.unwrap_or_else(|| self.program.clone());
        tracing::info!(binary = %binary.display(), "starting a new process to hand over to");
        match self.hand_over(&binary).await {
            Ok(done) => Ok(done),
            Err(error) => {
                let details = error.details();
                for line in &details {
                    tracing::error!(error = line, "upgrade failed");
                }
                tracing::error!(%error, "upgrade failed; this process stays in service");
                let fault = ApiError::conflict(format!(
                    "upgrade failed, this process stays in service: {error}"
                ));
                Err(fault.with_details(details))
            }
        }
    }

    async fn hand_over(&mut self, binary: &Path) -> Result<HandedOver, UpgradeError> {
        self.may_upgrade()?;
        let (program, config) = (binary.to_owned(), self.reloader.path().to_owned());
        let successor = blocking(move || SuccessorProcess::start(&program, &config)).await?;
        let view = Arc::clone(self.admin.view());
        // From the copy of the state until the outcome is known, a change by an operator would be lost.
        view.handing_over.store(true, Ordering::Relaxed);
        let succeeded = self.hand_state(successor).await;
        view.handing_over.store(false, Ordering::Relaxed);
        succeeded
    }

    /// Hands over the state, and stops accepting.
    async fn hand_state(
        &mut self,
        successor: SuccessorProcess,
    ) -> Result<HandedOver, UpgradeError> {
        let (state, descriptors) = self.handover_state();
        let mut successor = blocking(move || successor.hand_over(&state, &descriptors)).await?;
        // Last chance to stay in service: a successor that dies right after `serving` serves no client.
        if let Some(status) = successor.ended() {
            let error = io::Error::other(format!("it exited: {status}"));
            return Err(UpgradeError::NoResponse(error));
        }
        let view = self.admin.view();
        let identity = Identity {
            generation: view.generation + 1,
            pid: successor.pid(),
            version: successor.version().to_owned(),
            started: shown(SystemTime::now()),
        };
        // First: systemd ignores what the new process reports until it is the main process.
        systemd::succeeded_by(identity.pid);
        // Before the listeners stop, so that no late message of this process passes for the service's.
        self.notifier = None;
        self.reloader.listeners().stop_for_successor().await;
        self.admin.retire();
        // Older generations are followed by the successor from now on: with two links open they would not
        // notice its death.
        self.admin.view().generations.leave();
        self.admin.publish(&mut self.reloader);
        let link = successor.leave();
        let link = link
            .inspect_err(|error| tracing::error!(%error, "lost the connection to the new process"));
        let (generation, pid) = (identity.generation, identity.pid);
        tracing::info!(generation, pid, "handover complete");
        // The child is not waited for: once this process has exited, it belongs to the service manager.
        Ok(HandedOver {
            by: identity,
            link: link.ok(),
        })
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
        let (number, tunnels) = (oldest.identity.generation, oldest.counts().tunnels);
        Err(UpgradeError::NotAllowed(format!(
            "generation {number} is still draining {tunnels} tunnels, and \
             `server.upgrade.max_generations` is {limit}: wait, or close them with \
             `tidegate close --generation {number} --all --over 1m --yes`"
        )))
    }

    fn handover_state(&mut self) -> (HandoverState, PassedDescriptors) {
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
            upstreams: self.reloader.registry().hand_over(Instant::now()),
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
