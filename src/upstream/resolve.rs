//! Resolves the names of endpoints; the addresses are cached for a short time in the endpoint's state.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::endpoint::{EndpointState, locked};

/// How long the addresses of a name are used before it is looked up again. The operating system's
/// resolver does not report a TTL.
const ADDRESSES_TTL: Duration = Duration::from_secs(5);

/// Resolves names on the control runtime. The lookup of the operating system blocks a thread: on a
/// worker, a slow name server would hold up its tunnels.
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
        let resolved = self
            .control
            .spawn(async move {
                tokio::net::lookup_host((name, port))
                    .await
                    .map(Iterator::collect::<Vec<_>>)
            })
            .await
            .map_err(io::Error::other)??;
        if resolved.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ));
        }
        let addresses: Arc<[SocketAddr]> = resolved.into();
        *locked(&state.resolved) = Some((Instant::now(), Arc::clone(&addresses)));
        Ok(addresses)
    }
}
