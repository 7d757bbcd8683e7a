//! The first steps of a probe: looking up the host, and connecting to one of its addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::leg::{Findings, LegFailure, LegOutcome};
use super::text::first_few;
use super::url::Url;

/// Looks up the host, as programs on this machine do.
pub(super) async fn name(url: &Url) -> LegOutcome<Vec<SocketAddr>> {
    let found = lookup_host((&*url.host, url.port)).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(found) => found.collect(),
        Err(error) => return Err(unknown(url, &error.to_string())),
    };
    if addresses.is_empty() {
        return Err(unknown(url, "it has no address"));
    }
    let shown: Vec<String> = addresses.iter().map(|each| each.ip().to_string()).collect();
    let findings = Findings::default()
        .line(format!("{} is {}", url.host, first_few(&shown)))
        .fact("addresses", shown);
    Ok((addresses, findings))
}

fn unknown(url: &Url, why: &str) -> LegFailure {
    LegFailure::new(format!("`{}` was not found: {why}", url.host))
        .hint("check the spelling; `--resolve ADDRESS` works without a name server")
}

/// Connects to the first of `addresses` that accepts the connection. Each but the last gets its share of
/// the time.
pub(super) async fn connect(addresses: &[SocketAddr], limit: Duration) -> LegOutcome<TcpStream> {
    let begun = Instant::now();
    let mut failures = Vec::new();
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let mut all_refused = true;
    for &address in addresses {
        let share = match left {
            // The time limit of the step applies to the last one.
            0 | 1 => Duration::MAX,
            more => limit.saturating_sub(begun.elapsed()) / more,
        };
        left = left.saturating_sub(1);
        let error = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Frames are small, and the probe waits for the answer to each.
                let _ = socket.set_nodelay(true);
                let mut findings = Findings::default().line(address.to_string());
                findings.lines.extend(failures);
                return Ok((socket, findings.fact("address", address.to_string())));
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        all_refused &= error.kind() == io::ErrorKind::ConnectionRefused;
        failures.push(format!("{address}: {error}"));
    }
    let failure = LegFailure::new(first_few(&failures));
    Err(if all_refused {
        failure.hint("no server listens there: check the port, and whether the server is running")
    } else {
        failure.hint("check the route to this address, and any firewall on the way")
    })
}
