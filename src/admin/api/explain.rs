//! What would happen to a request: which route matches and why others do not, whether the route
//! accepts the request, and where it would go. Nothing is sent anywhere.

mod admission;
mod explained_split;
mod own_response;
mod receiver;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::admission::{note_shared_limits, on_identity, without_token};
pub use self::explained_split::{BranchState, ExplainedBranch, ExplainedSplit};
pub use self::own_response::OwnResponse;
use self::receiver::receiving;
use super::upstreams::{self, UpstreamInfo};
use crate::admin::error::ApiError;
use crate::admin::view::{ListenerState, View};
use crate::config::model::{LeadsTo, NamingConfig, PlainHttp, Redirect};
use crate::displace::live_tunnels::LiveTunnels;
use crate::protocol::edit::{self, TemplateValues};
use crate::protocol::handshake::{Handshake, Intent};
use crate::protocol::rejection::Rejection;
use crate::protocol::request_key::KeyTraits;
use crate::protocol::target::Target;
use crate::route;
use crate::session::split;
use crate::snapshot::Route;
use crate::upstream::group::{Affinity, PickError, Upstream};

/// Routes listed in addition to the one that matches.
const MAX_OTHER_ROUTES: usize = 20;

/// A hypothetical request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Its URL: `wss://chat.example.com/room?v=2`. The schemes `ws` and `wss` mean a handshake.
    pub url: String,
    /// The listener that receives it; default: the first one with the port and the scheme of the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Whether the client presents a certificate.
    #[serde(default)]
    pub certificate: bool,
    /// Its method, for plain HTTP requests only; default: GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Its header fields.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// What would happen to the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainResponse {
    /// The listener that receives it.
    pub listener: String,
    /// Whether it is a WebSocket handshake.
    pub handshake: bool,
    /// The host that it names.
    pub host: String,
    /// Its path, as routes match it.
    pub path: String,
    /// The route that matches; none if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Routes that do not get the request; those that match its host or its path come first.
    pub other_routes: Vec<OtherRoute>,
    /// The number of further routes that do not get the request.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_routes: usize,
    /// The client addresses that the route allows; any if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// The client addresses that the route denies, even if it allows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// The origins that the route allows; any if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// The response of tidegate itself, if the request would not reach an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<OwnResponse>,
    /// What else the outcome depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// Path and query that the endpoint would receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_path: Option<String>,
    /// The `Host` header that it would receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_host: Option<String>,
    /// The prefix that its own paths in the response would get back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_prefix: Option<String>,
    /// The endpoint that would be picked now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Why that endpoint is picked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The upstreams among which the route divides its requests, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<ExplainedSplit>,
    /// The upstream and the state of its endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamInfo>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A route that does not get the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OtherRoute {
    /// The name of the route.
    pub route: String,
    /// Why it does not get the request.
    pub why: String,
}

/// Works out what would happen to a request.
///
/// # Errors
/// [`ApiError`], if the request is not valid.
pub fn explain(view: &View, question: &ExplainRequest) -> Result<ExplainResponse, ApiError> {
    let url: Uri = question.url.parse().map_err(|error| {
        ApiError::bad_request(format!("`{}` is not a valid URL: {error}", question.url))
    })?;
    let scheme = url.scheme_str().unwrap_or_default();
    let (handshake, secure) = match scheme {
        "ws" => (true, false),
        "wss" => (true, true),
        "http" => (false, false),
        "https" => (false, true),
        _ => {
            return Err(ApiError::bad_request(
                "the URL must begin with ws://, wss://, http:// or https://",
            ));
        }
    };
    let listening = view.listening.load();
    let listener = receiving(&listening, question.listener.as_deref(), secure, &url)?;
    let parts = parts(question, &url, handshake)?;
    let mut explained = ExplainResponse {
        listener: listener.name.to_string(),
        handshake,
        host: url.host().unwrap_or_default().to_owned(),
        path: url.path().to_owned(),
        route: None,
        other_routes: Vec::new(),
        more_routes: 0,
        allow: Vec::new(),
        deny: Vec::new(),
        origins: Vec::new(),
        response: None,
        depends_on: Vec::new(),
        endpoint_path: None,
        endpoint_host: None,
        restored_prefix: None,
        endpoint: None,
        why: None,
        split: None,
        upstream: None,
    };
    let visit = Visit {
        view,
        question,
        listener,
        secure,
        parts: &parts,
    };
    if let Err(rejection) = visit.follow(&mut explained) {
        explained.response = Some(OwnResponse::of(rejection));
    }
    Ok(explained)
}

