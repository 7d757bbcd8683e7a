//! The attacked proxy: one worker, and two endpoints, so that the endpoint of the attacker delays no
//! one else.

use std::net::SocketAddr;

use tempfile::TempDir;

use super::endpoint;
use super::rig::free_addresses;
use super::rig::peer::{Peer, Running};

/// A proxy that runs.
pub(crate) struct Proxy {
    _running: Running,
    pub(crate) address: SocketAddr,
    health: SocketAddr,
}

/// Where attackers connect to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Of tidegate's metrics and health.
    pub(crate) health: SocketAddr,
}

impl Proxy {
    pub(crate) fn start(peer: Peer) -> Self {
        let [address, health] = free_addresses();
        let (echo, other) = (endpoint::start(), endpoint::start());
        let config = match peer {
            Peer::Haproxy => format!(
                "global\n nbthread 1\n maxconn 9000\n tune.bufsize 32768\n\
                 defaults\n mode http\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
                 timeout tunnel 1h\n\
                 frontend front\n bind {address}\n use_backend echo if {{ path /echo }}\n\
                 default_backend other\n\
                 backend echo\n server one {echo}\nbackend other\n server two {other}\n"
            ),
            _ => format!(
                "[server]\nworkers = 1\nshutdown.grace = \"0s\"\naccess_log.to = \"off\"\n\
                 [admin]\nmetrics_bind = \"{health}\"\n[listener.main]\nbind = [\"{address}\"]\n\
                 [[route]]\npath_prefix = \"/echo\"\nupstream = \"echo\"\n\
                 [[route]]\nupstream = \"other\"\n\
                 [upstream.echo]\nendpoints = [\"{echo}\"]\n\
                 [upstream.other]\nendpoints = [\"{other}\"]\n"
            ),
        };
        Self {
            _running: Running::start(peer, TempDir::new().unwrap(), &config, address),
            address,
            health,
        }
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            address: self.address,
            health: self.health,
        }
    }
}
