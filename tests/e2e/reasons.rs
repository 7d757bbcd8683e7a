//! Every reason is the same everywhere: in the response or the Close frame, in the log, in metrics and
//! in the admin interface. There is a scenario for each; a new reason does not compile without one.

mod certificates;
mod ends;
mod connect_failures;
mod scene;

use futures_util::future::join_all;
use serde_json::json;
use tempfile::TempDir;
use tidegate::protocol::rejection::Rejection;

use self::scene::{
    Scene, answered, asks, of_listener, of_route, of_server, of_upstream, second, sharing,
};
use crate::harness::certificates::write;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::operator::Operator;
use crate::harness::proxy::{Proxy, settings};
use crate::harness::scrape::Scrape;
use crate::harness::wire::{HANDSHAKE, Head, SWITCH, Wire, handshake_with};
use crate::tokens::{SECRET, SECRET_ISSUER, refused_fields};

/// Configures metrics and the admin interface.
const SEEN: &str =
    "[admin]\nmetrics_bind = \"127.0.0.1:0\"\nbind = \"127.0.0.1:0\"\nread = \"open\"\n";

/// The keys of this issuer cannot be fetched.
const UNREACHABLE_ISSUER: &str = r#"[auth.players]
jwt = { issuer = "https://id.example.com", audience = ["chat"], jwks_url = "https://127.0.0.1:1/keys" }
"#;

/// The endpoint decides itself.
const SERVICE: &str = "[auth.sso]\nservice = { upstream = \"main\" }\n";

const GET: &str = "GET /chat HTTP/1.1\r\nHost: a\r\n\r\n";