/// The head of the request, as it would arrive.
fn parts(question: &ExplainRequest, url: &Uri, handshake: bool) -> Result<Parts, ApiError> {
    let method = question.method.as_deref().unwrap_or("GET");
    let method: Method = method
        .parse()
        .map_err(|_| ApiError::bad_request(format!("`{method}` is not a valid method")))?;
    if handshake && method != Method::GET {
        return Err(ApiError::bad_request(
            "a WebSocket handshake uses the method GET",
        ));
    }
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path);
    if !question
        .headers
        .keys()
        .any(|name| name.eq_ignore_ascii_case("host"))
    {
        request = request.header("host", authority);
    }
    if handshake {
        let fields = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in fields {
            request = request.header(name, value);
        }
    }
    for (name, value) in &question.headers {
        let field = name.parse::<HeaderName>().ok();
        let field = field.zip(HeaderValue::from_str(value).ok());
        let (name, value) = field.ok_or_else(|| {
            ApiError::bad_request(format!("`{name}: {value}` is not a valid header field"))
        })?;
        request = request.header(name, value);
    }
    let request = request.body(());
    let request =
        request.map_err(|error| ApiError::bad_request(format!("not a valid request: {error}")))?;
    Ok(request.into_parts().0)
}

/// A request on its way through listener, route and upstream.
struct Visit<'a> {
    view: &'a View,
    question: &'a ExplainRequest,
    listener: &'a ListenerState,
    secure: bool,
    parts: &'a Parts,
}

