//! Real services on loopback, with and without TLS.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use http::StatusCode;
use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::service_body::MAX_HEAD_BYTES;
use super::*;

#[test]
fn pauses_double_up_to_a_minute() {
    let pauses = [1, 2, 3, 7, 40].map(|failures| backoff(failures).as_secs());
    assert_eq!(pauses, [1, 2, 4, 60, 60]);
}

/// A service that sends the same response to every connection, after it has read a head.
struct Service {
    port: u16,
    roots: Roots,
    thread: JoinHandle<Vec<String>>,
}

fn serve(response: Vec<u8>, connections: usize, is_tls: bool) -> Service {
    let CertifiedKey { cert, signing_key }: CertifiedKey<KeyPair> =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![cert.der().clone()], key)
    .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        let mut heads = Vec::new();
        for _ in 0..connections {
            let (mut socket, _) = listener.accept().unwrap();
            let head = match is_tls {
                false => respond(&mut socket, &response),
                true => {
                    let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                    respond(&mut StreamOwned::new(tls, socket), &response)
                }
            };
            heads.extend(head);
        }
        heads
    });
    Service {
        port,
        roots: Roots::Given(vec![cert.der().clone()]),
        thread,
    }
}

fn respond(stream: &mut (impl Read + Write), response: &[u8]) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1..) => head.extend(byte),
            _ => return None,
        }
    }
    // The client may have seen enough before all is written.
    let _ = stream.write_all(response);
    let _ = stream.flush();
    Some(String::from_utf8(head).unwrap())
}

fn client(roots: &Roots) -> HttpsClient {
    let connector = Connector::with_look_up(Box::new(|host| match host {
        "localhost" => Ok(vec![([127, 0, 0, 1], 0).into()]),
        _ => Err(io::Error::other("no such name")),
    }));
    HttpsClient::new(connector, roots, Arc::default()).unwrap()
}

async fn get(client: &HttpsClient, url: &str) -> Result<Response<Bytes>, HttpsClientError> {
    client
        .send(Request::get(url).body(Bytes::new()).unwrap())
        .await
}

#[tokio::test]
async fn a_response_is_read_whole_whatever_its_status() {
    for (response, status, body) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, "ok"),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, "until the end"),
        (
            "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
            302,
            "",
        ),
        (
            "HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n1\r\n?\r\n0\r\n\r\n",
            503,
            "?",
        ),
    ] {
        for is_tls in [true, false] {
            let service = serve(response.into(), 1, is_tls);
            let client = client(&service.roots).allow_plain();
            let scheme = if is_tls { "https" } else { "http" };
            let url = format!("{scheme}://localhost:{}/dir?a=b", service.port);
            let response = get(&client, &url).await;
            if is_tls && body.starts_with("until") {
                // Without a close_notify, nobody knows whether that was all.
                assert!(response.is_err());
                continue;
            }
            let response = response.unwrap();
            assert_eq!(response.status(), StatusCode::from_u16(status).unwrap());
            assert_eq!(response.body(), body);
            let counted = (client.counters.succeeded(), client.counters.failed());
            assert_eq!(counted, if status < 500 { (1, 0) } else { (0, 1) });
            let heads = service.thread.join().unwrap();
            let head = heads[0].to_lowercase();
            assert!(head.starts_with("get /dir?a=b http/1.1\r\n"), "{head}");
            assert!(
                head.contains(&format!("host: localhost:{}\r\n", service.port)),
                "{head}"
            );
            assert!(head.contains("user-agent: tidegate/"), "{head}");
        }
    }
}

