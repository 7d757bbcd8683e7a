//! Streams of one HTTP/2 connection do not hold each other up, whatever one of them does.

use bytes::Bytes;

use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::frames::{Random, frame};
use crate::harness::h2_client::{H2Client, H2Proxy, h2_settings, websocket};
use crate::harness::h2_frames::{DATA, OPEN, Outcome, RawH2, raw_frame};
use crate::harness::h2_stream::H2Stream;
use crate::harness::wire::{SWITCH, Wire};
use crate::harness::within;

/// A proxy whose route `/stalled` leads to an endpoint that reads nothing, and all others to an echo of bytes.
struct Neighbours {
    proxy: H2Proxy,
    stalled: Endpoint,
    _echo: Echo,
}

impl Neighbours {
    async fn start(http2: &str) -> Self {
        let stalled = Endpoint::bind().await;
        let echo = Echo::with("echo", Unit::Bytes, None).await;
        let config = h2_settings(&[echo.address], http2, "", "");
        let route = "[[route]]\nname = \"stalled\"\npath = \"/stalled\"\nupstream = \"stalled\"\n";
        let upstream = format!(
            "[upstream.stalled]\nendpoints = [\"{}\"]\n",
            stalled.address
        );
        Self {
            proxy: H2Proxy::start(&[config.as_str(), route, &upstream].concat()).await,
            stalled,
            _echo: echo,
        }
    }

    /// Opens a tunnel to the endpoint that reads nothing.
    async fn stalled(&self, client: &mut H2Client) -> (H2Stream, Wire) {
        let (opened, served) = tokio::join!(client.open(websocket("/stalled")), self.accept());
        (opened.unwrap().1, served)
    }

    async fn accept(&self) -> Wire {
        let (mut served, head) = self.stalled.request().await;
        let key = head.value("sec-websocket-key").unwrap();
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let switch = SWITCH.replace(crate::harness::wire::ACCEPT, &accept);
        served.send(switch).await;
        served
    }
}

/// A message goes through this tunnel and comes back.
async fn echoes(wire: &mut Wire) {
    let message = frame(0x82, Some([1, 2, 3, 4]), b"quiet");
    wire.send(&message).await;
    assert_eq!(wire.exactly(message.len()).await, message);
}

#[tokio::test]
async fn endpoints_that_accept_nothing_hold_up_their_own_tunnels_only() {
    let neighbours = Neighbours::start("true").await;
    let mut client = neighbours.proxy.client().await;
    let mut quiet = Wire::over(client.tunnel().await);
    let mut held = Vec::new();
    for _ in 0..10 {
        let (stream, served) = neighbours.stalled(&mut client).await;
        let mut stream = Wire::over(stream);
        // More than sockets and windows have room for.
        let sent = stream.flood_up_to(&[7; 65_536], 1000).await;
        assert!(sent < 65_536 * 1000, "nothing holds it up");
        held.push((stream, served, sent));
        echoes(&mut quiet).await;
    }
    // What was sent is delivered once the endpoint reads again.
    let (_stream, mut served, sent) = held.pop().unwrap();
    assert!(served.exactly(sent).await == vec![7; sent]);
    echoes(&mut quiet).await;
    assert!(!client.has_ended());
}

/// The library counts small frames that are not taken in against a connection; a client may send them.
#[tokio::test]
async fn many_small_frames_for_an_endpoint_that_accepts_nothing_end_no_connection() {
    let neighbours = Neighbours::start("true").await;
    let mut raw = RawH2::connect(&neighbours.proxy).await;
    let stalled = [
        OPEN[0],
        OPEN[1],
        OPEN[2],
        OPEN[3],
        (":path", "/stalled"),
        OPEN[5],
    ];
    raw.open(1, &stalled, 0).await;
    let mut served = neighbours.accept().await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    // The endpoint's socket is full first, then the tunnel's window is used up by bytes in frames of their own.
    let mut total = 0_usize;
    // This client does not acknowledge the settings, so that a stream has what it begins with.
    let mut credit = 65_535_i64;
    let piece = raw_frame(DATA, 0, 1, &[7; 16_384]);
    while raw.credit(1, &mut credit, 16_384).await {
        raw.send(&piece).await;
        total += 16_384;
    }
    let mut small = Vec::new();
    let rest = usize::try_from(credit).unwrap();
    for _ in 0..rest {
        small.extend(raw_frame(DATA, 0, 1, &[7]));
    }
    assert!(rest > 0 && raw.try_send(&small).await);
    total += rest;
    raw.lives().await;
    raw.open(3, &OPEN, 0).await;
    assert_eq!(raw.outcome(3).await, Outcome::Status(200));
    assert!(served.exactly(total).await == vec![7; total]);
    raw.lives().await;
}

#[tokio::test]
async fn bulk_in_both_directions_leaves_room_for_quiet_tunnels() {
    let neighbours = Neighbours::start("true").await;
    let mut client = neighbours.proxy.client().await;
    let mut quiet = Wire::over(client.tunnel().await);
    let mut bulk = tokio::task::JoinSet::new();
    for number in 0..4 {
        let stream = Wire::over(client.tunnel().await);
        bulk.spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sent = Random(number).bytes(8 << 20);
            let expected = sent.clone();
            let writing = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut writer, &sent)
                    .await
                    .unwrap();
                writer
            });
            let mut received = vec![0; expected.len()];
            let reading = tokio::io::AsyncReadExt::read_exact(&mut reader, &mut received);
            within("bulk", reading).await.unwrap();
            assert!(received == expected);
            writing.await.unwrap();
        });
    }
    let mut times = 0;
    while bulk.try_join_next().is_none() && times < 200 {
        echoes(&mut quiet).await;
        times += 1;
    }
    while let Some(done) = bulk.join_next().await {
        done.unwrap();
    }
    echoes(&mut quiet).await;
    assert!(times > 0);
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_one_tunnel_gets_the_others() {
    let neighbours = Neighbours::start("true").await;
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let mut client = neighbours.proxy.client_with(&builder).await;
    let mut quiet = Wire::over(client.tunnel().await);
    let (_unread, mut served) = neighbours.stalled(&mut client).await;
    let sent = served.flood_up_to(&[7; 65_536], 1000).await;
    assert!(sent < 65_536 * 1000);
    for _ in 0..20 {
        echoes(&mut quiet).await;
    }
}

#[tokio::test]
async fn tunnels_that_are_reset_in_great_number_leave_the_others_alone() {
    let neighbours = Neighbours::start("true").await;
    let mut client = neighbours.proxy.client().await;
    let mut quiet = Wire::over(client.tunnel().await);
    for _ in 0..500 {
        // Each had its response: this is no abuse.
        client.tunnel().await.reset(h2::Reason::CANCEL);
    }
    echoes(&mut quiet).await;
    // And some that the client leaves before the response, as a browser leaves a page: all at once.
    for _ in 0..50 {
        let (_, mut send) = client.begin(websocket("/chat"), false).await.unwrap();
        let _ = send.send_data(Bytes::from_static(b"early"), false);
        send.send_reset(h2::Reason::CANCEL);
    }
    client.ping().await;
    echoes(&mut quiet).await;
}
