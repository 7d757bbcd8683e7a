//! Frames that tidegate inserts into tunnels, read by an independent library on both sides.

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::operator::Operator;
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::wire::Wire;
use crate::harness::within;

type Socket = WebSocketStream<Wire>;

/// The byte that all messages of a flood consist of.
const FILLER: u8 = 0x5a;

/// The receive buffer of both ends. A Close queues behind buffered bytes, and tidegate waits only a few
/// seconds for it to arrive: less than an unoptimised reader on a busy machine needs for the megabytes
/// that the kernel buffers by default. A much smaller buffer stalls segments of 64 KiB.
const RECEIVE_BUFFER: u32 = 512 << 10;

/// A socket with a small receive buffer.
fn narrow_socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    socket
}

/// An endpoint whose connections have small receive buffers.
fn narrow_endpoint() -> Endpoint {
    let socket = narrow_socket();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    Endpoint::on(socket.listen(64).unwrap().into_std().unwrap())
}

/// Both ends of a tunnel, as tungstenite connections.
async fn pair(proxy: &Proxy, endpoint: &Endpoint) -> (Socket, Socket) {
    let limits = WebSocketConfig::default();
    let connected = within("a connection", narrow_socket().connect(proxy.address()));
    let client = Wire::tcp(connected.await.unwrap());
    let client = client_async_with_config("ws://chat.example.com/", client, Some(limits));
    let served = async { accept_async_with_config(endpoint.accept().await, Some(limits)).await };
    let (client, served) = within("a tunnel", async { tokio::join!(client, served) }).await;
    (client.unwrap().0, served.unwrap())
}

/// Sends messages of all sizes up to 1 MiB until the connection ends.
fn flood(mut sink: SplitSink<Socket, Message>) -> JoinHandle<()> {
    tokio::spawn(async move {
        for length in [0, 1, 125, 126, 65_535, 65_536, 1 << 20]
            .into_iter()
            .cycle()
        {
            let message = Message::Binary(Bytes::from(vec![FILLER; length]));
            if sink.send(message).await.is_err() {
                return;
            }
        }
    })
}