#[tokio::test]
async fn every_failure_says_what_failed() {
    let check = async |response: Vec<u8>, roots: Option<Roots>, expected: &str| {
        let service = serve(response, 1, true);
        let client = client(roots.as_ref().unwrap_or(&service.roots));
        let url = format!("https://localhost:{}/", service.port);
        let error = get(&client, &url).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(client.counters.failed(), 1);
    };
    let large = MAX_BODY_BYTES + 1;
    let announced = format!("HTTP/1.1 200 OK\r\ncontent-length: {large}\r\n\r\n");
    let mut body = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    body.resize(body.len() + large + 1024, b'x');
    check(body, None, "is larger than 1048576 bytes").await;
    check(announced.into(), None, "larger than").await;
    let head = format!(
        "HTTP/1.1 200 OK\r\na: {}\r\n\r\n",
        "x".repeat(2 * MAX_HEAD_BYTES)
    );
    check(head.into(), None, "too large").await;
    check(
        b"SSH-2.0\r\n".to_vec(),
        None,
        "request to `localhost` failed",
    )
    .await;
    check(Vec::new(), None, "request to `localhost` failed").await;
    let strange = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let strange = Roots::Given(vec![strange.cert.der().clone()]);
    check(
        Vec::new(),
        Some(strange),
        "TLS handshake with `localhost` failed",
    )
    .await;
}

#[tokio::test]
async fn nobody_there_and_no_such_name() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let client = client(&Roots::Given(Vec::new())).allow_plain();
    let error = get(&client, &format!("http://{closed}/"))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot connect to `127.0.0.1`"),
        "{error}"
    );
    let error = get(&client, "https://nowhere.example/").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot resolve `nowhere.example`: no such name"
    );
}

#[tokio::test]
async fn a_service_whose_network_is_gone_is_noticed() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", service.local_addr().unwrap());
    let origin = ServiceOrigin::of(&url.parse().unwrap(), true).unwrap();
    let client = client(&Roots::Given(Vec::new()));
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let connected = client.connect(&origin, deadline).await.unwrap();
    let socket = socket2::SockRef::from(&connected);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE.idle);
    let limit = socket.tcp_user_timeout().unwrap();
    assert_eq!(limit, Some(KEEPALIVE.user_timeout));
}

#[tokio::test]
async fn a_service_that_is_silent_costs_no_more_than_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let client = client(&Roots::Given(Vec::new())).allow_plain();
    tokio::time::pause();
    let error = get(&client, &format!("http://{address}/"))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "no response from `127.0.0.1` within 30s");
}

/// How long a stream may be silent in tests in which it is not.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `open` comes to: the status, the lines, and how they end.
async fn lines(client: &HttpsClient, url: &str, limit: usize) -> (u16, Vec<String>, String) {
    let request = Request::get(url).body(Bytes::new()).unwrap();
    let (parts, mut stream) = client.open(request, limit).await.unwrap();
    let mut lines = Vec::new();
    loop {
        let end = match stream.next(PATIENCE).await {
            Ok(Some(line)) => {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                continue;
            }
            Ok(None) => "end".to_owned(),
            Err(error) => error.to_string(),
        };
        return (parts.status.as_u16(), lines, end);
    }
}

#[tokio::test]
async fn a_stream_has_whole_lines_and_says_how_it_ends() {
    let long = "x".repeat(100_000);
    let check = async |response: &str, expected: &[&str], end: &str| {
        for is_tls in [true, false] {
            let service = serve(response.into(), 1, is_tls);
            let client = client(&service.roots).allow_plain();
            let scheme = if is_tls { "https" } else { "http" };
            let url = format!("{scheme}://localhost:{}/", service.port);
            let (status, lines, ended) = lines(&client, &url, 100_000).await;
            assert_eq!(status, 200);
            assert_eq!(lines, expected);
            assert!(ended.contains(end), "{ended}");
            let counted = (client.counters.succeeded(), client.counters.failed());
            assert_eq!(counted, (1, u64::from(end != "end")));
        }
    };
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let clean = format!("{chunked}1\r\na\r\n4\r\nb\nc\n\r\n0\r\n\r\n");
    check(&clean, &["ab", "c"], "end").await;
    let in_mid_line = format!("{chunked}3\r\na\nb\r\n0\r\n\r\n");
    check(&in_mid_line, &["a"], "ended in the middle of a line").await;
    let in_mid_chunk = format!("{chunked}9\r\na\nb");
    check(&in_mid_chunk, &["a"], "request to `localhost` failed").await;
    let without_end = format!("{chunked}2\r\na\n\r\n");
    check(&without_end, &["a"], "request to `localhost` failed").await;
    let largest = format!("HTTP/1.1 200 OK\r\ncontent-length: 100001\r\n\r\n{long}\n");
    check(&largest, &[&long], "end").await;
    let too_long = format!("HTTP/1.1 200 OK\r\ncontent-length: 100002\r\n\r\n{long}x\n");
    check(&too_long, &[], "is longer than 100000 bytes").await;
}

