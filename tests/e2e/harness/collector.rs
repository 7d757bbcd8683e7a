//! A collector of spans: OTLP over HTTP, in JSON, as far as tests need it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::until;
use super::wire::{Head, Wire};

/// A collector that keeps what it gets until it is dropped.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Received>>,
    status: Arc<AtomicU16>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Received {
    /// The heads of all requests, refused ones included.
    heads: Vec<Head>,
    /// Each with the attributes of its resource.
    spans: Vec<(Value, Value)>,
}

impl Received {
    fn add(&mut self, head: Head, body: &[u8], is_accepted: bool) {
        self.heads.push(head);
        if is_accepted {
            self.spans.extend(spans(body));
        }
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Received>>::default();
        let status = Arc::new(AtomicU16::new(200));
        let (kept, answer) = (Arc::clone(&received), Arc::clone(&status));
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let mut wire = Wire::tcp(socket);
                let head = wire.head().await;
                let body = wire.body(&head).await;
                let status = answer.load(Ordering::Relaxed);
                kept.lock().unwrap().add(head, &body, status == 200);
                let head =
                    format!("HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n");
                wire.send(head + "Content-Length: 2\r\n\r\n{}").await;
            }
        });
        Self {
            address,
            received,
            status,
            task,
        }
    }

    /// Answers with this status from now on.
    pub(crate) fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
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
        received.heads[0].value(name).map(str::to_owned)
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
