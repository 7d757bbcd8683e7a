//! Peers that leave without a word that tidegate could read: their network goes away, or they reset a
//! connection that nobody reads.

use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::harness::endpoint::Endpoint;
use crate::harness::frames::frame;
use crate::harness::network::{self, LINKS, Link};
use crate::harness::proxy::{Proxy, Signal, kill, settings, simple};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{until, within};

/// Short values: a peer whose network is gone while bytes are under way is given up after a second.
const SHORT: &str = "keepalive = { idle = \"1s\", interval = \"1s\", user_timeout = \"1s\" }\n";

/// Far more than the kernel's buffers hold, in messages.
const MESSAGES: usize = 256;

fn message(mask: Option<[u8; 4]>) -> Vec<u8> {
    frame(0x82, mask, &[7; 1 << 20])
}

/// A listener at the near end of the link, with the settings `SHORT`.
fn near(config: &str) -> String {
    let bind = format!("bind = [\"{}:0\"]\n", Link::NEAR);
    config.replace("bind = [\"127.0.0.1:0\"]\n", &(bind + SHORT))
}

async fn tunnel_from(address: SocketAddr, link: &Link, endpoint: &Endpoint) -> (Wire, Wire) {
    let socket = link.beyond(|| TcpStream::connect(address).unwrap());
    let mut client = Wire::std(socket);
    client.send(HANDSHAKE).await;
    let served = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
    (client, served)
}

#[test]
fn a_client_without_a_network_is_noticed_while_its_endpoint_sends() {
    network::run_in_own(
        LINKS,
        "departures::a_client_behind_a_link_while_its_endpoint_sends",
    );
}

#[tokio::test]
#[ignore = "needs a network of its own: run by the test before"]
async fn a_client_behind_a_link_while_its_endpoint_sends() {
    let link = Link::new();
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&near(&simple(&[endpoint.address]))).await;
    let (_client, mut served) = tunnel_from(proxy.address(), &link, &endpoint).await;
    link.take_down();
    served.send(message(None)).await;
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "client-reset");
    served.until_gone().await;
}

#[test]
fn a_client_without_a_network_is_noticed_while_nothing_is_sent() {
    network::run_in_own(
        LINKS,
        "departures::a_client_behind_a_link_while_nothing_is_sent",
    );
}

#[tokio::test]
#[ignore = "needs a network of its own: run by the test before"]
async fn a_client_behind_a_link_while_nothing_is_sent() {
    let link = Link::new();
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&near(&simple(&[endpoint.address]))).await;
    let (_client, mut served) = tunnel_from(proxy.address(), &link, &endpoint).await;
    link.take_down();
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "client-reset");
    served.until_gone().await;
}

#[test]
fn an_endpoint_without_a_network_is_noticed_while_its_client_sends() {
    network::run_in_own(
        LINKS,
        "departures::an_endpoint_behind_a_link_while_its_client_sends",
    );
}

#[tokio::test]
#[ignore = "needs a network of its own: run by the test before"]
async fn an_endpoint_behind_a_link_while_its_client_sends() {
    let link = Link::new();
    let far = link.beyond(|| TcpListener::bind((Link::FAR, 0)).unwrap());
    let endpoint = Endpoint::on(far);
    let proxy = Proxy::start(&(simple(&[endpoint.address]) + SHORT)).await;
    let (mut client, _served) = proxy.tunnel_to(&endpoint).await;
    link.take_down();
    client.send(message(Some([1; 4]))).await;
    assert_eq!(
        proxy.logged("tunnel ended").await["reason"],
        "upstream-reset"
    );
    client.until_gone().await;
}

#[test]
fn an_endpoint_without_a_network_is_noticed_in_the_middle_of_a_response() {
    network::run_in_own(
        LINKS,
        "departures::an_endpoint_behind_a_link_in_the_middle_of_a_response",
    );
}

/// The body of a response has no deadline between its pieces, because an event stream may be silent for
/// long. It is the kernel that notices an endpoint which is gone.
#[tokio::test]
#[ignore = "needs a network of its own: run by the test before"]
async fn an_endpoint_behind_a_link_in_the_middle_of_a_response() {
    let link = Link::new();
    let far = link.beyond(|| TcpListener::bind((Link::FAR, 0)).unwrap());
    let endpoint = Endpoint::on(far);
    let config = METRICS.to_owned() + &simple(&[endpoint.address]) + SHORT;
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut served, _) = endpoint.request().await;
    served
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n")
        .await;
    client.head().await;
    assert_eq!(client.chunk().await, Some(b"event".to_vec()));
    link.take_down();
    client.closed().await;
    let address = format!("endpoint=\"{}\"", endpoint.address);
    Scrape::until(&proxy, "tidegate_endpoint_in_flight", &[&address], 0.0).await;
}

