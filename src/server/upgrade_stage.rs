//! The stages of an upgrade, and what ends each of them.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::blocking::blocking;
use crate::admin::error::ApiError;
use crate::handover::channel::Interrupt;
use crate::handover::identity::Identity;
use crate::handover::predecessor::{SettlingSuccessor, SuccessorProcess, UpgradeError};

/// Where the result of an upgrade goes, if an operator has asked for it.
pub(super) type UpgradeResult = oneshot::Sender<Result<Identity, ApiError>>;

/// A stage that runs on a blocking thread.
pub(super) type StageTask = JoinHandle<Result<SuccessorProcess, UpgradeError>>;

/// How long a start may take. Its messages have deadlines of their own, but running a program from a dead
/// mount has none.
const START_TIMEOUT: Duration = Duration::from_secs(35);

/// How long the exchange of the state may take: two messages are awaited.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(65);

/// How long the end of a new process is waited for.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(1);

/// An upgrade in progress.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) stage: UpgradeStage,
    /// Ends the new process, until that accepts connections.
    pub(super) interrupt: Interrupt,
    pub(super) done: Option<UpgradeResult>,
    /// A reload was asked for: the new process may have read the files before.
    pub(super) reload: bool,
}

#[derive(Debug)]
pub(super) enum UpgradeStage {
    /// The new process reads its configuration, until this time at the latest.
    Starting(StageTask, Instant),
    /// It takes over the state, until it accepts connections, or until this time at the latest.
    HandingOver(StageTask, Instant),
    /// It accepts connections. This process does not, but may again until this time.
    Settling(SettlingSuccessor, Instant),
}

/// What has happened to an upgrade.
#[derive(Debug)]
pub(super) enum UpgradeStep {
    Started(Result<SuccessorProcess, UpgradeError>),
    Serving(Result<SuccessorProcess, UpgradeError>),
    /// The stage took too long.
    Late,
    /// The settling time is over, or the new process asks for its end.
    Settled,
    /// The new process is gone.
    Gone,
}

impl Upgrade {
    /// This process is asked to stop. Returns the upgrade if the new process accepts connections already;
    /// otherwise that is ended.
    pub(super) async fn stop(self) -> Option<Self> {
        match self.stage {
            UpgradeStage::Settling(..) => Some(self),
            UpgradeStage::Starting(task, _) => {
                give_up(task, &self.interrupt).await;
                None
            }
            UpgradeStage::HandingOver(mut task, _) => {
                if !task.is_finished() {
                    self.interrupt.end();
                }
                let ended = timeout(END_TIMEOUT, joined(&mut task)).await;
                // The thread has ended the new process, unless that began to accept just now.
                let successor = ended.ok()?.ok()?.settling().ok()?;
                let stage = UpgradeStage::Settling(successor, Instant::now());
                Some(Self { stage, ..self })
            }
        }
    }
}

impl UpgradeStage {
    /// The first stage.
    pub(super) fn starting(task: StageTask) -> Self {
        Self::Starting(task, Instant::now() + START_TIMEOUT)
    }

    /// The second stage.
    pub(super) fn handing_over(task: StageTask) -> Self {
        Self::HandingOver(task, Instant::now() + HANDOVER_TIMEOUT)
    }

    /// Whether the new process accepted connections and is gone.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Settling(successor, _) => successor.is_gone(),
            Self::Starting(..) | Self::HandingOver(..) => false,
        }
    }
}

/// Ends a stage, and the new process.
pub(super) async fn give_up(mut task: StageTask, interrupt: &Interrupt) {
    interrupt.end();
    let end = async {
        // The process may have reported just before.
        if let Ok(successor) = joined(&mut task).await {
            blocking(move || successor.end()).await;
        }
    };
    // A thread that is blocked elsewhere than on the channel is not waited for: once it goes on, it finds the
    // channel at its end, and ends the process by itself.
    let _ = timeout(END_TIMEOUT, end).await;
}

