//! A stand-in for etcd: its JSON gateway, as far as tests need it, with faults on demand. Several members have the
//! same contents.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidegate::config::model::{EtcdConfig, StorePlace};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::until;
use super::wire::Wire;

/// A cluster, until it is dropped.
pub(crate) struct Etcd {
    state: Arc<Mutex<Cluster>>,
    news: watch::Sender<u64>,
    members: Vec<Member>,
}

struct Member {
    address: SocketAddr,
    /// `None` while it is stopped.
    task: Option<JoinHandle<()>>,
}

/// What all members have.
#[derive(Clone, Default)]
pub(crate) struct Cluster {
    revision: i64,
    compacted: i64,
    items: BTreeMap<Vec<u8>, Item>,
    /// Every change: its revision, and the event.
    events: Vec<(i64, Vec<u8>, Value)>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    /// Nothing can be written.
    is_full: bool,
    /// Watches bring nothing, and no response says so.
    is_silent: bool,
    /// Counted up to end all watches.
    cuts: u64,
    /// The token that requests need.
    token: Option<String>,
    tokens: u64,
    writes: usize,
    requests: BTreeMap<String, usize>,
}

#[derive(Clone)]
struct Item {
    value: Vec<u8>,
    created: i64,
    modified: i64,
    version: i64,
    lease: i64,
}

#[derive(Clone)]
struct Lease {
    ttl: i64,
    until: Instant,
}

impl Etcd {
    /// A cluster of one member.
    pub(crate) async fn start() -> Self {
        Self::of(1).await
    }

    /// A cluster of several members.
    pub(crate) async fn of(members: usize) -> Self {
        let state = Arc::new(Mutex::new(Cluster {
            revision: 1,
            ..Cluster::default()
        }));
        let (news, _) = watch::channel(0);
        let mut cluster = Self {
            state,
            news,
            members: Vec::new(),
        };
        for _ in 0..members {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let task = Some(cluster.serve(listener));
            cluster.members.push(Member { address, task });
        }
        cluster
    }

