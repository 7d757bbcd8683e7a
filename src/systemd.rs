//! What the service manager tells tidegate, and is told (`sd_notify(3)`); silent where there is none.
//!
//! Owns the words; when they are said is `server`'s business.

pub mod passed;
mod store;

pub use self::store::{keep_open, release};

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// Whether another process is the service: then it is that one that the manager hears.
static MUTED: AtomicBool = AtomicBool::new(false);

/// Whether anybody listens.
pub fn is_available() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The time after which the manager takes a process for dead of which it has not heard
/// [`feed_watchdog`]; `None` if it does not.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|every| !every.is_zero())
}

/// The service is up.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// How it is.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// The service does its work.
pub fn feed_watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// A reload begins; [`ready`] says when it is over, whatever came of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// The service takes nothing new and is on its way out.
pub fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Another process is the service for now: nothing is said before [`unmute`].
pub fn mute() {
    MUTED.store(true, Ordering::Relaxed);
}

/// This process is the service.
pub fn unmute() {
    MUTED.store(false, Ordering::Relaxed);
}

/// From now on the process with this number is the service, and speaks for it.
pub fn succeeded_by(pid: u32) {
    notify(&[NotifyState::MainPid(pid)]);
    mute();
}

fn notify(states: &[NotifyState<'_>]) {
    if MUTED.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