#[tokio::test]
async fn a_silent_stream_fails_after_its_time_and_a_status_is_not_a_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let client = client(&Roots::Given(Vec::new())).allow_plain();
    let silent = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        respond(&mut socket, b"HTTP/1.1 200 OK\r\n\r\none\ntw");
        // Until the client closes the connection.
        socket.read(&mut [0]).unwrap_or(0)
    });
    let request = Request::get(&url).body(Bytes::new()).unwrap();
    let (_, mut stream) = client.open(request, 1024).await.unwrap();
    assert_eq!(stream.next(PATIENCE).await.unwrap().unwrap(), "one");
    tokio::time::pause();
    let error = stream.next(PATIENCE).await.unwrap_err().to_string();
    assert_eq!(error, "nothing from `127.0.0.1` for 1m");
    tokio::time::resume();
    drop(stream);
    assert_eq!(silent.join().unwrap(), 0);

    let gone = b"HTTP/1.1 410 Gone\r\ncontent-length: 7\r\n\r\nexpired";
    let service = serve(gone.to_vec(), 1, false);
    let url = format!("http://127.0.0.1:{}/", service.port);
    let request = Request::get(&url).body(Bytes::new()).unwrap();
    let (parts, stream) = client.open(request, 1024).await.unwrap();
    assert_eq!(parts.status, StatusCode::GONE);
    assert_eq!(stream.collect(7, PATIENCE).await.unwrap(), "expired");
}

#[tokio::test]
async fn a_client_has_limits_of_its_own() {
    let body = "x".repeat(MAX_BODY_BYTES + 1);
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for (limit, expected) in [
        (body.len(), None),
        (body.len() - 1, Some("is larger than 1048576 bytes")),
    ] {
        let service = serve(response.clone().into(), 1, false);
        let client = client(&service.roots).allow_plain().max_body_bytes(limit);
        let result = get(&client, &format!("http://localhost:{}/", service.port)).await;
        match expected {
            None => assert_eq!(result.unwrap().body().len(), body.len()),
            Some(expected) => assert!(result.unwrap_err().to_string().contains(expected)),
        }
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let client = client(&Roots::Given(Vec::new()))
        .allow_plain()
        .timeout(Duration::from_secs(5));
    tokio::time::pause();
    let error = get(&client, &url).await.unwrap_err();
    assert_eq!(error.to_string(), "no response from `127.0.0.1` within 5s");
}

#[tokio::test]
async fn a_client_presents_its_certificate_and_expects_a_name() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = |name: &str| {
        let CertifiedKey { cert, signing_key }: CertifiedKey<KeyPair> =
            rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        (cert.der().clone(), key)
    };
    let (server, server_key) = certified("etcd.internal");
    let (own, own_key) = certified("tidegate");
    let mut trusted = RootCertStore::empty();
    trusted.add(own.clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), Arc::clone(&provider))
            .build()
            .unwrap();
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.clone()], server_key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let service = thread::spawn(move || {
        for _ in 0..2 {
            let (socket, _) = listener.accept().unwrap();
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(tls, socket);
            respond(
                &mut stream,
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            );
        }
    });
    let own = rustls::sign::CertifiedKey::from_der(vec![own], own_key, &provider).unwrap();
    let mut tls = EndpointTls {
        roots: Roots::Given(vec![server]),
        server_name: Some(ServerName::try_from("etcd.internal").unwrap()),
        pinned: Vec::new(),
        client: Some(Arc::new(own)),
    };
    let with = |tls: &EndpointTls| {
        HttpsClient::with_tls(Connector::default(), tls, Arc::default()).unwrap()
    };
    assert_eq!(get(&with(&tls), &url).await.unwrap().body(), "ok");
    tls.client = None;
    assert!(get(&with(&tls), &url).await.is_err());
    service.join().unwrap();
}
