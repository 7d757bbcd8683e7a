//! Handing over to a new process: the part of the one that is succeeded. `succession` has the whole
//! exchange.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use super::succession::{Estate, STEP_WITHIN, Successor, Word};
use super::{Process, blocking};
use crate::admin::fault::Fault;
use crate::admin::generations::Older;
use crate::admin::identity::{Identity, shown};
use crate::handover::Channel;
use crate::handover::link::Link;
use crate::net::listen::Bound;
use crate::systemd;

/// Why there is no successor.
#[derive(Debug)]
enum UpgradeError {
    /// It may not be.
    Forbidden(String),
    /// Its program cannot be run.
    Run(PathBuf, io::Error),
    /// It has told what is wrong.
    Failed(Vec<String>),
    /// It has ended, or has not said anything in time.
    Silent(io::Error),
    /// It is too old or too new.
    Otherwise,
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(why) => f.write_str(why),
            Self::Run(binary, error) => write!(f, "cannot run `{}`: {error}", binary.display()),
            Self::Failed(_) => f.write_str("the new process does not start"),
            Self::Silent(error) => write!(f, "the new process does not answer: {error}"),
            Self::Otherwise => f.write_str("the new process speaks otherwise: restart instead"),
        }
    }
}

impl UpgradeError {
    fn details(&self) -> Vec<String> {
        match self {
            Self::Failed(lines) => lines.clone(),
            _ => Vec::new(),
        }
    }
}

/// What came of an upgrade.
#[derive(Debug)]
pub(super) struct Succeeded {
    /// Who serves now.
    pub(super) by: Identity,
    /// The way on which it asks; none if it is gone already.
    pub(super) link: Option<Link>,
}

/// A new process that has not taken over yet.
struct Candidate {
    channel: Channel,
    child: Child,
    /// Of tidegate, as it says.
    version: String,
}

impl Candidate {
    /// Runs `binary`, and waits until it has read the configuration.
    fn start(binary: &Path, config: &Path) -> Result<Self, UpgradeError> {
        let cannot = |error| UpgradeError::Run(binary.to_owned(), error);
        let mut command = Command::new(binary);
        command.args(["run", "--config"]).arg(config);
        // It is for this process: the new one is told by systemd itself.
        command.env_remove("WATCHDOG_PID");
        let channel = Channel::to(&mut command).map_err(cannot)?;
        channel.set_patience(STEP_WITHIN).map_err(cannot)?;
        let child = command.spawn().map_err(cannot)?;
        drop(command);
        let candidate = Self {
            channel,
            child,
            version: String::new(),
        };
        match candidate.hear() {
            Ok(Successor::Hello { protocol, version }) if Successor::is_understood(protocol) => {
                Ok(Self {
                    version,
                    ..candidate
                })
            }
            Ok(_) => Err(candidate.give_up(UpgradeError::Otherwise)),
            Err(error) => Err(candidate.give_up(error)),
        }
    }

    /// Hands over, and waits until it serves.
    fn hand(self, estate: &Estate, along: &Along) -> Result<Self, UpgradeError> {
        let handed = || {
            self.send(estate, &along.descriptors())?;
            match self.hear()? {
                Successor::Prepared => {}
                _ => return Err(UpgradeError::Otherwise),
            }
            self.send(&Word::Go, &[])?;
            match self.hear()? {
                Successor::Serving => Ok(()),
                _ => Err(UpgradeError::Otherwise),
            }
        };
        match handed() {
            Ok(()) => Ok(self),
            Err(error) => Err(self.give_up(error)),
        }
    }

    fn send(
        &self,
        message: &impl serde::Serialize,
        along: &[BorrowedFd<'_>],
    ) -> Result<(), UpgradeError> {
        let sent = self.channel.send(message, along);
        // It may have said why before it went.
        sent.map_err(|error| match self.hear() {
            Err(UpgradeError::Failed(lines)) => UpgradeError::Failed(lines),
            _ => UpgradeError::Silent(error),
        })
    }

    fn hear(&self) -> Result<Successor, UpgradeError> {
        match self.channel.receive() {
            Ok((Successor::Failed { lines }, _)) => Err(UpgradeError::Failed(lines)),
            Ok((says, _)) => Ok(says),
            Err(error) => Err(UpgradeError::Silent(error)),
        }
    }

    /// It has not taken over, and must not do so later.
    fn give_up(mut self, error: UpgradeError) -> UpgradeError {
        let _ = self.child.kill();
        let _ = self.child.wait();
        error
    }
}

/// What goes along with an estate.
struct Along {
    sockets: Vec<Arc<Bound>>,
    passed: Vec<std::os::fd::OwnedFd>,
    older: Vec<Arc<Older>>,
}

impl Along {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let sockets = self.sockets.iter().map(|it| it.as_fd());
        let passed = self.passed.iter().map(AsFd::as_fd);
        let older = self.older.iter().map(|it| it.link().socket());
        sockets.chain(passed).chain(older).collect()
    }
}

