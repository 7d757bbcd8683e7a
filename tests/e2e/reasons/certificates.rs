//! What a route says about client certificates, with the same reason everywhere.

use tidegate::protocol::rejection::Rejection;

use super::{SEEN, look};
use crate::harness::certificates::Authority;
use crate::harness::endpoint::Endpoint;
use crate::harness::proxy::{Proxy, settings};
use crate::harness::wire::HANDSHAKE;

#[tokio::test]
async fn certificates_have_the_same_reasons_everywhere() {
    let any = "client_certificate = \"required\"";
    let one = "client_certificate = { subject = \"CN=alice\" }";
    look_at_certificate(any, None, Rejection::CertificateRequired).await;
    look_at_certificate(one, Some("bob"), Rejection::CertificateDenied).await;
}

/// A route with this rule rejects a client with a certificate for this subject, or without one.
async fn look_at_certificate(route: &str, subject: Option<&str>, rejection: Rejection) {
    let (authority, folder) = Authority::with_certificate();
    let clients = Authority::new();
    clients.write(&folder.path().join("clients.pem"));
    let client = match subject {
        Some(subject) => authority.client_showing(&clients, subject),
        None => authority.client(),
    };
    let endpoint = Endpoint::bind().await;
    let tls = "[listener.main.tls]\ncertificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n\
               client_auth = { ca = \"clients.pem\", mode = \"optional\" }\n";
    let config = [SEEN, &settings(&[endpoint.address], "", route), tls].concat();
    let proxy = Proxy::start_in(folder, &config).await;
    let mut wire = proxy.connect_tls(client, "chat.example.com").await;
    wire.send(HANDSHAKE).await;
    look(&proxy, rejection, &mut wire).await;
}
