//! The service manager's file descriptor store: it keeps listening sockets open while the service is dead,
//! and passes them to the service when it has started it again (`sd_pid_notify_with_fds(3)`).

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use sd_notify::NotifyState;

use super::{MUTED, is_available, notify};

/// The prefix of names of sockets in the store.
const OURS: &str = "listener=";

/// Stores the sockets of this address, if the service has a store (`FileDescriptorStoreMax=`).
pub fn keep_open(address: &str, sockets: &[BorrowedFd<'_>]) {
    // A successor is muted until it is the service: it stores its sockets then.
    if !is_available() || MUTED.load(Ordering::Relaxed) {
        return;
    }
    let name = name(address);
    let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
    if let Err(error) = sd_notify::notify_with_fds(&states, sockets) {
        tracing::warn!(%error, "cannot store sockets with the service manager");
    }
}

/// Removes the sockets of this address from the store.
pub fn release(address: &str) {
    notify(&[
        NotifyState::FdStoreRemove,
        NotifyState::FdName(&name(address)),
    ]);
}

/// The name for an address, without colons: they separate names.
fn name(address: &str) -> String {
    let escaped = address.replace('%', "%25").replace(':', "%3A");
    format!("{OURS}{escaped}")
}

/// The address of a name; `None` if the name is not one of the store's.
pub(super) fn address(name: &str) -> Option<String> {
    let escaped = name.strip_prefix(OURS)?;
    Some(escaped.replace("%3A", ":").replace("%25", "%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_as_names() {
        for given in ["0.0.0.0:443", "[::]:443", "unix:/run/50%3A.sock"] {
            let name = name(given);
            assert!(!name.contains(':'), "{name}");
            assert_eq!(address(&name).as_deref(), Some(given));
        }
        assert_eq!(address("web"), None);
    }
}