    fn serve(&self, listener: TcpListener) -> JoinHandle<()> {
        let (state, news) = (Arc::clone(&self.state), self.news.clone());
        tokio::spawn(async move {
            // Its connections end with the member.
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(respond(Wire::tcp(socket), Arc::clone(&state), news.clone()));
                while connections.try_join_next().is_some() {}
            }
        })
    }

    /// `[store]` with this cluster.
    pub(crate) fn settings(&self) -> String {
        let urls = self.members.iter();
        let urls: Vec<String> = urls
            .map(|it| format!("\"http://{}\"", it.address))
            .collect();
        let urls = urls.join(", ");
        format!("[store]\netcd = {{ endpoints = [{urls}], prefix = \"/t/\" }}\n")
    }

    /// The same for a layer of its own.
    pub(crate) fn place(&self) -> StorePlace {
        let urls = self.members.iter();
        let urls = urls.map(|it| format!("http://{}", it.address).parse().unwrap());
        StorePlace::Etcd(Arc::new(EtcdConfig {
            members: urls.collect(),
            prefix: "/t/".into(),
            login: None,
            tls: None,
        }))
    }

    /// Nobody responds at this member any more.
    pub(crate) async fn stop(&mut self, member: usize) {
        if let Some(task) = self.members[member].task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// The member is back at its address.
    pub(crate) async fn resume(&mut self, member: usize) {
        let listener = TcpListener::bind(self.members[member].address).await;
        let task = self.serve(listener.unwrap());
        self.members[member].task = Some(task);
    }

    /// From now on, or no more, everything that is written is refused because the space is used up.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// From now on, or no more, watches bring nothing.
    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.state().is_silent = is_silent;
        self.tell();
    }

    /// Ends all watches in the middle of a line.
    pub(crate) fn cut_watches(&self) {
        self.state().cuts += 1;
        self.tell();
    }

    /// Forgets all changes until now.
    pub(crate) fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.revision;
        state.events.clear();
    }

    /// A copy of everything.
    pub(crate) fn backup(&self) -> Cluster {
        self.state().clone()
    }

    /// Begins again with a copy, as etcd does that was restored: revisions are lower than before.
    pub(crate) fn restore(&self, backup: Cluster) {
        let cuts = self.state().cuts + 1;
        *self.state() = Cluster { cuts, ..backup };
        self.tell();
    }

    /// Accepts no token from before, and none from anybody who has not the password `secret`.
    pub(crate) fn renew_tokens(&self) {
        let mut state = self.state();
        state.tokens += 1;
        state.token = Some(format!("token.{}", state.tokens));
    }

    /// Writes an item.
    pub(crate) fn put(&self, key: &str, value: &str, lease: i64) {
        self.state().put(key.into(), value.into(), lease);
        self.tell();
    }

    /// Removes an item.
    pub(crate) fn delete(&self, key: &str) {
        self.state().delete(key.as_bytes());
        self.tell();
    }

    /// A lease of this many seconds that nobody renews.
    pub(crate) fn lease(&self, ttl: i64) -> i64 {
        self.state().grant(ttl)
    }

    /// Renews a lease.
    pub(crate) fn renew(&self, lease: i64) {
        self.state().renew(lease);
    }

    /// Ends all leases now, and removes what has them.
    pub(crate) fn end_leases(&self) {
        for lease in self.state().leases.values_mut() {
            lease.until = Instant::now();
        }
        self.state().expire();
        self.tell();
    }

    /// The value of an item, as JSON.
    pub(crate) fn get(&self, key: &str) -> Option<Value> {
        let mut state = self.state();
        state.expire();
        let item = state.items.get(key.as_bytes())?;
        serde_json::from_slice(&item.value).ok()
    }

    /// The value of an item, as it is.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let state = self.state();
        let item = state.items.get(key.as_bytes())?;
        String::from_utf8(item.value.clone()).ok()
    }

    /// The keys that begin like this.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let state = self.state();
        let keys = state.items.keys().map(|key| String::from_utf8_lossy(key));
        let found = keys.filter(|key| key.starts_with(prefix));
        found.map(std::borrow::Cow::into_owned).collect()
    }

    /// The items written so far.
    pub(crate) fn writes(&self) -> usize {
        self.state().writes
    }

    /// The requests so far for this path.
    pub(crate) fn requests(&self, path: &str) -> usize {
        self.state().requests.get(path).copied().unwrap_or_default()
    }

    /// Waits for an item whose value is as `wanted`.
    pub(crate) async fn has(&self, key: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = Value::Null;
        until(key, || {
            found = self.get(key).unwrap_or_default();
            !found.is_null() && wanted(&found)
        })
        .await;
        found
    }

    fn state(&self) -> MutexGuard<'_, Cluster> {
        self.state.lock().unwrap()
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &self.members {
            if let Some(task) = &member.task {
                task.abort();
            }
        }
    }
}

