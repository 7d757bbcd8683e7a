//! Asks etcd: one member, and another one when that fails or is slow.

mod asking;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};

use super::error::EtcdError;
use super::wire::{
    self, GrantedLease, ItemPage, KeyRange, Transaction, TransactionResult, WatchNews,
};
use crate::config::model::{EtcdConfig, Secret};
use crate::https_client::counters::ClientCounters;
use crate::https_client::line_stream::LineStream;
use crate::https_client::{HttpsClient, HttpsClientError};
use crate::upstream::connect::Connector;

/// How long a member may take to respond.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest response, and the largest message of a watch, in bytes. A value in etcd has at most 1.5 MiB by
/// default, which is a third more in base64.
const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;

/// How long a watch may say nothing: etcd reports its progress every ten minutes.
const WATCH_SILENCE: Duration = Duration::from_secs(15 * 60);

/// Items in one response.
const PAGE_ITEMS: i64 = 200;

/// Metadata of gRPC that has a member without a leader end a watch, instead of being silent.
const HAS_LEADER: HeaderName = HeaderName::from_static("grpc-metadata-hasleader");

/// Asks etcd.
#[derive(Debug)]
pub struct EtcdClient {
    settings: Arc<EtcdConfig>,
    connector: Connector,
    counters: Arc<ClientCounters>,
    /// The member that was asked last.
    current: AtomicUsize,
    /// Whether another one was faster in the latest read, and the member is asked first all the same.
    was_overtaken: AtomicBool,
    /// What stands for the user. Every member accepts it.
    token: Mutex<Option<Secret>>,
}

/// The changes of some keys, as they come.
#[derive(Debug)]
pub struct EtcdWatch {
    lines: LineStream,
    /// The place of the member in the configuration.
    member: usize,
}

impl EtcdWatch {
    /// The place of the member that brings the changes.
    pub fn member(&self) -> usize {
        self.member
    }
}

/// Whether a request may be sent again where it may have been carried out already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repetition {
    Harmless,
    Harmful,
}

impl EtcdClient {
    /// Asks as `settings` say. Requests are counted in `counters`.
    pub fn new(
        settings: &Arc<EtcdConfig>,
        connector: Connector,
        counters: Arc<ClientCounters>,
    ) -> Self {
        // Nodes that have the same list do not all ask its first member.
        let first = fastrand::usize(..settings.members.len().max(1));
        Self {
            settings: Arc::clone(settings),
            connector,
            counters,
            current: AtomicUsize::new(first),
            was_overtaken: AtomicBool::new(false),
            token: Mutex::default(),
        }
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.settings.prefix
    }

    /// How it asks.
    pub fn settings(&self) -> &Arc<EtcdConfig> {
        &self.settings
    }

    /// The URL of the member that is asked.
    pub fn member(&self) -> &Uri {
        self.url(self.current.load(Ordering::Relaxed))
    }

