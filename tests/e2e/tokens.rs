//! Tokens: where requests carry them, which are accepted, and keys that change or cannot be fetched.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::protocol::rejection::Rejection;

use crate::harness::endpoint::Endpoint;
use crate::harness::issuer::{
    ISSUER, KeyServer, TokenKey, claims, claims_with, key_set, seconds_from_now,
};
use crate::harness::operator::{ADMIN_AND_METRICS, Operator, write_token};
use crate::harness::proxy::{Proxy, Signal, settings, verbose};
use crate::harness::scrape::Scrape;
use crate::harness::until;
use crate::harness::wire::{HANDSHAKE, Head, SWITCH, Wire, handshake_with};

/// Every place in which a token may be.
const EVERYWHERE: &str = r#", from = [{ header = "authorization" }, { header = "x-token" }, { cookie = "jwt" }, { query = "token" }, { subprotocol_after = "bearer" }, { subprotocol_prefix = "token." }]"#;

const ROUTE: &str = "auth = \"players\"\n\
    request_headers.set.x-user = \"${claim_sub}\"\n\
    request_headers.set.x-uri = \"${uri}\"";

/// This issuer shares a secret with tidegate, which is in the file.
pub(crate) const SECRET_ISSUER: &str = r#"[auth.players]
jwt = { issuer = "https://id.example.com", audience = ["chat"], secret_file = "secret.key" }
"#;

pub(crate) const SECRET: &str = "a secret of thirty-two characters";

/// The fields of a request that is refused for this reason, where [`SECRET_ISSUER`] vouches for clients and the claim
/// `role` has to be `admin`.
pub(crate) fn refused_fields(rejection: Rejection) -> String {
    let key = TokenKey::secret(SECRET.as_bytes());
    let bearer = |claims: Value| format!("Authorization: Bearer {}\r\n", key.token(&claims));
    match rejection {
        Rejection::CredentialMissing => String::new(),
        Rejection::CredentialConflict => ["a", "b"]
            .map(|token| format!("Authorization: Bearer {token}\r\n"))
            .concat(),
        Rejection::CredentialInvalid => "Authorization: Bearer a.b.c\r\n".to_owned(),
        Rejection::CredentialExpired => bearer(claims_with("exp", 1.into())),
        Rejection::ClaimDenied => bearer(claims()),
        other => unreachable!("{other:?} does not depend on tokens"),
    }
}

/// The program with an endpoint, behind tokens that these keys verify.
async fn start(folder: TempDir, keys: &str, route: &str) -> (Endpoint, Proxy) {
    start_for(folder, keys, "refuse", route, "").await
}

/// The same with this treatment of preflights, and more tables.
async fn start_for(
    folder: TempDir,
    keys: &str,
    preflights: &str,
    route: &str,
    tables: &str,
) -> (Endpoint, Proxy) {
    let endpoint = Endpoint::bind().await;
    let auth = format!(
        "[auth.players]\npreflight = \"{preflights}\"\n\
         jwt = {{ issuer = \"{ISSUER}\", audience = [\"chat\", \"game\"], {keys} }}\n"
    );
    write_token(folder.path());
    let config = ADMIN_AND_METRICS.to_owned()
        + &auth
        + &settings(&[endpoint.address], "", &format!("{ROUTE}\n{route}"))
        + tables;
    let proxy = Proxy::start_in(folder, &verbose(&config)).await;
    (endpoint, proxy)
}

/// The same with a key set in a file.
async fn start_with(keys: &[&TokenKey], route: &str) -> (Endpoint, Proxy) {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("keys.json"), key_set(keys)).unwrap();
    let keys = format!("jwks_file = \"keys.json\"{EVERYWHERE}");
    start(folder, &keys, route).await
}

/// Reloads with the same configuration.
async fn reload(proxy: &Proxy) {
    proxy.signal(Signal::HUP);
    proxy.logged("configuration reloaded").await;
}

/// A handshake for this target with these fields.
fn asking(target: &str, fields: &str) -> String {
    handshake_with(fields).replacen("/chat", target, 1)
}

