//! The HTTP server of the page.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::access::{ENTER, PageAccess, PageRefusal};
use super::connections::{ConnectionStanding, PageConnections, PageStanding, STRANGER_TIMEOUT};
use super::history::Feed;
use super::page::{FILES, LAST_WORKER, PageFile, SCRIPT, entrance};
use super::relay::PageRelay;

/// The content security policy: the page's own files and its own origin, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The path of the event stream.
const EVENTS: &str = "/events";

/// The prefix of the admin interface's operations.
const OPERATIONS: &str = "/v1/";

/// The path that says what the page may do.
const ABILITIES: &str = "/abilities";

/// How long a request head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Pause after a failed accept, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

type PageBody = UnsyncBoxBody<Bytes, Infallible>;

/// What the port serves.
pub(super) struct DashboardSite {
    access: PageAccess,
    feed: Arc<Feed>,
    relay: PageRelay,
}

/// Serves connections until the task is dropped.
pub(super) async fn serve(site: Arc<DashboardSite>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let mut open = PageConnections::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without room the connection is closed by being dropped.
                    if open.make_room() {
                        let standing = ConnectionStanding::default();
                        let served = serve_one(Arc::clone(&site), stream, standing.clone());
                        open.add(standing, connections.spawn(served));
                    }
                    // Those that are open have their turn before the next one: a flood of others must not close a
                    // connection before its request was read.
                    tokio::task::yield_now().await;
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves a connection until it ends, or for a short time if it shows nothing.
async fn serve_one(site: Arc<DashboardSite>, stream: TcpStream, standing: ConnectionStanding) {
    let _ = stream.set_nodelay(true);
    let shown = standing.clone();
    let service = service_fn(move |request| {
        let (site, shown) = (Arc::clone(&site), shown.clone());
        async move { Ok::<_, Infallible>(site.respond(request, &shown).await) }
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    // A client that has gone away is not an error.
    if tokio::time::timeout(STRANGER_TIMEOUT, &mut connection)
        .await
        .is_err()
        && !standing.is(PageStanding::Stranger)
    {
        let _ = connection.await;
    }
}

impl DashboardSite {
    pub(super) fn new(access: PageAccess, feed: Arc<Feed>, relay: PageRelay) -> Self {
        Self {
            access,
            feed,
            relay,
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        standing: &ConnectionStanding,
    ) -> Response<PageBody> {
        let (parts, body) = request.into_parts();
        match self.admit(&parts, standing) {
            Ok(Some(entered)) => entered,
            Ok(None) => self.admitted(&parts, body).await,
            Err(refusal) => {
                let text = format!("{}\n", refusal.sentence());
                response(refusal.status(), TEXT, text)
            }
        }
    }

    /// Refuses what is not from the page, or exchanges the secret.
    fn admit(
        &self,
        parts: &Parts,
        standing: &ConnectionStanding,
    ) -> Result<Option<Response<PageBody>>, PageRefusal> {
        self.access.check_site(parts)?;
        let path = parts.uri.path();
        // Of another site that was at this port: a browser asks whether there is a new version of it.
        if parts.headers.contains_key("service-worker") {
            return Ok(Some(response(StatusCode::OK, SCRIPT, LAST_WORKER)));
        }
        if path == ENTER && parts.method == Method::GET {
            let credentials = self.access.enter(parts)?;
            standing.rise(PageStanding::Admitted);
            let mut entered = response(
                StatusCode::OK,
                HTML,
                entrance(credentials.key, self.access.run()),
            );
            if let Ok(cookie) = HeaderValue::from_str(&credentials.cookie) {
                entered.headers_mut().insert(SET_COOKIE, cookie);
            }
            return Ok(Some(entered));
        }
        self.access.check_cookie(&parts.headers)?;
        standing.rise(PageStanding::Known);
        if !FILES.iter().any(|file| file.path == path) {
            self.access.check_key(&parts.headers)?;
            standing.rise(PageStanding::Admitted);
        }
        Ok(None)
    }

    async fn admitted(&self, parts: &Parts, body: Incoming) -> Response<PageBody> {
        let path = parts.uri.path();
        if path.starts_with(OPERATIONS) {
            return match self.operate(parts, body).await {
                Ok(body) => response(StatusCode::OK, JSON, body),
                Err((status, error)) => {
                    response(status, JSON, json!({ "error": error }).to_string())
                }
            };
        }
        if parts.method != Method::GET {
            return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Use GET.\n");
        }
        match FILES.iter().find(|file| file.path == path) {
            Some(file) => of_file(file, self.access.run(), parts),
            None if path == EVENTS => self.events(parts),
            None if path == ABILITIES => {
                let abilities = json!({ "steer": self.relay.may_steer });
                response(StatusCode::OK, JSON, abilities.to_string())
            }
            None => response(StatusCode::NOT_FOUND, TEXT, "Not found.\n"),
        }
    }

    async fn operate(&self, parts: &Parts, body: Incoming) -> Result<Bytes, (StatusCode, String)> {
        let operation = self.relay.operation(parts)?;
        let unread = || {
            let error = format!("the request body is incomplete, or larger than {MAX_BODY} bytes");
            (StatusCode::BAD_REQUEST, error)
        };
        let body = Limited::new(body, MAX_BODY).collect();
        let body = tokio::time::timeout(BODY_TIMEOUT, body).await;
        let body = body.map_err(|_| unread())?.map_err(|_| unread())?;
        let query = parts.uri.query().unwrap_or_default();
        self.relay
            .pass(operation, query, body.to_bytes().to_vec())
            .await
    }

    /// A stream of everything from the position that the request names: first what was missed, then what comes.
    fn events(&self, parts: &Parts) -> Response<PageBody> {
        let id = parts.headers.get("last-event-id");
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let mut grown = self.feed.watch();
        // The first event follows at once.
        grown.mark_changed();
        let begin = (Arc::clone(&self.feed), grown, self.feed.position(id));
        let events = stream::unfold(begin, |(feed, mut grown, mut position)| async move {
            grown.changed().await.ok()?;
            let event = Frame::data(Bytes::from(feed.next(&mut position)));
            Some((Ok(event), (feed, grown, position)))
        });
        with_headers(
            StatusCode::OK,
            "text/event-stream",
            StreamBody::new(events).boxed_unsync(),
        )
    }
}

fn of_file(file: &PageFile, run: &str, parts: &Parts) -> Response<PageBody> {
    let tag = file.tag();
    let given = parts.headers.get(IF_NONE_MATCH);
    let is_known = given.is_some_and(|given| given.as_bytes() == tag.as_bytes());
    let mut response = match is_known {
        true => response(StatusCode::NOT_MODIFIED, file.content_type, ""),
        false => response(StatusCode::OK, file.content_type, file.of_run(run)),
    };
    // It may be kept, but has to be asked for each time.
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<PageBody> {
    with_headers(status, content_type, Full::new(body.into()).boxed_unsync())
}

fn with_headers(
    status: StatusCode,
    content_type: &'static str,
    body: PageBody,
) -> Response<PageBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields: [(HeaderName, &'static str); 7] = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fields {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
