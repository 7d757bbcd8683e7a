//! Whatever a stranger sends instead of TLS, or in the middle of a handshake, and however it is cut: the end of the
//! connection that tidegate drives comes to the same verdict as rustls with its own buffers, answers as much, and holds
//! no more than the beginning of one message.
//!
//! The input has one byte of settings: which end it is sent to, and how it is cut.

use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use tidegate::net::tls_engine::TlsEngine;
use tokio::io::ReadBuf;

/// The lengths of the pieces in which the bytes come, in bytes.
const PIECES: [usize; 8] = [1, 2, 3, 5, 7, 100, 1000, 60_000];

/// The most that an end may hold, in bytes: the beginning of a handshake message, and one record.
const MAX_HELD: usize = 0xffff + 5 + 16_384 + 2048;

/// The length of an alert that is not encrypted, with its header.
const ALERT: usize = 7;

struct Settings {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
}

fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        // The signatures of this type have one length.
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let params = rcgen::CertificateParams::new(["end.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Settings {
            server: Arc::new(server),
            client: Arc::new(client),
            name: ServerName::try_from("end.example").unwrap(),
        }
    })
}

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let bytes = without_partial_header(bytes);
    let settings = settings();
    let (ours, reference): (_, Connection) = if how & 1 == 0 {
        (
            TlsEngine::server(Arc::clone(&settings.server)).unwrap(),
            ServerConnection::new(Arc::clone(&settings.server))
                .unwrap()
                .into(),
        )
    } else {
        let (config, name) = (&settings.client, &settings.name);
        (
            TlsEngine::client(Arc::clone(config), name.clone()).unwrap(),
            ClientConnection::new(Arc::clone(config), name.clone())
                .unwrap()
                .into(),
        )
    };
    let (error, answer) = outcome(ours, bytes, PIECES[usize::from(how >> 1 & 7)]);
    let (expected_error, expected_answer) = outcome_of_reference(reference, bytes);
    assert_eq!(error, expected_error);
    assert_eq!(answer.len(), expected_answer.len());
    if answer.len() <= ALERT {
        assert_eq!(answer, expected_answer);
    }
}

/// `bytes` without the beginning of a header at their end. We wait for the rest of it, where rustls judges its first
/// byte.
fn without_partial_header(bytes: &[u8]) -> &[u8] {
    let mut at = 0;
    while let Some(&[_, _, _, high, low]) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        at += 5 + usize::from(u16::from_be_bytes([high, low]));
    }
    bytes.get(..at).unwrap_or(bytes)
}

/// How the connection failed, if it has, and what it has sent.
type Outcome = (Option<String>, Vec<u8>);

fn outcome(mut ours: TlsEngine, bytes: &[u8], piece: usize) -> Outcome {
    let mut room = [0; 10];
    // As in the stream over a socket, what is received goes behind the place of what is held.
    let mut buffer = vec![0; MAX_HELD + PIECES[PIECES.len() - 1]];
    for piece in bytes.chunks(piece) {
        let end = ours.held() + piece.len();
        buffer[ours.held()..end].copy_from_slice(piece);
        let mut into = ReadBuf::new(&mut room);
        let received = ours.receive(&mut buffer[..end], &mut into);
        assert!(into.filled().is_empty(), "plaintext without keys");
        if let Err(error) = received {
            return (Some(error.to_string()), ours.unsent().to_vec());
        }
        assert!(ours.held() <= MAX_HELD, "{} bytes are held", ours.held());
    }
    (None, ours.unsent().to_vec())
}

fn outcome_of_reference(mut reference: Connection, mut bytes: &[u8]) -> Outcome {
    let mut error = None;
    while error.is_none() && !bytes.is_empty() {
        error = match reference.read_tls(&mut bytes) {
            Ok(_) => reference
                .process_new_packets()
                .err()
                .map(|error| error.to_string()),
            Err(error) => Some(format!("unexpected error: {error}")),
        };
    }
    let mut answer = Vec::new();
    while reference.wants_write() {
        reference.write_tls(&mut answer).unwrap();
    }
    (error, answer)
}
