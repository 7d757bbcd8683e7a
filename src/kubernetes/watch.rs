//! Follows the EndpointSlices of a Service: a list, then a watch from the state that the list has shown.
//!
//! A watch that ends is resumed where it was. Only if the API server does not know that state any more (410), if an
//! event could not be read, or if watches bring nothing, the slices are listed again; until the new list is complete,
//! the old one counts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::KubernetesError;
use super::access::ApiAccess;
use super::objects::{self, SliceEvent};
use super::slices::{SliceSet, SlicedEndpoints};
use crate::config::model::{KubernetesService, ServicePort};
use crate::https_client::counters::ClientCounters;
use crate::https_client::line_stream::LineStream;
use crate::upstream::connect::Connector;

/// Slices on a page of a list.
const PAGE_SLICES: usize = 500;

/// Pages of a list, at most.
const MAX_PAGES: usize = 64;

/// The longest event, in bytes.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// The API server ends a watch after this many seconds, or up to [`WATCH_SPREAD_SECONDS`] more, so that watches that
/// began together do not end together.
const WATCH_SECONDS: u64 = 120;

/// See [`WATCH_SECONDS`].
const WATCH_SPREAD_SECONDS: u64 = 40;

/// The same while watches bring nothing, so that a list follows sooner, or the end that shows that they work.
const MUTE_WATCH_SECONDS: u64 = 20;

/// The API server sends the head of a watch at once. A proxy that holds the response back until its end must not let
/// short watches through while long ones are never opened: each short one would seem to show that watches work again.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

const _: () = assert!(HEAD_TIMEOUT.as_secs() < MUTE_WATCH_SECONDS);

/// A watch of which nothing has come for this much longer than it was to last has no other side any more, or a proxy
/// that passes nothing on. The time that it was to last is all that Kubernetes promises: bookmarks come about once a
/// minute, but need not. A network that drops packets is noticed by TCP keepalive.
const OVERTIME: Duration = Duration::from_secs(15);

/// The largest body of a response with an error, in bytes, and how long it may take.
const ERROR_BODY: (usize, Duration) = (64 * 1024, Duration::from_secs(5));

/// Characters of an error of the API server that are shown.
const MAX_MESSAGE: usize = 300;

/// The slices of a Service, kept up to date.
#[derive(Debug)]
pub struct SliceWatch {
    access: ApiAccess,
    port: ServicePort,
    slices: SliceSet,
    /// The state that `slices` are in; `None` before the first list and after the state has expired.
    version: Option<Box<str>>,
    watch: Option<OpenWatch>,
    /// Whether watches bring nothing.
    is_mute: bool,
}

#[derive(Debug)]
struct OpenWatch {
    lines: LineStream,
    silence: Duration,
}

/// What the next step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchPhase {
    /// It lists the slices.
    Listing,
    /// It opens a watch.
    Opening,
    /// It waits for the next event, which may come at any time, without a request.
    Open,
}

/// What happened in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStep {
    /// The slices were listed.
    Listed,
    /// A watch has begun.
    Opened,
    /// A slice has changed.
    Changed,
    /// The API server reports that nothing has changed.
    Unchanged,
    /// The watch has ended, and is to be resumed.
    Ended,
    /// The API server does not know the state any more: the slices are to be listed again.
    Expired,
}

impl SliceWatch {
    /// Asks nothing yet. Requests are counted in `counters`; failures are not logged.
    pub fn new(
        service: KubernetesService,
        connector: Connector,
        counters: Arc<ClientCounters>,
    ) -> Self {
        Self {
            port: service.port.clone(),
            access: ApiAccess::new(connector, counters, service),
            slices: SliceSet::default(),
            version: None,
            watch: None,
            is_mute: false,
        }
    }

    /// The endpoints as known now; none before the first list.
    pub fn endpoints(&self) -> SlicedEndpoints {
        self.slices.endpoints(&self.port)
    }

    /// What the next step does.
    pub fn phase(&self) -> WatchPhase {
        match (&self.version, &self.watch) {
            (None, _) => WatchPhase::Listing,
            (Some(_), None) => WatchPhase::Opening,
            (Some(_), Some(_)) => WatchPhase::Open,
        }
    }

    /// Has the next step list the slices, because watches bring nothing.
    pub fn list_again(&mut self) {
        self.version = None;
        self.watch = None;
        self.is_mute = true;
    }

    /// Lists, begins to watch, or waits for the next event. May be dropped while it waits for an event.
    ///
    /// # Errors
    /// [`KubernetesError`]. The next step tries it again.
    pub async fn step(&mut self) -> Result<WatchStep, KubernetesError> {
        let step = match self.phase() {
            WatchPhase::Listing => self.list().await,
            WatchPhase::Opening => self.open().await,
            WatchPhase::Open => self.event().await,
        };
        match &step {
            Ok(WatchStep::Ended | WatchStep::Expired) => self.watch = None,
            Ok(_) => {}
            Err(_) => {
                self.watch = None;
                self.access.expire();
            }
        }
        step
    }

    async fn list(&mut self) -> Result<WatchStep, KubernetesError> {
        let mut slices = SliceSet::default();
        let mut next: Option<Box<str>> = None;
        for _ in 0..MAX_PAGES {
            let mut parameters = format!("&limit={PAGE_SLICES}");
            if let Some(next) = &next {
                parameters.push_str("&continue=");
                parameters.push_str(&percent_encoded(next));
            }
            let (status, body) = self.whole(&parameters).await?;
            if status == StatusCode::GONE && next.is_some() {
                // The list has taken too long: another one begins.
                return Ok(WatchStep::Expired);
            }
            if status != StatusCode::OK {
                return Err(refused(status, &body));
            }
            let page = objects::page(&body)?;
            for slice in page.slices {
                slices.apply(slice);
            }
            next = page.next;
            if next.is_none() {
                self.slices = slices;
                self.version = Some(page.version);
                return Ok(WatchStep::Listed);
            }
        }
        Err(KubernetesError::TooManyPages(MAX_PAGES))
    }

