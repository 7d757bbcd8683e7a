//! The other end is rustls with its own buffers.

mod alerts;

use std::io::{Read, Write};
use std::sync::OnceLock;

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConnection, Connection as Buffered, RootCertStore, ServerConnection,
    SupportedProtocolVersion,
};

use super::*;

/// What a connection may hold where nothing is unread or unsent, in bytes: part of one record.
const MAX_PARTIAL: usize = HEADER + MAX_PLAIN + 2048;

pub(in crate::net) struct Pki {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

pub(super) fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["end.example".to_owned()]).unwrap();
        Pki {
            chain: vec![made.cert.der().clone()],
            key: PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        }
    })
}

pub(super) fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(pki().chain[0].clone()).unwrap();
    Arc::new(roots)
}

pub(in crate::net) fn server_config(version: &'static SupportedProtocolVersion) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pki().chain.clone(), pki().key.clone_key())
        .unwrap()
}

pub(in crate::net) fn client_config(version: &'static SupportedProtocolVersion) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth()
}

pub(in crate::net) fn name() -> ServerName<'static> {
    ServerName::try_from("end.example").unwrap()
}

/// Our end, the other one, and what is on its way between them.
pub(super) struct Pair {
    pub(super) ours: TlsEngine,
    pub(super) peer: Buffered,
    pub(super) to_us: Vec<u8>,
    pub(super) to_peer: Vec<u8>,
    /// What we have read.
    read: Vec<u8>,
    /// What the peer has read.
    peer_read: Vec<u8>,
}

impl Pair {
    pub(super) fn new(ours: TlsEngine, peer: Buffered) -> Self {
        Self {
            ours,
            peer,
            to_us: Vec::new(),
            to_peer: Vec::new(),
            read: Vec::new(),
            peer_read: Vec::new(),
        }
    }

    fn of(version: &'static SupportedProtocolVersion, we_serve: bool) -> Self {
        let server = Arc::new(server_config(version));
        let client = Arc::new(client_config(version));
        match we_serve {
            true => Self::new(
                TlsEngine::server(server).unwrap(),
                ClientConnection::new(client, name()).unwrap().into(),
            ),
            false => Self::new(
                TlsEngine::client(client, name()).unwrap(),
                ServerConnection::new(server).unwrap().into(),
            ),
        }
    }

    /// Takes what either side has to send.
    pub(super) fn collect(&mut self) {
        self.to_peer.extend_from_slice(self.ours.unsent());
        self.ours.sent(self.ours.unsent().len());
        while self.peer.wants_write() {
            self.peer.write_tls(&mut self.to_us).unwrap();
        }
    }

    /// Brings us `count` bytes, where our reader has room for `room`.
    pub(super) fn bring_us(&mut self, count: usize, room: usize) -> Result<(), Error> {
        self.collect();
        let count = count.min(self.to_us.len());
        let mut plain = vec![0; room];
        let mut into = ReadBuf::new(&mut plain);
        let held = self.ours.held();
        let mut buffer = vec![0xaa; held];
        buffer.extend(self.to_us.drain(..count));
        if self.ours.unread() > 0 {
            // The stream above reads this first.
            self.ours.read_unread(&mut into);
            self.to_us.splice(..0, buffer.split_off(held));
        } else if count > 0 {
            self.ours.receive(&mut buffer, &mut into)?;
            assert!(self.ours.unread() <= held + count);
        }
        self.read.extend_from_slice(into.filled());
        assert!(self.ours.held() <= MAX_PARTIAL, "{}", self.ours.held());
        Ok(())
    }

    pub(super) fn bring_peer(&mut self, count: usize) -> Result<(), Error> {
        self.collect();
        let count = count.min(self.to_peer.len());
        let brought: Vec<u8> = self.to_peer.drain(..count).collect();
        let mut brought = brought.as_slice();
        while !brought.is_empty() {
            self.peer.read_tls(&mut brought).unwrap();
            self.peer.process_new_packets()?;
            let mut plain = vec![0; 1 << 16];
            while let Ok(read @ 1..) = self.peer.reader().read(&mut plain) {
                self.peer_read.extend_from_slice(&plain[..read]);
            }
        }
        Ok(())
    }