impl Cluster {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: i64) {
        self.revision += 1;
        self.writes += 1;
        let before = self.items.get(&key);
        let item = Item {
            value,
            created: before.map_or(self.revision, |it| it.created),
            modified: self.revision,
            version: before.map_or(0, |it| it.version) + 1,
            lease,
        };
        let event = json!({ "kv": shown(&key, &item) });
        self.events.push((self.revision, key.clone(), event));
        self.items.insert(key, item);
    }

    fn delete(&mut self, key: &[u8]) {
        if self.items.remove(key).is_some() {
            self.revision += 1;
            let kv =
                json!({ "key": STANDARD.encode(key), "mod_revision": self.revision.to_string() });
            let event = json!({ "type": "DELETE", "kv": kv });
            self.events.push((self.revision, key.to_vec(), event));
        }
    }

    fn grant(&mut self, ttl: i64) -> i64 {
        self.next_lease += 1;
        let until = Instant::now() + Duration::from_secs(ttl.unsigned_abs());
        self.leases.insert(self.next_lease, Lease { ttl, until });
        self.next_lease
    }

    /// How long it lasts from now on; 0 if it is over.
    fn renew(&mut self, lease: i64) -> i64 {
        self.expire();
        self.leases.get_mut(&lease).map_or(0, |lease| {
            lease.until = Instant::now() + Duration::from_secs(lease.ttl.unsigned_abs());
            lease.ttl
        })
    }

    /// Ends the leases whose time is over.
    fn expire(&mut self) {
        let now = Instant::now();
        let over = self.leases.iter().filter(|(_, lease)| lease.until <= now);
        for lease in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end(lease);
        }
    }

    fn end(&mut self, lease: i64) {
        self.leases.remove(&lease);
        let items = self.items.iter().filter(|(_, item)| item.lease == lease);
        for key in items.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.delete(&key);
        }
    }

    fn header(&self) -> Value {
        json!({ "cluster_id": "14841639068965178418", "revision": self.revision.to_string() })
    }

    fn range(&self, request: &Value) -> Result<Value, Failure> {
        let revision = number(&request["revision"]);
        if revision != 0 && revision < self.compacted {
            return Err((
                400,
                11,
                "etcdserver: mvcc: required revision has been compacted",
            ));
        }
        let (from, to) = (bytes(&request["key"]), bytes(&request["range_end"]));
        let within = |key: &&Vec<u8>| match to.is_empty() {
            true => **key == from,
            false => **key >= from && **key < to,
        };
        let mut found: Vec<_> = self.items.iter().filter(|(key, _)| within(key)).collect();
        if request["sort_target"] == "MOD" {
            found.sort_by_key(|(_, item)| std::cmp::Reverse(item.modified));
        }
        let count = found.len();
        let limit = usize::try_from(number(&request["limit"])).unwrap();
        if limit > 0 {
            found.truncate(limit);
        }
        let kvs: Vec<Value> = found.iter().map(|(key, item)| shown(key, item)).collect();
        Ok(json!({
            "header": self.header(), "kvs": kvs, "more": found.len() < count, "count": count.to_string(),
        }))
    }

    fn holds(&self, condition: &Value) -> bool {
        let item = self.items.get(&bytes(&condition["key"]));
        match condition["target"].as_str() {
            Some("CREATE") => {
                number(&condition["create_revision"]) == item.map_or(0, |it| it.created)
            }
            Some("MOD") => number(&condition["mod_revision"]) == item.map_or(0, |it| it.modified),
            other => panic!("{other:?}"),
        }
    }

    fn transact(&mut self, request: &Value) -> Result<Value, Failure> {
        let list = |name: &str| request[name].as_array().unwrap().clone();
        let is_applied = list("compare").iter().all(|it| self.holds(it));
        let mut responses = Vec::new();
        for step in list(if is_applied { "success" } else { "failure" }) {
            if step.get("request_range").is_some() {
                let range = self.range(&step["request_range"])?;
                responses.push(json!({ "response_range": range }));
                continue;
            }
            if self.is_full {
                return Err((429, 8, "etcdserver: mvcc: database space exceeded"));
            }
            if let Some(put) = step.get("request_put") {
                let lease = number(&put["lease"]);
                if lease != 0 && !self.leases.contains_key(&lease) {
                    return Err((404, 5, "etcdserver: requested lease not found"));
                }
                self.put(bytes(&put["key"]), bytes(&put["value"]), lease);
            } else {
                self.delete(&bytes(&step["request_delete_range"]["key"]));
            }
        }
        Ok(json!({ "header": self.header(), "succeeded": is_applied, "responses": responses }))
    }

    fn operate(&mut self, path: &str, request: &Value) -> Result<Value, Failure> {
        let lease = number(&request["ID"]);
        match path {
            "/v3/kv/range" => self.range(request),
            "/v3/kv/txn" => self.transact(request),
            "/v3/lease/grant" if self.is_full => {
                Err((429, 8, "etcdserver: mvcc: database space exceeded"))
            }
            "/v3/lease/grant" => {
                let ttl = number(&request["TTL"]);
                let id = self.grant(ttl).to_string();
                Ok(json!({ "header": self.header(), "ID": id, "TTL": ttl.to_string() }))
            }
            "/v3/lease/keepalive" => {
                let mut renewed = json!({ "header": self.header(), "ID": lease.to_string() });
                if let ttl @ 1.. = self.renew(lease) {
                    renewed["TTL"] = ttl.to_string().into();
                }
                Ok(json!({ "result": renewed }))
            }
            "/v3/lease/timetolive" => {
                let left = self.leases.get(&lease).map_or(-1, |lease| {
                    i64::try_from(
                        lease
                            .until
                            .saturating_duration_since(Instant::now())
                            .as_secs(),
                    )
                    .unwrap()
                });
                Ok(
                    json!({ "header": self.header(), "ID": lease.to_string(), "TTL": left.to_string() }),
                )
            }
            "/v3/lease/revoke" => {
                self.end(lease);
                Ok(json!({ "header": self.header() }))
            }
            "/v3/auth/authenticate" => match request["password"] == "secret" {
                true => Ok(json!({ "header": self.header(), "token": self.token })),
                false => Err((
                    400,
                    3,
                    "etcdserver: authentication failed, invalid user ID or password",
                )),
            },
            other => panic!("unexpected request for {other}"),
        }
    }
}

