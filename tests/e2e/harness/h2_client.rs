//! A client of HTTP/2 over TLS: requests, and WebSockets by extended CONNECT (RFC 8441).

use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Ping, PingPong, SendStream};
use http::{HeaderMap, Method, Request, Response};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::Authority;
use super::h2_stream::H2Stream;
use super::proxy::{Proxy, settings};
use super::{until, within};

/// The host of the certificate, and of all requests that name no other.
pub(crate) const HOST: &str = "chat.example.com";

/// A configuration with one listener that offers HTTP/2 as `http2` says, one route and one upstream, with these
/// lines for the listener and the route.
pub(crate) fn h2_settings(
    endpoints: &[std::net::SocketAddr],
    http2: &str,
    listener: &str,
    route: &str,
) -> String {
    let tls = "tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]";
    settings(
        endpoints,
        &format!("http2 = {http2}\n{tls}\n{listener}"),
        route,
    )
}

/// A running tidegate with a certificate for [`HOST`].
pub(crate) struct H2Proxy {
    pub(crate) authority: Authority,
    pub(crate) proxy: Proxy,
}

impl H2Proxy {
    /// Starts it with one upstream of these endpoints, and the defaults of HTTP/2.
    pub(crate) async fn simple(endpoints: &[std::net::SocketAddr]) -> Self {
        Self::start(&h2_settings(endpoints, "true", "", "")).await
    }

    pub(crate) async fn start(config: &str) -> Self {
        let (authority, folder) = Authority::with_certificate();
        Self::start_in(authority, folder, config).await
    }

    pub(crate) async fn start_in(authority: Authority, folder: TempDir, config: &str) -> Self {
        Self {
            authority,
            proxy: Proxy::start_in(folder, config).await,
        }
    }

