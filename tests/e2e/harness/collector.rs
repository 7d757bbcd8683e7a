//! A collector of spans: OTLP over HTTP, in JSON, as far as tests need it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::until;
use super::wire::{Head, Wire};

/// A collector that keeps what it gets until it is dropped.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Received>>,
    answer: Arc<Mutex<Answer>>,
    task: JoinHandle<()>,
}

/// How a collector answers.
#[derive(Clone)]
pub(crate) struct Answer {
    /// 0 for none at all.
    pub(crate) status: u16,
    /// Further header lines.
    pub(crate) fields: &'static str,
    /// With more spans than this in a request, the status is 413.
    pub(crate) most: usize,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            fields: "",
            most: usize::MAX,
        }
    }
}

#[derive(Default)]
struct Received {
    /// The heads of all requests, refused ones included, and when they came.
    heads: Vec<(Instant, Head)>,
    /// Each with the attributes of its resource.
    spans: Vec<(Value, Value)>,
}

impl Received {
    /// Returns the status.
    fn add(&mut self, head: Head, body: &[u8], answer: &Answer) -> u16 {
        self.heads.push((Instant::now(), head));
        let spans = spans(body);
        if spans.len() > answer.most {
            return 413;
        }
        if answer.status == 200 {
            self.spans.extend(spans);
        }
        answer.status
    }
}

async fn serve(mut wire: Wire, received: Arc<Mutex<Received>>, answer: Arc<Mutex<Answer>>) {
    let head = wire.head().await;
    let body = wire.body(&head).await;
    let answer = answer.lock().unwrap().clone();
    let status = received.lock().unwrap().add(head, &body, &answer);
    if status == 0 {
        return std::future::pending().await;
    }
    let fields = answer.fields;
    let head = format!("HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{fields}");
    wire.send(head + "Content-Length: 2\r\n\r\n{}").await;
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn at(address: SocketAddr) -> Self {
        Self::listen(address, None).await
    }

    /// One with TLS.
    pub(crate) async fn secured(server: Arc<ServerConfig>) -> Self {
        Self::listen("127.0.0.1:0".parse().unwrap(), Some(server)).await
    }

    async fn listen(address: SocketAddr, server: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Received>>::default();
        let answer = Arc::new(Mutex::new(Answer::status(200)));
        let (kept, answers) = (Arc::clone(&received), Arc::clone(&answer));
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (kept, answers) = (Arc::clone(&kept), Arc::clone(&answers));
                let server = server.clone();
                tokio::spawn(async move {
                    if let Some(wire) = secured(socket, server).await {
                        serve(wire, kept, answers).await;
                    }
                });
            }
        });
        Self {
            address,
            received,
            answer,
            task,
        }
    }

    /// Answers with this status from now on.
    pub(crate) fn answer(&self, status: u16) {
        self.answer_with(Answer::status(status));
    }

    /// Answers like this from now on.
    pub(crate) fn answer_with(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// The URL of one with TLS, as `[traces]` has it, and these keys.
    pub(crate) fn secured_settings(&self, keys: &str) -> String {
        let address = self.address;
        format!("[traces]\nurl = \"https://{address}/v1/traces\"\n{keys}\n")
    }

    /// When the requests came.
    pub(crate) fn times(&self) -> Vec<Instant> {
        let received = self.received.lock().unwrap();
        received.heads.iter().map(|(at, _)| *at).collect()
    }

    /// `[traces]` with this collector, and these keys.
    pub(crate) fn settings(&self, keys: &str) -> String {
        settings(self.address, keys)
    }

    /// The spans so far.
    pub(crate) fn spans(&self) -> Vec<Value> {
        let received = self.received.lock().unwrap();
        received
            .spans
            .iter()
            .map(|(_, span)| span.clone())
            .collect()
    }

    /// The attributes of the resource of the first span.
    pub(crate) fn resource(&self) -> Value {
        self.received.lock().unwrap().spans[0].0.clone()
    }

    /// The number of requests so far, refused ones included.
    pub(crate) fn requests(&self) -> usize {
        self.received.lock().unwrap().heads.len()
    }

    /// A header of the first request.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let received = self.received.lock().unwrap();
        received.heads[0].1.value(name).map(str::to_owned)
    }

    /// Waits for this number of spans; there must not be more.
    pub(crate) async fn have(&self, count: usize) -> Vec<Value> {
        until(&format!("{count} spans"), || self.spans().len() >= count).await;
        let spans = self.spans();
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connection, with TLS if there is a `server` for it; `None` if the client does not trust that.
async fn secured(socket: TcpStream, server: Option<Arc<ServerConfig>>) -> Option<Wire> {
    let Some(server) = server else {
        return Some(Wire::tcp(socket));
    };
    let secured = TlsAcceptor::from(server).accept(socket).await;
    secured.ok().map(Wire::over)
}

/// `[traces]` with a collector at this address, and these keys.
pub(crate) fn settings(address: SocketAddr, keys: &str) -> String {
    format!("[traces]\nurl = \"http://{address}/v1/traces\"\n{keys}\n")
}

fn spans(body: &[u8]) -> Vec<(Value, Value)> {
    let request: Value = serde_json::from_slice(body).unwrap();
    let mut spans = Vec::new();
    for resource in request["resourceSpans"].as_array().unwrap() {
        for scope in resource["scopeSpans"].as_array().unwrap() {
            for span in scope["spans"].as_array().unwrap() {
                spans.push((attributes(&resource["resource"]), plain(span)));
            }
        }
    }
    spans
}

/// The span with its attributes as an object.
fn plain(span: &Value) -> Value {
    let mut plain = span.clone();
    plain["attributes"] = attributes(span);
    plain
}

fn attributes(of: &Value) -> Value {
    let mut plain = json!({});
    for attribute in of["attributes"].as_array().unwrap() {
        let (name, value) = (&attribute["key"], &attribute["value"]);
        let number = value["intValue"].as_str();
        let number = number.map(|it| json!(it.parse::<i64>().unwrap()));
        let value = number.unwrap_or_else(|| value["stringValue"].clone());
        assert!(!value.is_null(), "{attribute}");
        plain[name.as_str().unwrap()] = value;
    }
    plain
}
