//! Any request is routed by the rule that the documentation states, and what is forwarded of it has no
//! dot segment, however often it is decoded, and no field that belongs to the client's connection.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tidegate::config::model::{
    Access, Address, Balance, Conditions, EndpointConfig, HashBy, HeaderChanges, OriginPattern,
    PathMatch, RequestKey, Rewrite, RouteConfig, UpstreamConfig,
};
use tidegate::protocol::access::{self, AccessSubject};
use tidegate::protocol::edit::{self, Edit, TemplateValues};
use tidegate::protocol::forwarded::{self, ForwardingFacts};
use tidegate::protocol::handshake::{Handshake, Intent};
use tidegate::protocol::hop_by_hop::{framing_error, strip_request};
use tidegate::protocol::rejection::Rejection;
use tidegate::protocol::request_key::KeyTraits;
use tidegate::protocol::sticky_cookie::cookie_value;
use tidegate::protocol::target::Target;
use tidegate::protocol::trace_context::TraceContext;
use tidegate::route::{self, RouteQuery, RouteTable};
use tidegate::session::affinity;
use tidegate::upstream::group::Upstream;

const LINES: usize = 100;

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let mut lines = [httparse::EMPTY_HEADER; LINES];
    let mut head = httparse::Request::new(&mut lines);
    let Ok(httparse::Status::Complete(_)) = head.parse(bytes) else {
        return;
    };
    let mut request = http::Request::builder()
        .method(head.method.unwrap_or_default())
        .uri(head.path.unwrap_or_default())
        .version(if head.version == Some(1) {
            http::Version::HTTP_11
        } else {
            http::Version::HTTP_10
        });
    for line in head.headers.iter() {
        request = request.header(line.name, line.value);
    }
    let Ok(request) = request.body(()) else {
        return;
    };
    let (parts, ()) = request.into_parts();
    let headers = &parts.headers;
    check_fields(headers);
    let Ok(target) = Target::of(&parts) else {
        return;
    };
    check_path(&target);
    let handshake = Intent::of(&parts).handshake().ok().flatten();
    check_route(&parts.method, headers, &target, handshake.as_ref());
    check_affinity(headers, &target);
    check_forwarded_fields(headers.clone(), &target);
}

/// Three decodings find no dot segment; a property test in `config/model/path` decodes to the end.
fn check_path(target: &Target) {
    let (path, query) = target
        .origin_form()
        .split_once('?')
        .unwrap_or((target.origin_form(), ""));
    // What the endpoint gets is in characters that every reader takes as they are.
    let refused = |text: &str, refused: &[u8]| {
        text.bytes()
            .any(|byte| !byte.is_ascii_graphic() || refused.contains(&byte))
    };
    assert!(!refused(path, b"\"<>#?\\`") && !refused(query, b"\"<>#"));
    let mut text = path.to_owned();
    for _ in 0..3 {
        let mut segments = text.split(['/', '\\']);
        assert!(!segments.any(|segment| matches!(segment, "." | "..")));
        for (escape, plain) in [("%2e", "."), ("%2f", "/"), ("%5c", "\\"), ("%25", "%")] {
            text = text.replace(escape, plain);
            text = text.replace(&escape.to_uppercase(), plain);
        }
    }
    let to = Rewrite {
        strip: Some("/a".into()),
        add: Some("/v1".into()),
        restore: true,
    };
    if let Ok(rewritten) = edit::rewrite(&to, target.origin_form()) {
        assert!(rewritten.starts_with("/v1"));
    }
}

/// Routes of one host that differ in their paths and in what they require of a request.
fn routes() -> &'static (Vec<RouteConfig>, RouteTable) {
    static ROUTES: OnceLock<(Vec<RouteConfig>, RouteTable)> = OnceLock::new();
    ROUTES.get_or_init(|| {
        let route = |path, conditions| RouteConfig {
            path,
            conditions,
            ..RouteConfig::to_upstream("r", "u")
        };
        let prefix = |path: &str| PathMatch::Prefix(path.into());
        let query = |value: &str| Conditions {
            query: vec![("room".into(), value.into())],
            ..Conditions::default()
        };
        let mut routes = vec![
            route(PathMatch::Any, Conditions::default()),
            route(PathMatch::Exact("/a/b".into()), Conditions::default()),
            route(prefix("/a"), Conditions::default()),
            route(prefix("/a/b/c"), Conditions::default()),
            route(prefix("/socket.io"), Conditions::default()),
        ];
        for number in 0..8 {
            routes.push(route(prefix("/rooms"), query(&number.to_string())));
        }
        let tenant = HeaderName::from_static("x-tenant");
        let with_header = Conditions {
            headers: vec![(tenant, HeaderValue::from_static("acme"))],
            ..Conditions::default()
        };
        routes.push(route(prefix("/rooms"), with_header));
        for name in ["chat", "mqtt", "graphql-ws"] {
            let offering = Conditions {
                subprotocols: vec![name.into()],
                ..Conditions::default()
            };
            routes.push(route(prefix("/rooms"), offering));
        }
        let table = RouteTable::new(&routes);
        (routes, table)
    })
}

