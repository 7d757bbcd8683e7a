//! The alerts of RFC 8446 section 6.2 that a peer gets, by what it has done.

use rustls::AlertDescription as Alert;
use rustls::server::WebPkiClientVerifier;

use super::*;

/// The alert in records that are not encrypted.
fn plain_alert(records: &[u8]) -> Option<Alert> {
    match records {
        [0x15, 3, _, 0, 2, 2, code] => Some(Alert::from(*code)),
        _ => None,
    }
}

/// A ClientHello of TLS 1.`minor - 1`, with its signature algorithms as the only extension.
fn hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0xc0, 0x2f, 0x13, 0x01, 1, 0]);
    body.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    handshake_record(1, &body)
}

fn handshake_record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut record = vec![0x16, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([kind, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend_from_slice(body);
    record
}

#[test]
fn before_the_handshake() {
    for (sent, alert) in [
        // Records that may not come yet.
        (
            b"\x17\x03\x03\x00\x01x".to_vec(),
            Some(Alert::UnexpectedMessage),
        ),
        (
            b"\x14\x03\x03\x00\x01\x01".to_vec(),
            Some(Alert::UnexpectedMessage),
        ),
        (
            handshake_record(20, &[0; 12]),
            Some(Alert::UnexpectedMessage),
        ),
        // Other protocols, and records that are not valid.
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Some(Alert::DecodeError)),
        (b"\x16\x03\x03\xff\xff".to_vec(), Some(Alert::DecodeError)),
        (b"\x16\x09\x01\x00\x01x".to_vec(), Some(Alert::DecodeError)),
        (handshake_record(1, &[3, 3, 1]), Some(Alert::DecodeError)),
        (hello(1), Some(Alert::ProtocolVersion)),
        (hello(3), Some(Alert::ProtocolVersion)),
        // An alert is not answered.
        (b"\x15\x03\x03\x00\x02\x02\x28".to_vec(), None),
    ] {
        for piece in [1, 3, 5, 6, sent.len()] {
            let mut ours = TlsEngine::server(Arc::new(server_config(&TLS13))).unwrap();
            let mut result = Ok(());
            for piece in sent.chunks(piece) {
                let mut buffer = vec![0; ours.held()];
                buffer.extend_from_slice(piece);
                result = ours.receive(&mut buffer, &mut ReadBuf::new(&mut []));
                if result.is_err() {
                    break;
                }
            }
            result.unwrap_err();
            assert_eq!(plain_alert(ours.unsent()), alert, "{sent:x?} by {piece}");
            let again = ours.receive(&mut [0; 4], &mut ReadBuf::new(&mut []));
            assert!(again.is_err(), "it has failed");
        }
    }
}

/// How a handshake of these ends with an alert of ours.
fn alert_of(server: ServerConfig, client: ClientConfig, we_serve: bool) -> Error {
    let (server, client) = (Arc::new(server), Arc::new(client));
    let mut pair = match we_serve {
        true => Pair::new(
            TlsEngine::server(server).unwrap(),
            ClientConnection::new(client, name()).unwrap().into(),
        ),
        false => Pair::new(
            TlsEngine::client(client, name()).unwrap(),
            ServerConnection::new(server).unwrap().into(),
        ),
    };
    pair.settle().unwrap_err();
    loop {
        pair.collect();
        if let Err(error) = pair.bring_peer(1 << 16) {
            return error;
        }
    }
}

#[test]
fn in_the_handshake() {
    for version in [&TLS12, &TLS13] {
        let mut server = server_config(version);
        let mut client = client_config(version);
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        client.alpn_protocols = vec![b"other".to_vec()];
        let error = alert_of(server, client, true);
        assert_eq!(error, Error::AlertReceived(Alert::NoApplicationProtocol));

        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(), Arc::new(default_provider()));
        let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(pki().chain.clone(), pki().key.clone_key())
            .unwrap();
        let error = alert_of(server, client_config(version), true);
        assert_eq!(error, Error::AlertReceived(Alert::CertificateRequired));

        let key = rcgen::KeyPair::generate().unwrap();
        let mut stranger = rcgen::CertificateParams::new(["end.example".to_owned()]).unwrap();
        let called = &mut stranger.distinguished_name;
        called.push(rcgen::DnType::CommonName, "stranger");
        let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![stranger.self_signed(&key).unwrap().der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let error = alert_of(server, client_config(version), false);
        assert_eq!(error, Error::AlertReceived(Alert::UnknownCA));
    }
    let error = alert_of(server_config(&TLS13), client_config(&TLS12), true);
    assert_eq!(error, Error::AlertReceived(Alert::ProtocolVersion));
}

#[test]
fn after_the_handshake() {
    for version in [&TLS12, &TLS13] {
        for we_serve in [true, false] {
            // A record that was changed on its way; one that is too long; one that was never encrypted.
            let spoilt: [fn(&mut Vec<u8>); 3] = [
                |record| *record.last_mut().unwrap() ^= 1,
                |record| {
                    record[3..5].copy_from_slice(&0xfff0_u16.to_be_bytes());
                },
                |record| *record = b"\x17\x03\x03\x00\x05plain".to_vec(),
            ];
            let alerts = [Alert::BadRecordMac, Alert::DecodeError, Alert::BadRecordMac];
            for (spoil, alert) in spoilt.into_iter().zip(alerts) {
                let mut pair = Pair::of(version, we_serve);
                pair.settle().unwrap();
                pair.peer.writer().write_all(b"a few bytes").unwrap();
                pair.collect();
                spoil(&mut pair.to_us);
                pair.bring_us(1 << 16, 1 << 16).unwrap_err();
                let heard = pair.bring_peer(1 << 16).unwrap_err();
                assert_eq!(heard, Error::AlertReceived(alert));
                assert!(pair.read.is_empty());
            }
        }
    }
}