fn bearing(token: &str) -> String {
    asking("/chat", &format!("Authorization: Bearer {token}\r\n"))
}

/// The head that the endpoint gets for a request that is admitted, and its connection.
async fn admitted(endpoint: &Endpoint, proxy: &Proxy, request: &str) -> (Wire, Wire, Head) {
    let mut client = proxy.connect().await;
    client.send(request).await;
    let (wire, head) = endpoint.request().await;
    (client, wire, head)
}

/// The same again and again, until every worker remembers its token.
async fn admitted_often(endpoint: &Endpoint, proxy: &Proxy, request: &str) {
    for _ in 0..10 {
        admitted(endpoint, proxy, request).await;
    }
}

/// The response to a request that is refused: its status and reason.
async fn refused(proxy: &Proxy, request: &str) -> (u16, String, Head) {
    let mut client = proxy.connect().await;
    client.send(request).await;
    let head = client.head().await;
    let reason = head.value("tidegate-reason").unwrap_or_default().to_owned();
    (head.status(), reason, head)
}

#[tokio::test]
async fn a_token_is_found_in_every_place_and_removed_where_the_endpoint_must_not_see_it() {
    let (by_hand, library) = TokenKey::ed("ed");
    let rsa = TokenKey::rsa("rsa");
    let (endpoint, proxy) = start_with(&[&rsa, &by_hand], "").await;
    let protocol = "Sec-WebSocket-Protocol";
    for token in [rsa.token(&claims()), library.token(&claims())] {
        let escaped: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for (target, fields, left) in [
            (
                "/chat",
                format!("Authorization: bEARER {token}\r\n"),
                ("/chat", None),
            ),
            (
                "/chat?a=%7e",
                format!("X-Token: {token}\r\n"),
                ("/chat?a=%7e", None),
            ),
            (
                "/chat",
                format!("Cookie: a=b; jwt={token}\r\n"),
                ("/chat", None),
            ),
            (
                &*format!("/chat?token={token}"),
                String::new(),
                ("/chat", None),
            ),
            (
                &*format!("/chat?a=%7e&%74oke%6E={escaped}&b"),
                String::new(),
                ("/chat?a=%7e&b", None),
            ),
            (
                "/chat",
                format!("{protocol}: bearer, {token}\r\n"),
                ("/chat", None),
            ),
            (
                "/chat",
                format!("{protocol}: chat, bearer\r\n{protocol}: {token},v2\r\n"),
                ("/chat", Some("chat, v2")),
            ),
            (
                "/chat",
                format!("{protocol}: chat, token.{token}\r\n"),
                ("/chat", Some("chat")),
            ),
            // The same in two places.
            (
                &*format!("/chat?token={token}"),
                format!("Authorization: Bearer {token}\r\n"),
                ("/chat", None),
            ),
        ] {
            let request = asking(target, &fields);
            let (_client, _wire, head) = admitted(&endpoint, &proxy, &request).await;
            let (uri, offers) = left;
            assert_eq!(head.start(), format!("GET {uri} HTTP/1.1"));
            assert_eq!(
                (head.value("x-user"), head.value("x-uri")),
                (Some("me"), Some(uri))
            );
            let seen = head.values("sec-websocket-protocol");
            assert_eq!(seen, Vec::from_iter(offers), "{fields}");
            let is_kept = fields.starts_with("Auth")
                || fields.starts_with("X-T")
                || fields.starts_with("Cookie");
            assert_eq!(head.0.contains(&token), is_kept, "{fields}");
        }
        assert!(!proxy.log().text().contains(&token[token.len() - 20..]));
    }
}