/// Reads until the end. Returns the last Close.
async fn last_close(mut stream: SplitStream<Socket>) -> Option<CloseFrame> {
    let mut close = None;
    while let Some(message) = stream.next().await {
        match message {
            Ok(Message::Close(frame)) => close = frame,
            // Compared as a whole: a loop over bytes is far too slow without optimisation.
            Ok(Message::Binary(bytes)) => assert!(bytes == vec![FILLER; bytes.len()]),
            Ok(other) => panic!("no peer sent {other:?}"),
            // What a library says of a connection that ends while it is sending; it would call a
            // frame in the wrong place a protocol error.
            Err(Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed) => break,
            Err(Error::Protocol(error))
                if error.to_string().contains("Connection reset without") =>
            {
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    close
}

#[tokio::test]
async fn a_close_arrives_during_floods_in_both_directions() {
    let endpoint = narrow_endpoint();
    let config = format!(
        "[server]\nworkers = 2\nlog.format = \"json\"\nshutdown.grace = \"4s\"\n{}",
        simple(&[endpoint.address])
    );
    let mut proxy = Proxy::start(&config).await;
    let mut floods = Vec::new();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (client, served) = pair(&proxy, &endpoint).await;
        let (client_sink, client_stream) = client.split();
        let (served_sink, served_stream) = served.split();
        floods.extend([flood(client_sink), flood(served_sink)]);
        readers.push((
            tokio::spawn(last_close(client_stream)),
            tokio::spawn(last_close(served_stream)),
        ));
    }
    proxy.signal(Signal::TERM);
    for (client, served) in readers {
        let close = within("the client's end", client).await.unwrap();
        let close = close.expect("a Close for the client");
        assert_eq!(
            (close.code, close.reason.as_str()),
            (CloseCode::Restart, "shutdown")
        );
        // The endpoint gets its Close after the client has answered. In the middle of a flood that
        // may be too late.
        if let Some(close) = within("the endpoint's end", served).await.unwrap() {
            assert_eq!(
                (close.code, close.reason.as_str()),
                (CloseCode::Away, "shutdown")
            );
        }
    }
    assert_eq!(proxy.exit().await, 0);
    for flood in floods {
        within("a flood to stop", flood).await.unwrap();
    }
}

/// Sends messages of this size until the connection ends.
fn flood_of(length: usize, mut sink: SplitSink<Socket, Message>) -> JoinHandle<()> {
    let payload = Bytes::from(vec![FILLER; length]);
    tokio::spawn(async move { while sink.send(Message::Binary(payload.clone())).await.is_ok() {} })
}

/// A request to close all tunnels with this code and reason.
fn move_on() -> serde_json::Value {
    json!({ "all": true, "code": 1012, "reason": "drain" })
}

/// Client and endpoint get a Close between two messages, however long these are.
#[tokio::test]
async fn a_close_stands_between_messages_of_any_size() {
    let endpoint = narrow_endpoint();
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let mut floods = Vec::new();
    let mut readers = Vec::new();
    let sizes = [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20];
    for size in sizes {
        let (client, served) = pair(&proxy, &endpoint).await;
        let ((_client_sink, client), (served_sink, served)) = (client.split(), served.split());
        floods.push(flood_of(size, served_sink));
        let client = tokio::spawn(async move {
            let mut client = client;
            // After the first message the flood is under way.
            assert!(matches!(client.next().await, Some(Ok(Message::Binary(_)))));
            (last_close(client).await, _client_sink)
        });
        readers.push((client, tokio::spawn(last_close(served))));
    }
    proxy.logged_times("tunnel opened", sizes.len()).await;
    assert_eq!(operator.post("/v1/tunnels/close", &move_on()).await.0, 200);
    for ((client, served), size) in readers.into_iter().zip(sizes) {
        let (close, _sink) = within("the client's end", client).await.unwrap();
        let close = close.unwrap_or_else(|| panic!("{size}: no Close for the client"));
        assert_eq!(
            (close.code, close.reason.as_str()),
            (CloseCode::Restart, "drain")
        );
        let close = within("the endpoint's end", served).await.unwrap();
        let close = close.unwrap_or_else(|| panic!("{size}: no Close for the endpoint"));
        assert_eq!(
            (close.code, close.reason.as_str()),
            (CloseCode::Away, "drain")
        );
    }
    for flood in floods {
        within("a flood to stop", flood).await.unwrap();
    }
}

/// A reader that stalls in the middle of a message gets its Close if it continues in time, and else the
/// plain end of the connection, but never a Close within a message. Its endpoint gets one either way.
#[tokio::test]
async fn a_reader_that_stalls_gets_no_close_within_a_message() {
    let endpoint = narrow_endpoint();
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    for goes_on in [true, false] {
        let (client, served) = pair(&proxy, &endpoint).await;
        let ((_client_sink, client), (served_sink, served)) = (client.split(), served.split());
        let served = tokio::spawn(last_close(served));
        let flood = flood_of(8 << 20, served_sink);
        // The client does not read, so the flood gets stuck in the middle of a message.
        let stuck = async {
            let mut before = 0;
            loop {
                let listed = operator.get("/v1/tunnels").await;
                let bytes = listed["tunnels"][0]["bytes_from_endpoint"].as_u64();
                match bytes {
                    Some(bytes) if bytes > 0 && bytes == before => break,
                    other => before = other.unwrap_or_default(),
                }
            }
        };
        within("the flood to get stuck", stuck).await;
        assert_eq!(operator.post("/v1/tunnels/close", &move_on()).await.0, 200);
        if !goes_on {
            let ended = proxy.logged_times("tunnel ended", 2).await;
            assert_eq!(ended[1]["reason"], "killed");
        }
        let close = within("the client's end", last_close(client)).await;
        let close = close.map(|it| (it.code, it.reason.to_string()));
        let expected = (CloseCode::Restart, "drain".to_owned());
        assert_eq!(close, goes_on.then_some(expected));
        let close = within("the endpoint's end", served).await.unwrap();
        let close = close.expect("a Close for the endpoint");
        assert_eq!(
            (close.code, close.reason.as_str()),
            (CloseCode::Away, "drain")
        );
        within("the flood to stop", flood).await.unwrap();
    }
}

#[tokio::test]
async fn a_quiet_tunnel_is_closed_with_a_reason() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address])
        .replace("[upstream.main]", "timeouts.idle = \"1s\"\n[upstream.main]");
    let proxy = Proxy::start(&config).await;
    let (client, served) = pair(&proxy, &endpoint).await;
    let ((_client_sink, client), (_served_sink, served)) = (client.split(), served.split());
    let (client, served) = within("both ends", async {
        tokio::join!(last_close(client), last_close(served))
    })
    .await;
    for close in [client.unwrap(), served.unwrap()] {
        assert_eq!(
            (close.code, close.reason.as_str()),
            (CloseCode::Away, "idle")
        );
    }
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "idle");
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_tunnel_before_it_arrives() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]).replace(
        "[upstream.main]",
        "limits.message_bytes = \"1000B\"\n[upstream.main]",
    );
    let proxy = Proxy::start(&config).await;
    for (length, closes) in [(1000, false), (1001, true)] {
        let (mut client, mut served) = pair(&proxy, &endpoint).await;
        client
            .send(Message::Binary(vec![0x5a; length].into()))
            .await
            .unwrap();
        if !closes {
            assert_eq!(served.next().await.unwrap().unwrap().len(), length);
            continue;
        }
        let ((_sink, client), (_served_sink, served)) = (client.split(), served.split());
        let (client, served) = within("both ends", async {
            tokio::join!(last_close(client), last_close(served))
        })
        .await;
        let close = client.unwrap();
        assert_eq!(
            (close.code, close.reason.as_str()),
            (CloseCode::Size, "message-too-big")
        );
        assert_eq!(served.unwrap().code, CloseCode::Away);
        let ended = proxy.logged_times("tunnel ended", 2).await;
        assert_eq!(ended[1]["reason"], "message-too-big");
    }
}

#[tokio::test]
async fn messages_are_counted_and_closes_are_noted() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&simple(&[echo.address])).await;
    let wire = proxy.connect().await;
    let (mut client, _) = client_async_with_config("ws://chat.example.com/", wire, None)
        .await
        .unwrap();
    for number in 0..5 {
        client
            .send(Message::text(number.to_string()))
            .await
            .unwrap();
        client.next().await.unwrap().unwrap();
    }
    let close = CloseFrame {
        code: CloseCode::Library(4001),
        reason: "done".into(),
    };
    client.close(Some(close)).await.unwrap();
    while let Some(Ok(_)) = client.next().await {}
    drop(client);
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(
        (
            &ended["messages_from_client"],
            &ended["messages_from_endpoint"]
        ),
        (&5.into(), &5.into())
    );
    assert_eq!(ended["reason"], "client-close");
    assert_eq!(
        (&ended["close_code"], &ended["closed_by"]),
        (&4001.into(), &"client".into())
    );
}
