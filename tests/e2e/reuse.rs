//! Connections to endpoints and who may use them: any client, one client connection, one request.

use crate::harness::endpoint::Endpoint;
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::Wire;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One worker, whose clients share its idle connections; `settings` for the upstream.
async fn start(endpoints: &[&Endpoint], settings: &str) -> Proxy {
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let server = "[server]\nworkers = 1\nlog.format = \"json\"\n";
    Proxy::start(&(server.to_owned() + &simple(&addresses) + settings)).await
}

/// Sends a request that arrives on `served`, and receives the response.
async fn exchange(client: &mut Wire, served: &mut Wire, request: &str, response: &str) {
    client.send(request).await;
    served.head().await;
    served.send(response).await;
    client.reply().await;
}

/// Sends a request that arrives on a new connection, and receives the response.
async fn open(client: &mut Wire, endpoint: &Endpoint, request: &str, response: &str) -> Wire {
    client.send(request).await;
    let (mut served, _) = endpoint.request().await;
    served.send(response).await;
    client.reply().await;
    served
}

fn with(message: &str, field: &str) -> String {
    message.replacen("\r\n", &format!("\r\n{field}\r\n"), 1)
}

#[tokio::test]
async fn an_authenticated_connection_serves_one_client_connection_alone() {
    let endpoint = Endpoint::bind().await;
    let proxy = start(&[&endpoint], "").await;
    let challenge = OK.replace("200 OK", "401 Unauthorized");
    for (request, response) in [
        (with(GET, "Authorization: NTLM TlRMTVNTUAAD"), OK.to_owned()),
        (with(GET, "authorization: negotiate YII="), OK.to_owned()),
        (GET.to_owned(), with(&challenge, "WWW-Authenticate: NTLM")),
        (
            GET.to_owned(),
            with(&challenge, "WWW-Authenticate: Basic realm=\"a\", NEGOTIATE"),
        ),
        (
            GET.to_owned(),
            with(
                &challenge,
                "WWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Negotiate",
            ),
        ),
    ] {
        let (mut first, mut second) = (proxy.connect().await, proxy.connect().await);
        // Before that, its connection may be any client's.
        let mut own = open(&mut second, &endpoint, GET, OK).await;
        exchange(&mut first, &mut own, &request, &response).await;
        let mut other = open(&mut second, &endpoint, GET, OK).await;
        for _ in 0..2 {
            exchange(&mut first, &mut own, GET, OK).await;
            exchange(&mut second, &mut other, GET, OK).await;
        }
        // It ends together with the client's connection. The other one does not.
        drop(first);
        own.closed().await;
        exchange(&mut second, &mut other, GET, &with(OK, "Connection: close")).await;
    }
}

#[tokio::test]
async fn an_authenticated_client_stays_with_its_endpoint() {
    let endpoints = [Endpoint::bind().await, Endpoint::bind().await];
    let proxy = start(
        &[&endpoints[0], &endpoints[1]],
        "balance = \"round_robin\"\n",
    )
    .await;
    let mut client = proxy.connect().await;
    client.send(with(GET, "Authorization: NTLM a")).await;
    let (mut served, _) = tokio::select! {
        request = endpoints[0].request() => request,
        request = endpoints[1].request() => request,
    };
    served.send(OK).await;
    client.reply().await;
    for _ in 0..4 {
        exchange(&mut client, &mut served, GET, OK).await;
    }
    // Where the endpoint has closed the connection, there is nothing left to stay with.
    exchange(
        &mut client,
        &mut served,
        GET,
        &with(OK, "Connection: close"),
    )
    .await;
    served.closed().await;
    client.send(GET).await;
    let (mut served, _) = tokio::select! {
        request = endpoints[0].request() => request,
        request = endpoints[1].request() => request,
    };
    served.send(OK).await;
    assert_eq!(client.reply().await.1, "ok");
}

#[tokio::test]
async fn with_reuse_off_each_request_has_a_connection_of_its_own() {
    let endpoint = Endpoint::bind().await;
    let proxy = start(&[&endpoint], "reuse = \"off\"\n").await;
    let mut client = proxy.connect().await;
    for request in [GET, GET, &with(GET, "Authorization: NTLM a"), GET] {
        open(&mut client, &endpoint, request, OK)
            .await
            .closed()
            .await;
    }
}
