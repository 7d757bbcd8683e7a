//! The reasons with which tunnels end: in the Close frame, in the log, in metrics and in the admin interface.

use futures_util::future::join_all;
use serde_json::json;
use tempfile::TempDir;
use tidegate::tunnel::ended::Ended;

use super::SEEN;
use crate::harness::certificates::write;
use crate::harness::endpoint::Endpoint;
use crate::harness::frames::{close_payload, frame, frames};
use crate::harness::issuer::{TokenKey, claims_with, seconds_from_now};
use crate::harness::operator::{Operator, write_token};
use crate::harness::proxy::{Proxy, Signal, settings};
use crate::harness::scrape::Scrape;
use crate::harness::wire::{HANDSHAKE, Wire, handshake_with};
use crate::tokens::{SECRET, SECRET_ISSUER};

/// The settings of the route that lead to an end.
fn limits(ended: Ended) -> &'static str {
    match ended {
        Ended::Idle => "timeouts.idle = \"1s\"",
        Ended::MaxAge => "timeouts.max_age = \"1s\"",
        Ended::DeadClient | Ended::DeadUpstream => "timeouts = { ping = \"1s\", pong = \"1s\" }",
        Ended::HalfClosed => "timeouts.half_closed = \"1s\"",
        Ended::MessageTooBig => "limits.message_bytes = \"100B\"",
        Ended::SlowClient | Ended::SlowUpstream => "limits.slow_reader = \"2s\"",
        Ended::MessageRate => "limits.messages_per_second = 20",
        Ended::ByteRate => "limits.bytes_per_second = { rate = \"2KiB\", action = \"close\" }",
        Ended::ProtocolError => "limits.messages_per_second = 1000",
        Ended::Replaced => "limits.shared = [\"each\"]",
        Ended::ClientClose
        | Ended::UpstreamClose
        | Ended::ClientEof
        | Ended::UpstreamEof
        | Ended::ClientReset
        | Ended::UpstreamReset
        | Ended::Drain
        | Ended::EndpointDown
        | Ended::EndpointRemoved
        | Ended::Rebalance
        | Ended::MemoryFull
        | Ended::Killed
        | Ended::Shutdown => "",
        Ended::CredentialExpired | Ended::Revoked => "auth = \"players\"",
    }
}

/// The handshake of a tunnel that ends so.
fn handshake_for(ended: Ended) -> String {
    let lifetime = match ended {
        Ended::CredentialExpired => 5,
        Ended::Revoked => 300,
        _ => return HANDSHAKE.to_owned(),
    };
    let claims = claims_with("exp", json!(seconds_from_now(lifetime)));
    let token = TokenKey::secret(SECRET.as_bytes()).token(&claims);
    handshake_with(&format!("Authorization: Bearer {token}\r\n"))
}

/// Answers Pings of this length until another frame arrives.
async fn answer_pings(wire: &mut Wire, length: usize, mask: Option<[u8; 4]>) {
    loop {
        let bytes = wire.exactly(length).await;
        if bytes[0] != 0x89 {
            return;
        }
        let (_, payload) = frames(&bytes).remove(0);
        wire.send(frame(0x8a, mask, &payload)).await;
    }
}

/// The settings of the upstream that lead to an end.
fn aftermath(ended: Ended) -> &'static str {
    match ended {
        Ended::Drain => "on_drain = { action = \"close\" }\n",
        Ended::EndpointDown => {
            "on_down = { action = \"close\" }\n\
             health = { tcp = {}, interval = \"100ms\", fall = 1 }\n"
        }
        Ended::EndpointRemoved => "on_removed = { action = \"close\" }\n",
        Ended::Replaced => {
            "[limit.each]\nkey = \"client_ip\"\ntunnels = 1\nwhen_full = \"close_oldest\"\n"
        }
        Ended::Rebalance => "rebalance = { mode = \"on\", min_age = \"0s\" }\n",
        _ => "",
    }
}

/// The two ends of a tunnel, as far as they are still open after its end.
type Ends = (Option<Wire>, Option<Wire>);

/// Has an operator bring the end about.
async fn steer(ended: Ended, proxy: &Proxy) {
    let operator = Operator::of(proxy).await;
    let (path, body) = if ended == Ended::Drain {
        let upstreams = operator.get("/v1/upstreams").await;
        let endpoint = upstreams[0]["endpoints"][0]["endpoint"].clone();
        ("/v1/endpoints/drain", json!({ "endpoint": endpoint }))
    } else if ended == Ended::Revoked {
        ("/v1/revoke", json!({ "subject": "me" }))
    } else {
        // A client that is closed for what it does, so that the code is that of the reason.
        let client = json!({ "filter": { "client": "127.0.0.1" } });
        ("/v1/tunnels/close", client)
    };
    assert_eq!(operator.post(path, &body).await.0, 200);
}