    /// The item with this key, at most one, and the revision of the store.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn get(&self, key: &str) -> Result<ItemPage, EtcdError> {
        self.page(wire::range(KeyRange::One(key), 0, 0)).await
    }

    /// The first items under a prefix, at this revision, or at the latest one for 0.
    ///
    /// # Errors
    /// [`EtcdError`], for example [`EtcdError::Compacted`].
    pub async fn first_page(&self, prefix: &str, revision: i64) -> Result<ItemPage, EtcdError> {
        self.page(wire::range(KeyRange::Prefix(prefix), revision, PAGE_ITEMS))
            .await
    }

    /// The items after this key, at this revision.
    ///
    /// # Errors
    /// As [`Self::first_page`].
    pub async fn next_page(
        &self,
        prefix: &str,
        after: &[u8],
        revision: i64,
    ) -> Result<ItemPage, EtcdError> {
        self.page(wire::rest_of_range(prefix, after, revision, PAGE_ITEMS))
            .await
    }

    /// The item under a prefix that was changed last, without its value, and the number of all of them.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn latest(&self, prefix: &str) -> Result<ItemPage, EtcdError> {
        self.page(wire::latest(prefix)).await
    }

    async fn page(&self, request: Vec<u8>) -> Result<ItemPage, EtcdError> {
        let response = self.ask("/v3/kv/range", request, Repetition::Harmless);
        Ok(wire::read_page(&response.await?)?)
    }

    /// Applies all steps if all conditions hold.
    ///
    /// # Errors
    /// [`EtcdError`]. It may have been applied all the same if [`EtcdError::may_be_done`].
    pub async fn transact(&self, wanted: &Transaction<'_>) -> Result<TransactionResult, EtcdError> {
        let request = wire::transaction(wanted);
        let response = self.ask("/v3/kv/txn", request, Repetition::Harmful);
        Ok(wire::read_transaction(&response.await?)?)
    }

    /// A new lease, which lasts for this time, in whole seconds, without being renewed.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn grant(&self, ttl: Duration) -> Result<GrantedLease, EtcdError> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        // A lease without a holder ends by itself.
        let response = self.ask("/v3/lease/grant", wire::grant(ttl), Repetition::Harmless);
        Ok(wire::read_lease(&response.await?)?)
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// [`EtcdError`]; [`EtcdError::NoLease`] if it is over.
    pub async fn keep_alive(&self, lease: i64) -> Result<(), EtcdError> {
        let request = wire::keep_alive(lease);
        let response = self.ask("/v3/lease/keepalive", request, Repetition::Harmless);
        let renewed = wire::read_renewal(&response.await?)?;
        match renewed? {
            GrantedLease { ttl: 1.., .. } => Ok(()),
            _ => Err(EtcdError::NoLease),
        }
    }

    /// How long a lease lasts without being renewed, in seconds; 0 if it is over.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn time_to_live(&self, lease: i64) -> Result<i64, EtcdError> {
        let request = wire::time_to_live(lease);
        let response = self.ask("/v3/lease/timetolive", request, Repetition::Harmless);
        match response.await {
            Ok(response) => Ok(wire::read_lease(&response)?.ttl.max(0)),
            Err(EtcdError::NoLease) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Ends a lease, and with it all items that have it.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        let request = wire::revoke(lease);
        let response = self.ask("/v3/lease/revoke", request, Repetition::Harmless);
        match response.await {
            Ok(_) | Err(EtcdError::NoLease) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Follows the changes under a prefix from a revision on.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn watch(&self, prefix: &str, from: i64) -> Result<EtcdWatch, EtcdError> {
        let body = Bytes::from(wire::watch(KeyRange::Prefix(prefix), from));
        let mut failure = None;
        for _ in &self.settings.members {
            let member = self.current.load(Ordering::Relaxed);
            match self.watch_at(member, body.clone()).await {
                Ok(watch) => return Ok(watch),
                Err(error) if error.is_of_member() => {
                    self.leave(member);
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or(EtcdError::Ended))
    }

    async fn watch_at(&self, member: usize, body: Bytes) -> Result<EtcdWatch, EtcdError> {
        let mut renewed = false;
        loop {
            let token = self.token(member).await?;
            let mut request = self.request(member, "/v3/watch", body.clone(), token.as_ref())?;
            let yes = HeaderValue::from_static("true");
            request.headers_mut().insert(HAS_LEADER, yes);
            let (parts, lines) = self.http()?.open(request, MAX_RESPONSE_BYTES).await?;
            if parts.status.is_success() {
                return Ok(EtcdWatch { lines, member });
            }
            let body = lines.collect(MAX_RESPONSE_BYTES, REQUEST_TIMEOUT).await?;
            match failure_of(parts.status, &body) {
                EtcdError::Token(_) if !renewed && token.is_some() => {
                    self.forget_token(token.as_ref());
                    renewed = true;
                }
                error => return Err(error),
            }
        }
    }

    /// The next message of a watch.
    ///
    /// # Errors
    /// [`EtcdError`]: the watch is over.
    pub async fn next(&self, watch: &mut EtcdWatch) -> Result<WatchNews, EtcdError> {
        let line = watch.lines.next(WATCH_SILENCE).await;
        match line {
            Ok(Some(line)) => Ok(wire::read_news(&line)?),
            Ok(None) => Err(EtcdError::Ended),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether requests go to another member by now.
    pub fn has_left(&self, member: usize) -> bool {
        self.current.load(Ordering::Relaxed) != member
    }

    async fn ask_member(
        &self,
        member: usize,
        path: &'static str,
        body: &Bytes,
    ) -> Result<Bytes, EtcdError> {
        let mut renewed = false;
        loop {
            let token = self.token(member).await?;
            match self.send(member, path, body.clone(), token.as_ref()).await {
                // A token does not last for ever, and some kinds end with the member.
                Err(EtcdError::Token(_)) if !renewed && token.is_some() => {
                    self.forget_token(token.as_ref());
                    renewed = true;
                }
                result => return result,
            }
        }
    }

    /// The token of the user, if there is a user.
    async fn token(&self, member: usize) -> Result<Option<Secret>, EtcdError> {
        let Some(login) = &self.settings.login else {
            return Ok(None);
        };
        let known = self.known_token().clone();
        if known.is_some() {
            return Ok(known);
        }
        let password = String::from_utf8_lossy(login.password.bytes());
        let request = Bytes::from(wire::authenticate(&login.user, &password));
        let response = self.send(member, "/v3/auth/authenticate", request, None);
        let token = wire::read_token(&response.await?)?;
        *self.known_token() = Some(token.clone());
        Ok(Some(token))
    }

    /// Authenticates again before the next request.
    pub fn renew_token(&self) {
        *self.known_token() = None;
    }

    fn forget_token(&self, token: Option<&Secret>) {
        let mut known = self.known_token();
        if known.as_ref() == token {
            *known = None;
        }
    }

    fn known_token(&self) -> MutexGuard<'_, Option<Secret>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(
        &self,
        member: usize,
        path: &'static str,
        body: Bytes,
        token: Option<&Secret>,
    ) -> Result<Bytes, EtcdError> {
        let request = self.request(member, path, body, token)?;
        let response = self.http()?.send(request).await?;
        match response.status().is_success() {
            true => Ok(response.into_body()),
            false => Err(failure_of(response.status(), response.body())),
        }
    }

    fn request(
        &self,
        member: usize,
        path: &'static str,
        body: Bytes,
        token: Option<&Secret>,
    ) -> Result<Request<Bytes>, EtcdError> {
        let mut url = self.url(member).clone().into_parts();
        url.path_and_query = Some(http::uri::PathAndQuery::from_static(path));
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        // A URL with a scheme, an authority and a path is a valid one.
        *request.uri_mut() = Uri::from_parts(url).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_bytes(token.bytes()).map_err(|_| wire::MalformedMessage)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// A new one each time: the CA certificates of the system may have changed.
    fn http(&self) -> Result<HttpsClient, HttpsClientError> {
        let (connector, counters) = (self.connector.clone(), Arc::clone(&self.counters));
        let client = match &self.settings.tls {
            Some(tls) => HttpsClient::with_tls(connector, tls, counters)?,
            None => HttpsClient::without_tls(connector, counters),
        };
        Ok(client
            .timeout(REQUEST_TIMEOUT)
            .max_body_bytes(MAX_RESPONSE_BYTES))
    }

    fn url(&self, member: usize) -> &Uri {
        static NOWHERE: std::sync::LazyLock<Uri> = std::sync::LazyLock::new(Uri::default);
        self.settings.members.get(member).unwrap_or(&NOWHERE)
    }

    /// Asks the next member from now on, unless that has happened already.
    pub fn leave(&self, member: usize) {
        let next = (member + 1) % self.settings.members.len().max(1);
        let _ = self
            .current
            .compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// What a response that is not a success means.
fn failure_of(status: StatusCode, body: &[u8]) -> EtcdError {
    match wire::read_failure(body) {
        Some(failure) => failure.into(),
        // A proxy before etcd, or something else.
        None if status.is_server_error() => EtcdError::Unavailable(status.to_string().into()),
        None => EtcdError::Malformed(wire::MalformedMessage),
    }
}
