//! One health check of an endpoint, over its own connection.

use std::sync::Arc;

use super::check_steps::{CheckDeadline, CheckError, close_politely, close_websocket, random};
use super::connect::{Connector, connect};
use super::endpoint::EndpointState;
use super::exchange::EndpointResponse;
use super::group::Upstream;
use crate::config::model::{Health, Probe};
use crate::protocol::edit::HOST_OF_UNIX;
use crate::protocol::health_request::HealthRequest;
use crate::protocol::proxy_header;

/// Runs one health check of `endpoint`.
///
/// # Errors
/// [`CheckError`], which says in one line why the check failed.
pub async fn health_check(
    settings: &Health,
    upstream: &Upstream,
    endpoint: &Arc<EndpointState>,
    connector: &Connector,
) -> Result<(), CheckError> {
    let limit = settings.timeout;
    let incarnation = endpoint.incarnation();
    let check = CheckDeadline::of(upstream, limit);
    let proxy_header = proxy_header::write(upstream.connecting().send_proxy, None);
    // With its own limit rather than within that of the check: each address of a name gets its share of it,
    // and a name that cannot be resolved in time is not a failure of the endpoint.
    let connect_limit = upstream.timeouts().connect.min(limit);
    let connection = connect(upstream, endpoint, connector, &proxy_header, connect_limit).await?;
    let host = endpoint.host();
    let host = host.as_deref().unwrap_or(HOST_OF_UNIX);
    match &settings.probe {
        Probe::Tcp => {}
        Probe::Http(settings) => {
            let health_request = HealthRequest::plain(settings, host)?;
            let response = check
                .exchange(connection, &health_request.to_bytes())
                .await?;
            judge(upstream, endpoint, incarnation, &response, &health_request)?;
            close_politely(response.connection.stream, &[]).await;
        }
        Probe::WebSocket(settings) => {
            let health_request = HealthRequest::handshake(settings, host, random())?;
            let response = check
                .exchange(connection, &health_request.to_bytes())
                .await?;
            judge(upstream, endpoint, incarnation, &response, &health_request)?;
            let connection = match settings.ping {
                true => check.ping(response).await?,
                false => response.connection,
            };
            close_websocket(connection).await;
        }
    }
    Ok(())
}

/// Takes the report in the response, and checks whether it is an expected one.
fn judge(
    upstream: &Upstream,
    endpoint: &Arc<EndpointState>,
    incarnation: u64,
    response: &EndpointResponse,
    health_request: &HealthRequest<'_>,
) -> Result<(), CheckError> {
    if let Some(head) = response.head() {
        // Also if the check fails: an endpoint may say at once that it is full or drains.
        upstream.take_report(endpoint, incarnation, &head);
        health_request.check(&head)?;
    }
    Ok(())
}