    /// Brings everything to both sides until nothing is on its way.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        loop {
            self.bring_us(1 << 14, 1 << 16)?;
            self.bring_peer(1 << 14)?;
            self.collect();
            if self.to_us.is_empty() && self.to_peer.is_empty() && self.ours.unread() == 0 {
                return Ok(());
            }
        }
    }

    /// Seals `plain` in two pieces of memory; returns how many bytes were taken.
    pub(super) fn write(&mut self, plain: &[u8], cut: usize, room: usize) -> Result<usize, Error> {
        let (first, second) = plain.split_at(cut.min(plain.len()));
        let (mut out, mut gathered) = (vec![0; room], vec![0; MAX_PLAIN]);
        let slices = [IoSlice::new(first), IoSlice::new(second)];
        let (taken, sealed) = self.ours.seal(&slices, &mut out, &mut gathered)?;
        self.collect();
        self.to_peer.extend_from_slice(&out[..sealed]);
        Ok(taken)
    }
}

fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| (at % 251) as u8).collect()
}

#[derive(Debug, Clone)]
enum Act {
    Write { count: usize, cut: usize },
    PeerWrites(usize),
    PeerUpdates,
    End,
    PeerEnds,
    BringUs { count: usize, room: usize },
    BringPeer(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let size = prop_oneof![0..40_usize, 0..40_000_usize, 16_380..16_390_usize];
    let room = prop_oneof![0..20_usize, 0..70_000_usize];
    prop_oneof![
        4 => (size.clone(), size.clone()).prop_map(|(count, cut)| Act::Write { count, cut }),
        4 => size.clone().prop_map(Act::PeerWrites),
        2 => Just(Act::PeerUpdates),
        1 => Just(Act::End),
        1 => Just(Act::PeerEnds),
        8 => (size.clone(), room).prop_map(|(count, room)| Act::BringUs { count, room }),
        8 => size.prop_map(Act::BringPeer),
    ]
}

fn hold_to(acts: Vec<Act>, is_13: bool, we_serve: bool) -> Result<(), TestCaseError> {
    let version = if is_13 { &TLS13 } else { &TLS12 };
    let mut pair = Pair::of(version, we_serve);
    let (mut written, mut peer_written) = (0, 0);
    let (mut ended, mut peer_ended) = (false, false);
    for act in acts {
        match act {
            Act::Write { count, cut } => {
                let plain = pattern(written, count);
                match pair.write(&plain, cut, 70_000) {
                    Ok(taken) => {
                        // Full records, and a room for more than one.
                        prop_assert!(taken == count.min(taken) && taken >= count.min(MAX_PLAIN));
                        written += taken;
                    }
                    Err(_) => prop_assert!(ended || pair.ours.agreed().is_handshaking()),
                }
            }
            Act::PeerWrites(count) if !peer_ended && !pair.peer.is_handshaking() => {
                let plain = pattern(peer_written, count);
                peer_written += pair.peer.writer().write(&plain).unwrap();
            }
            Act::PeerUpdates if is_13 && !peer_ended && !pair.peer.is_handshaking() => {
                pair.peer.refresh_traffic_keys().unwrap();
            }
            Act::End if !pair.ours.agreed().is_handshaking() => {
                pair.ours.end();
                ended = true;
            }
            Act::PeerEnds if !pair.peer.is_handshaking() => {
                pair.peer.send_close_notify();
                peer_ended = true;
            }
            Act::BringUs { count, room } => pair.bring_us(count, room).unwrap(),
            Act::BringPeer(count) => pair.bring_peer(count).unwrap(),
            _ => {}
        }
    }
    pair.settle().unwrap();
    prop_assert!(pair.read == pattern(0, peer_written));
    prop_assert!(pair.peer_read == pattern(0, written));
    prop_assert_eq!(pair.ours.peer_has_ended(), peer_ended);
    let state = pair.peer.process_new_packets().unwrap();
    prop_assert_eq!(state.peer_has_closed(), ended);
    prop_assert_eq!(pair.ours.held(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn both_sides_read_what_the_other_has_written_however_records_are_cut(
        acts in prop::collection::vec(act(), 0..60),
        is_13 in any::<bool>(),
        we_serve in any::<bool>(),
        has_begun in any::<bool>(),
    ) {
        let mut acts = acts;
        if has_begun {
            let shake = |_| [Act::BringUs { count: 9_000, room: 0 }, Act::BringPeer(9_000)];
            acts.splice(..0, (0..4).flat_map(shake));
        }
        hold_to(acts, is_13, we_serve)?;
    }
}

#[test]
fn a_key_update_is_answered_before_the_next_record() {
    for we_serve in [true, false] {
        let mut pair = Pair::of(&TLS13, we_serve);
        pair.settle().unwrap();
        for round in 0..3 {
            pair.peer.refresh_traffic_keys().unwrap();
            pair.settle().unwrap();
            assert!(pair.write(b"after", 2, 1 << 15).unwrap() == 5, "{round}");
            // The answer, and the record under the new key.
            assert!(whole_records(&pair.to_peer) == pair.to_peer.len());
            assert_eq!(records(&pair.to_peer), 2, "{round}");
            pair.settle().unwrap();
        }
        assert_eq!(pair.peer_read, b"after".repeat(3));
    }
}

fn records(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some(length) = record_length(bytes) {
        bytes = &bytes[length..];
        count += 1;
    }
    count
}

/// rustls bounds these; the test is that we notice, and keep nothing for the peer meanwhile.
#[test]
fn a_flood_of_key_updates_ends_the_connection() {
    let mut pair = Pair::of(&TLS13, true);
    pair.settle().unwrap();
    let mut updates = 0;
    let error = loop {
        pair.peer.refresh_traffic_keys().unwrap();
        updates += 1;
        match pair.settle() {
            Ok(()) => assert!(updates <= 100 && pair.ours.unsent().is_empty()),
            Err(error) => break error,
        }
    };
    assert!(updates > 20, "{updates}");
    assert!(matches!(error, Error::PeerMisbehaved(_)), "{error}");
    assert!(pair.write(b"more", 0, 1 << 15).is_err());
}

#[test]
fn after_the_end_of_either_side_the_other_goes_on() {
    for version in [&TLS13, &TLS12] {
        for we_serve in [true, false] {
            let mut pair = Pair::of(version, we_serve);
            pair.settle().unwrap();
            pair.peer.send_close_notify();
            pair.settle().unwrap();
            assert!(pair.ours.peer_has_ended());
            assert_eq!(pair.write(b"still here", 3, 1 << 15).unwrap(), 10);
            pair.settle().unwrap();
            assert_eq!(pair.peer_read, b"still here");

            let mut pair = Pair::of(version, we_serve);
            pair.settle().unwrap();
            pair.ours.end();
            pair.ours.end();
            pair.collect();
            assert_eq!(records(&pair.to_peer), 1, "close_notify is sent once");
            pair.settle().unwrap();
            assert!(pair.write(b"more", 0, 1 << 15).is_err());
            pair.peer.writer().write_all(b"still here").unwrap();
            pair.settle().unwrap();
            assert_eq!(pair.read, b"still here");
        }
    }
}

#[test]
fn bytes_after_the_end_are_ignored() {
    let mut pair = Pair::of(&TLS13, true);
    pair.settle().unwrap();
    pair.peer.send_close_notify();
    pair.collect();
    pair.to_us
        .extend_from_slice(b"\x17\x03\x03\x00\x05extra and more of it");
    pair.settle().unwrap();
    assert!(pair.ours.peer_has_ended() && pair.read.is_empty() && pair.ours.held() == 0);
}

#[test]
fn pieces_of_plaintext_share_full_records() {
    let mut pair = Pair::of(&TLS13, true);
    pair.settle().unwrap();
    let plain = pattern(0, 3 * MAX_PLAIN + 7);
    assert_eq!(pair.write(&plain, 10, 1 << 17).unwrap(), plain.len());
    assert_eq!(records(&pair.to_peer), 4);
    pair.settle().unwrap();
    assert!(pair.peer_read == plain);
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    for version in [&TLS13, &TLS12] {
        let mut pair = Pair::of(version, true);
        pair.settle().unwrap();
        pair.peer.writer().write_all(&pattern(0, 50_000)).unwrap();
        pair.settle().unwrap();
        assert_eq!(pair.write(&pattern(0, 50_000), 0, 1 << 17).unwrap(), 50_000);
        pair.settle().unwrap();
        let TlsEngine {
            held,
            unread,
            unsent,
            ..
        } = &pair.ours;
        assert_eq!(
            [held.capacity(), unread.capacity(), unsent.capacity()],
            [0; 3]
        );
    }
}