    /// A TLS connection that offers these protocols.
    pub(crate) async fn offering(&self, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
        let mut config = (*self.authority.client()).clone();
        config.alpn_protocols = protocols.iter().map(|each| each.to_vec()).collect();
        let socket = TcpStream::connect(self.proxy.address()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let handshake = TlsConnector::from(Arc::new(config));
        let handshake = handshake.connect(HOST.try_into().unwrap(), socket);
        within("a TLS handshake", handshake).await.unwrap()
    }

    /// A client with the defaults of its library.
    pub(crate) async fn client(&self) -> H2Client {
        self.client_with(&Builder::new()).await
    }

    pub(crate) async fn client_with(&self, builder: &Builder) -> H2Client {
        let stream = self.offering(&[b"h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        H2Client::over(stream, builder).await
    }
}

/// A connection of HTTP/2.
pub(crate) struct H2Client {
    requests: SendRequest<Bytes>,
    pings: PingPong,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl H2Client {
    async fn over(stream: TlsStream<TcpStream>, builder: &Builder) -> Self {
        let connected = within("an HTTP/2 connection", builder.handshake(stream)).await;
        let (requests, mut connection) = connected.unwrap();
        let pings = connection.ping_pong().unwrap();
        Self {
            requests,
            pings,
            connection: tokio::spawn(connection),
        }
    }

    /// Whether the server takes WebSockets, once it is known: its settings come first of all.
    pub(crate) async fn takes_websockets(&mut self) -> bool {
        self.ping().await;
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// Sends a PING and waits for the answer: what the server has sent before has arrived by then.
    pub(crate) async fn ping(&mut self) {
        let pong = self.pings.ping(Ping::opaque());
        within("a pong", pong).await.unwrap();
    }

    /// Sends the head of a request, as soon as the server allows another stream.
    pub(crate) async fn begin(
        &mut self,
        request: Request<()>,
        is_all: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let ready = self.requests.clone().ready();
        let mut ready = within("room for a stream", ready).await?;
        ready.send_request(request, is_all)
    }

    /// Waits until no other stream may be opened: why. Nothing is sent meanwhile, because many requests that are
    /// given up are a reason by themselves.
    pub(crate) async fn no_more_streams(&self) -> h2::Error {
        loop {
            if let Err(error) = self.requests.clone().ready().await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Sends a request with this body, and receives all of its response.
    pub(crate) async fn fetch(
        &mut self,
        request: Request<()>,
        body: &[u8],
    ) -> Result<H2Reply, h2::Error> {
        let (response, send) = self.begin(request, body.is_empty()).await?;
        let upload = Bytes::copy_from_slice(body);
        if !upload.is_empty() {
            let mut stream = H2Upload(send);
            // The server may have answered already, and reset the stream.
            tokio::spawn(async move { stream.send(upload).await });
        }
        H2Reply::of(within("a response", response).await?).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> H2Reply {
        self.fetch(get(path), b"").await.unwrap()
    }

    /// Opens a WebSocket by a request that [`websocket`] has made.
    ///
    /// # Errors
    /// Any other response than a 200.
    pub(crate) async fn open(
        &mut self,
        request: Request<()>,
    ) -> Result<(HeaderMap, H2Stream), H2Reply> {
        let requests = self.requests.clone();
        until("the server to take WebSockets", || {
            requests.is_extended_connect_protocol_enabled()
        })
        .await;
        let (response, send) = self.begin(request, false).await.unwrap();
        let response = within("a response", response).await.unwrap();
        if response.status() != 200 {
            return Err(H2Reply::of(response).await.unwrap());
        }
        let (head, recv) = response.into_parts();
        Ok((head.headers, H2Stream::new(send, recv)))
    }

    /// Opens a WebSocket that is like [`super::wire::HANDSHAKE`].
    pub(crate) async fn tunnel(&mut self) -> H2Stream {
        match self.open(websocket("/chat")).await {
            Ok((_, stream)) => stream,
            Err(reply) => panic!("no tunnel: {reply:?}"),
        }
    }

    /// Whether the connection has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.connection.is_finished()
    }

    /// Waits until the server has ended the connection, without an error.
    pub(crate) async fn ended_by_server(mut self) {
        let ended = within("the connection to end", &mut self.connection).await;
        if let Err(error) = ended.unwrap() {
            // The server closes its socket without waiting for the client's last word.
            assert!(error.is_io(), "{error}");
        }
    }

    /// Closes the socket without a word.
    pub(crate) fn vanish(self) {
        self.connection.abort();
    }
}

/// Sends the body of a request.
struct H2Upload(SendStream<Bytes>);

impl H2Upload {
    async fn send(&mut self, mut body: Bytes) -> Result<(), h2::Error> {
        while !body.is_empty() {
            self.0.reserve_capacity(body.len());
            let room = std::future::poll_fn(|cx| self.0.poll_capacity(cx)).await;
            let Some(room) = room.transpose()? else {
                return Ok(());
            };
            let part = body.split_to(room.min(body.len()));
            self.0.send_data(part, body.is_empty())?;
        }
        Ok(())
    }
}

/// A GET request for this path.
pub(crate) fn get(path: &str) -> Request<()> {
    request(Method::GET, path)
}

pub(crate) fn request(method: Method, path: &str) -> Request<()> {
    let request = Request::builder().method(method);
    let request = request.uri(format!("https://{HOST}{path}"));
    request.body(()).unwrap()
}

/// An extended CONNECT for a WebSocket.
pub(crate) fn websocket(path: &str) -> Request<()> {
    let mut request = request(Method::CONNECT, path);
    let protocol = Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    let version = http::HeaderValue::from_static("13");
    request
        .headers_mut()
        .insert("sec-websocket-version", version);
    request
}

/// The request with one more field.
pub(crate) fn with_field(mut request: Request<()>, name: &'static str, value: &str) -> Request<()> {
    let value = value.try_into().unwrap();
    request.headers_mut().append(name, value);
    request
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct H2Reply {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl H2Reply {
    /// Reads the body and the trailers of a response.
    pub(crate) async fn of(response: Response<h2::RecvStream>) -> Result<Self, h2::Error> {
        let (head, mut recv) = response.into_parts();
        let mut body = Vec::new();
        while let Some(piece) = within("a body", recv.data()).await {
            let piece = piece?;
            recv.flow_control().release_capacity(piece.len())?;
            body.extend(piece);
        }
        Ok(Self {
            status: head.status.as_u16(),
            fields: head.headers,
            body,
            trailers: within("the end of a body", recv.trailers()).await?,
        })
    }

    /// The only value of a field.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.get_all(name).iter();
        match (values.next(), values.next()) {
            (value, None) => value.map(|value| value.to_str().unwrap()),
            (_, Some(_)) => panic!("several values of {name}: {self:?}"),
        }
    }

    /// The reason of a rejection.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.value("tidegate-reason")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}
