//! A stand-in for the Kubernetes API server: lists EndpointSlices and streams their changes, and does on demand
//! what a real one does on bad days.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::certificates::Authority;
use super::until;

/// How the API server ends a watch before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchEnd {
    /// As at the end of `timeoutSeconds`.
    Clean,
    /// In the middle of the object of an event.
    InObject,
    /// With an event that says that the state has expired.
    Expired,
    /// With a line that is no event.
    Nonsense,
}

#[derive(Default)]
struct ApiState {
    version: u64,
    slices: BTreeMap<String, Value>,
    /// Lines of a watch, with the version that each leads to.
    events: Vec<(u64, String)>,
    /// Watches from before this version get 410.
    oldest: u64,
    token: Option<String>,
    refuse: Option<u16>,
    /// Refuses only watches.
    refuses_watches: bool,
    is_away: bool,
    is_mute: bool,
    page: usize,
    /// Watches that began before one of these end like that.
    ends: Vec<WatchEnd>,
    requests: Vec<String>,
    /// Watches that have begun.
    streams: usize,
    tls: Option<TlsAcceptor>,
}

type Shared = Arc<(Mutex<ApiState>, watch::Sender<u64>)>;

/// The API server; ends when dropped.
pub(crate) struct KubeApi {
    pub(crate) address: SocketAddr,
    shared: Shared,
    task: JoinHandle<()>,
    folder: TempDir,
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KubeApi {
    pub(crate) async fn start() -> Self {
        Self::on(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// On a socket that exists already.
    pub(crate) fn on(listener: std::net::TcpListener) -> Self {
        let shared = Shared::new((Mutex::default(), watch::channel(0).0));
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let own = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&own);
                connections.spawn(async move {
                    let tls = locked(&shared).tls.clone();
                    // Clients may go away at any time.
                    let _ = match tls {
                        None => serve(socket, &shared).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(stream) => serve(stream, &shared).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self {
            address,
            shared,
            task,
            folder: TempDir::new().unwrap(),
        }
    }

    /// From now on, with a certificate of a new authority, whose own is written to `ca`.
    pub(crate) fn use_tls(&self, ca: &Path) {
        let authority = Authority::new();
        let server = authority.server(self.folder.path(), &["127.0.0.1"], false);
        self.change(|state| state.tls = Some(TlsAcceptor::from(server)));
        authority.write(ca);
    }

    /// The value of `api`.
    pub(crate) fn url(&self) -> String {
        let scheme = match locked(&self.shared).tls {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{}", self.address)
    }

    /// The value of `kubernetes` for the Service `chat`.
    pub(crate) fn service(&self, more: &str) -> String {
        let url = self.url();
        format!(
            "{{ service = \"chat\", port = \"ws\", namespace = \"games\", api = \"{url}\"{more} }}"
        )
    }

    fn change(&self, change: impl FnOnce(&mut ApiState)) {
        change(&mut locked(&self.shared));
        self.shared.1.send_modify(|changes| *changes += 1);
    }

    /// Creates a slice, or replaces the one of this name.
    pub(crate) fn put(&self, name: &str, mut slice: Value) {
        self.change(|state| {
            state.version += 1;
            slice["metadata"] = json!({
                "name": name, "namespace": "games", "resourceVersion": state.version.to_string(),
                "labels": { "kubernetes.io/service-name": "chat" },
            });
            let is_new = state
                .slices
                .insert(name.to_owned(), slice.clone())
                .is_none();
            state.tell(if is_new { "ADDED" } else { "MODIFIED" }, &slice);
        });
    }

    pub(crate) fn delete(&self, name: &str) {
        self.change(|state| {
            state.version += 1;
            let mut slice = state.slices.remove(name).unwrap();
            slice["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.tell("DELETED", &slice);
        });
    }

    /// Says that nothing has changed up to a newer version.
    pub(crate) fn bookmark(&self) {
        self.change(|state| {
            state.version += 10;
            let version = state.version.to_string();
            state.tell(
                "BOOKMARK",
                &json!({ "metadata": { "resourceVersion": version } }),
            );
        });
    }

    /// Ends all watches.
    pub(crate) fn end_watches(&self, end: WatchEnd) {
        self.change(|state| state.ends.push(end));
    }

    /// Forgets what has changed: a watch cannot be resumed any more.
    pub(crate) fn compact(&self) {
        self.change(|state| {
            state.version += 1;
            state.oldest = state.version;
        });
    }

    /// Accepts this token alone.
    pub(crate) fn accept_token(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// Responds to every request with this status, or as it should.
    pub(crate) fn refuse(&self, status: Option<u16>) {
        self.change(|state| state.refuse = status);
    }

    /// Refuses watches, as without the permission for them.
    pub(crate) fn refuse_watches(&self) {
        self.change(|state| state.refuses_watches = true);
    }

    /// Closes all connections without a word, and those to come; or comes back.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.change(|state| state.is_away = is_away);
    }

    /// Cuts every watch as soon as it has begun, as something between may do; or lets them last.
    pub(crate) fn set_mute(&self, is_mute: bool) {
        self.change(|state| state.is_mute = is_mute);
    }

    /// Lists this many slices on a page.
    pub(crate) fn set_page(&self, page: usize) {
        self.change(|state| state.page = page);
    }

    /// The targets of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        locked(&self.shared).requests.clone()
    }

    pub(crate) fn lists(&self) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|it| !it.contains("watch=true"))
            .count()
    }

    /// Waits until this many watches have begun, refused ones not counted.
    pub(crate) async fn streamed(&self, times: usize) {
        until("a watch", || locked(&self.shared).streams >= times).await;
    }

    /// A file in the folder of this server.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl ApiState {
    fn tell(&mut self, kind: &str, object: &Value) {
        let event = json!({ "type": kind, "object": object });
        self.events.push((self.version, event.to_string()));
    }
}

fn locked(shared: &Shared) -> MutexGuard<'_, ApiState> {
    shared.0.lock().unwrap()
}

/// Serves one request.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let response = {
        let mut state = locked(shared);
        if state.is_away {
            return Ok(());
        }
        state.requests.push(target.clone());
        state.response(&head, &target)
    };
    match response {
        Some((status, body)) => {
            let body = body.to_string();
            let length = body.len();
            let response =
                format!("HTTP/1.1 {status} Such\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(response.as_bytes()).await?;
            stream.flush().await
        }
        None => stream_events(stream, shared, number_of(&target, "resourceVersion=")).await,
    }
}

fn number_of(target: &str, parameter: &str) -> u64 {
    let after = target.split(parameter).nth(1);
    let digits = after.unwrap_or("0").split('&').next().unwrap();
    digits.parse().unwrap()
}

impl ApiState {
    /// The response to a request; `None` for a watch that begins.
    fn response(&self, head: &str, target: &str) -> Option<(u16, Value)> {
        let status = |code: u16, message: &str| {
            let status = json!({ "kind": "Status", "code": code, "message": message });
            Some((code, status))
        };
        let expected = "/apis/discovery.k8s.io/v1/namespaces/games/endpointslices\
            ?labelSelector=kubernetes.io%2Fservice-name%3Dchat&";
        assert!(target.starts_with(expected), "{target}");
        let wanted = self.token.as_ref();
        let wanted = wanted.map(|token| format!("authorization: bearer {token}\r\n"));
        if wanted.is_some_and(|wanted| !head.to_lowercase().contains(&wanted)) {
            return status(401, "Unauthorized");
        }
        if let Some(code) = self.refuse {
            return status(code, "endpointslices is forbidden: User cannot list");
        }
        if target.contains("watch=true") {
            if self.refuses_watches {
                return status(403, "endpointslices is forbidden: User cannot watch");
            }
            assert!(target.contains("allowWatchBookmarks=true"), "{target}");
            assert!(number_of(target, "timeoutSeconds=") > 0, "{target}");
            return match number_of(target, "resourceVersion=") < self.oldest {
                true => status(410, "too old resource version"),
                false => None,
            };
        }
        let from = match target.contains("continue=") {
            true => usize::try_from(number_of(target, "continue=")).unwrap(),
            false => 0,
        };
        let page = if self.page == 0 { 500 } else { self.page };
        let items: Vec<&Value> = self.slices.values().skip(from).take(page).collect();
        let next = from + items.len();
        let next = if next < self.slices.len() {
            next.to_string()
        } else {
            String::new()
        };
        let metadata = json!({ "resourceVersion": self.version.to_string(), "continue": next });
        Some((
            200,
            json!({ "kind": "EndpointSliceList", "metadata": metadata, "items": items }),
        ))
    }
}

/// Streams what changes after `version`.
async fn stream_events(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Shared,
    mut version: u64,
) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut changes = shared.1.subscribe();
    let ended_before = {
        let mut state = locked(shared);
        state.streams += 1;
        if state.is_mute {
            return Ok(());
        }
        state.ends.len()
    };
    loop {
        let (is_away, lines, end) = {
            let state = locked(shared);
            let new = state.events.iter().filter(|(at, _)| *at > version);
            let lines: Vec<String> = new.map(|(_, line)| line.clone()).collect();
            version = version.max(state.version);
            (state.is_away, lines, state.ends.get(ended_before).copied())
        };
        if is_away {
            return Ok(());
        }
        let mut rest = lines.into_iter().peekable();
        while let Some(line) = rest.next() {
            let is_cut = rest.peek().is_none() && end == Some(WatchEnd::InObject);
            let sent = if is_cut {
                &line[..line.len() / 2]
            } else {
                &*line
            };
            // In parts that end anywhere.
            for part in sent.as_bytes().chunks(100) {
                write_chunk(&mut stream, part).await?;
            }
            if is_cut {
                return Ok(());
            }
            write_chunk(&mut stream, b"\n").await?;
        }
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#;
        match end {
            None => {}
            Some(WatchEnd::InObject) => {
                write_chunk(&mut stream, br#"{"type":"MODI"#).await?;
                return Ok(());
            }
            Some(WatchEnd::Clean) => {
                stream.write_all(b"0\r\n\r\n").await?;
                return stream.flush().await;
            }
            Some(WatchEnd::Expired) => {
                write_chunk(&mut stream, format!("{gone}\n").as_bytes()).await?;
                stream.write_all(b"0\r\n\r\n").await?;
                return stream.flush().await;
            }
            Some(WatchEnd::Nonsense) => {
                write_chunk(&mut stream, b"{\"type\":\"ADDED\",\"object\":[]}\n").await?;
                return Ok(());
            }
        }
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

async fn write_chunk(stream: &mut (impl AsyncWrite + Unpin), part: &[u8]) -> io::Result<()> {
    stream
        .write_all(format!("{:x}\r\n", part.len()).as_bytes())
        .await?;
    stream.write_all(part).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await
}
