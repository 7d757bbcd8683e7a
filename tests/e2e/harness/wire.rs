//! One connection at the level of bytes, as a client or as an endpoint uses it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::frames::frame;
use super::within;

/// The key of the example in RFC 6455 section 1.3, and the value that accepts it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A connection on which nothing has moved for this long is stuck: longer than a busy machine keeps
/// a process waiting, shorter than the deadlines for slow readers.
const STALLED: Duration = Duration::from_secs(1);

/// A valid handshake.
pub(crate) const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\n\
    Host: chat.example.com\r\n\
    Connection: Upgrade\r\n\
    Upgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A valid handshake with these additional header fields.
pub(crate) fn handshake_with(fields: &str) -> String {
    HANDSHAKE.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"))
}

/// The 101 response to [`HANDSHAKE`].
pub(crate) const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A connection, and bytes that were read from it but not returned yet.
pub(crate) struct Wire {
    io: Io,
    unread: Vec<u8>,
}

enum Io {
    Tcp(TcpStream),
    Other(Box<dyn Duplex>),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// How the peer ended the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Orderly,
    Reset,
}

impl Wire {
    /// Sends a message through a tunnel to an echo, and receives it.
    pub(crate) async fn echoes(&mut self) {
        self.send(frame(0x81, Some([1, 2, 3, 4]), b"still")).await;
        assert_eq!(self.exactly(7).await, b"\x81\x05still");
    }

    /// Connects with TLS to the server of this name.
    pub(crate) async fn connect_tls(
        address: SocketAddr,
        config: Arc<rustls::ClientConfig>,
        name: &str,
    ) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let handshake = TlsConnector::from(config).connect(name, socket);
        Self::over(within("a TLS handshake", handshake).await.unwrap())
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let connected = within("a connection", TcpStream::connect(address)).await;
        Self::tcp(connected.unwrap())
    }

    pub(crate) fn tcp(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        Self {
            io: Io::Tcp(socket),
            unread: Vec::new(),
        }
    }

    pub(crate) fn std(socket: std::net::TcpStream) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self::tcp(TcpStream::from_std(socket).unwrap())
    }

    pub(crate) fn unix(socket: UnixStream) -> Self {
        Self::over(socket)
    }

    pub(crate) fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self {
            io: Io::Other(Box::new(io)),
            unread: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("bytes to be taken", async {
            self.io.write_all(bytes.as_ref()).await.unwrap();
            self.io.flush().await.unwrap();
        })
        .await;
    }

    /// Sends this repeatedly until the connection is stuck or closed.
    pub(crate) async fn flood(&mut self, bytes: &[u8]) {
        while let Ok(sent) = tokio::time::timeout(STALLED, self.io.write_all(bytes)).await {
            if sent.is_err() {
                break;
            }
        }
    }

    /// Sends this at most `times` times, until the connection is stuck or closed. Returns the number of
    /// bytes sent.
    pub(crate) async fn flood_up_to(&mut self, bytes: &[u8], times: usize) -> usize {
        let mut taken = 0;
        while taken < bytes.len() * times {
            let rest = &bytes[taken % bytes.len()..];
            match tokio::time::timeout(STALLED, self.io.write(rest)).await {
                Ok(Ok(length)) => taken += length,
                _ => break,
            }
        }
        taken
    }

    /// Sends as much of this as the peer reads.
    pub(crate) async fn flood_once(&mut self, bytes: &[u8]) {
        // The peer may have closed the connection already, or stopped reading.
        let _ = tokio::time::timeout(STALLED, self.io.write_all(bytes)).await;
    }

    /// Sends this repeatedly until the peer closes the connection.
    pub(crate) async fn flood_out(&mut self, bytes: &[u8]) {
        within("the connection to end", async {
            while self.io.write_all(bytes).await.is_ok() {}
        })
        .await;
    }

    /// Whether the connection is open and this can be sent at once.
    pub(crate) fn can_send(&mut self, bytes: &[u8]) -> bool {
        let taken = self.io.write_all(bytes).now_or_never();
        let ended = self.io.read(&mut [0; 64]).now_or_never();
        matches!(taken, Some(Ok(()))) && ended.is_none()
    }

    /// Reads until nothing arrives for a while. Returns the number of bytes read.
    pub(crate) async fn until_quiet(&mut self) -> usize {
        while let Ok(Ok(1..)) = tokio::time::timeout(STALLED, self.more()).await {}
        std::mem::take(&mut self.unread).len()
    }

    /// Shuts down the direction towards the peer.
    pub(crate) async fn finish(&mut self) {
        within("the end to be taken", self.io.shutdown())
            .await
            .unwrap();
    }

    /// Like [`Self::finish`], where the peer may have closed the connection already.
    pub(crate) async fn finish_anyway(&mut self) {
        let _ = within("the end to be taken", self.io.shutdown()).await;
    }

    /// Resets the connection (RST).
    pub(crate) fn reset(self) {
        match self.io {
            Io::Tcp(socket) => socket.set_zero_linger().unwrap(),
            Io::Other(_) => panic!("only TCP has resets"),
        }
    }

    /// Reads the head of a request or response, up to its empty line.
    pub(crate) async fn head(&mut self) -> Head {
        let text = within("a head", async {
            loop {
                if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                    return self.unread.drain(..at + 4).collect::<Vec<u8>>();
                }
                let got = self.more().await.expect("no error while a head comes");
                assert!(got > 0, "closed within a head: {:?}", self.text());
            }
        })
        .await;
        Head(String::from_utf8(text).unwrap())
    }

    /// Whether any byte arrives before the connection ends.
    pub(crate) async fn has_more(&mut self) -> bool {
        !self.unread.is_empty() || matches!(self.more().await, Ok(1..))
    }

    /// Like [`Self::head`], or `None` if the connection ends first.
    pub(crate) async fn head_or_end(&mut self) -> Option<Head> {
        while find(&self.unread, b"\r\n\r\n").is_none() {
            let Ok(1..) = self.more().await else {
                return None;
            };
        }
        Some(self.head().await)
    }

    /// Reads until the connection ends in any way.
    pub(crate) async fn until_gone(&mut self) {
        while let Ok(1..) = self.more().await {}
    }

    /// Reads a response with its body. Not for responses to HEAD.
    pub(crate) async fn reply(&mut self) -> (Head, String) {
        let head = self.head().await;
        let body = self.body(&head).await;
        (head, String::from_utf8(body).unwrap())
    }

    /// Reads the body that `head` announces.
    pub(crate) async fn body(&mut self, head: &Head) -> Vec<u8> {
        if head.value("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk().await {
                body.extend(chunk);
            }
            assert_eq!(self.line().await, "", "unexpected trailers");
            return body;
        }
        match head.value("content-length") {
            Some(length) => self.exactly(length.parse().unwrap()).await,
            None => Vec::new(),
        }
    }

    /// Reads the next chunk of a body; `None` for the last one, whose trailers are still unread.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(&self.line().await, 16).unwrap();
        if length == 0 {
            return None;
        }
        let chunk = self.exactly(length).await;
        assert_eq!(self.line().await, "");
        Some(chunk)
    }

    /// Reads a line and returns it without its line ending.
    pub(crate) async fn line(&mut self) -> String {
        within("a line", async {
            loop {
                if let Some(at) = find(&self.unread, b"\r\n") {
                    let line: Vec<u8> = self.unread.drain(..at + 2).collect();
                    return String::from_utf8(line[..at].to_vec()).unwrap();
                }
                assert!(self.more().await.unwrap() > 0, "closed within a line");
            }
        })
        .await
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        within("bytes", async {
            while self.unread.len() < length {
                assert!(
                    self.more().await.unwrap() > 0,
                    "closed after {} of {length} bytes",
                    self.unread.len()
                );
            }
            self.unread.drain(..length).collect()
        })
        .await
    }

    /// Waits until this many bytes have arrived, or until the connection ends.
    pub(crate) async fn at_least(&mut self, length: usize) {
        while self.unread.len() < length {
            let Ok(1..) = self.more().await else {
                return;
            };
        }
    }

    /// Reads everything up to the end of the connection, and says how it ended.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, End) {
        within("the end", async {
            loop {
                let end = match self.more().await {
                    Ok(0) => End::Orderly,
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
                    Err(error) => panic!("neither end nor reset: {error}"),
                };
                return (std::mem::take(&mut self.unread), end);
            }
        })
        .await
    }

    /// Asserts that the peer closes the connection in order and sends nothing more.
    pub(crate) async fn closed(&mut self) {
        let (rest, end) = self.rest().await;
        assert_eq!(
            (String::from_utf8_lossy(&rest).as_ref(), end),
            ("", End::Orderly)
        );
    }

    /// Asserts that nothing arrives for a while and that the connection stays open.
    pub(crate) async fn stays_quiet(&mut self) {
        assert_eq!(self.text(), "");
        let more = tokio::time::timeout(Duration::from_millis(150), self.more()).await;
        if let Ok(result) = more {
            panic!("expected quiet, got {result:?}: {:?}", self.text());
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.unread).into_owned()
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.io.read_buf(&mut self.unread).await
    }
}

