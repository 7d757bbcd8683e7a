//! `tidegate top`: a running tidegate in a terminal, live.
//!
//! This file has the loop: keys, signals, responses and time go to the state, which decides what is drawn and what is
//! asked next. `state` and `endpoints` know what is shown, `keys` what a key does, `change` what an operator may
//! change, `draw` how it looks, `requests` asks the admin interface, `terminal` owns the terminal.

mod change;
mod draw;
mod endpoints;
mod filter;
mod keys;
mod requests;
mod state;
mod terminal;

use std::io;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use ratatui::crossterm::event::Event;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use self::draw::Palette;
use self::keys::KeyEffect;
use self::requests::AdminRequests;
use self::state::TopState;
use self::terminal::OwnedTerminal;
use super::failed;
use super::live::reading::Reading;
use super::live::{LiveClock, READ_INTERVAL, READ_TIMEOUT};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::{Cli, ExitStatus, err, wants_colour};

#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    #[command(flatten)]
    client: AdminClient,
}

/// Why there is nothing to see.
enum TopFailure {
    /// No tidegate to show.
    Client(ClientError),
    /// The terminal does not work.
    Terminal(io::Error),
}

/// What a signal asks for.
enum TopSignal {
    End,
    Suspend,
}

/// Shows it until a key or a signal ends this process.
pub(super) fn top(args: &TopArgs) -> ExitCode {
    if args.client.json {
        let message = "`tidegate top` has no JSON output; use `tidegate status --watch --json`";
        Cli::command()
            .error(ErrorKind::ArgumentConflict, message)
            .exit();
    }
    if !terminal::is_there() {
        err(
            "error: `tidegate top` needs a terminal for its input and output\n  \
             `tidegate status --watch` and `tidegate tunnels` also write into a pipe or a file\n",
        );
        return ExitStatus::Start.into();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run(args));
            // A name lookup may still run on a thread of its own; waiting for it would delay the exit.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(TopFailure::Terminal(error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(TopFailure::Client(failure)) => failed(&failure),
        Err(TopFailure::Terminal(error)) => {
            err(&format!("error: cannot use this terminal: {error}\n"));
            ExitStatus::Start.into()
        }
    }
}

async fn run(args: &TopArgs) -> Result<(), TopFailure> {
    let mut reader = args.client.clone();
    reader.timeout = Some(READ_TIMEOUT);
    // While the terminal is as it was: without a tidegate there is nothing to show.
    let clock = LiveClock::start();
    let first = Reading::of(&reader, &[]).await;
    let mut state = TopState::default();
    state.read(Ok(first.map_err(TopFailure::Client)?), clock.now());
    let requests = AdminRequests::new(reader, args.client.clone());
    let shown = show(state, requests, clock).await;
    shown.map_err(TopFailure::Terminal)
}

async fn show(
    mut state: TopState,
    mut requests: AdminRequests,
    clock: LiveClock,
) -> io::Result<()> {
    let mut signals = TopSignals::new()?;
    let mut terminal = OwnedTerminal::take()?;
    let mut events = terminal::events()?;
    let palette = Palette::new(wants_colour());
    let mut ticks = tokio::time::interval(READ_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one is over at once.
    ticks.tick().await;
    loop {
        terminal.draw(|frame| draw::draw(frame, &mut state, palette))?;
        let effect = tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) => keys::press(&mut state, key),
                // Of another size, it is drawn again.
                Some(Ok(_)) => KeyEffect::Draw,
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            _ = ticks.tick() => {
                requests.read(state.processes());
                KeyEffect::Draw
            }
            Some(arrival) = requests.next() => {
                state.arrive(arrival, clock.now());
                KeyEffect::Draw
            }
            signal = signals.next() => match signal {
                TopSignal::End => KeyEffect::Quit,
                TopSignal::Suspend => KeyEffect::Suspend,
            },
        };
        match effect {
            KeyEffect::Draw => {}
            KeyEffect::Quit => return Ok(()),
            KeyEffect::Suspend => terminal.suspend()?,
            KeyEffect::Change(change) => requests.change(change, state.older_generations()),
        }
        if let Some(query) = state.wanted_listing() {
            requests.list(query, state.older_generations());
        }
    }
}

/// The signals that end or suspend this process.
struct TopSignals {
    terminate: Signal,
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    suspend: Signal,
}

impl TopSignals {
    fn new() -> io::Result<Self> {
        let suspend = rustix::process::Signal::TSTP.as_raw();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            suspend: signal(SignalKind::from_raw(suspend))?,
        })
    }

    async fn next(&mut self) -> TopSignal {
        tokio::select! {
            _ = self.terminate.recv() => TopSignal::End,
            _ = self.hangup.recv() => TopSignal::End,
            _ = self.interrupt.recv() => TopSignal::End,
            _ = self.quit.recv() => TopSignal::End,
            _ = self.suspend.recv() => TopSignal::Suspend,
        }
    }
}

#[cfg(test)]
mod tests;