async fn bring_about(ended: Ended, proxy: &Proxy, ends: (Wire, Wire)) -> Ends {
    let (mut client, mut served) = ends;
    let close = 1000_u16.to_be_bytes();
    let message = |length| frame(0x82, Some([1, 2, 3, 4]), &vec![7; length]);
    match ended {
        Ended::ClientClose => {
            client.send(frame(0x88, Some([0; 4]), &close)).await;
            served.exactly(8).await;
            served.send(frame(0x88, None, &close)).await;
            return (None, None);
        }
        Ended::UpstreamClose => {
            served.send(frame(0x88, None, &close)).await;
            client.exactly(4).await;
            client.send(frame(0x88, Some([0; 4]), &close)).await;
            return (None, None);
        }
        Ended::ClientEof => {
            client.finish().await;
            served.closed().await;
            return (Some(client), None);
        }
        Ended::UpstreamEof => {
            served.finish().await;
            client.closed().await;
            return (None, Some(served));
        }
        Ended::ClientReset => {
            client.reset();
            return (None, Some(served));
        }
        Ended::UpstreamReset => {
            served.reset();
            return (Some(client), None);
        }
        Ended::HalfClosed => client.finish().await,
        Ended::MessageTooBig => client.send(message(101)).await,
        Ended::SlowClient => served.flood(&frame(0x82, None, &[7; 64 * 1024])).await,
        Ended::SlowUpstream => client.flood(&message(64 * 1024)).await,
        Ended::MessageRate | Ended::ByteRate => client.send(message(100).repeat(40)).await,
        Ended::ProtocolError => client.send([0xff; 64]).await,
        Ended::MemoryFull => {
            client.flood(&message(64 * 1024)).await;
            let path = proxy.folder().join("config.toml");
            let config = std::fs::read_to_string(path).unwrap();
            let limited = config.replace("[server]\n", "[server]\nmemory = \"1MiB\"\n");
            proxy.reload(&limited).await;
        }
        Ended::Killed | Ended::Drain | Ended::Revoked => steer(ended, proxy).await,
        Ended::Shutdown => proxy.signal(Signal::TERM),
        Ended::DeadClient => {
            answer_pings(&mut served, 14, None).await;
            return (None, None);
        }
        Ended::DeadUpstream => {
            answer_pings(&mut client, 10, Some([0; 4])).await;
            return (None, None);
        }
        // Caused by the endpoint and by the configuration.
        Ended::EndpointDown | Ended::EndpointRemoved | Ended::Rebalance => {}
        // Caused by the other tunnel.
        Ended::Replaced => {}
        Ended::Idle | Ended::MaxAge | Ended::CredentialExpired => {}
    }
    (Some(client), Some(served))
}

async fn end(ended: Ended) {
    let endpoint = Endpoint::bind().await;
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\nshutdown.grace = \"100ms\"\n";
    let config = settings(&[endpoint.address], "", limits(ended)) + aftermath(ended);
    let folder = TempDir::new().unwrap();
    write_token(folder.path());
    let token = match limits(ended).contains("auth = ") {
        true => ["token_file = \"admin.token\"\n", SECRET_ISSUER].concat(),
        false => "token_file = \"admin.token\"\n".to_owned(),
    };
    let token = token.as_str();
    write(&folder.path().join("secret.key"), SECRET);
    let mut proxy = Proxy::start_in(folder, &[server, SEEN, token, &config].concat()).await;
    let mut client = proxy.connect().await;
    client.send(handshake_for(ended)).await;
    let served = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
    // With four tunnels the endpoint has one too many as soon as there is a second one.
    let mut others = Vec::new();
    while ended == Ended::Rebalance && others.len() < 3 {
        others.push(proxy.tunnel_to(&endpoint).await);
    }
    if ended == Ended::Replaced {
        others.push(proxy.tunnel_to(&endpoint).await);
    }
    let listed = format!("\"{}\"", endpoint.address);
    let elsewhere = match ended {
        Ended::EndpointRemoved => "\"127.0.0.1:1\"".to_owned(),
        Ended::Rebalance => format!("{listed}, \"127.0.0.1:1\""),
        _ => listed.clone(),
    };
    if elsewhere != listed {
        let config = config.replace(&listed, &elsewhere);
        proxy.reload(&[server, SEEN, token, &config].concat()).await;
    }
    // Accepted connections stay open.
    let _kept = Some(endpoint).filter(|_| ended != Ended::EndpointDown);
    let (mut client, mut served) = bring_about(ended, &proxy, (client, served)).await;
    if let (Some(client), Some(code)) = (&mut client, ended.close_code()) {
        let close = [&code.to_be_bytes(), ended.token().as_bytes()].concat();
        let (rest, _) = client.rest().await;
        assert_eq!(close_payload(&rest), Some(close), "{ended}: {rest:?}");
    } else if let (Ended::SlowClient, Some(served)) = (ended, &mut served) {
        let (rest, _) = served.rest().await;
        let close = [&1001_u16.to_be_bytes(), ended.token().as_bytes()].concat();
        assert_eq!(close_payload(&rest), Some(close), "{ended}");
    }
    let logged = proxy.logged("tunnel ended").await;
    assert_eq!(logged["reason"], ended.token());
    if ended == Ended::Shutdown {
        // There is no process left with metrics.
        assert_eq!(proxy.exit().await, 0);
        return;
    }
    let scrape = Scrape::of(&proxy).await;
    let reason = format!("reason=\"{ended}\"");
    assert_eq!(scrape.sum("tidegate_tunnels_ended_total", &[&reason]), 1.0);
    assert_eq!(scrape.sum("tidegate_tunnels_ended_total", &[]), 1.0);
    if ended == Ended::EndpointRemoved {
        // The admin interface lists only current endpoints.
        return;
    }
    let upstreams = Operator::of(&proxy).await.get("/v1/upstreams").await;
    assert_eq!(
        upstreams[0]["endpoints"][0]["ended"],
        json!({ ended.token(): 1 })
    );
}

#[tokio::test]
async fn every_end_of_a_tunnel_has_the_same_reason_everywhere() {
    join_all(Ended::ALL.map(end)).await;
}