/// Returns the bytes read earlier first, so that a library can continue on the connection.
impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread.drain(..length).collect::<Vec<u8>>());
        Poll::Ready(Ok(()))
    }
}

macro_rules! delegate {
    ($target:ty, $self:ident => $io:expr) => {
        impl AsyncWrite for $target {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                let $self = self.get_mut();
                Pin::new($io).poll_write(cx, buf)
            }
            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                let $self = self.get_mut();
                Pin::new($io).poll_flush(cx)
            }
            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                let $self = self.get_mut();
                Pin::new($io).poll_shutdown(cx)
            }
        }
    };
}

delegate!(Wire, wire => &mut wire.io);
delegate!(Io, io => io.duplex());

impl Io {
    fn duplex(&mut self) -> &mut dyn Duplex {
        match self {
            Self::Tcp(socket) => socket,
            Self::Other(other) => other,
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().duplex()).poll_read(cx, buf)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// The head of a request or response, as received.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Head(pub(crate) String);

impl Head {
    /// The first line.
    pub(crate) fn start(&self) -> &str {
        self.0.lines().next().unwrap()
    }

    pub(crate) fn status(&self) -> u16 {
        self.start()
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .parse()
            .unwrap_or_else(|_| panic!("no status: {self:?}"))
    }

    /// The value of a field; fails if the field is repeated.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "{name} several times in {self:?}");
        values.first().copied()
    }

    /// `Retry-After`, in seconds.
    pub(crate) fn retry_after(&self) -> u64 {
        let written = self.value("retry-after");
        let seconds = written.and_then(|it| it.parse().ok());
        seconds.unwrap_or_else(|| panic!("no Retry-After in seconds in {self:?}"))
    }

    /// All values of a field, whatever the case of its name.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.0
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// Whether the head has exactly this line.
    pub(crate) fn has_line(&self, line: &str) -> bool {
        self.0.lines().any(|known| known == line)
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