impl Process {
    /// Hands over to a new process, of `binary` or of the program that this one was started with. When
    /// that serves, this one accepts nothing any more.
    ///
    /// # Errors
    /// [`Fault`]; what ran before runs on.
    pub(super) async fn upgrade(&mut self, binary: Option<PathBuf>) -> Result<Succeeded, Fault> {
        let binary = binary.unwrap_or_else(|| self.program.clone());
        tracing::info!(binary = %binary.display(), "handing over to a new process");
        match self.hand_over(&binary).await {
            Ok(done) => Ok(done),
            Err(error) => {
                let details = error.details();
                for line in &details {
                    tracing::error!(error = line, "upgrade failed");
                }
                tracing::error!(%error, "upgrade failed: what ran before runs on");
                let fault =
                    Fault::conflict(format!("not upgraded, what ran before runs on: {error}"));
                Err(fault.with(details))
            }
        }
    }

    async fn hand_over(&mut self, binary: &Path) -> Result<Succeeded, UpgradeError> {
        self.may_upgrade()?;
        let (program, config) = (binary.to_owned(), self.reloader.path().to_owned());
        let candidate = blocking(move || Candidate::start(&program, &config)).await?;
        let view = Arc::clone(self.operators.view());
        view.handing_over.store(true, Ordering::Relaxed);
        let succeeded = self.hand_estate(candidate).await;
        view.handing_over.store(false, Ordering::Relaxed);
        succeeded
    }

    /// Hands over all that there is, and steps back.
    async fn hand_estate(&mut self, candidate: Candidate) -> Result<Succeeded, UpgradeError> {
        let (estate, along) = self.estate();
        let mut candidate = blocking(move || candidate.hand(&estate, &along)).await?;
        if let Ok(Some(status)) = candidate.child.try_wait() {
            let error = io::Error::other(format!("it has ended: {status}"));
            return Err(UpgradeError::Silent(error));
        }
        let view = self.operators.view();
        let identity = Identity {
            generation: view.generation + 1,
            pid: candidate.child.id(),
            version: candidate.version,
            started: shown(SystemTime::now()),
        };
        // First: what the new one says counts only then.
        systemd::succeeded_by(identity.pid);
        self.manager = None;
        self.reloader.listeners().leave().await;
        self.operators.retire();
        // It must not look to them as if somebody were there for them when that one is not.
        self.operators.view().generations.leave();
        self.operators.tell(&mut self.reloader);
        let left = candidate.channel.send(&Word::Left, &[]);
        let link = left.and_then(|()| candidate.channel.into_socket());
        let link = link.and_then(Link::new);
        let link = link.inspect_err(|error| tracing::error!(%error, "the new process is gone"));
        let (generation, pid) = (identity.generation, identity.pid);
        tracing::info!(generation, pid, "handed over");
        // Nobody waits for the child: how it ends is for the service manager to hear, whose it will be.
        Ok(Succeeded {
            by: identity,
            link: link.ok(),
        })
    }

    fn may_upgrade(&self) -> Result<(), UpgradeError> {
        if std::process::id() == 1 {
            return Err(UpgradeError::Forbidden(
                "this is process 1: when it leaves, the system ends all others; replace the container"
                    .to_owned(),
            ));
        }
        let most = self.reloader.server().upgrade.max_generations;
        let older = self.operators.view().generations.all();
        if older.len() + 1 < most {
            return Ok(());
        }
        let Some(oldest) = older.first() else {
            return Err(UpgradeError::Forbidden(
                "`server.upgrade.max_generations` is 1".to_owned(),
            ));
        };
        let (number, tunnels) = (oldest.identity.generation, oldest.glance().tunnels);
        Err(UpgradeError::Forbidden(format!(
            "generation {number} still drains {tunnels} tunnels, and \
             `server.upgrade.max_generations` is {most}: wait, or close them by \
             `tidegate close --generation {number} --all --over 1m --yes`"
        )))
    }

    fn estate(&mut self) -> (Estate, Along) {
        let view = Arc::clone(self.operators.view());
        let older = view.generations.all();
        let listeners = self.reloader.listeners();
        let handed = listeners.hand_over_sockets().into_iter();
        let (places, sockets) = handed.chain(self.operators.hand_over()).unzip();
        let listeners = self.reloader.listeners();
        let (names, passed) = listeners.passed().hand_over().into_iter().unzip();
        let estate = Estate {
            from: view.identity(),
            sockets: places,
            passed: names,
            older: older.iter().map(|it| it.identity.clone()).collect(),
            tickets: listeners.hand_over_tickets(),
            drained: listeners.hand_over_drained(),
            upstreams: self.reloader.known().hand_over(Instant::now()),
        };
        let along = Along {
            sockets,
            passed,
            older,
        };
        (estate, along)
    }
}