    /// A whole response; a second one, if the token was replaced before the first.
    async fn whole(&mut self, parameters: &str) -> Result<(StatusCode, Bytes), KubernetesError> {
        loop {
            let (client, request) = self.access.request(parameters).await?;
            let response = client.send(request).await?;
            let is_refused = response.status() == StatusCode::UNAUTHORIZED;
            if !is_refused || !self.access.renew().await? {
                return Ok((response.status(), response.into_body()));
            }
        }
    }

    async fn open(&mut self) -> Result<WatchStep, KubernetesError> {
        let seconds = match self.is_mute {
            true => MUTE_WATCH_SECONDS,
            false => WATCH_SECONDS + fastrand::u64(..=WATCH_SPREAD_SECONDS),
        };
        let version = self.version.as_deref().unwrap_or_default();
        let version = percent_encoded(version);
        let parameters = format!(
            "&watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={seconds}"
        );
        loop {
            let (client, request) = self.access.request(&parameters).await?;
            let client = client.head_timeout(HEAD_TIMEOUT);
            let (head, lines) = client.open(request, MAX_EVENT_BYTES).await?;
            if head.status == StatusCode::OK {
                let silence = Duration::from_secs(seconds) + OVERTIME;
                self.watch = Some(OpenWatch { lines, silence });
                return Ok(WatchStep::Opened);
            }
            let (limit, time) = ERROR_BODY;
            let body = lines.collect(limit, time).await?;
            match head.status {
                StatusCode::GONE => {
                    self.version = None;
                    return Ok(WatchStep::Expired);
                }
                StatusCode::UNAUTHORIZED if self.access.renew().await? => {}
                status => return Err(refused(status, &body)),
            }
        }
    }

    async fn event(&mut self) -> Result<WatchStep, KubernetesError> {
        let Some(OpenWatch { lines, silence }) = &mut self.watch else {
            return Ok(WatchStep::Ended);
        };
        let line = lines.next(*silence).await?;
        self.is_mute = false;
        let Some(line) = line else {
            return Ok(WatchStep::Ended);
        };
        let event = objects::event(&line).inspect_err(|_| {
            // Resumed, the watch would only bring it again.
            self.version = None;
        })?;
        match event {
            SliceEvent::Applied(slice, version) => {
                self.slices.apply(slice);
                Ok(self.reached(version, WatchStep::Changed))
            }
            SliceEvent::Deleted(name, version) => {
                self.slices.delete(&name);
                Ok(self.reached(version, WatchStep::Changed))
            }
            SliceEvent::Bookmark(version) => Ok(self.reached(version, WatchStep::Unchanged)),
            SliceEvent::Other => Ok(WatchStep::Unchanged),
            SliceEvent::Failed { code, message } => {
                self.version = None;
                match code == StatusCode::GONE.as_u16() {
                    true => Ok(WatchStep::Expired),
                    false => {
                        let message = message.chars().take(MAX_MESSAGE).collect();
                        Err(KubernetesError::WatchError { code, message })
                    }
                }
            }
        }
    }

    /// The slices are in this state now.
    fn reached(&mut self, version: Box<str>, step: WatchStep) -> WatchStep {
        if !version.is_empty() {
            self.version = Some(version);
        }
        step
    }
}

fn refused(status: StatusCode, body: &[u8]) -> KubernetesError {
    let message = objects::message(body, MAX_MESSAGE);
    match status {
        StatusCode::UNAUTHORIZED => KubernetesError::Unauthorized(message),
        StatusCode::FORBIDDEN => KubernetesError::Forbidden(message),
        status => KubernetesError::Status { status, message },
    }
}

/// The text as a value in a query (RFC 3986 section 2.1).
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_watch_is_given_up_before_a_proxy_that_holds_it_back_could_send_it_whole() {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = KubernetesService {
            name: "chat".into(),
            port: ServicePort::Number(9000),
            namespace: Some("games".into()),
            api: Some(format!("http://{}", proxy.local_addr().unwrap()).into()),
            token_file: None,
            ca: None,
            state: None,
        };
        let mut watch = SliceWatch::new(service, Connector::default(), Arc::default());
        watch.list_again();
        watch.version = Some("1".into());
        let holding = async {
            let (mut socket, _) = proxy.accept().await.unwrap();
            socket.read_u8().await.unwrap();
            // From here on, only time passes.
            tokio::time::pause();
            std::future::pending().await
        };
        let began = Instant::now();
        let result = tokio::select! {
            result = watch.step() => result,
            () = holding => Ok(WatchStep::Ended),
        };
        assert!(result.unwrap_err().was_connected());
        let shortest = Duration::from_secs(MUTE_WATCH_SECONDS);
        assert!(began.elapsed() < shortest, "{:?}", began.elapsed());
    }

    #[test]
    fn values_in_a_query_are_encoded() {
        let encoded = percent_encoded("aZ0-._~ +/=&é");
        assert_eq!(encoded, "aZ0-._~%20%2B%2F%3D%26%C3%A9");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let body =
            br#"{"kind":"Status","message":"endpointslices is forbidden: User \"x\" cannot list"}"#;
        let shown = |status| refused(status, body).to_string();
        assert!(
            shown(StatusCode::FORBIDDEN).starts_with("the service account may not list and watch")
        );
        assert!(shown(StatusCode::UNAUTHORIZED).contains("(401): endpointslices is forbidden"));
        assert!(shown(StatusCode::NOT_FOUND).starts_with("the API server responds with 404: "));
    }
}
