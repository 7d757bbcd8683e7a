//! Orders from operators: reload, plan a reload, drain a listener, upgrade.

use std::sync::Arc;

use super::errors::ReloadError;
use super::listeners::ListenerDrainError;
use super::process::Process;
use super::reload::{ReloadOutcome, Source};
use super::upgrade::in_progress;
use crate::admin::command::{self, ControlCommand, SteerListener};
use crate::admin::error::ApiError;
use crate::admin::reload_plan::{self, Guard, ReloadPlan};
use crate::config::Loaded;
use crate::displace::live_tunnels::LiveTunnels;
use crate::systemd;

impl Process {
    /// Executes an order. Its result is dropped if the operator no longer waits for it.
    pub(super) async fn execute(&mut self, order: ControlCommand) {
        // What it changes might be lost with this process.
        let is_upgrading = self.upgrade.is_some();
        match order {
            ControlCommand::Plan(done) => {
                let loaded = self.load(Source::File).await;
                let planned = loaded.map(|loaded| self.plan(&loaded));
                let _ = done.send(planned.map_err(|error| rejected(&error)));
            }
            ControlCommand::Renew(name, done) => drop(done.send(self.renew(&name))),
            ControlCommand::TryCertificate(name, done) => self.try_certificate(&name, done),
            ControlCommand::Reload(_, done) if is_upgrading => {
                let _ = done.send(Err(in_progress()));
            }
            ControlCommand::Listener(_, done) if is_upgrading => {
                let _ = done.send(Err(in_progress()));
            }
            ControlCommand::Reload(guard, done) => {
                let _ = done.send(self.reload_if(guard).await);
            }
            // The order has timed out for the operator: executing it now would be a surprise.
            ControlCommand::Listener(_, done) if done.is_closed() => {}
            ControlCommand::Upgrade(_, done) if done.is_closed() => {}
            ControlCommand::Listener(steer, done) => {
                let _ = done.send(self.set_listener_drained(&steer).await);
            }
            ControlCommand::Upgrade(binary, done) => self.begin_upgrade(binary, Some(done)),
        }
    }

    /// Drains a listener, or puts it back into service.
    async fn set_listener_drained(&mut self, steer: &SteerListener) -> Result<(), ApiError> {
        let SteerListener {
            listener,
            is_drained,
        } = steer;
        let listeners = self.reloader.listeners();
        let result = match is_drained {
            true => listeners.drain_listener(listener).await,
            false => listeners.undrain_listener(listener).await,
        };
        result.map_err(|error| match error {
            ListenerDrainError::Unknown { .. } => ApiError::not_found(error.to_string()),
            ListenerDrainError::Passed(_) => ApiError::conflict(error.to_string()),
            ListenerDrainError::Listen(_) => {
                ApiError::conflict(format!("it stays drained: {error}"))
            }
        })?;
        match is_drained {
            true => tracing::info!(listener, "listener drained by an operator"),
            false => tracing::info!(listener, "listener put back into service by an operator"),
        }
        self.admin.publish(&mut self.reloader);
        Ok(())
    }

    /// Reloads, unless that would displace more tunnels than the operator allows.
    async fn reload_if(&mut self, guard: Guard) -> Result<command::ReloadResponse, ApiError> {
        systemd::reloading();
        self.reloader.reopen_logs();
        let result = match self.load(Source::File).await {
            Ok(loaded) => {
                if let Err(fault) = guard.check(&self.plan(&loaded)) {
                    tracing::warn!(error = %fault, "reload refused");
                    // systemd knows that a reload began, and waits for its end.
                    systemd::ready(&self.status());
                    return Err(fault);
                }
                self.reloader.apply(loaded).await
            }
            Err(error) => Err(error),
        };
        // Published before the response, so that the operator's next request shows the new state.
        self.reloaded(&result).await;
        let done = result.map_err(|error| rejected(&error))?;
        let loaded = self.reloader.loaded();
        let waiting = loaded.restart_warnings();
        Ok(command::ReloadResponse {
            certificates_only: done == ReloadOutcome::Certificates,
            warnings: loaded.warnings.iter().cloned().chain(waiting).collect(),
        })
    }

    fn plan(&self, loaded: &Loaded) -> ReloadPlan {
        let counters = self
            .workers
            .iter()
            .map(|worker| Arc::clone(&worker.counters));
        let live = LiveTunnels::of(&counters.collect::<Vec<_>>());
        let files = self.reloader.changed_files(loaded);
        let running = reload_plan::Current {
            sources: &self.reloader.loaded().sources,
            snapshot: &self.reloader.snapshot(),
            live: &live,
            needs_restart: &self.reloader.at_next_start(&loaded.config),
        };
        reload_plan::plan(loaded, files, &running)
    }
}

fn rejected(error: &ReloadError) -> ApiError {
    ApiError::conflict("configuration rejected; the previous one stays in effect")
        .with_details(error.lines())
}