#[tokio::test]
async fn a_preflight_keeps_no_token_whether_it_passes_or_is_verified() {
    let key = TokenKey::ec("ec");
    let token = key.token(&claims());
    let preflight = |target: &str| {
        format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: a\r\nOrigin: https://a\r\n\
             Access-Control-Request-Method: GET\r\n\r\n"
        )
    };
    let redirect = "\n[[route]]\npath = \"/old\"\nauth = \"players\"\n\
        redirect = { to = \"https://b.example${uri}\", status = 307 }";
    for passes in [true, false] {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("keys.json"), key_set(&[&key])).unwrap();
        let keys = format!("jwks_file = \"keys.json\"{EVERYWHERE}");
        let preflights = if passes { "pass" } else { "refuse" };
        let (endpoint, proxy) = start_for(folder, &keys, preflights, "", redirect).await;
        // What is no token at all would be refused if it was looked at.
        let carried = if passes { "x" } else { &*token };
        for target in [
            format!("/chat?a=%7e&token={carried}"),
            format!("/chat?%74oken={carried}&a=%7e"),
        ] {
            let (_client, _wire, head) = admitted(&endpoint, &proxy, &preflight(&target)).await;
            assert_eq!(head.start(), "OPTIONS /chat?a=%7e HTTP/1.1");
            assert_eq!(head.value("x-uri"), Some("/chat?a=%7e"));
            let user = if passes { None } else { Some("me") };
            assert_eq!(head.value("x-user"), user);
        }
        let mut client = proxy.connect().await;
        let old = preflight(&format!("/old?token={carried}&a"));
        client.send(&old).await;
        let head = client.head().await;
        assert_eq!(head.value("location"), Some("https://b.example/old?a"));
        if !passes {
            let (status, reason, _) = refused(&proxy, &preflight("/chat")).await;
            assert_eq!((status, &*reason), (401, "credential-missing"));
        }
    }
}

#[tokio::test]
async fn explain_shows_requests_without_their_token() {
    let folder = TempDir::new().unwrap();
    let keys = key_set(&[&TokenKey::ec("ec")]);
    std::fs::write(folder.path().join("keys.json"), keys).unwrap();
    let keys = format!("jwks_file = \"keys.json\"{EVERYWHERE}");
    let tables = "\n[[route]]\npath = \"/old\"\nauth = \"players\"\n\
        redirect = { to = \"https://b.example${uri}\", status = 307 }";
    let require = "require = { role = [\"player\"] }";
    let (_endpoint, proxy) = start_for(folder, &keys, "refuse", require, tables).await;
    let operator = Operator::of(&proxy).await;
    let explain = async |url: &str| {
        let request = json!({ "url": url, "listener": "main" });
        operator.explain(request).await
    };
    let explained = explain("ws://a/chat?a=%7e&%74oken=secret").await;
    assert_eq!(explained["endpoint_path"], "/chat?a=%7e");
    let depends = explained["depends_on"].to_string();
    assert!(depends.contains("(auth `players`)"), "{depends}");
    assert!(depends.contains("`require` names `role`"), "{depends}");
    let explained = explain("http://a/old?token=secret&a").await;
    assert_eq!(explained["response"]["text"], "https://b.example/old?a");
    assert!(!explained.to_string().contains("secret"), "{explained}");
}