impl Visit<'_> {
    /// Follows the steps of a session, in the same order, because the first step that refuses decides the
    /// response.
    fn follow(&self, explained: &mut ExplainResponse) -> Result<(), Rejection> {
        let parts = self.parts;
        let handshake = Intent::of(parts).handshake()?;
        let target = Target::of(parts)?;
        target.host().clone_into(&mut explained.host);
        target.path().clone_into(&mut explained.path);
        self.note_rate_limit(handshake.is_some(), explained);
        let Some(route) = self.route(&target, handshake.as_ref(), explained)? else {
            return self.no_route(handshake.is_some(), &target, explained);
        };
        self.admit(&route.settings.access, handshake.is_some(), explained)?;
        if let Some(auth) = &route.auth {
            explained.depends_on.extend(on_identity(&route, auth));
        }
        let (parts, target) = without_token(&route, parts, target)?;
        let parts = &parts;
        let public = Visit { parts, ..*self };
        note_shared_limits(&route, explained);
        match &route.settings.leads_to {
            LeadsTo::Upstream(_) | LeadsTo::Split(_) => {}
            LeadsTo::Redirect(_) if handshake.is_some() => return Err(Rejection::RedirectOnly),
            LeadsTo::Redirect(redirect) => {
                explained.response = Some(OwnResponse {
                    status: redirect.status.as_u16(),
                    reason: "redirect".to_owned(),
                    text: self.redirect_target(redirect, &target, &route),
                });
                return Ok(());
            }
            LeadsTo::Respond(respond) => {
                explained.response = Some(OwnResponse::of_route(
                    respond,
                    self.view.shared.process.readiness(),
                ));
                return Ok(());
            }
        }
        if handshake.is_none() && route.settings.http == PlainHttp::Reject {
            return Err(Rejection::WebSocketRequired);
        }
        if let Some(max) = route.settings.max_body.filter(|_| handshake.is_none()) {
            let depends =
                format!("the size of its body: more than {max} bytes are rejected with 413");
            explained.depends_on.push(depends);
        }
        let path = edit::rewrite(&route.settings.rewrite, target.origin_form())?;
        explained.endpoint_path = Some(path.into_owned());
        let rewrite = &route.settings.rewrite;
        let restored = rewrite.strip.as_deref().filter(|_| rewrite.restore);
        explained.restored_prefix = restored.map(Into::into);
        public.endpoint(&route, &target, explained)
    }

    /// Notes that the listener limits the rate of such requests, if it does.
    fn note_rate_limit(&self, is_handshake: bool, explained: &mut ExplainResponse) {
        let (is_limited, what) = match is_handshake {
            true => (self.listener.limits_handshakes, "handshakes"),
            false => (self.listener.limits_requests, "requests"),
        };
        if is_limited {
            let depends = format!("how often such {what} come: the listener limits their rate");
            explained.depends_on.push(depends);
        }
    }

    fn route(
        &self,
        target: &Target,
        handshake: Option<&Handshake<'_>>,
        explained: &mut ExplainResponse,
    ) -> Result<Option<Arc<Route>>, Rejection> {
        let snapshot = self.view.shared.snapshot.load();
        let request = route::RouteQuery {
            listener: &self.listener.name,
            bound_only: self.listener.redirect_to_https && !self.secure,
            host: target.host(),
            path: target.path(),
            loose_path: target.loose_path(),
            query: target.query(),
            method: &self.parts.method,
            headers: &self.parts.headers,
            handshake,
        };
        let found = snapshot.route(&request);
        let matched = found.as_ref().ok().copied().flatten();
        let is_other =
            |route: &&Arc<Route>| !matched.is_some_and(|matched| Arc::ptr_eq(matched, route));
        let mut others: Vec<&Arc<Route>> = snapshot.routes().iter().filter(is_other).collect();
        others.sort_by_key(|route| {
            let has_host = route.settings.fits_host(request.host);
            (!has_host, !route.settings.path.fits(request.path))
        });
        explained.more_routes = others.len().saturating_sub(MAX_OTHER_ROUTES);
        explained.other_routes = others
            .iter()
            .take(MAX_OTHER_ROUTES)
            .map(|other| OtherRoute {
                route: other.settings.name.to_string(),
                why: route::why_not(&other.settings, &request).unwrap_or_else(|| {
                    let why = match found {
                        Ok(_) => "a more specific or an earlier route takes precedence",
                        Err(_) => "it matches, but the request is rejected",
                    };
                    why.to_owned()
                }),
            })
            .collect();
        explained.route = matched.map(|route| route.settings.name.to_string());
        found.map(|route| route.cloned())
    }

    /// The `Location` of a redirect. Values that only a real connection has are missing in it.
    fn redirect_target(&self, redirect: &Redirect, target: &Target, route: &Route) -> String {
        let values = TemplateValues {
            client: self.question.client,
            host: target.host(),
            uri: target.origin_form(),
            secure: self.secure,
            listener: &self.listener.name,
            route: &route.settings.name,
            ..TemplateValues::default()
        };
        edit::render(&redirect.to, &values)
    }

    fn no_route(
        &self,
        is_handshake: bool,
        target: &Target,
        explained: &mut ExplainResponse,
    ) -> Result<(), Rejection> {
        if !self.listener.redirect_to_https || self.secure {
            return Err(Rejection::NoRoute);
        }
        if is_handshake {
            return Err(Rejection::HttpsRequired);
        }
        explained.response = Some(OwnResponse {
            status: 308,
            reason: "redirect".to_owned(),
            text: ["https://", target.host(), target.origin_form()].concat(),
        });
        Ok(())
    }

    fn endpoint(
        &self,
        route: &Route,
        target: &Target,
        explained: &mut ExplainResponse,
    ) -> Result<(), Rejection> {
        let traits = KeyTraits {
            client: self.question.client,
            server_name: self.secure.then_some(target.host()),
            headers: &self.parts.headers,
            target,
            claims: None,
        };
        if let Some(claim) = route.settings.naming.as_ref().and_then(NamingConfig::claim) {
            let depends = format!("the claim `{claim}` of the client, which names the endpoint");
            explained.depends_on.push(depends);
            return Ok(());
        }
        let branches = split::branches(route, traits, |_| None, || split::likely(route))?;
        explained.split = ExplainedSplit::of(&branches);
        let (upstream, affinity) = (branches.first.upstream, branches.first.affinity);
        let live = LiveTunnels::of(&self.view.workers.counters());
        explained.upstream = Some(upstreams::upstream(upstream, &live));
        let endpoint = upstream.preview(affinity).map_err(|error| match error {
            PickError::NotReady => Rejection::NoEndpoint,
            PickError::Full => {
                if upstream.picking().queue.is_some() {
                    explained.depends_on
                        .push("whether an endpoint drops below its limit in time: the request waits in the queue".to_owned());
                }
                Rejection::EndpointsFull
            }
        })?;
        let tags = upstream.tags_of(&endpoint);
        let is_sticky = affinity.sticky.is_some_and(|tag| tags.contains(&tag));
        explained.endpoint = Some(endpoint.label.to_string());
        let host = &route.settings.endpoint_host;
        let host = edit::endpoint_host(host, target.authority(), || endpoint.host());
        explained.endpoint_host = Some(host.into_owned());
        explained.why = Some(match (&route.naming, affinity.named) {
            (Some(naming), Some(_)) => format!("named by {naming}"),
            _ => why(upstream, affinity, is_sticky).to_owned(),
        });
        Ok(())
    }
}

/// Why the upstream's policy picks an endpoint.
fn why(upstream: &Upstream, affinity: Affinity, is_sticky: bool) -> &'static str {
    match (is_sticky, upstream.hash_key(), affinity.hash) {
        (true, _, _) => "its sticky cookie leads there",
        (_, Some(_), Some(_)) => "chosen by the hash of its key",
        (_, Some(_), None) => "no key to hash: fewest sessions in flight",
        (_, None, _) => "next by the upstream's balancing policy",
    }
}
