//! Relaying a message allocates nothing, and an idle tunnel holds no buffer. Over TLS, rustls allocates one block for
//! each record that it opens or seals, which is freed at once, and we allocate nothing. Allocations are counted in the
//! whole process, so this is a test program of its own with a single test.
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
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use tidegate::config::model::TunnelLimits;
use tidegate::net::stream::{Socket, Stream, TlsStream};
use tidegate::net::tls_engine::TlsEngine;
use tidegate::tunnel::copy::{InitialBytes, Tunnel};
use tidegate::tunnel::scratch::Scratch;
use tidegate::tunnel::table::TunnelTable;
use tokio::io::ReadBuf;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Rounds before the count begins: one-time allocations happen in these.
const WARM: usize = 200;

const ROUNDS: usize = 5000;

/// Bytes sent to a slow reader: many times what its buffers hold.
const STALLED: usize = 2 << 20;

/// A socket buffer far smaller than a worker's read.
const NARROW: usize = 16 << 10;

/// The bytes that must have waited, in all.
const KEPT: u64 = 1 << 16;

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
    relay_over(client, endpoint, None)
}

/// The same, with TLS on both sides if there are settings for it.
fn relay_over(client: TcpStream, endpoint: TcpStream, tls: Option<Tls>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let socket = |socket: TcpStream| {
                socket.set_nonblocking(true).unwrap();
                Socket::Tcp(tokio::net::TcpStream::from_std(socket).unwrap())
            };
            let (client, endpoint) = (socket(client), socket(endpoint));
            let (client, endpoint) = match tls {
                None => (Stream::Plain(client), Stream::Plain(endpoint)),
                Some(tls) => {
                    let client = TlsStream::accept(tls.server, client).await.unwrap();
                    let endpoint = TlsStream::connect(tls.client, name(), endpoint);
                    (
                        Stream::Tls(client.into()),
                        Stream::Tls(endpoint.await.unwrap().into()),
                    )
                }
            };
            let limits = Arc::new(TunnelLimits {
                idle: None,
                half_closed: None,
                message_bytes: Some(1 << 20),
                ..TunnelLimits::default()
            });
            let place = Rc::new(TunnelTable::<()>::default()).enter(limits, Rc::default());
            let tunnel = Tunnel::new(
                client,
                endpoint,
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

fn cross(from: &mut impl Write, to: &mut impl Read, frame: &[u8], buffer: &mut [u8]) {
    from.write_all(frame).unwrap();
    to.read_exact(&mut buffer[..frame.len()]).unwrap();
}

/// The settings of both ends of TLS.
#[derive(Clone)]
struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["end.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key);
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            server: Arc::new(server.unwrap()),
            client: Arc::new(client),
        }
    }

    /// A client of ours, with rustls's own buffers; and an endpoint.
    fn ends(
        &self,
        client: TcpStream,
        endpoint: TcpStream,
    ) -> (
        StreamOwned<ClientConnection, TcpStream>,
        StreamOwned<ServerConnection, TcpStream>,
    ) {
        let (client_config, server_config) = (Arc::clone(&self.client), Arc::clone(&self.server));
        (
            StreamOwned::new(
                ClientConnection::new(client_config, name()).unwrap(),
                client,
            ),
            StreamOwned::new(ServerConnection::new(server_config).unwrap(), endpoint),
        )
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("end.example").unwrap()
}

/// Sends messages both ways; returns how many blocks that allocates, in the relay and at its ends.
fn rounds_over_tls(
    client: &mut (impl Read + Write),
    endpoint: &mut (impl Read + Write),
    count: usize,
) -> usize {
    let (up, down) = (masked(64), message(64));
    let mut buffer = [0; 128];
    let before = HeapStats::get().total_blocks;
    for _ in 0..count {
        cross(client, endpoint, &up, &mut buffer);
        cross(endpoint, client, &down, &mut buffer);
    }
    (HeapStats::get().total_blocks - before) as usize
}

/// Completes the handshakes of both ends, each of which waits for the other.
fn shake_hands(
    client: &mut StreamOwned<ClientConnection, TcpStream>,
    mut endpoint: StreamOwned<ServerConnection, TcpStream>,
) -> StreamOwned<ServerConnection, TcpStream> {
    let peer = thread::spawn(move || {
        endpoint.conn.complete_io(&mut endpoint.sock).unwrap();
        endpoint
    });
    client.conn.complete_io(&mut client.sock).unwrap();
    peer.join().unwrap()
}

fn messages_over_tls() {
    let tls = Tls::new();
    // Both ends without a relay: each message is sealed once and opened once.
    let (near, far) = pair();
    let (mut client, endpoint) = tls.ends(near, far);
    let mut endpoint = shake_hands(&mut client, endpoint);
    rounds_over_tls(&mut client, &mut endpoint, WARM);
    let ends = rounds_over_tls(&mut client, &mut endpoint, ROUNDS);
    assert!(ends >= 4 * ROUNDS, "{ends}: what is counted has changed");
    drop((client, endpoint));

    let (near, near_client) = pair();
    let (far, near_endpoint) = pair();
    let (mut client, endpoint) = tls.ends(near, far);
    let relay = relay_over(near_client, near_endpoint, Some(tls));
    let mut endpoint = shake_hands(&mut client, endpoint);
    rounds_over_tls(&mut client, &mut endpoint, WARM);
    let quiet = HeapStats::get().curr_bytes;
    let all = rounds_over_tls(&mut client, &mut endpoint, ROUNDS);
    let of_relay = all.saturating_sub(ends);
    // Each of the two messages of a round is opened once and sealed once more.
    assert!(
        of_relay <= 4 * ROUNDS,
        "{of_relay} allocations in {ROUNDS} rounds"
    );
    // A large message is more than one record, and comes in pieces.
    let mut buffer = vec![0; 128 << 10];
    for _ in 0..WARM {
        cross(&mut client, &mut endpoint, &masked(100_000), &mut buffer);
        cross(&mut endpoint, &mut client, &message(100_000), &mut buffer);
    }
    rounds_over_tls(&mut client, &mut endpoint, WARM);
    drop(buffer);
    let held = HeapStats::get().curr_bytes.saturating_sub(quiet);
    assert!(held < 4096, "{held} bytes are still held");
    client.sock.shutdown(Shutdown::Write).unwrap();
    endpoint.sock.shutdown(Shutdown::Write).unwrap();
    relay.join().unwrap();
}

/// What an end of a TLS connection holds while nothing moves.
fn idle_over_tls() {
    const CONNECTIONS: usize = 20;
    /// In bytes.
    const MOST: usize = 4500;
    let tls = Tls::new();
    let mut buffer = vec![0; 64 << 10];
    let mut carry = |from: &mut TlsEngine, to: &mut TlsEngine| {
        let records = from.unsent().to_vec();
        from.sent(records.len());
        let held = to.held();
        let end = held + records.len();
        buffer[held..end].copy_from_slice(&records);
        let mut nothing = ReadBuf::new(&mut []);
        to.receive(&mut buffer[..end], &mut nothing).unwrap();
    };
    let mut connect = || {
        let mut client = TlsEngine::client(Arc::clone(&tls.client), name()).unwrap();
        let mut server = TlsEngine::server(Arc::clone(&tls.server)).unwrap();
        for _ in 0..3 {
            carry(&mut client, &mut server);
            carry(&mut server, &mut client);
        }
        assert!(!client.agreed().is_handshaking() && !server.agreed().is_handshaking());
        (Box::new(client), Box::new(server))
    };
    let _warm = [connect(), connect()];
    let before = HeapStats::get().curr_bytes;
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| connect()).collect();
    let each = (HeapStats::get().curr_bytes - before) / (2 * CONNECTIONS);
    assert!(each <= MOST, "{each} bytes each");
    drop(connections);
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
    let kept = || HeapStats::get().total_bytes - quiet.total_bytes;
    while left > 0 {
        // As long as nothing had to wait, the reader has to be slower than the relay, however slow that is.
        let size = if kept() > KEPT { 1024 } else { 1 };
        left -= client.read(&mut buffer[..size]).unwrap();
    }
    // Kept until the allocations are counted.
    let _piece = writer.join().unwrap();
    // The threads of this test allocate a few bytes themselves.
    cross(&mut client, &mut endpoint, &frames[..70], &mut buffer);
    let after = HeapStats::get();
    let kept = after.total_bytes - quiet.total_bytes;
    assert!(kept > KEPT, "only {kept} bytes: nothing ever had to wait");
    let held = after.curr_bytes.saturating_sub(quiet.curr_bytes);
    assert!(held < 4096, "{held} bytes are still held");

    client.shutdown(Shutdown::Write).unwrap();
    endpoint.shutdown(Shutdown::Write).unwrap();
    relay.join().unwrap();

    messages_over_tls();
    idle_over_tls();
}
