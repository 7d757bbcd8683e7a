//! The interface to the service manager: notifications (`sd_notify(3)`), passed and stored sockets. Without a
//! manager it does nothing.
//!
//! `server` decides when to notify.

pub mod passed_sockets;
mod fd_store;

pub use self::fd_store::{keep_open, release};

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// Whether another process speaks for the service: then this one sends no notifications.
static MUTED: AtomicBool = AtomicBool::new(false);

/// Whether there is a service manager to notify.
pub fn is_available() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The time within which the manager expects [`feed_watchdog`], before it takes the process for dead; `None`
/// without a watchdog.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|every| !every.is_zero())
}

/// Reports that the service is up, or that a reload is over.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Sends the status line.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Notifies the watchdog that the service works.
pub fn feed_watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// Reports that a reload begins. [`ready`] must follow, whatever the result.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// Reports that the service accepts nothing new and is about to end.
pub fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Stops notifications until [`unmute`]: another process is the service for now.
pub fn mute() {
    MUTED.store(true, Ordering::Relaxed);
}

/// Allows notifications: this process is the service.
pub fn unmute() {
    MUTED.store(false, Ordering::Relaxed);
}

/// Reports that process `pid` is the service from now on, and stops notifications of this one.
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
