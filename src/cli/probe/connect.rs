//! The first legs of a probe: the host's addresses, and a connection to one of them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::leg::{Findings, LegFailure, LegOutcome};
use super::text::some;
use super::url::Url;

/// Looks the host up, as programs on this machine do.
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
    let told = Findings::default()
        .line(format!("{} is {}", url.host, some(&shown)))
        .fact("addresses", shown);
    Ok((addresses, told))
}

fn unknown(url: &Url, why: &str) -> LegFailure {
    LegFailure::new(format!("`{}` was not found: {why}", url.host))
        .hint("is it spelled right? `--resolve ADDRESS` does without a name server")
}

/// Connects to the first of `addresses` that takes it. Each but the last has its share of the time.
pub(super) async fn connect(addresses: &[SocketAddr], limit: Duration) -> LegOutcome<TcpStream> {
    let begun = Instant::now();
    let mut failures = Vec::new();
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let mut nobody = true;
    for &address in addresses {
        let share = match left {
            // The leg itself ends in time.
            0 | 1 => Duration::MAX,
            more => limit.saturating_sub(begun.elapsed()) / more,
        };
        left = left.saturating_sub(1);
        let error = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Frames are small, and each is waited for.
                let _ = socket.set_nodelay(true);
                let mut told = Findings::default().line(address.to_string());
                told.lines.extend(failures);
                return Ok((socket, told.fact("address", address.to_string())));
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        nobody &= error.kind() == io::ErrorKind::ConnectionRefused;
        failures.push(format!("{address}: {error}"));
    }
    let failure = LegFailure::new(some(&failures));
    Err(if nobody {
        failure.hint("nobody listens there: is the port right, and is the program running?")
    } else {
        failure.hint("is there a way to this address from here, and no firewall in it?")
    })
}