#[tokio::test]
async fn the_mark_is_the_answer_unless_the_endpoint_selects_another_subprotocol() {
    let key = TokenKey::ec("ec");
    let (endpoint, proxy) = start_with(&[&key], "").await;
    let token = key.token(&claims());
    for (offers, selected, answer) in [
        (format!("bearer, {token}"), None, Some("bearer")),
        (format!("chat, bearer, {token}"), None, Some("bearer")),
        (format!("chat, bearer, {token}"), Some("chat"), Some("chat")),
        // A token is not sent back.
        (format!("token.{token}"), None, None),
        (format!("token.{token}, chat"), Some("chat"), Some("chat")),
    ] {
        let fields = format!("Sec-WebSocket-Protocol: {offers}\r\n");
        let request = asking("/chat", &fields);
        let (mut client, mut wire, _) = admitted(&endpoint, &proxy, &request).await;
        let selects = selected.map(|name| format!("\r\nSec-WebSocket-Protocol: {name}\r\n\r\n"));
        wire.send(SWITCH.replace("\r\n\r\n", &selects.unwrap_or("\r\n\r\n".to_owned())))
            .await;
        let head = client.head().await;
        assert_eq!(head.status(), 101);
        assert_eq!(
            head.values("sec-websocket-protocol"),
            Vec::from_iter(answer)
        );
    }
    // It was not offered to the endpoint.
    let request = asking(
        "/chat",
        &format!("Sec-WebSocket-Protocol: bearer, {token}\r\n"),
    );
    let (mut client, mut wire, _) = admitted(&endpoint, &proxy, &request).await;
    wire.send(SWITCH.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: bearer\r\n\r\n"))
        .await;
    assert_eq!(
        client.head().await.value("tidegate-reason"),
        Some("bad-switch")
    );
}

/// Tokens that are refused, the reason, and a part of the detail in the log. `message` and `signature` are those of a
/// token that is accepted.
fn refused_tokens(
    key: &TokenKey,
    message: &str,
    signature: &str,
) -> Vec<(String, &'static str, &'static str)> {
    let stranger = TokenKey::rsa("one");
    let none = key.token_with(&json!({ "alg": "none" }), &claims());
    let (unsigned, _) = none.rsplit_once('.').unwrap();
    let swapped = TokenKey::secret(key.jwk["n"].as_str().unwrap().as_bytes());
    let swapped = swapped.token_with(&json!({ "kid": "one" }), &claims());
    let other_claims = key.token(&claims_with("sub", json!("admin")));
    let (other_message, _) = other_claims.rsplit_once('.').unwrap();
    let invalid = "credential-invalid";
    let mut refused = vec![
        (none.clone(), invalid, "not a valid signed token"),
        (format!("{unsigned}."), invalid, "not a valid signed token"),
        (swapped, invalid, "is not for the algorithm"),
        (format!("{message}."), invalid, "signature is wrong"),
        (
            format!("{other_message}.{signature}"),
            invalid,
            "signature is wrong",
        ),
        (stranger.token(&claims()), invalid, "signature is wrong"),
        (
            key.token_with(&json!({ "crit": ["x"] }), &claims()),
            invalid,
            "`crit`",
        ),
        (
            key.token_with(&json!({ "kid": "two" }), &claims()),
            invalid,
            "no key has the id",
        ),
        ("x".to_owned(), invalid, "not a valid signed token"),
        ("x".repeat(9000), invalid, "longer than"),
    ];
    refused.extend(refused_claims(key));
    refused
}

/// The same for tokens whose claims are not accepted.
fn refused_claims(key: &TokenKey) -> Vec<(String, &'static str, &'static str)> {
    let past = seconds_from_now(-1);
    let invalid = "credential-invalid";
    vec![
        (
            key.token(&claims_with("iss", json!("https://evil.invalid"))),
            invalid,
            "another issuer",
        ),
        (
            key.token(&claims_with("aud", json!("other"))),
            invalid,
            "another audience",
        ),
        (
            key.token(&claims_with("aud", json!(null))),
            invalid,
            "no `aud`",
        ),
        (
            key.token(&claims_with("exp", json!(null))),
            invalid,
            "no `exp`",
        ),
        (
            key.token(&claims_with("nbf", json!(seconds_from_now(60)))),
            invalid,
            "does not hold yet",
        ),
        (
            key.token(&claims_with("iat", json!(seconds_from_now(60)))),
            invalid,
            "not issued yet",
        ),
        (
            key.token(&claims_with("exp", json!(past))),
            "credential-expired",
            "has expired",
        ),
        // The clock of the issuer is an hour behind.
        (
            key.token(&claims_with("exp", json!(seconds_from_now(300 - 3600)))),
            "credential-expired",
            "has expired",
        ),
    ]
}

#[tokio::test]
async fn what_is_not_a_valid_token_is_refused_for_handshakes_and_plain_requests() {
    let key = TokenKey::rsa("one");
    let (endpoint, proxy) = start_with(&[&key], "").await;
    let good = key.token(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    for (token, reason, detail) in refused_tokens(&key, message, signature) {
        let handshake = bearing(&token);
        let plain =
            format!("GET /chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
        for request in [handshake, plain] {
            let (status, found, head) = refused(&proxy, &request).await;
            assert_eq!((status, &*found), (401, reason), "{detail}");
            let challenge = head.value("www-authenticate");
            assert_eq!(challenge, Some("Bearer error=\"invalid_token\""));
        }
        until("the refusal to be logged", || {
            let rejected = proxy.log().events("rejected");
            let texts = rejected.iter().map(ToString::to_string);
            texts.filter(|text| text.contains(detail)).count() >= 2
        })
        .await;
    }
    for request in [HANDSHAKE, "GET /chat HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let (status, reason, head) = refused(&proxy, request).await;
        assert_eq!((status, &*reason), (401, "credential-missing"));
        assert_eq!(head.value("www-authenticate"), Some("Bearer"));
    }
    assert!(!proxy.log().text().contains(signature));
    endpoint.stays_quiet().await;
    // The others were refused for what they are.
    let (_client, _wire, head) = admitted(&endpoint, &proxy, &bearing(&good)).await;
    assert_eq!(head.value("x-user"), Some("me"));
}

#[tokio::test]
async fn two_different_tokens_are_refused() {
    let key = TokenKey::ec("ec");
    let (endpoint, proxy) = start_with(&[&key], "").await;
    let one = key.token(&claims());
    let two = key.token(&claims_with("sub", json!("you")));
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let offer = |token: &str| format!("Sec-WebSocket-Protocol: bearer, {token}\r\n");
    for (target, fields) in [
        ("/chat".to_owned(), bearer(&one) + &bearer(&two)),
        (format!("/chat?token={two}"), bearer(&one)),
        (format!("/chat?a=b&%74%6f%6B%65n={two}"), bearer(&one)),
        (format!("/chat?token={one}&token={two}"), String::new()),
        (format!("/chat?token={one}&toke%6e={two}"), String::new()),
        (
            "/chat".to_owned(),
            format!("Cookie: jwt={one}; jwt={two}\r\n"),
        ),
        (
            "/chat".to_owned(),
            format!("Cookie: jwt={one}\r\nCookie: jwt={two}\r\n"),
        ),
        ("/chat".to_owned(), offer(&one) + &offer(&two)),
        (
            "/chat".to_owned(),
            offer(&one) + &format!("X-Token: {two}\r\n"),
        ),
        (
            "/chat".to_owned(),
            format!("Sec-WebSocket-Protocol: bearer, {one}, token.{two}\r\n"),
        ),
    ] {
        let (status, reason, _) = refused(&proxy, &asking(&target, &fields)).await;
        assert_eq!(
            (status, &*reason),
            (400, "credential-conflict"),
            "{target} {fields}"
        );
    }
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn a_route_may_require_claims() {
    let key = TokenKey::ec("ec");
    let require = r#"require = { role = ["player", "mod"], "realm.level" = ["3"] }"#;
    let (endpoint, proxy) = start_with(&[&key], require).await;
    let with = |role, level: u8| {
        let mut claims = claims_with("role", role);
        claims["realm"] = json!({ "level": level });
        bearing(&key.token(&claims))
    };
    for request in [
        with(json!("guest"), 3),
        with(json!(["player"]), 4),
        with(json!(null), 3),
    ] {
        let (status, reason, _) = refused(&proxy, &request).await;
        assert_eq!((status, &*reason), (403, "claim-denied"));
    }
    endpoint.stays_quiet().await;
    for role in [json!("mod"), json!(["guest", "player"])] {
        admitted(&endpoint, &proxy, &with(role, 3)).await;
    }
}

#[tokio::test]
async fn a_shared_secret_verifies_tokens_until_it_is_replaced() {
    let folder = TempDir::new().unwrap();
    let [old, new] = ["o", "n"].map(|letter| letter.repeat(32));
    let file = |folder: &Path| folder.join("secret.key");
    crate::harness::certificates::write(&file(folder.path()), &format!("{old}\n"));
    let (endpoint, proxy) = start(folder, "secret_file = \"secret.key\"", "").await;
    let bearing_from =
        |secret: &str| bearing(&TokenKey::secret(secret.as_bytes()).token(&claims()));
    let before = bearing_from(&old);
    admitted_often(&endpoint, &proxy, &before).await;
    let (status, reason, _) = refused(&proxy, &bearing_from(&new)).await;
    assert_eq!((status, &*reason), (401, "credential-invalid"));
    crate::harness::certificates::write(&file(proxy.folder()), &new);
    reload(&proxy).await;
    admitted(&endpoint, &proxy, &bearing_from(&new)).await;
    assert_eq!(refused(&proxy, &before).await.0, 401);
}

/// A server that publishes keys, and the program that fetches them.
async fn published(keys: &[&TokenKey], is_down: bool) -> (KeyServer, Endpoint, Proxy) {
    let folder = TempDir::new().unwrap();
    let server = KeyServer::start(folder.path(), keys).await;
    server.set_down(is_down);
    let keys = format!("jwks_url = \"{}\", ca = \"ca.pem\"", server.url);
    let (endpoint, proxy) = start(folder, &keys, "").await;
    (server, endpoint, proxy)
}

#[tokio::test]
async fn keys_are_rotated_while_clients_come_in() {
    let (old, new) = (TokenKey::ec("old"), TokenKey::rsa("new"));
    let (server, endpoint, proxy) = published(&[&old], false).await;
    let before = bearing(&old.token(&claims()));
    admitted_often(&endpoint, &proxy, &before).await;
    assert_eq!(server.asked(), 1);
    server.publish(&[&new]);
    // Many at once wait for one request to the issuer.
    let request = bearing(&new.token(&claims()));
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = proxy.connect().await;
        client.send(&request).await;
        clients.push(client);
    }
    for _ in 0..20 {
        let (mut wire, head) = endpoint.request().await;
        assert_eq!(head.value("x-user"), Some("me"));
        wire.send(SWITCH).await;
    }
    for client in &mut clients {
        assert_eq!(client.head().await.status(), 101);
    }
    assert!((2..=3).contains(&server.asked()), "{}", server.asked());
    let (status, reason, _) = refused(&proxy, &before).await;
    assert_eq!((status, &*reason), (401, "credential-invalid"));
    // Unknown ids do not make the issuer busy.
    for number in 0..20 {
        let unknown = new.token_with(&json!({ "kid": number.to_string() }), &claims());
        assert_eq!(refused(&proxy, &bearing(&unknown)).await.0, 401);
    }
    assert!(server.asked() <= 3, "{}", server.asked());
}

#[tokio::test]
async fn without_keys_nothing_is_decided_and_known_keys_outlive_their_issuer() {
    let (key, other) = (TokenKey::ec("key"), TokenKey::ec("other"));
    let (server, endpoint, proxy) = published(&[&key], true).await;
    let request = bearing(&key.token(&claims()));
    let (status, reason, head) = refused(&proxy, &request).await;
    assert_eq!((status, &*reason), (503, "auth-unavailable"));
    assert!(head.value("retry-after").is_some());
    assert_eq!(refused(&proxy, HANDSHAKE).await.1, "credential-missing");
    proxy
        .logged("keys of an issuer not fetched; it is asked again")
        .await;
    let scrape = Scrape::of(&proxy).await;
    let failed = ["service=\"auth/players\"", "result=\"failure\""];
    assert!(scrape.sum("tidegate_service_requests_total", &failed) > 0.0);
    assert_eq!(scrape.sum("tidegate_auth_keys", &["auth=\"players\""]), 0.0);
    server.set_down(false);
    proxy.logged("keys of an issuer fetched").await;
    admitted(&endpoint, &proxy, &request).await;
    let auth = ["auth=\"players\""];
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.sum("tidegate_auth_keys", &auth), 1.0);
    assert!(scrape.sum("tidegate_auth_keys_fetched_timestamp_seconds", &auth) > 1e9);
    server.set_down(true);
    reload(&proxy).await;
    admitted(&endpoint, &proxy, &request).await;
    // The issuer cannot be asked for this one: that is no reason to trust it.
    let (status, reason, _) = refused(&proxy, &bearing(&other.token(&claims()))).await;
    assert_eq!((status, &*reason), (401, "credential-invalid"));
}
