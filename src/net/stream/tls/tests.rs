//! Over real sockets; the other end is tokio-rustls.

use rustls::AlertDescription;
use rustls::version::{TLS12, TLS13};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream as Peer};

use super::*;
use crate::net::tls_engine::tests::{client_config, name, server_config};

/// The two ends of a connection, ours first.
async fn sockets() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let far = TcpStream::connect(address).await.unwrap();
    let (near, _) = listener.accept().await.unwrap();
    (Socket::Tcp(near), far)
}

async fn pair(is_13: bool, we_serve: bool) -> (TlsStream, Peer<TcpStream>) {
    let version = if is_13 { &TLS13 } else { &TLS12 };
    let (near, far) = sockets().await;
    let server = Arc::new(server_config(version));
    let client = Arc::new(client_config(version));
    if we_serve {
        let ours = TlsStream::accept(server, near);
        let peer = TlsConnector::from(client);
        let (ours, peer) = tokio::join!(ours, peer.connect(name(), far));
        (ours.unwrap(), peer.unwrap().into())
    } else {
        let ours = TlsStream::connect(client, name(), near);
        let peer = TlsAcceptor::from(server);
        let (ours, peer) = tokio::join!(ours, peer.accept(far));
        (ours.unwrap(), peer.unwrap().into())
    }
}

const EVERY_PAIR: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn a_reader_with_little_room_gets_everything() {
    for (is_13, we_serve) in EVERY_PAIR {
        let (mut ours, mut peer) = pair(is_13, we_serve).await;
        let all = pattern(100_000);
        let sending = async {
            peer.write_all(&all).await.unwrap();
            peer.shutdown().await.unwrap();
        };
        let reading = async {
            let mut read = Vec::new();
            for size in (1..300).cycle() {
                let mut buffer = vec![0; size];
                match ours.read(&mut buffer).await.unwrap() {
                    0 => return read,
                    count => read.extend_from_slice(&buffer[..count]),
                }
            }
            read
        };
        let ((), read) = tokio::join!(sending, reading);
        assert!(read == all);
    }
}

/// Small buffers in the kernel, in which little waits.
fn narrow(ours: &TlsStream, peer: &Peer<TcpStream>) {
    let Socket::Tcp(socket) = ours.socket() else {
        panic!("no TCP");
    };
    let sending = SockRef::from(socket).set_send_buffer_size(32 << 10);
    let receiving = SockRef::from(peer.get_ref().0).set_recv_buffer_size(32 << 10);
    sending.and(receiving).unwrap();
}

#[tokio::test]
async fn what_a_stalled_reader_does_not_take_is_kept_once_and_bounded() {
    for (is_13, we_serve) in EVERY_PAIR {
        let (mut ours, mut peer) = pair(is_13, we_serve).await;
        narrow(&ours, &peer);
        let all = pattern(1 << 20);
        let mut written = 0;
        loop {
            let left = &all[written..];
            let slices = left.chunks(20_000).map(IoSlice::new).collect::<Vec<_>>();
            let write = std::future::poll_fn(|cx| {
                Poll::Ready(Pin::new(&mut ours).poll_write_vectored(cx, &slices))
            });
            match write.await {
                Poll::Ready(count) => written += count.unwrap(),
                Poll::Pending => break,
            }
            assert!(ours.engine.unsent().len() <= MAX_UNSENT);
        }
        assert!(written < all.len());
        let writing = async {
            ours.write_all(&all[written..]).await.unwrap();
            ours.shutdown().await.unwrap();
            assert!(ours.engine.unsent().is_empty());
        };
        let reading = async {
            let mut read = Vec::new();
            peer.read_to_end(&mut read).await.unwrap();
            read
        };
        let ((), read) = tokio::join!(writing, reading);
        assert!(read == all, "{} of {}", read.len(), all.len());
    }
}

#[tokio::test]
async fn what_is_pushed_goes_past_the_event_loop_and_is_sealed_once() {
    let (mut ours, mut peer) = pair(true, true).await;
    narrow(&ours, &peer);
    let all = pattern(1 << 20);
    let (mut pushed, mut read) = (0, vec![0; all.len()]);
    let mut have = 0;
    while have < all.len() {
        let (sealed, _) = ours.send_now(&all[pushed..]);
        pushed += sealed;
        assert!(ours.engine.unsent().len() <= MIN_RECEIVED, "one record");
        have += peer.read(&mut read[have..]).await.unwrap();
    }
    assert!(pushed == all.len() && read == all);
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_end() {
    let (mut ours, mut peer) = pair(true, true).await;
    peer.write_all(b"last").await.unwrap();
    peer.flush().await.unwrap();
    peer.get_mut().0.shutdown().await.unwrap();
    let mut read = Vec::new();
    ours.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"last");
}

#[tokio::test]
async fn either_side_may_end_first() {
    for (is_13, we_serve) in EVERY_PAIR {
        let (mut ours, mut peer) = pair(is_13, we_serve).await;
        peer.write_all(b"up").await.unwrap();
        peer.shutdown().await.unwrap();
        let mut read = Vec::new();
        ours.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"up");
        ours.write_all(b"down").await.unwrap();
        ours.shutdown().await.unwrap();
        // An end without a close_notify would be an error.
        read.clear();
        peer.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"down");
        assert!(ours.write(b"more").await.is_err());

        let (mut ours, mut peer) = pair(is_13, we_serve).await;
        ours.shutdown().await.unwrap();
        peer.read_to_end(&mut read).await.unwrap();
        peer.write_all(b"still here").await.unwrap();
        peer.shutdown().await.unwrap();
        read.clear();
        ours.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"still here");
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_gets_the_alert() {
    for (is_13, we_serve) in EVERY_PAIR {
        let (mut ours, mut peer) = pair(is_13, we_serve).await;
        let socket = peer.get_mut().0;
        socket
            .write_all(b"\x17\x03\x03\x00\x20no record of this connection....")
            .await
            .unwrap();
        let error = ours.read(&mut [0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let heard = peer.read(&mut [0; 100]).await.unwrap_err();
        let alert = heard.get_ref().unwrap().downcast_ref::<Error>().unwrap();
        assert_eq!(*alert, Error::AlertReceived(AlertDescription::BadRecordMac));
        assert!(ours.write(b"more").await.is_err());
    }
}

#[tokio::test]
async fn a_failed_handshake_is_explained_to_the_peer() {
    let (near, mut far) = sockets().await;
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let server = Arc::new(server_config(&TLS13));
    let failed = TlsStream::accept(server, near).await.unwrap_err();
    assert_eq!(failed.error.kind(), io::ErrorKind::InvalidData);
    let mut alert = Vec::new();
    far.read_to_end(&mut alert).await.unwrap_or_default();
    assert_eq!(alert, b"\x15\x03\x03\x00\x02\x02\x32");
}

#[tokio::test]
async fn what_came_before_a_fault_is_read_before_it() {
    for (is_13, we_serve) in EVERY_PAIR {
        for size in [2, 100] {
            let (mut ours, mut peer) = pair(is_13, we_serve).await;
            peer.write_all(b"before").await.unwrap();
            let (socket, _) = peer.get_mut();
            // A record that no key opens. It is there when the first one is received.
            let spoilt = b"\x17\x03\x03\x00\x18it is longer than a tag.";
            socket.write_all(spoilt).await.unwrap();
            let mut read = Vec::new();
            let mut buffer = vec![0; size];
            let failed = loop {
                match ours.read(&mut buffer).await {
                    Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
                    ended => break ended,
                }
            };
            assert_eq!(read, b"before");
            assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::InvalidData);
            let again = ours.read(&mut buffer).await;
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
