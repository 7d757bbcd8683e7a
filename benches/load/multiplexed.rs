//! A client that opens its tunnels as streams of HTTP/2 connections (RFC 8441).

use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode, Version};

use super::rig::client::Client;

/// What Chromium lets a server send on one stream and on all of them, in bytes.
const STREAM_WINDOW: u32 = 6 << 20;
const CONNECTION_WINDOW: u32 = 15 << 20;

/// The time that a server has for its SETTINGS.
const SETTINGS_TIME: Duration = Duration::from_secs(10);

/// A connection that carries tunnels. It ends when this and all of its tunnels are dropped.
#[derive(Clone)]
pub(crate) struct Multiplexer(SendRequest<Bytes>);

/// A tunnel that is a stream.
pub(crate) struct StreamTunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
}

impl Multiplexer {
    /// Connects and waits until the server has said that it supports WebSockets.
    pub(crate) async fn connect(client: &Client) -> Self {
        let stream = client.connect().await.unwrap();
        assert_eq!(stream.application_protocol(), Some(&b"h2"[..]));
        let (requests, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await
            .unwrap();
        // If the connection fails, its streams end, and the tasks that wait for them see that.
        tokio::task::spawn_local(connection);
        let settings = async {
            while !requests.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SETTINGS_TIME, settings).await.unwrap();
        Self(requests)
    }

    /// Opens a tunnel to `path`.
    pub(crate) async fn open(&self, path: &str) -> StreamTunnel {
        let request = Request::builder()
            .method(Method::CONNECT)
            .version(Version::HTTP_2)
            .uri(format!("https://localhost{path}"))
            .extension(Protocol::from_static("websocket"))
            .header("user-agent", "bench")
            .header("origin", "https://localhost")
            .header("sec-websocket-version", "13")
            .body(())
            .unwrap();
        let mut requests = self.0.clone().ready().await.unwrap();
        let (response, send) = requests.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        StreamTunnel {
            send,
            receive: response.into_body(),
        }
    }
}

impl StreamTunnel {
    /// Sends `frame` and expects its echo.
    pub(crate) async fn echo(&mut self, frame: &Bytes) {
        let Self { send, receive } = self;
        // A long frame fills all windows before the first byte of its echo is read.
        tokio::join!(send_all(send, frame.clone()), expect(receive, frame));
    }

    /// Ends the tunnel, and waits until the other side has ended it, too.
    pub(crate) async fn leave(mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
        while let Some(piece) = self.receive.data().await {
            assert!(piece.unwrap().is_empty(), "something else came");
        }
    }
}

async fn send_all(send: &mut SendStream<Bytes>, mut rest: Bytes) {
    while !rest.is_empty() {
        send.reserve_capacity(rest.len());
        if send.capacity() == 0 {
            std::future::poll_fn(|cx| send.poll_capacity(cx))
                .await
                .unwrap()
                .unwrap();
        }
        let piece = rest.split_to(send.capacity().min(rest.len()));
        if !piece.is_empty() {
            send.send_data(piece, false).unwrap();
        }
    }
}

async fn expect(receive: &mut RecvStream, frame: &Bytes) {
    let mut rest = &frame[..];
    while !rest.is_empty() {
        let piece = receive.data().await.unwrap().unwrap();
        assert!(rest.starts_with(&piece), "something else came back");
        rest = &rest[piece.len()..];
        receive
            .flow_control()
            .release_capacity(piece.len())
            .unwrap();
    }
}
