//! Names of endpoints become addresses, which are kept for a while beside the endpoint.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::endpoint::{EndpointState, locked};

/// How long the addresses of a name are used before it is looked up again.
const ADDRESSES_TTL: Duration = Duration::from_secs(5);

/// Resolves names on the control runtime, so that no worker waits for a slow name server.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    control: Handle,
}

impl Resolver {
    /// Lookups run on `control`.
    pub(super) fn new(control: Handle) -> Self {
        Self { control }
    }

    /// The addresses of `host`, at least one.
    pub(super) async fn addresses(
        &self,
        state: &EndpointState,
        host: &str,
        port: u16,
    ) -> io::Result<Arc<[SocketAddr]>> {
        if let Some((at, addresses)) = &*locked(&state.resolved)
            && at.elapsed() < ADDRESSES_TTL
        {
            return Ok(Arc::clone(addresses));
        }
        let name = host.to_owned();
        let found = self
            .control
            .spawn(async move {
                tokio::net::lookup_host((name, port))
                    .await
                    .map(Iterator::collect::<Vec<_>>)
            })
            .await
            .map_err(io::Error::other)??;
        if found.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ));
        }
        let addresses: Arc<[SocketAddr]> = found.into();
        *locked(&state.resolved) = Some((Instant::now(), Arc::clone(&addresses)));
        Ok(addresses)
    }
}
