//! The manager's store of descriptors: listening sockets that it keeps while the service is dead, and
//! passes to it when it has started it again (`sd_pid_notify_with_fds(3)`).

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use sd_notify::NotifyState;

use super::{MUTED, is_available, notify};

/// What the names of ours begin with.
const OURS: &str = "listener=";

/// Has the manager keep the sockets of this address, if it keeps any (`FileDescriptorStoreMax=`).
pub fn keep_open(address: &str, sockets: &[BorrowedFd<'_>]) {
    if !is_available() || MUTED.load(Ordering::Relaxed) {
        return;
    }
    let name = name(address);
    let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
    if let Err(error) = sd_notify::notify_with_fds(&states, sockets) {
        tracing::warn!(%error, "cannot store sockets with the service manager");
    }
}

/// Has it keep them no longer.
pub fn release(address: &str) {
    notify(&[
        NotifyState::FdStoreRemove,
        NotifyState::FdName(&name(address)),
    ]);
}

/// No name has a colon in it: they stand between names.
fn name(address: &str) -> String {
    let escaped = address.replace('%', "%25").replace(':', "%3A");
    format!("{OURS}{escaped}")
}

/// The address that a name stands for, if it is one of ours.
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