fn check_route(
    method: &Method,
    headers: &HeaderMap,
    target: &Target,
    handshake: Option<&Handshake<'_>>,
) {
    let query = RouteQuery {
        listener: "public",
        bound_only: false,
        host: target.host(),
        path: target.path(),
        loose_path: target.loose_path(),
        query: target.query(),
        method,
        headers,
        handshake,
    };
    let (routes, table) = routes();
    let rank = |route: &RouteConfig| match &route.path {
        PathMatch::Any => (0, 0),
        PathMatch::Prefix(prefix) => (1, prefix.len()),
        PathMatch::Exact(path) => (2, path.len()),
    };
    let fitting = routes
        .iter()
        .enumerate()
        .filter(|(_, route)| route::why_not(route, &query).is_none());
    let best = fitting.max_by_key(|(at, route)| {
        let order = std::cmp::Reverse(*at);
        (rank(route), route.conditions.count(), order)
    });
    let found = table.find(&query);
    assert_eq!(found, best.map(|(at, _)| at));
    // The loosest server sees a path of the same route, or nothing. What only has several slashes or parameters
    // is refused only where a route restricts more, which none of these does.
    let path = target.loose_path().unwrap_or(target.path());
    let is_one = table.find(&RouteQuery { path, ..query }) == found;
    let is_harmless = is_one || found.is_none() || !target.path().contains('%');
    let expected = match is_harmless {
        true => Ok(found),
        false => Err(Rejection::EncodedSlash),
    };
    assert_eq!(table.decide(&query, |_, _| false), expected);
}

/// What is read from header fields alone.
fn check_fields(headers: &HeaderMap) {
    if let Some(value) = cookie_value(headers, "sid") {
        let mut lines = headers.get_all(http::header::COOKIE).iter();
        assert!(lines.any(|line| line.len() >= "sid=".len() + value.len()));
    }
    let _ = (TraceContext::of(headers), framing_error(headers));
    let id = HeaderName::from_static("x-request-id");
    if let Some(id) = edit::request_id(headers, &id) {
        assert!((1..=128).contains(&id.len()));
    }
    let access = Access {
        origins: ["https://chat.example.com", "https://*.chat.example.com"]
            .into_iter()
            .filter_map(OriginPattern::parse)
            .collect(),
        ..Access::default()
    };
    let subject = AccessSubject {
        address: None,
        is_known: true,
        certificate: None,
        is_handshake: true,
    };
    let has_origin = headers.contains_key(http::header::ORIGIN);
    if access::check(&access, subject, headers).is_ok() && has_origin {
        let line = String::from_utf8_lossy(headers[http::header::ORIGIN].as_bytes());
        let line = line.to_ascii_lowercase();
        let host = line.strip_prefix("https://").expect("the scheme is exact");
        let host = host.split(':').next().unwrap_or_default();
        let label = host.strip_suffix("chat.example.com");
        assert!(label.is_some_and(|label| label.is_empty() || label.ends_with('.')));
    }
}

fn check_affinity(headers: &HeaderMap, target: &Target) {
    static UPSTREAMS: OnceLock<Vec<Upstream>> = OnceLock::new();
    let upstreams = UPSTREAMS.get_or_init(|| {
        let keys = [
            RequestKey::Cookie("sid".into()),
            RequestKey::Query("room".into()),
            RequestKey::Header(HeaderName::from_static("x-room")),
        ];
        let upstream = |key| {
            let at = Address::Ip(([10, 0, 0, 1], 9000).into());
            let mut settings = UpstreamConfig::listed("u", vec![EndpointConfig::at(at)]);
            settings.picking.balance = Balance::Hash(HashBy {
                key,
                load_factor: 1.25,
            });
            Upstream::new(&settings, &Default::default()).expect("it is valid")
        };
        keys.map(upstream).into()
    });
    let traits = KeyTraits {
        client: None,
        server_name: None,
        headers,
        target,
        claims: None,
    };
    let hashes = upstreams.iter().map(|it| affinity::of(it, traits).0.hash);
    let hashes: Vec<_> = hashes.collect();
    let empty = |value: Option<&[u8]>| value.is_none_or(<[u8]>::is_empty);
    assert_eq!(hashes[0].is_none(), empty(cookie_value(headers, "sid")));
    let room = headers.get("x-room").map(HeaderValue::as_bytes);
    assert_eq!(hashes[2].is_none(), empty(room));
}

/// The fields of a plain request on its way to an endpoint.
fn check_forwarded_fields(mut headers: HeaderMap, target: &Target) {
    strip_request(&mut headers);
    for name in ["connection", "upgrade", "transfer-encoding", "keep-alive"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    let stripped = headers.clone();
    strip_request(&mut headers);
    assert_eq!(headers, stripped, "a second time changes nothing");
    let blocked = [HeaderName::from_static("x-client-cert")];
    let changes = HeaderChanges::default();
    Edit::new(&changes, &blocked, &TemplateValues::default()).apply(&mut headers);
    forwarded::write(
        &mut headers,
        &ForwardingFacts {
            client: Some([192, 0, 2, 1].into()),
            is_known: true,
            proxies: &[],
            secure: false,
            host: target.authority(),
            port: Some(80),
        },
    );
    let named = |wanted: &str| {
        let names = headers.keys().map(|name| name.as_str().replace('_', "-"));
        names.filter(|name| name == wanted).count()
    };
    assert_eq!((named("x-client-cert"), named("x-forwarded-for")), (0, 1));
}