/// The kernel timers of tidegate's established connections: with clients if `port` is its own, with
/// endpoints if it is theirs.
fn timers(port: u16, is_own: bool) -> Vec<String> {
    let port = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let column = if is_own { 1 } else { 2 };
    let ours = rows.filter(|row| row[column].ends_with(&port) && row[3] == "01");
    ours.map(|row| row[5].split(':').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn keepalive_is_on_by_default_on_both_sides_and_can_be_turned_off_by_a_reload() {
    const NONE: &str = "00";
    const KEEPALIVE: &str = "02";
    let endpoint = Endpoint::bind().await;
    let on = simple(&[endpoint.address]);
    let off = settings(&[endpoint.address], "keepalive = \"off\"\n", "") + "keepalive = \"off\"\n";
    let proxy = Proxy::start(&on).await;
    let port = proxy.address().port();
    let mut held = Vec::new();
    for (config, expected) in [(&off, NONE), (&on, KEEPALIVE)] {
        proxy.reload(config).await;
        held.push(proxy.tunnel_to(&endpoint).await);
        // Unacknowledged data has a timer of its own, so this waits until there is none.
        until("the timers", || {
            let count = |timers: Vec<String>| timers.iter().filter(|it| *it == expected).count();
            (
                count(timers(port, true)),
                count(timers(endpoint.address.port(), false)),
            ) == (1, 1)
        })
        .await;
    }
}

/// The new process sets its own on the sockets, which are those of the old one.
#[tokio::test]
async fn a_failed_upgrade_leaves_the_keepalive_of_clients_as_it_was() {
    let endpoint = Endpoint::bind().await;
    let server = "[server]\nlog.format = \"json\"\nupgrade.settle = \"30s\"\n";
    let on = server.to_owned() + &simple(&[endpoint.address]);
    let proxy = Proxy::start(&on).await;
    let bind = "bind = [\"127.0.0.1:0\"]\n";
    let off = on.replace(bind, &format!("{bind}keepalive = \"off\"\n"));
    assert_ne!(on, off);
    proxy.rewrite(&off);
    proxy.signal(Signal::USR2);
    proxy.logged("the new process accepts connections").await;
    kill(proxy.settling()[0], Signal::KILL);
    proxy
        .logged("upgrade failed; this process stays in service")
        .await;
    let port = proxy.address().port();
    let _held = proxy.tunnel_to(&endpoint).await;
    until("the timer", || timers(port, true) == ["02"]).await;
}

/// An upstream without the limits that would free it as well, but only after a while.
const UNLIMITED: &str = "timeouts = { response = \"1h\" }\nkeepalive = \"off\"\n";

/// Waits until no endpoint has anything in flight.
async fn until_free(proxy: &Proxy) {
    let is_busy = async || {
        let scrape = Scrape::of(proxy).await;
        scrape.sum("tidegate_endpoint_in_flight", &[]) > 0.0
    };
    within("the endpoint to be free", async {
        while is_busy().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_resets_a_stalled_tunnel_frees_its_endpoint() {
    for half_closed in ["1s", "off"] {
        let endpoint = Endpoint::bind().await;
        let route = format!("timeouts = {{ half_closed = \"{half_closed}\" }}\n");
        let config = settings(&[endpoint.address], "", &route) + UNLIMITED;
        let proxy = Proxy::start(&(METRICS.to_owned() + &config)).await;
        let (mut client, _served) = proxy.tunnel_to(&endpoint).await;
        let message = message(Some([1; 4]));
        let sent = client.flood_up_to(&message, MESSAGES).await;
        assert!(
            sent < MESSAGES * message.len(),
            "the endpoint reads nothing"
        );
        client.reset();
        assert_eq!(proxy.logged("tunnel ended").await["reason"], "client-reset");
        until_free(&proxy).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_resets_a_stalled_tunnel_is_given_up() {
    let endpoint = Endpoint::bind().await;
    let route = "timeouts = { half_closed = \"1s\" }\n";
    let proxy = Proxy::start(&settings(&[endpoint.address], "", route)).await;
    let (_client, mut served) = proxy.tunnel_to(&endpoint).await;
    served.flood_up_to(&message(None), MESSAGES).await;
    served.reset();
    assert_eq!(
        proxy.logged("tunnel ended").await["reason"],
        "upstream-reset"
    );
}

#[tokio::test]
async fn a_client_that_resets_a_stalled_upload_frees_its_endpoint() {
    let endpoint = Endpoint::bind().await;
    let config = METRICS.to_owned() + &simple(&[endpoint.address]);
    let proxy = Proxy::start(&(config + UNLIMITED)).await;
    let mut client = proxy.connect().await;
    let length = MESSAGES << 20;
    client
        .send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
        ))
        .await;
    let (_served, _) = endpoint.request().await;
    let sent = client.flood_up_to(&[7; 1 << 20], MESSAGES).await;
    assert!(sent < length, "the endpoint reads nothing");
    client.reset();
    until_free(&proxy).await;
}