/// The scenario for a rejection; `None` for those with a test of their own below, and for one that the
/// reserve of descriptors prevents.
fn scene(rejection: Rejection) -> Option<Scene> {
    use Rejection as R;
    Some(match rejection {
        R::BadRequest => asks("nonsense\r\n\r\n"),
        R::HeadTooLarge => asks(handshake_with(&format!("X: {}\r\n", "x".repeat(20_000)))),
        R::BadHost => asks(GET.replace("Host: a", "Host: a\r\nHost: b")),
        R::HostMismatch => asks(GET.replace("/chat", "http://b/chat")),
        R::BadTarget => asks(GET.replace("/chat", "/a\"b")),
        R::DotSegment => asks(GET.replace("/chat", "/a/../b")),
        R::EncodedSlash => of_route(
            "path_prefix = \"/a\"\nupstream = \"main\"\n[[route]]\npath = \"/a/b/c\"",
            &GET.replace("/chat", "/a/b%2Fc"),
        ),
        R::MethodNotAllowed => asks(GET.replace("GET", "TRACE")),
        R::VersionUnsupported => asks(HANDSHAKE.replace("Version: 13", "Version: 8")),
        R::KeyInvalid => asks(HANDSHAKE.replace("==", "")),
        R::HandshakeBody => asks(handshake_with("Content-Length: 2\r\n") + "hi"),
        R::WebSocketRequired => of_route("http = \"reject\"", GET),
        R::BadForwarded => Scene {
            request: handshake_with("Forwarded: for=\"\r\n"),
            ..of_listener(
                "trusted_proxies = [\"127.0.0.1\"]\ntrusted_header = \"forwarded\"",
                "",
            )
        },
        R::PathPrefix => of_route(
            "path_prefix = \"/chat\"\nrewrite.strip_prefix = \"/chat\"",
            &GET.replace("/chat", "/%63hat"),
        ),
        R::HttpsRequired | R::RedirectOnly | R::AddressDenied | R::OriginDenied => {
            return scene_of_admission(rejection);
        }
        R::OriginMissing | R::AuthUnavailable | R::AuthDenied => {
            return scene_of_admission(rejection);
        }
        R::CredentialMissing | R::CredentialConflict | R::CredentialInvalid => {
            return scene_of_token(rejection);
        }
        R::CredentialExpired | R::ClaimDenied => return scene_of_token(rejection),
        R::NoRoute => of_route("path = \"/other\"", HANDSHAKE),
        R::RequestBodyTimeout => of_listener(
            "timeouts.request_body = \"200ms\"",
            "POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nhi",
        ),
        R::BodyTooLarge => of_route(
            "limits.body_bytes = \"1B\"",
            "POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        ),
        R::TransferCoding => asks(
            "POST /chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        R::BadAnswer => answered(HANDSHAKE, "nonsense\r\n\r\n"),
        R::BadSwitch => answered(
            HANDSHAKE,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: wrong\r\n\r\n",
        ),
        R::UnexpectedSwitch => answered(GET, SWITCH),
        R::AddressRate | R::RequestRate | R::MemoryFull => return scene_of_limit(rejection),
        R::LimitKeyMissing | R::LimitRate | R::LimitFull => return scene_of_limit(rejection),
        R::TunnelsFull | R::RouteFull | R::EndpointsFull => return scene_of_limit(rejection),
        R::NoEndpoint | R::HandshakeTimeout | R::ResponseTimeout | R::StreamEnded => {
            return scene_of_limit(rejection);
        }
        R::CertificateRequired | R::CertificateDenied | R::ConnectFailed | R::ConnectTimeout => {
            return None;
        }
        R::NameUnresolved | R::EndpointUnknown | R::CredentialRevoked => return None,
        R::HandshakeRate | R::DescriptorsExhausted | R::AuthBusy => return None,
        // Over HTTP/2: see `http2_rules`, `http2` and `http2_drains`.
        R::ProtocolUnsupported | R::AddressFull | R::ListenerFull | R::Draining => return None,
    })
}

/// The same for what a route or a listener admits.
fn scene_of_admission(rejection: Rejection) -> Option<Scene> {
    use Rejection as R;
    let redirects = "redirect_to_https = true";
    Some(match rejection {
        R::HttpsRequired => of_listener(redirects, HANDSHAKE),
        R::RedirectOnly => of_route("redirect = { to = \"https://a/\" }", HANDSHAKE),
        R::AddressDenied => of_route("deny = [\"127.0.0.1\"]", HANDSHAKE),
        R::OriginDenied => Scene {
            request: handshake_with("Origin: https://b\r\n"),
            ..of_route("origins = [\"https://a\"]", "")
        },
        R::OriginMissing => of_route(
            "origins = [\"https://a\"]\norigins_required = true",
            HANDSHAKE,
        ),
        R::AuthUnavailable => Scene {
            server: UNREACHABLE_ISSUER,
            request: handshake_with("Authorization: Bearer a.b.c\r\n"),
            ..of_route("auth = \"players\"", "")
        },
        R::AuthDenied => Scene {
            server: SERVICE,
            answer: Some("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
            ..of_route("auth = \"sso\"", HANDSHAKE)
        },
        other => unreachable!("{other:?} does not depend on these"),
    })
}

/// The same for tokens.
fn scene_of_token(rejection: Rejection) -> Option<Scene> {
    Some(Scene {
        server: SECRET_ISSUER,
        request: handshake_with(&refused_fields(rejection)),
        ..of_route("auth = \"players\"\nrequire = { role = [\"admin\"] }", "")
    })
}

/// The same for what depends on counts, times and the state of endpoints.
fn scene_of_limit(rejection: Rejection) -> Option<Scene> {
    use Rejection as R;
    Some(match rejection {
        R::AddressRate => second(of_listener(
            "limits.handshakes_per_ip = { rate = \"1/h\" }",
            HANDSHAKE,
        )),
        R::RequestRate => Scene {
            before: vec![GET],
            answer: Some("HTTP/1.1 204 No Content\r\n\r\n"),
            ..of_listener("limits.requests_per_ip = { rate = \"1/h\" }", GET)
        },
        R::LimitKeyMissing => sharing(
            "key = \"sni\"\nmissing = \"refuse\"\ntunnels = 9",
            HANDSHAKE,
        ),
        R::LimitRate => second(sharing(
            "key = \"client_ip\"\nhandshakes = { rate = \"1/h\" }",
            HANDSHAKE,
        )),
        R::LimitFull => second(sharing("key = \"client_ip\"\ntunnels = 1", HANDSHAKE)),
        R::MemoryFull => of_server("memory = \"1MiB\"", HANDSHAKE),
        R::TunnelsFull => second(of_server("max_tunnels = 1", HANDSHAKE)),
        R::RouteFull => second(of_route("limits.tunnels = 1", HANDSHAKE)),
        R::EndpointsFull => second(of_upstream("max_tunnels = 1", HANDSHAKE)),
        R::NoEndpoint => of_upstream("drain = true", HANDSHAKE),
        R::HandshakeTimeout => of_upstream("timeouts.handshake = \"200ms\"", HANDSHAKE),
        R::ResponseTimeout => of_upstream("timeouts.response = \"200ms\"", GET),
        R::StreamEnded => of_route("timeouts.stream_idle = \"1s\"", GET),
        other => unreachable!("{other:?} does not depend on these"),
    })
}

/// Gives every connection the same response, as long as the test lasts.
async fn play(endpoint: Endpoint, answer: Option<&'static str>) {
    let mut kept = Vec::new();
    loop {
        let mut wire = endpoint.accept().await;
        if let Some(answer) = answer {
            wire.head().await;
            wire.send(answer).await;
        }
        kept.push(wire);
    }
}

/// Runs a scenario, and checks the response, the log and the metrics.
async fn play_out(rejection: Rejection, scene: Scene) {
    let endpoint = Endpoint::bind().await;
    let address = endpoint.address;
    let mut config = settings(&[address], scene.listener, scene.route);
    // Some lines are settings of the endpoint itself.
    let own = scene.upstream.starts_with("max_tunnels") || scene.upstream.starts_with("drain");
    let listed = format!("\"{address}\"");
    match own {
        true => {
            let settled = format!("{{ address = {listed}, {} }}", scene.upstream);
            config = config.replace(&listed, &settled);
        }
        false => config = config + scene.upstream + "\n",
    }
    if !scene.limit.is_empty() {
        config = config + "[limit.each]\n" + scene.limit + "\n";
    }
    if scene.route.contains("redirect =") {
        let upstream = config.find("[upstream.main]").unwrap();
        config.truncate(upstream);
        config = config.replace("upstream = \"main\"\n", "");
    }
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\n";
    let config = [server, scene.server, "\n", SEEN, &config].concat();
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("secret.key"), SECRET);
    let proxy = Proxy::start_in(folder, &config).await;
    let playing = tokio::spawn(play(endpoint, scene.answer));
    let mut before = Vec::new();
    for request in scene.before {
        let mut wire = proxy.connect().await;
        wire.send(request).await;
        let status = wire.head().await.status();
        assert!(matches!(status, 101 | 204), "{rejection}: {status}");
        before.push(wire);
    }
    let mut wire = proxy.connect().await;
    wire.send(&scene.request).await;
    look(&proxy, rejection, &mut wire).await;
    playing.abort();
}

async fn look(proxy: &Proxy, rejection: Rejection, wire: &mut Wire) {
    let head = wire.head().await;
    compare(proxy, rejection, &head).await;
}

/// Compares the head of the response with the log and the metrics.
async fn compare(proxy: &Proxy, rejection: Rejection, head: &Head) {
    let status = rejection.status().as_u16();
    assert_eq!(head.status(), status, "{rejection}: {head:?}");
    assert_eq!(head.value("tidegate-reason"), Some(rejection.token()));
    let logged = proxy.logged("rejected").await;
    assert_eq!(
        (&logged["reason"], &logged["status"]),
        (&rejection.token().into(), &status.into())
    );
    let scrape = Scrape::of(proxy).await;
    let reason = format!("reason=\"{rejection}\"");
    assert_eq!(scrape.sum("tidegate_rejections_total", &[&reason]), 1.0);
    assert_eq!(scrape.sum("tidegate_rejections_total", &[]), 1.0);
    let status = format!("status=\"{status}\"");
    assert_eq!(scrape.sum("tidegate_http_requests_total", &[&status]), 1.0);
    let request = "GET /v1/listeners HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (_, listeners) = Operator::of(proxy).await.raw(request).await;
    let mut listeners = listeners.as_array().unwrap().iter();
    let refused = listeners.find(|it| it["rejections"] != json!({}));
    let once = json!({ rejection.token(): 1 });
    assert_eq!(refused.map(|it| &it["rejections"]), Some(&once));
}

#[tokio::test]
async fn every_rejection_has_the_same_reason_everywhere() {
    let mut scenes = Vec::new();
    for rejection in Rejection::ALL {
        if let Some(scene) = scene(*rejection) {
            scenes.push((*rejection, scene));
        }
    }
    assert_eq!(scenes.len(), Rejection::ALL.len() - 14);
    while !scenes.is_empty() {
        let some = scenes.split_off(scenes.len().saturating_sub(8));
        join_all(
            some.into_iter()
                .map(|(rejection, scene)| play_out(rejection, scene)),
        )
        .await;
    }
}

#[tokio::test]
async fn an_unknown_endpoint_has_the_same_reason_everywhere() {
    let (echo, folder) = (Echo::start("echo").await, TempDir::new().unwrap());
    std::fs::write(folder.path().join("rooms.map"), "red game-1\n").unwrap();
    let naming = "endpoint = { query = \"room\", map_file = \"rooms.map\" }";
    let config = settings(&[echo.address], "", naming);
    let proxy = Proxy::start_in(folder, &(SEEN.to_owned() + &config)).await;
    let mut wire = proxy.connect().await;
    wire.send(HANDSHAKE).await;
    look(&proxy, Rejection::EndpointUnknown, &mut wire).await;
}

#[tokio::test]
async fn an_exceeded_handshake_rate_has_the_same_reason_everywhere() {
    let echo = Echo::start("echo").await;
    let config = settings(&[echo.address], "limits.handshakes_per_second = 1", "");
    let proxy = Proxy::start(&(SEEN.to_owned() + &config)).await;
    // How many pass depends on how long this takes.
    let mut head = None;
    for _ in 0..40 {
        let mut wire = proxy.connect().await;
        wire.send(HANDSHAKE).await;
        head = Some(wire.head().await).filter(|head| head.status() != 101);
        if head.is_some() {
            break;
        }
    }
    compare(&proxy, Rejection::HandshakeRate, &head.unwrap()).await;
}

#[tokio::test]
async fn a_busy_service_has_the_same_reason_everywhere() {
    let endpoint = Endpoint::bind().await;
    let config = settings(&[endpoint.address], "", "auth = \"sso\"");
    let auth = "[auth.sso]\nservice = { upstream = \"main\", at_once = 1, timeout = \"1m\" }\n";
    // Each worker has a request of its own to the service.
    let server = "[server]\nworkers = 1\nlog.format = \"json\"\n";
    let proxy = Proxy::start(&[server, SEEN, auth, &config].concat()).await;
    let mut first = proxy.connect().await;
    first.send(HANDSHAKE).await;
    let _asked = endpoint.request().await;
    // One of these waits, and the other one is too many.
    let (mut one, mut other) = (proxy.connect().await, proxy.connect().await);
    one.send(HANDSHAKE).await;
    other.send(HANDSHAKE).await;
    let head = tokio::select! {
        head = one.head() => head,
        head = other.head() => head,
    };
    compare(&proxy, Rejection::AuthBusy, &head).await;
}
