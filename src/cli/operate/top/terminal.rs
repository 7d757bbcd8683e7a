//! The terminal: taken, drawn on, and given back as it was, however this process ends.
//!
//! What no process can do something about is SIGKILL: `reset` helps there.

use std::io::{self, IsTerminal, Stdout, stdin, stdout};
use std::panic;
use std::thread;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};
use rustix::process::{Signal, getpid, getsid, kill_process};
use tokio::sync::mpsc;

/// Events that wait to be handled; the thread that reads them waits if there are more.
const MAX_EVENTS: usize = 64;

/// Whether input and output are a terminal.
pub(super) fn is_there() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// A terminal in raw mode that shows its alternate screen; as it was when dropped.
pub(super) struct OwnedTerminal {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl OwnedTerminal {
    pub(super) fn take() -> io::Result<Self> {
        let earlier = panic::take_hook();
        // The message of a panic is to be read afterwards, so the terminal comes first.
        panic::set_hook(Box::new(move |panic| {
            give_back();
            earlier(panic);
        }));
        enter()?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()));
        let terminal = terminal.inspect_err(|_| give_back())?;
        Ok(Self { terminal })
    }

    pub(super) fn draw(&mut self, frame: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(frame).map(drop)
    }

    /// Gives the terminal to the shell until this process is continued. Does nothing if it leads its session, as with
    /// `ssh -t`: no shell would continue it.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        if getsid(None).is_ok_and(|leader| leader == getpid()) {
            return Ok(());
        }
        give_back();
        // Unlike SIGTSTP, it cannot be handled: this process stands still here.
        kill_process(getpid(), Signal::STOP)?;
        enter()?;
        // Nothing of what was drawn is there any more.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

impl Drop for OwnedTerminal {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, Hide).inspect_err(|_| give_back())
}

/// Restores the terminal, which may be gone: then there is nothing to restore.
fn give_back() {
    let _ = execute!(stdout(), Show, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

/// Keys and changes of the size, read by a thread that ends with the process.
pub(super) fn events() -> io::Result<mpsc::Receiver<io::Result<Event>>> {
    let (sender, receiver) = mpsc::channel(MAX_EVENTS);
    let read = move || {
        loop {
            let event = event::read();
            let is_last = event.is_err();
            if sender.blocking_send(event).is_err() || is_last {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(receiver)
}
