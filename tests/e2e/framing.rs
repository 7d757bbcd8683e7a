//! Frames of our own between theirs, read by a library that others wrote, on both legs.

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::wire::Wire;
use crate::harness::within;

type Socket = WebSocketStream<Wire>;

/// Both ends of a tunnel, each spoken to by tungstenite.
async fn pair(proxy: &Proxy, endpoint: &Endpoint) -> (Socket, Socket) {
    let limits = WebSocketConfig::default();
    let client = client_async_with_config(
        "ws://chat.example.com/",
        proxy.connect().await,
        Some(limits),
    );
    let served = async { accept_async_with_config(endpoint.accept().await, Some(limits)).await };
    let (client, served) = within("a tunnel", async { tokio::join!(client, served) }).await;
    (client.unwrap().0, served.unwrap())
}

/// Sends messages of all sizes up to 1 MiB until it cannot any more.
fn flood(mut sink: SplitSink<Socket, Message>) -> JoinHandle<()> {
    tokio::spawn(async move {
        for length in [0, 1, 125, 126, 65_535, 65_536, 1 << 20]
            .into_iter()
            .cycle()
        {
            let message = Message::Binary(Bytes::from(vec![0x5a; length]));
            if sink.send(message).await.is_err() {
                return;
            }
        }
    })
}

/// Reads until the end, and returns the Close; `after` so many messages it pauses until told.
async fn last_close(mut stream: SplitStream<Socket>) -> Option<CloseFrame> {
    let mut close = None;
    while let Some(message) = stream.next().await {
        match message {
            Ok(Message::Close(frame)) => close = frame,
            Ok(Message::Binary(bytes)) => assert!(bytes.iter().all(|byte| *byte == 0x5a)),
            Ok(other) => panic!("nobody sent {other:?}"),
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
async fn a_close_goes_between_megabytes_in_both_directions() {
    let endpoint = Endpoint::bind().await;
    let config = format!(
        "[server]\nworkers = 2\nlog.format = \"json\"\nshutdown.grace = \"300ms\"\n{}",
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
        // The endpoint is told after the client has answered; one in the middle of a flood may
        // take longer than it is given.
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
