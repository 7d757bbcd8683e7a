//! The credentials of clients: revoking those of a subject, and moving the end of a tunnel's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::auth::revocations::unix_seconds;
use crate::config::model::CloseOrder;
use crate::displace::jobs::{self, JobSpec, Speed};
use crate::displace::tunnel_filter::{HumanDuration, TunnelFilter, TunnelId};
use crate::displace::tunnel_page::LiveTunnel;
use crate::displace::worker_queries::ListPosition;
use crate::session::binding;
use crate::tunnel::ended::{CloseMessage, Ended};

/// For how long credentials from before are refused, unless the request says otherwise.
const USUAL_KEEP: Duration = Duration::from_secs(24 * 3600);

/// The longest time for that: the table of revoked subjects is bounded.
const MAX_KEEP: Duration = Duration::from_secs(31 * 24 * 3600);

/// Whose credentials to revoke.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// The subject: the `sub` of tokens, or the user that a service names.
    pub subject: String,
    /// Only as this `[auth.NAME]` knows the subject; default: as any does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// How long credentials from before are refused: `7d`; at most 31 days, default 24 hours. It should be as
    /// long as the longest credential is valid.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub keep: Option<HumanDuration>,
}

/// What a revocation has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RevokeResponse {
    /// Tunnels that were closed, those of older generations included.
    pub closed: usize,
}

/// Which tunnel to extend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendRequest {
    /// The tunnel.
    pub id: TunnelId,
    /// The time from now after which its credential expires: `10m`.
    pub expires_in: HumanDuration,
}

/// A tunnel whose end was moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExtendResponse {
    /// The tunnel.
    pub id: TunnelId,
}

/// Ends the tunnels of a subject, and refuses its credentials from before.
///
/// # Errors
/// [`ApiError`]; if an older generation does not respond, its tunnels go on.
pub(super) async fn revoke(
    view: &Arc<View>,
    request: &RevokeRequest,
) -> Result<RevokeResponse, ApiError> {
    view.check_stays()?;
    if request.subject.is_empty() {
        return Err(ApiError::bad_request("the subject is empty"));
    }
    let keep = request.keep.map_or(USUAL_KEEP, |keep| keep.0);
    if keep.is_zero() || keep > MAX_KEEP {
        return Err(ApiError::bad_request(
            "`for` (--for) must be more than 0 and at most 31 days",
        ));
    }
    let revocations = &view.shared.revocations;
    let snapshot = view.shared.snapshot.load();
    let names = snapshot.auth().iter().map(|auth| &*auth.settings.name);
    let mut filter = TunnelFilter {
        subject: Some(request.subject.clone()),
        ..TunnelFilter::default()
    };
    match request.auth.as_deref() {
        None => filter.resolve_subject(revocations, names),
        Some(auth) if names.clone().any(|name| name == auth) => {
            filter.resolve_subject(revocations, std::iter::once(auth));
        }
        Some(auth) => return Err(ApiError::unknown("auth", auth, names)),
    }
    // First: a client whose tunnel is ended must not come back before its credential is refused.
    revocations
        .revoke(&filter.subject_tags, SystemTime::now(), keep)
        .map_err(|full| ApiError::new(StatusCode::INSUFFICIENT_STORAGE, full.to_string()))?;
    // All are asked, whatever one of them answers.
    let older = revoke_in_older(view, request).await;
    let closed = close_revoked(view, filter).await?;
    Ok(RevokeResponse {
        closed: closed + older?,
    })
}

