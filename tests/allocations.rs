//! Relaying a message allocates nothing, and an idle tunnel holds no buffer. Allocations are counted
//! in the whole process, so this is a test program of its own with a single test.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails has nothing to clean up"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use dhat::HeapStats;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tidegate::config::model::TunnelLimits;
use tidegate::net::stream::{Socket, Stream};
use tidegate::tunnel::copy::{InitialBytes, Tunnel};
use tidegate::tunnel::scratch::Scratch;
use tidegate::tunnel::table::TunnelTable;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Rounds before the count begins: one-time allocations happen in these.
const WARM: usize = 200;

const ROUNDS: usize = 5000;

/// Bytes sent to a slow reader: many times what its buffers hold.
const STALLED: usize = 2 << 20;

/// A socket buffer far smaller than a worker's read.
const NARROW: usize = 16 << 10;

/// The two ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// Relays on a thread of its own, as a worker does.
fn relay(client: TcpStream, endpoint: TcpStream) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let stream = |socket: TcpStream| {
                socket.set_nonblocking(true).unwrap();
                Stream::Plain(Socket::Tcp(
                    tokio::net::TcpStream::from_std(socket).unwrap(),
                ))
            };
            let limits = Arc::new(TunnelLimits {
                idle: None,
                half_closed: None,
                message_bytes: Some(1 << 20),
                ..TunnelLimits::default()
            });
            let place = Rc::new(TunnelTable::<()>::default()).enter(limits, Rc::default());
            let tunnel = Tunnel::new(
                stream(client),
                stream(endpoint),
                InitialBytes::default(),
                place,
                Scratch::new(),
            );
            tokio::task::spawn_local(tunnel).await.unwrap();
        });
    })
}

/// A binary message from an endpoint.
fn message(payload: usize) -> Vec<u8> {
    let mut frame = vec![0x82];
    match payload {
        0..126 => frame.push(payload as u8),
        126..65_536 => {
            frame.push(126);
            frame.extend((payload as u16).to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((payload as u64).to_be_bytes());
        }
    }
    frame.resize(frame.len() + payload, b'x');
    frame
}

/// A binary message from a client, masked with zeros.
fn masked(payload: usize) -> Vec<u8> {
    let mut frame = message(payload);
    frame[1] |= 0x80;
    let header = frame.len() - payload;
    frame.splice(header..header, [0; 4]);
    frame
}

fn cross(from: &mut TcpStream, to: &mut TcpStream, frame: &[u8], buffer: &mut [u8]) {
    from.write_all(frame).unwrap();
    to.read_exact(&mut buffer[..frame.len()]).unwrap();
}

#[test]
fn messages_cost_no_allocation_and_a_quiet_tunnel_holds_nothing() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let (mut client, near_client) = pair();
    let (mut endpoint, near_endpoint) = pair();
    let relay = relay(near_client, near_endpoint);

    let mut buffer = vec![0; 128 << 10];
    // Headers that arrive in pieces, too: these bytes are kept in the state of the tunnel itself.
    let frames = [masked(64), masked(2000), masked(40_000)].concat();
    let back = [message(64), message(2000), message(40_000)].concat();
    let mut rounds = |count| {
        let before = HeapStats::get();
        for round in 0..count {
            if round % 10 == 0 {
                cross(&mut client, &mut endpoint, &frames, &mut buffer);
                cross(&mut endpoint, &mut client, &back, &mut buffer);
            } else {
                cross(&mut client, &mut endpoint, &frames[..70], &mut buffer);
                cross(&mut endpoint, &mut client, &back[..66], &mut buffer);
            }
        }
        HeapStats::get().total_blocks - before.total_blocks
    };
    rounds(WARM);
    assert_eq!(rounds(ROUNDS), 0, "allocations in {ROUNDS} rounds");

    client.shutdown(Shutdown::Write).unwrap();
    endpoint.shutdown(Shutdown::Write).unwrap();
    relay.join().unwrap();

    // A slow reader: bytes that it does not accept are kept, and freed when they have been written.
    // Small socket buffers make it slow; reading slowly would not, if the relay were slower still.
    let (mut client, near_client) = pair();
    set_socket_recv_buffer_size(&client, NARROW).unwrap();
    set_socket_send_buffer_size(&near_client, NARROW).unwrap();
    let (mut endpoint, near_endpoint) = pair();
    let relay = self::relay(near_client, near_endpoint);
    for _ in 0..WARM {
        cross(&mut client, &mut endpoint, &frames[..70], &mut buffer);
        cross(&mut endpoint, &mut client, &back[..66], &mut buffer);
    }
    let mut flood = endpoint.try_clone().unwrap();
    let piece = message(1 << 19);
    let piece_bytes = piece.len();
    let quiet = HeapStats::get();
    let pieces = STALLED / piece_bytes;
    let writer = thread::spawn(move || {
        for _ in 0..pieces {
            flood.write_all(&piece).unwrap();
        }
        piece
    });
    let mut left = piece_bytes * pieces;
    while left > 0 {
        left -= client.read(&mut buffer[..1024]).unwrap();
    }
    // Kept until the allocations are counted.
    let _piece = writer.join().unwrap();
    // The threads of this test allocate a few bytes themselves.
    cross(&mut client, &mut endpoint, &frames[..70], &mut buffer);
    let after = HeapStats::get();
    let kept = after.total_bytes - quiet.total_bytes;
    assert!(
        kept > 1 << 16,
        "only {kept} bytes: nothing ever had to wait"
    );
    let held = after.curr_bytes.saturating_sub(quiet.curr_bytes);
    assert!(held < 4096, "{held} bytes are still held");

    client.shutdown(Shutdown::Write).unwrap();
    endpoint.shutdown(Shutdown::Write).unwrap();
    relay.join().unwrap();
}