/// Waits for the next step of an upgrade, if there is one. Cancel safe.
pub(super) async fn next_step(upgrade: &mut Option<Upgrade>) -> UpgradeStep {
    let Some(upgrade) = upgrade else {
        return std::future::pending().await;
    };
    match &mut upgrade.stage {
        UpgradeStage::Starting(task, until) => {
            let started = timeout_at(*until, joined(task)).await;
            started.map_or(UpgradeStep::Late, UpgradeStep::Started)
        }
        UpgradeStage::HandingOver(task, until) => {
            let serving = timeout_at(*until, joined(task)).await;
            serving.map_or(UpgradeStep::Late, UpgradeStep::Serving)
        }
        UpgradeStage::Settling(successor, until) => tokio::select! {
            // An end that is known already counts more than the time.
            biased;
            asked = successor.asks_to_leave() => match asked {
                Ok(()) => UpgradeStep::Settled,
                Err(_) => UpgradeStep::Gone,
            },
            () = tokio::time::sleep_until(*until) => UpgradeStep::Settled,
        },
    }
}

/// Waits for a stage that runs on a blocking thread. Cancel safe.
pub(super) async fn joined<T>(
    task: &mut JoinHandle<Result<T, UpgradeError>>,
) -> Result<T, UpgradeError> {
    match task.await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::PipeReader;
    use std::path::Path;
    use std::process::Command;
    use std::sync::mpsc::{Receiver, sync_channel};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use serde_json::{Value, json};

    use super::*;
    use crate::handover::predecessor::SuccessorCommand;

    const STAYS: &str = "exec sleep 30";

    /// Closes the channel before the pipe: an exit may close them in either order.
    const ENDS: &str = "exec <&-";

    /// Starts its argument with the channel, and ends as that does.
    const LAUNCHER: &str = "exec 3<&0 </dev/null; sh -c \"$0\" <&3 3<&- & exec 3<&-; wait $!";

    /// Reports its pid, and waits for permission.
    const LAUNCHED: &str = "\
        send() { printf \"\\\\0\\\\0\\\\0\\\\$(printf %o ${#1})\\\\0\\\\0\\\\0\\\\0%s\" \"$1\" >&0; }\n\
        send '{\"says\":\"launched\",\"pid\":'$$'}'\n\
        [ $(head -c 13 | wc -c) = 13 ] || exit\n";

    /// A new process that reports these things, and then does what `then` says. The pipe ends with it.
    fn process(reports: &[Value], then: &str) -> (SuccessorCommand, PipeReader) {
        let mut script = LAUNCHED.to_owned();
        for message in reports {
            script += &format!("send '{message}'\n");
        }
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LAUNCHER, &(script + then)])
            .stdout(writer);
        let command = SuccessorCommand::of(Path::new("sh"), command).unwrap();
        (command, reader)
    }

    fn hello() -> Value {
        json!({"says": "hello", "protocol": 1, "version": "1", "settles": true})
    }

    /// An upgrade whose first stage begins when `gate` has a message.
    fn starting(command: SuccessorCommand, gate: Receiver<()>) -> Upgrade {
        let interrupt = command.interrupt().unwrap();
        let task = tokio::task::spawn_blocking(move || {
            gate.recv().unwrap();
            command.start()
        });
        Upgrade {
            interrupt,
            stage: UpgradeStage::starting(task),
            done: None,
            reload: false,
        }
    }

    fn started(command: SuccessorCommand) -> Upgrade {
        let (open, gate) = sync_channel(1);
        open.send(()).unwrap();
        starting(command, gate)
    }

    /// An upgrade whose new process has just reported that it accepts connections.
    async fn serving(command: SuccessorCommand) -> Upgrade {
        let mut upgrade = Some(started(command));
        let UpgradeStep::Started(Ok(successor)) = next_step(&mut upgrade).await else {
            unreachable!("it says hello");
        };
        let task = tokio::task::spawn_blocking(move || Ok(successor));
        let stage = UpgradeStage::handing_over(task);
        let upgrade = upgrade.unwrap();
        finished(&stage).await;
        Upgrade { stage, ..upgrade }
    }

    async fn settling(command: SuccessorCommand) -> SettlingSuccessor {
        let upgrade = serving(command).await.stop().await;
        let UpgradeStage::Settling(successor, _) = upgrade.unwrap().stage else {
            unreachable!("it serves");
        };
        successor
    }

    async fn finished(stage: &UpgradeStage) {
        while let UpgradeStage::Starting(task, _) | UpgradeStage::HandingOver(task, _) = stage
            && !task.is_finished()
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until the new process is gone.
    async fn is_over(pipe: PipeReader) {
        let end = blocking(move || std::io::read_to_string(pipe));
        let read = timeout(Duration::from_secs(10), end).await;
        assert_eq!(read.unwrap().unwrap(), "");
    }

    #[tokio::test]
    async fn a_stop_ends_a_new_process_that_has_no_state_yet() {
        let (command, pipe) = process(&[hello()], STAYS);
        let upgrade = started(command);
        finished(&upgrade.stage).await;
        assert!(upgrade.stop().await.is_none());
        is_over(pipe).await;
    }

    #[tokio::test]
    async fn a_stop_that_no_message_can_carry_is_a_signal() {
        let (command, pipe) = process(&[hello()], STAYS);
        let upgrade = serving(command).await;
        upgrade.interrupt.end();
        let UpgradeStage::Settling(successor, _) = upgrade.stop().await.unwrap().stage else {
            unreachable!("it serves");
        };
        assert!(successor.leave(true).await.is_err());
        is_over(pipe).await;
    }

    #[tokio::test]
    async fn a_new_process_that_is_gone_is_not_left_to() {
        let (command, pipe) = process(&[hello(), json!({"says": "leave"})], ENDS);
        let mut successor = settling(command).await;
        is_over(pipe).await;
        successor.asks_to_leave().await.unwrap();
        let stage = UpgradeStage::Settling(successor, Instant::now());
        assert!(stage.is_gone());

        let (command, _pipe) = process(&[hello()], STAYS);
        let successor = settling(command).await;
        assert!(!successor.is_gone());
        blocking(move || successor.give_up()).await;
    }

    #[tokio::test]
    async fn a_new_process_whose_launcher_is_gone_is_gone_once_it_is_given_up() {
        let (command, pipe) = process(&[hello()], STAYS);
        let successor = settling(command).await;
        blocking(move || successor.release().give_up()).await;
        let mut ends = [PollFd::new(&pipe, PollFlags::empty())];
        poll(&mut ends, Some(&Timespec::default())).unwrap();
        assert!(ends[0].revents().contains(PollFlags::HUP));
    }

    #[tokio::test]
    async fn an_end_counts_more_than_the_settling_time() {
        // Without an order, half of these would take it for settled.
        for _ in 0..10 {
            let (command, pipe) = process(&[hello()], ENDS);
            let upgrade = serving(command).await.stop().await.unwrap();
            is_over(pipe).await;
            let step = next_step(&mut Some(upgrade)).await;
            assert!(matches!(step, UpgradeStep::Gone), "{step:?}");
        }
    }

    #[tokio::test]
    async fn a_stage_that_does_not_come_back_is_given_up() {
        let (command, pipe) = process(&[hello()], STAYS);
        let (open, gate) = sync_channel(1);
        let mut upgrade = starting(command, gate);
        let UpgradeStage::Starting(task, _) = upgrade.stage else {
            unreachable!("it starts");
        };
        upgrade.stage = UpgradeStage::Starting(task, Instant::now());
        let mut upgrade = Some(upgrade);
        assert!(matches!(next_step(&mut upgrade).await, UpgradeStep::Late));
        let Some(Upgrade {
            stage: UpgradeStage::Starting(task, _),
            interrupt,
            ..
        }) = upgrade
        else {
            unreachable!("it starts");
        };
        // What it starts after that is ended.
        give_up(task, &interrupt).await;
        open.send(()).unwrap();
        is_over(pipe).await;
    }
}