/// Revokes the subject in all older generations. Returns how many tunnels that has closed.
async fn revoke_in_older(view: &View, request: &RevokeRequest) -> Result<usize, ApiError> {
    let body = serde_json::to_vec(request).unwrap_or_default();
    let all = view.generations.all();
    let asked = all.iter().map(|older| {
        let body = body.clone().into();
        async move { older.ask(Method::POST, "/v1/revoke", body).await }
    });
    let mut closed = 0;
    let mut failure = None;
    for answer in join_all(asked).await {
        match answer {
            Ok((StatusCode::OK, response)) => {
                let response = serde_json::from_slice::<RevokeResponse>(&response);
                closed += response.unwrap_or_default().closed;
            }
            // An older version knows of no subjects.
            Ok((StatusCode::NOT_FOUND, _)) => {}
            Ok((status, _)) => failure = Some(failed_older(status)),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(closed), Err)
}

fn failed_older(status: StatusCode) -> ApiError {
    ApiError::unavailable(format!(
        "an older generation refuses with {status}; its tunnels go on"
    ))
}

async fn close_revoked(view: &Arc<View>, filter: TunnelFilter) -> Result<usize, ApiError> {
    let filter = Arc::new(filter);
    let order = CloseOrder::Oldest;
    let chosen = jobs::choose(&view.workers, &filter, order, Ended::Revoked).await?;
    if chosen.is_empty() {
        return Ok(0);
    }
    let closing = JobSpec {
        description: "tunnels of a revoked subject".to_owned(),
        speed: Speed::AtOnce,
        words: CloseMessage::standard(Ended::Revoked),
    };
    let job = view.jobs.begin(chosen, closing)?;
    // The job continues even if the operator disconnects.
    job.finished().await;
    Ok(job.closed())
}

/// Moves the end of a tunnel.
///
/// # Errors
/// [`ApiError`], if there is no such tunnel, or it has no credential that expires.
pub(super) async fn extend(
    view: &View,
    request: &ExtendRequest,
) -> Result<ExtendResponse, ApiError> {
    view.check_stays()?;
    let now = SystemTime::now();
    let expires = now.checked_add(request.expires_in.0);
    let expires = expires.map_or(u32::MAX, unix_seconds);
    let ends = binding::end_before(expires, unix_seconds(now), Duration::ZERO, 0.0);
    let filter = Arc::new(TunnelFilter {
        id: Some(request.id),
        ..TunnelFilter::default()
    });
    let mut found = None;
    let visit = |worker, tunnel: LiveTunnel| {
        found = Some((worker, tunnel.reference, tunnel.series));
        false
    };
    let begin = ListPosition::default();
    view.workers.tunnels(&filter, begin, visit).await?;
    let Some((worker, reference, series)) = found else {
        return extend_older(view, request).await;
    };
    let snapshot = view.shared.snapshot.load();
    let mut routes = snapshot.routes().iter();
    let route = routes.find(|route| *route.settings.name == *series.route.route);
    if route.is_some_and(|route| route.settings.access.client_certificate.is_some()) {
        return Err(ApiError::conflict(
            "the tunnel may be bound to a client certificate, whose end cannot be moved",
        ));
    }
    match view.workers.extend(worker, reference, ends).await? {
        true => Ok(ExtendResponse { id: request.id }),
        false => Err(ApiError::conflict(
            "the tunnel has no credential that expires, or it is ending already",
        )),
    }
}

/// Moves the end of a tunnel of an older generation.
async fn extend_older(view: &View, request: &ExtendRequest) -> Result<ExtendResponse, ApiError> {
    let body = serde_json::to_vec(request).unwrap_or_default();
    for older in view.generations.all() {
        let path = "/v1/tunnels/extend";
        let (status, response) = older.ask(Method::POST, path, body.clone().into()).await?;
        match status {
            StatusCode::NOT_FOUND => {}
            StatusCode::OK => {
                let unread = |error| ApiError::unavailable(format!("an older generation: {error}"));
                return serde_json::from_slice(&response).map_err(unread);
            }
            status => return Err(failed_older(status)),
        }
    }
    Err(ApiError::not_found(format!(
        "there is no open tunnel with the id {}",
        request.id
    )))
}

/// Replaces the subject in `filter` with the hashes by which tunnels know theirs.
pub(super) fn resolve_subject(view: &View, filter: &mut TunnelFilter) {
    let snapshot = view.shared.snapshot.load();
    let names = snapshot.auth().iter().map(|auth| &*auth.settings.name);
    filter.resolve_subject(&view.shared.revocations, names);
}
