//! The client of every proxy: opens tunnels, sends frames and compares their echoes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The number of source addresses: one has too few ports for thousands of short connections.
const SOURCES: usize = 8;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A way to connect: the address and the TLS settings.
#[derive(Clone)]
pub(crate) struct Client {
    to: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    next: Arc<AtomicUsize>,
}

/// The kind of TLS that a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    Plain,
    /// A full handshake each time, with X25519, which all peers support.
    Full,
    /// A full handshake each time, with X25519MLKEM768, which browsers prefer.
    Hybrid,
    /// Sessions are resumed with tickets.
    Resuming,
    /// A full handshake each time, which offers only HTTP/2.
    Http2,
}

impl Client {
    pub(crate) fn new(to: SocketAddr, security: Security) -> Self {
        let resumption = match security {
            Security::Plain => None,
            Security::Full | Security::Hybrid | Security::Http2 => Some(Resumption::disabled()),
            Security::Resuming => Some(Resumption::in_memory_sessions(1024)),
        };
        Self {
            to,
            tls: resumption.map(|resumption| config(resumption, security)),
            next: Arc::default(),
        }
    }

    /// Opens a tunnel to `path`.
    pub(crate) async fn open(&self, path: &str) -> Tunnel {
        self.try_open(path).await.unwrap()
    }

    /// Like [`Self::open`], where the proxy may refuse.
    pub(crate) async fn try_open(&self, path: &str) -> io::Result<Tunnel> {
        self.try_open_with(path, "").await
    }

    /// The same with further fields, each of which ends with CRLF.
    pub(crate) async fn try_open_with(&self, path: &str, fields: &str) -> io::Result<Tunnel> {
        let mut stream = self.connect().await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nOrigin: http://localhost\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n{fields}\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut head = Vec::with_capacity(512);
        let end = loop {
            if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let text = String::from_utf8_lossy(&head[..end]);
        if !text.starts_with("HTTP/1.1 101 ") || !text.contains(ACCEPT) {
            return Err(io::Error::other(text));
        }
        let early = head.split_off(end);
        Ok(Tunnel { stream, early })
    }

    /// A connection, with TLS if this client uses it.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let socket = TcpSocket::new_v4().unwrap();
        let source = 2 + self.next.fetch_add(1, Ordering::Relaxed) % SOURCES;
        let source: [u8; 4] = [127, 0, 0, source.try_into().unwrap()];
        socket.bind((source, 0).into()).unwrap();
        let socket = socket.connect(self.to).await?;
        socket.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Stream::Plain(socket)),
            Some(tls) => {
                let name = ServerName::try_from("localhost").unwrap();
                let stream = TlsConnector::from(Arc::clone(tls))
                    .connect(name, socket)
                    .await;
                Ok(Stream::Tls(Box::new(stream?)))
            }
        }
    }
}

/// A tunnel through the proxy.
pub(crate) struct Tunnel {
    pub(crate) stream: Stream,
    /// Bytes that arrived with the head of the 101.
    pub(crate) early: Vec<u8>,
}

impl Tunnel {
    /// Sends `frame` and expects its echo.
    pub(crate) async fn echo(&mut self, frame: &[u8], back: &mut Vec<u8>) {
        self.try_echo(frame, back).await.unwrap();
    }

    /// Like [`Self::echo`], where the proxy may end the tunnel.
    pub(crate) async fn try_echo(&mut self, frame: &[u8], back: &mut Vec<u8>) -> io::Result<()> {
        back.resize(frame.len(), 0);
        if frame.len() <= 4096 {
            self.stream.write_all(frame).await?;
            self.stream.flush().await?;
            self.stream.read_exact(back).await?;
        } else {
            // A longer frame would fill all buffers before the first byte of its echo is read.
            let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
            let (sent, received) = tokio::join!(
                async {
                    writer.write_all(frame).await?;
                    writer.flush().await
                },
                reader.read_exact(back),
            );
            sent?;
            received?;
        }
        assert!(back == frame, "something else came back");
        Ok(())
    }

    /// Whether the TLS session was resumed.
    pub(crate) fn resumed(&self) -> bool {
        match &self.stream {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => {
                stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
            }
        }
    }
}

/// A binary frame with a payload of this length.
pub(crate) fn frame(length: usize, masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x82];
    match length {
        0..=125 => frame.push(bit | length as u8),
        126..=65_535 => {
            frame.push(bit | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(bit | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend([0x11, 0x22, 0x33, 0x44]);
    }
    frame.extend((0..length).map(|at| (at * 7 + at / 251) as u8));
    frame
}

pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The protocol that TLS has agreed on.
    pub(crate) fn application_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

fn config(resumption: Resumption, security: Security) -> Arc<ClientConfig> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![match security {
        Security::Hybrid => kx_group::X25519MLKEM768,
        _ => kx_group::X25519,
    }];
    // The order of browsers; rustls would prefer the longest keys.
    provider.cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.resumption = resumption;
    if security == Security::Http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Arc::new(config)
}

/// Accepts any certificate: each proxy has a new self-signed one, and trust is not measured.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