/// The status, the code of gRPC, and the message.
type Failure = (u16, i64, &'static str);

fn shown(key: &[u8], item: &Item) -> Value {
    json!({
        "key": STANDARD.encode(key),
        "value": STANDARD.encode(&item.value),
        "create_revision": item.created.to_string(),
        "mod_revision": item.modified.to_string(),
        "version": item.version.to_string(),
        "lease": item.lease.to_string(),
    })
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap()
}

fn number(value: &Value) -> i64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

/// Responds to the one request of a connection.
async fn respond(mut wire: Wire, state: Arc<Mutex<Cluster>>, news: watch::Sender<u64>) {
    let Some(head) = wire.head_or_end().await else {
        return;
    };
    let path = head.start().split(' ').nth(1).unwrap().to_owned();
    let body = wire.body(&head).await;
    let request: Value = serde_json::from_slice(&body).unwrap();
    let (is_known, response) = {
        let mut state = state.lock().unwrap();
        *state.requests.entry(path.clone()).or_default() += 1;
        state.expire();
        let token = state.token.as_deref();
        let is_known = token.is_none_or(|token| head.value("authorization") == Some(token));
        let response = match path.as_str() {
            "/v3/watch" => None,
            _ if !is_known && path != "/v3/auth/authenticate" => {
                Some(Err((401, 16, "etcdserver: invalid auth token")))
            }
            _ => Some(state.operate(&path, &request)),
        };
        (is_known, response)
    };
    news.send_modify(|count| *count += 1);
    let (status, body) = match response {
        Some(Ok(body)) => (200, body),
        Some(Err((status, code, message))) => (
            status,
            json!({ "error": message, "message": message, "code": code }),
        ),
        None => {
            let request = &request["create_request"];
            return follow(&mut wire, request, &state, news.subscribe(), is_known).await;
        }
    };
    let body = body.to_string();
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n");
    wire.send(format!("{head}Content-Length: {length}\r\n\r\n{body}"))
        .await;
}

/// A watch, until its client is gone or it is cut.
async fn follow(
    wire: &mut Wire,
    request: &Value,
    state: &Mutex<Cluster>,
    mut news: watch::Receiver<u64>,
    is_known: bool,
) {
    let (from, to) = (bytes(&request["key"]), bytes(&request["range_end"]));
    let mut next = number(&request["start_revision"]);
    let (first, cuts) = {
        let state = state.lock().unwrap();
        let mut first = json!({ "header": state.header(), "created": true });
        if next <= state.compacted {
            first["canceled"] = true.into();
            first["compact_revision"] = state.compacted.to_string().into();
        }
        if !is_known {
            // As etcd does it: the watch begins, and is cancelled.
            first["canceled"] = true.into();
            first["cancel_reason"] =
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token".into();
        }
        (first, state.cuts)
    };
    wire.send(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    let chunk = |line: &str| format!("{:x}\r\n{line}\r\n", line.len());
    wire.send(chunk(&format!("{}\n", json!({ "result": first }))))
        .await;
    if first["canceled"] == true {
        wire.send("0\r\n\r\n").await;
        return;
    }
    loop {
        let (events, header, is_cut) = {
            let state = state.lock().unwrap();
            let events = state.events.iter().filter(|(revision, key, _)| {
                !state.is_silent && *revision >= next && *key >= from && *key < to
            });
            let events: Vec<Value> = events.map(|(_, _, event)| event.clone()).collect();
            if !state.is_silent {
                next = state.revision + 1;
            }
            (events, state.header(), state.cuts != cuts)
        };
        if is_cut {
            wire.send(chunk("{\"result\":{\"hea")).await;
            return;
        }
        if !events.is_empty() {
            let message = json!({ "result": { "header": header, "events": events } });
            wire.send(chunk(&format!("{message}\n"))).await;
        }
        tokio::select! {
            changed = news.changed() => changed.unwrap(),
            () = wire.until_gone() => return,
        }
    }
}
