//! Tunnels end with the credential that opened them, and when the credentials of their subject are revoked.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::certificates::write;
use crate::harness::endpoint::Endpoint;
use crate::harness::frames::{close_payload, frame};
use crate::harness::guarded::{self, NO_CONTENT};
use crate::harness::issuer::{TokenKey, claims_with, seconds_from_now};
use crate::harness::operator::{Operator, write_token};
use crate::harness::proxy::{Proxy, settings};
use crate::harness::wire::{SWITCH, Wire, handshake_with};
use crate::tokens::SECRET;

/// A proxy whose route asks for tokens signed with the secret.
struct Guarded {
    proxy: Proxy,
    endpoint: Endpoint,
    key: TokenKey,
    config: String,
}

impl Guarded {
    async fn start(auth: &str) -> Self {
        let endpoint = Endpoint::bind().await;
        let folder = TempDir::new().unwrap();
        write(&folder.path().join("tokens.key"), SECRET);
        write_token(folder.path());
        let head = format!(
            "[server]\nworkers = 2\nlog.format = \"json\"\nupgrade = {{ settle = \"200ms\", drain = \"off\" }}\n\
             [admin]\nbind = \"127.0.0.1:0\"\nmetrics_bind = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"\n\
             [auth.players]\n{auth}\n\
             jwt = {{ issuer = \"https://id.example.com\", audience = [\"chat\"], secret_file = \"tokens.key\", leeway = \"0s\" }}\n"
        );
        let config = head + &settings(&[endpoint.address], "", "auth = \"players\"");
        Self {
            proxy: Proxy::start_in(folder, &config).await,
            endpoint,
            key: TokenKey::secret(SECRET.as_bytes()),
            config,
        }
    }

    fn token(&self, subject: &str, issued: i64, expires: i64) -> String {
        let mut claims = claims_with("sub", json!(subject));
        claims["iat"] = json!(seconds_from_now(issued));
        claims["exp"] = json!(seconds_from_now(expires));
        self.key.token(&claims)
    }

    async fn ask(&self, token: &str) -> Wire {
        let mut client = self.proxy.connect().await;
        client
            .send(handshake_with(&format!(
                "Authorization: Bearer {token}\r\n"
            )))
            .await;
        client
    }

    async fn tunnel(&self, token: &str) -> (Wire, Wire) {
        let mut client = self.ask(token).await;
        let served = self.endpoint.tunnel().await;
        assert_eq!(client.head().await.status(), 101);
        (client, served)
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        Operator::of(&self.proxy).await.post(path, &body).await
    }

    async fn ids(&self) -> Vec<String> {
        let list = Operator::of(&self.proxy).await.get("/v1/tunnels").await;
        let tunnels = list["tunnels"].as_array().unwrap().iter();
        tunnels
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Reads to the end of the connection, and checks the Close frame.
async fn ends_with(client: &mut Wire, reason: &str) {
    let (rest, _) = client.rest().await;
    let close = [&1008_u16.to_be_bytes(), reason.as_bytes()].concat();
    assert_eq!(close_payload(&rest), Some(close), "{rest:?}");
}

#[tokio::test]
async fn a_tunnel_ends_before_its_token_and_a_reload_changes_that_no_more_than_messages() {
    let guarded = Guarded::start("spread = \"1s\"").await;
    let expires = seconds_from_now(8);
    let (mut client, mut served) = guarded.tunnel(&guarded.token("me", 0, 8)).await;
    let (mut other, _kept) = guarded.tunnel(&guarded.token("me", 0, 300)).await;
    // A longer spread would have ended it at once.
    let config = guarded.config.replace("spread = \"1s\"", "spread = \"1h\"");
    guarded.proxy.reload(&config).await;
    client.send(frame(0x82, Some([1, 2, 3, 4]), b"hello")).await;
    assert_eq!(served.exactly(11).await.len(), 11);
    ends_with(&mut client, "credential-expired").await;
    assert!(seconds_from_now(0) <= expires, "never later");
    other.send(frame(0x82, Some([1, 2, 3, 4]), b"hello")).await;
    let mut rejected = guarded.ask(&guarded.token("me", -20, -10)).await;
    assert_eq!(rejected.head().await.status(), 401);
}

#[tokio::test]
async fn tunnels_that_expire_together_all_end_in_time() {
    const TUNNELS: usize = 200;
    let guarded = Guarded::start("spread = \"3s\"").await;
    let expires = seconds_from_now(10);
    let token = guarded.token("me", 0, 10);
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        tunnels.push(guarded.tunnel(&token).await);
    }
    let ends = tunnels.iter_mut().map(|(client, _)| async {
        ends_with(client, "credential-expired").await;
        seconds_from_now(0)
    });
    let ended: Vec<i64> = join_all(ends).await;
    assert!(ended.iter().all(|at| *at <= expires), "{ended:?} {expires}");
    assert!(ended.iter().any(|at| *at != ended[0]), "not all at once");
}

#[tokio::test]
async fn the_application_moves_the_end_of_one_tunnel() {
    let guarded = Guarded::start("spread = \"0s\"").await;
    let (mut client, _served) = guarded.tunnel(&guarded.token("me", 0, 300)).await;
    let id = guarded.ids().await.remove(0);
    let extend = |id: &str, time: &str| json!({ "id": id, "expires_in": time });
    let path = "/v1/tunnels/extend";
    assert_eq!(guarded.post(path, extend(&id, "10m")).await.0, 200);
    let unknown = guarded.post(path, extend("00000000000000ff", "10m")).await;
    assert_eq!(unknown.0, 404, "{}", unknown.1);
    assert_eq!(guarded.post(path, extend(&id, "1s")).await.0, 200);
    ends_with(&mut client, "credential-expired").await;
}

#[tokio::test]
async fn a_revoked_subject_is_out_until_it_signs_in_again() {
    let guarded = Guarded::start("").await;
    let known = guarded.token("alice", -10, 300);
    let (mut first, _one) = guarded.tunnel(&known).await;
    let (mut second, _two) = guarded.tunnel(&known).await;
    let (mut other, mut others) = guarded.tunnel(&guarded.token("bob", -10, 300)).await;
    let listed = Operator::of(&guarded.proxy).await;
    let listed = listed.get("/v1/tunnels?subject=alice").await;
    assert_eq!(listed["tunnels"].as_array().unwrap().len(), 2);
    let unknown = json!({ "subject": "alice", "auth": "player" });
    assert_eq!(guarded.post("/v1/revoke", unknown).await.0, 404);
    let (status, revoked) = guarded
        .post("/v1/revoke", json!({ "subject": "alice" }))
        .await;
    assert_eq!((status, revoked), (200, json!({ "closed": 2 })));
    ends_with(&mut first, "revoked").await;
    ends_with(&mut second, "revoked").await;
    // A token without a time of issue counts as older than any revocation.
    let undated = guarded.key.token(&claims_with("sub", json!("alice")));
    for token in [known, guarded.token("alice", -9, 300), undated] {
        let head = guarded.ask(&token).await.head().await;
        assert_eq!(head.status(), 401);
        assert_eq!(head.value("tidegate-reason"), Some("credential-revoked"));
    }
    guarded.tunnel(&guarded.token("alice", 0, 300)).await;
    other.send(frame(0x82, Some([1, 2, 3, 4]), b"hello")).await;
    assert_eq!(others.exactly(11).await.len(), 11, "others go on");
}

#[tokio::test]
async fn revocations_outlive_an_upgrade_and_reach_the_tunnels_of_the_old_process() {
    let guarded = Guarded::start("spread = \"0s\"").await;
    let (mut old, _old) = guarded.tunnel(&guarded.token("alice", -10, 300)).await;
    let bob = guarded.token("bob", -10, 300);
    let (mut early, _early) = guarded.tunnel(&bob).await;
    assert_eq!(
        guarded
            .post("/v1/revoke", json!({ "subject": "bob" }))
            .await
            .0,
        200
    );
    ends_with(&mut early, "revoked").await;
    assert_eq!(guarded.post("/v1/upgrade", json!({})).await.0, 200);
    assert_eq!(
        guarded.ask(&bob).await.head().await.status(),
        401,
        "revoked before"
    );
    let (mut new, _new) = guarded.tunnel(&guarded.token("alice", -10, 300)).await;
    let (status, revoked) = guarded
        .post("/v1/revoke", json!({ "subject": "alice" }))
        .await;
    assert_eq!((status, revoked), (200, json!({ "closed": 2 })));
    ends_with(&mut old, "revoked").await;
    ends_with(&mut new, "revoked").await;
}

#[tokio::test]
async fn a_service_is_asked_again_and_only_its_refusal_ends_the_tunnels_of_a_subject() {
    let settings = "response_headers = [\"remote-user\"], subject_header = \"remote-user\"";
    let guarded = guarded::Guarded::start(settings, "recheck = \"1s\"", "").await;
    let mut tunnels = Vec::new();
    for user in ["eve", "eve", "ann"] {
        let answer = format!("HTTP/1.1 200 OK\r\nRemote-User: {user}\r\nContent-Length: 0\r\n\r\n");
        let request = guarded::handshake(&format!("Cookie: user={user}\r\n"));
        let (mut client, mut service, _) = guarded.ask(&request).await;
        service.send(answer).await;
        drop(service);
        // Questions about those who came before may be under way.
        let mut app = loop {
            tokio::select! {
                (app, _) = guarded.app.request() => break app,
                (mut service, _) = guarded.service.request() => service.send(NO_CONTENT).await,
            }
        };
        app.send(SWITCH).await;
        assert_eq!(client.head().await.status(), 101);
        tunnels.push((client, app));
    }
    let mut failed = 0;
    let refused = loop {
        let (mut service, asked) = guarded.service.request().await;
        assert_eq!(asked.value("x-forwarded-method"), Some("GET"));
        if asked.value("cookie") != Some("user=eve") {
            service.send(NO_CONTENT).await;
        } else if failed < 2 {
            failed += 1;
            service
                .send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                .await;
        } else {
            let refusal = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
            service.send(refusal).await;
            break service;
        }
    };
    let mut tunnels = tunnels.into_iter();
    let mut next = || tunnels.next().unwrap();
    let ((mut one, _one), (mut two, _two), (mut other, mut app)) = (next(), next(), next());
    ends_with(&mut one, "revoked").await;
    ends_with(&mut two, "revoked").await;
    drop(refused);
    other.send(frame(0x82, Some([1, 2, 3, 4]), b"hello")).await;
    assert_eq!(app.exactly(11).await.len(), 11, "others go on");
}
