//! The relay task of a tunnel: from the agreement of both sides to the log line of its end.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use super::agreed_handshake::AgreedHandshake;
use super::connection::{ClientSide, Connection, ConnectionGuards};
use super::passive_health;
use super::recheck_list::Recheck;
use super::tunnel_record::{TunnelClient, TunnelRecord};
use super::worker::Worker;
use crate::auth::revocations::unix_seconds;
use crate::config::model::TunnelLimits;
use crate::net::admission::TunnelPermits;
use crate::net::stream::Stream;
use crate::observe::{access_log, spans};
use crate::protocol::certificate::ClientCertificate;
use crate::quota::shared::TunnelPlace;
use crate::tunnel::bindings::TunnelBinding;
use crate::tunnel::copy::{InitialBytes, Tunnel};
use crate::tunnel::ended::Ended;
use crate::upstream::connect::EndpointConnection;
use crate::upstream::endpoint::Lease;

/// A tunnel that both sides have agreed on. The client's 101 has not been sent yet.
#[derive(Debug)]
pub struct Opening {
    pub(super) endpoint: EndpointConnection,
    pub(super) lease: Lease,
    pub(super) limits: Arc<TunnelLimits>,
    /// The 101 for the client, and the bytes that the endpoint sent behind its own 101.
    pub(super) to_client: Vec<u8>,
    /// How many of these bytes are the endpoint's.
    pub(super) read_ahead: usize,
    pub(super) handshake: AgreedHandshake,
    pub(super) permits: TunnelPermits,
    pub(super) binding: TunnelBinding,
    pub(super) recheck: Option<Recheck>,
}

impl Opening {
    /// Takes out the head of the 101: a client that did not ask in HTTP/1.1 gets another head for it.
    pub fn take_head(&mut self) -> Vec<u8> {
        let begins = self.to_client.len().saturating_sub(self.read_ahead);
        let early = self.to_client.split_off(begins);
        std::mem::replace(&mut self.to_client, early)
    }
}

/// Starts a task that relays between the client and the endpoint of `opening` until the tunnel
/// ends. `read_ahead` holds the bytes that the client sent behind its request.
pub fn relay(
    connection: &Connection,
    mut opening: Opening,
    client: Stream,
    read_ahead: &[u8],
    guards: ConnectionGuards,
) {
    let Some(facts) = opening.handshake.open() else {
        return;
    };
    let ConnectionGuards { mut permit, side } = guards;
    permit.hold_tunnel(opening.permits);
    let worker = &connection.worker;
    let record = Rc::new(TunnelRecord {
        client: match side {
            ClientSide::Connection(connected) => TunnelClient::Connection {
                _counted: connected,
            },
            ClientSide::Stream(shared) => {
                TunnelClient::Stream(shared.place_for(facts.session, &opening.limits))
            }
        },
        facts,
        lease: opening.lease,
        _ports: opening.endpoint.port,
        permit,
    });
    if let Some(span) = opening.handshake.span {
        worker.traced.add(record.facts.session, span);
    }
    let initial = InitialBytes {
        to_client: opening.to_client,
        from_endpoint: opening.read_ahead,
        to_endpoint: read_ahead.to_vec(),
    };
    let slot = worker.tunnels.enter(opening.limits, Rc::clone(&record));
    if let TunnelClient::Stream(place) = &record.client {
        place.entered(slot.place() as usize);
    }
    for permit in record.permit.shared_limits() {
        permit.opened(TunnelPlace {
            replaced: Arc::clone(&worker.replaced),
            place: slot.place(),
            session: record.facts.session.0,
        });
    }
    slot.bind(opening.binding);
    if let Some(certificate) = certificate(connection) {
        slot.bind_certificate(certificate.chain());
    }
    if let Some(recheck) = opening.recheck {
        let session = record.facts.session;
        worker.rechecks.add(recheck, slot.place(), session);
    }
    if let Some(ended) = ended_meanwhile(connection, &opening.binding, opening.handshake.took) {
        slot.entry().end(ended);
    }
    let scratch = worker.scratch.clone();
    let tunnel = Tunnel::new(client, opening.endpoint.stream, initial, slot, scratch);
    worker.tasks.spawn(Relay {
        tunnel,
        worker: Rc::clone(worker),
    });
}

/// The certificate of the client, also one that has expired.
fn certificate(connection: &Connection) -> Option<&ClientCertificate> {
    connection.tls.as_ref()?.certificate.as_ref()
}

/// Why the tunnel may not go on, because of what has happened while the endpoint was asked.
fn ended_meanwhile(
    connection: &Connection,
    binding: &TunnelBinding,
    handshake: Duration,
) -> Option<Ended> {
    let revoked = &connection.listener.settings.load().revoked;
    let is_listed = certificate(connection).is_some_and(|it| revoked.contain(it));
    if is_listed || was_revoked(&connection.worker, binding, handshake) {
        return Some(Ended::Revoked);
    }
    // The endpoint may have taken longer than the credential lasts.
    let now = unix_seconds(SystemTime::now());
    let is_over = binding.ends.is_some_and(|ends| ends.get() <= now);
    is_over.then_some(Ended::CredentialExpired)
}

/// Whether the subject was revoked while the endpoint was asked: the search for its tunnels did not find this one.
fn was_revoked(worker: &Worker, binding: &TunnelBinding, handshake: Duration) -> bool {
    let revocations = worker.revocations();
    let Some(subject) = binding.subject.filter(|_| !revocations.is_empty()) else {
        return false;
    };
    let now = SystemTime::now();
    let began = now.checked_sub(handshake);
    revocations.is_revoked(subject.into(), began, now)
}

/// The task of a tunnel. Written by hand because there are hundreds of thousands at once: an
/// `async` block would keep the tunnel twice, as a captured variable and as a local one.
#[derive(Debug)]
struct Relay {
    tunnel: Tunnel<TunnelRecord>,
    worker: Rc<Worker>,
}

impl Future for Relay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.tunnel).poll(cx);
        let record = self.tunnel.owner();
        if let TunnelClient::Stream(place) = &record.client
            && let Some(message) = self.tunnel.sent_close()
        {
            place.closed_with(message);
        }
        let finished = ready!(polled);
        let TunnelRecord { facts, lease, .. } = &**record;
        let endpoint = lease.endpoint();
        if self.tunnel.is_unseen() {
            // A sum of all traffic is being formed, which will not find it any more.
            facts.series.traffic.add_live(self.tunnel.meter());
        }
        passive_health::ended(&self.worker, facts, endpoint, finished);
        if let Some(span) = self.worker.traced.take(facts.session) {
            let recorder = &self.worker.recorder;
            spans::tunnel_ended(recorder, (facts, span), self.tunnel.meter(), finished);
        }
        let named = (facts, record.protocol());
        access_log::tunnel_ended(&self.worker.recorder, named, self.tunnel.meter(), finished);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_small() {
        // With what tokio adds to a task, this is 512 bytes, a size class of the allocator.
        assert!(size_of::<Relay>() <= 376, "{} bytes", size_of::<Relay>());
        // With the counts of its `Rc`, this is a size class, too.
        assert!(
            size_of::<TunnelRecord>() <= 144,
            "{} bytes",
            size_of::<TunnelRecord>()
        );
    }
}
