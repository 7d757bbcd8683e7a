//! Endpoints from DNS lookups and from an endpoints file, which change at run time.

use std::net::SocketAddr;
use std::path::Path;

use hickory_resolver::proto::op::ResponseCode;
use tempfile::TempDir;

use crate::harness::dns::NameServer;
use crate::harness::endpoint::{Echo, Unit};
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{free_address, until};

/// A configuration with these lines instead of a list of endpoints.
fn found_by(lines: &str) -> String {
    let lines = format!("balance = \"round_robin\"\n{lines}\n");
    simple(&[]).replace("endpoints = []\n", &lines)
}

fn by_name(server: &NameServer, port: u16) -> String {
    found_by(&format!(
        "dns = {{ name = \"chat.test\", port = {port}, server = \"{}\" }}",
        server.address
    ))
}

/// Echo endpoints at several addresses with the same port.
async fn echoes(count: u8) -> (Vec<Echo>, u16) {
    let first = Echo::bytes_at(free_address()).await;
    let port = first.address.port();
    let mut echoes = vec![first];
    for number in 2..=count {
        let address = SocketAddr::from(([127, 0, 0, number], port));
        echoes.push(Echo::bytes_at(address).await);
    }
    (echoes, port)
}

fn served(echoes: &[Echo]) -> Vec<usize> {
    echoes.iter().map(Echo::served).collect()
}

async fn tunnels(proxy: &Proxy, count: usize) -> Vec<Wire> {
    let mut tunnels = Vec::new();
    for _ in 0..count {
        let mut tunnel = proxy.tunnel().await;
        says_the_same(&mut tunnel).await;
        tunnels.push(tunnel);
    }
    tunnels
}

async fn says_the_same(tunnel: &mut Wire) {
    tunnel.send("hello").await;
    assert_eq!(tunnel.exactly(5).await, b"hello");
}

async fn status(proxy: &Proxy) -> u16 {
    let mut wire = proxy.connect().await;
    wire.send(HANDSHAKE).await;
    wire.head().await.status()
}

#[tokio::test]
async fn a_name_has_endpoints_at_all_its_addresses_from_the_first_client_on() {
    let (echoes, port) = echoes(2).await;
    let server = NameServer::start(1).await;
    server.addresses("chat.test", &["127.0.0.2", "127.0.0.1"]);
    let proxy = Proxy::start(&by_name(&server, port)).await;
    tunnels(&proxy, 4).await;
    assert_eq!(served(&echoes), [2, 2]);
}

#[tokio::test]
async fn a_removed_address_keeps_its_tunnels_and_a_new_one_gets_some() {
    let (echoes, port) = echoes(3).await;
    let server = NameServer::start(1).await;
    server.addresses("chat.test", &["127.0.0.1", "127.0.0.2"]);
    let proxy = Proxy::start(&by_name(&server, port)).await;
    let mut held = tunnels(&proxy, 2).await;
    assert_eq!(served(&echoes), [1, 1, 0]);

    server.addresses("chat.test", &["127.0.0.2", "127.0.0.3"]);
    let found = proxy.logged_times("endpoints discovered", 2).await;
    assert_eq!(found[1]["endpoints"], 2);
    tunnels(&proxy, 4).await;
    assert_eq!(served(&echoes), [1, 3, 2]);
    for tunnel in &mut held {
        says_the_same(tunnel).await;
    }
    assert_eq!(echoes[0].open(), 1);
}

#[tokio::test]
async fn a_failing_lookup_keeps_the_endpoints_and_is_reported_once() {
    let (echoes, port) = echoes(1).await;
    let server = NameServer::start(1).await;
    server.addresses("chat.test", &["127.0.0.1"]);
    let proxy = Proxy::start(&by_name(&server, port)).await;
    let mut lost = 0;
    let fail_with = |code| server.fail_with(code);
    let no_addresses = || server.addresses("chat.test", &[]);
    let nothing = "the name has no endpoints";
    let failures: [(&str, &dyn Fn()); 3] = [
        ("Server Failure", &|| fail_with(ResponseCode::ServFail)),
        (nothing, &|| fail_with(ResponseCode::NXDomain)),
        (nothing, &no_addresses),
    ];
    for (expected, fail) in failures {
        fail();
        lost += 1;
        let event = proxy
            .logged_times(
                "endpoint discovery failed; the last known endpoints stay in use",
                lost,
            )
            .await;
        let event = event.last().unwrap();
        assert!(
            event["error"].as_str().unwrap().contains(expected),
            "{event}"
        );
        assert_eq!(event["kept"], 1);
        let asked = server.asked();
        until("another try", || server.asked() >= asked + 2).await;
        tunnels(&proxy, 1).await;
        server.recover();
        server.addresses("chat.test", &["127.0.0.1"]);
        proxy
            .logged_times("endpoint discovery works again", lost)
            .await;
        // Repeated failures are not logged again.
        assert_eq!(
            proxy
                .log()
                .events("endpoint discovery failed; the last known endpoints stay in use")
                .len(),
            lost
        );
    }
    assert_eq!(served(&echoes), [3]);
    // The endpoints have not changed in between.
    assert_eq!(proxy.log().events("endpoints discovered").len(), 1);
}

#[tokio::test]
async fn without_a_first_answer_it_serves_as_soon_as_one_arrives() {
    let (echoes, port) = echoes(1).await;
    let server = NameServer::start(1).await;
    server.fail_with(ResponseCode::Refused);
    let proxy = Proxy::start(&by_name(&server, port)).await;
    assert_eq!(status(&proxy).await, 503);
    server.addresses("chat.test", &["127.0.0.1"]);
    server.recover();
    proxy.logged("endpoints discovered").await;
    tunnels(&proxy, 1).await;
    assert_eq!(served(&echoes), [1]);
}

#[tokio::test]
async fn services_get_shares_by_their_weights_and_backups_nothing() {
    let echoes = [
        Echo::with("a", Unit::Bytes, None).await,
        Echo::with("b", Unit::Bytes, None).await,
        Echo::with("c", Unit::Bytes, None).await,
    ];
    let [a, b, c] = [0, 1, 2].map(|at: usize| echoes[at].address.port());
    let server = NameServer::start(1).await;
    let services = [
        (20, 9, c, "c.test"),
        (10, 3, a, "a.test"),
        (10, 1, b, "b.test"),
        (5, 1, b, "nowhere.test"),
    ];
    server.services("_ws._tcp.chat.test", &services);
    for target in ["a.test", "b.test", "c.test"] {
        server.addresses(target, &["127.0.0.1"]);
    }
    let proxy = Proxy::start(&found_by(&format!(
        "srv = {{ name = \"_ws._tcp.chat.test\", server = \"{}\" }}",
        server.address
    )))
    .await;
    tunnels(&proxy, 8).await;
    assert_eq!(served(&echoes), [6, 2, 0]);
    // Only the backup is left.
    server.services("_ws._tcp.chat.test", &services[..1]);
    proxy.logged_times("endpoints discovered", 2).await;
    tunnels(&proxy, 1).await;
    assert_eq!(served(&echoes), [6, 2, 1]);
}

#[tokio::test]
async fn a_reload_repeats_no_lookup_whose_answer_is_known() {
    let (echoes, port) = echoes(2).await;
    let server = NameServer::start(60).await;
    server.addresses("chat.test", &["127.0.0.1"]);
    server.addresses("other.test", &["127.0.0.2"]);
    let config = by_name(&server, port);
    let proxy = Proxy::start(&config).await;
    let asked = server.asked();
    for tries in [1, 2, 3] {
        proxy
            .reload(&config.replace(
                "[upstream.main]",
                &format!("[upstream.main]\ntries = {tries}"),
            ))
            .await;
        tunnels(&proxy, 1).await;
    }
    assert_eq!(served(&echoes), [3, 0]);
    assert_eq!(server.asked(), asked);
    // A new name is looked up before the reload is complete.
    proxy
        .reload(&config.replace("chat.test", "other.test"))
        .await;
    tunnels(&proxy, 1).await;
    assert_eq!(served(&echoes), [3, 1]);
    assert!(server.asked() > asked);
}

fn write(folder: &Path, text: &str) {
    // By a rename, as editors do, so that half a file is never read.
    let aside = folder.join("chat.endpoints.new");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, folder.join("chat.endpoints")).unwrap();
}

#[tokio::test]
async fn a_changed_endpoints_file_is_applied_and_nothing_else_is() {
    let (echoes, port) = echoes(3).await;
    let folder = TempDir::new().unwrap();
    write(folder.path(), &format!("127.0.0.1:{port}\n"));
    let config = found_by("endpoints_file = \"chat.endpoints\"");
    let proxy = Proxy::start_in(folder, &config).await;
    let mut held = tunnels(&proxy, 1).await;
    // The changed configuration file is not applied until a reload.
    proxy.rewrite("nonsense");
    write(
        proxy.folder(),
        &format!("127.0.0.2:{port} 2\n127.0.0.3:{port} # slow\n"),
    );
    proxy.logged("endpoints file loaded").await;
    tunnels(&proxy, 3).await;
    assert_eq!(served(&echoes), [1, 2, 1]);
    says_the_same(&mut held[0]).await;

    write(proxy.folder(), &format!("127.0.0.1:{port}\nnonsense\n"));
    let event = proxy
        .logged("endpoints file rejected; the last known endpoints stay in use")
        .await;
    assert_eq!(event["kept"], 2);
    let error = event["error"].as_str().unwrap();
    assert!(
        error.starts_with("line 2: `nonsense` is not a valid address"),
        "{error}"
    );
    tunnels(&proxy, 3).await;
    assert_eq!(served(&echoes), [1, 4, 2]);

    write(proxy.folder(), &format!("[\"127.0.0.1:{port}\"]\n"));
    proxy.logged_times("endpoints file loaded", 2).await;
    tunnels(&proxy, 1).await;
    assert_eq!(served(&echoes), [2, 4, 2]);
    assert!(proxy.log().events("configuration reloaded").is_empty());
    assert!(
        proxy
            .log()
            .events("reload failed; the previous configuration stays in effect")
            .is_empty()
    );
}

#[tokio::test]
async fn a_reload_reads_the_file_and_refuses_a_broken_one() {
    let (echoes, port) = echoes(3).await;
    let folder = TempDir::new().unwrap();
    write(folder.path(), &format!("127.0.0.1:{port}\n"));
    let config = found_by("endpoints_file = \"chat.endpoints\"");
    let proxy = Proxy::start_in(folder, &config).await;
    write(proxy.folder(), &format!("127.0.0.2:{port}\n"));
    proxy.logged("endpoints file loaded").await;
    // From here on the file is not watched any more.
    let config = format!("[server]\nlog.format = \"json\"\nwatch = \"off\"\n{config}");
    proxy.reload(&config).await;
    write(proxy.folder(), "# nothing\n");
    proxy.signal(Signal::HUP);
    let event = proxy
        .logged("reload failed; the previous configuration stays in effect")
        .await;
    let error = event["error"].as_str().unwrap();
    assert!(
        error.contains("chat.endpoints") && error.contains("no endpoint"),
        "{error}"
    );
    tunnels(&proxy, 1).await;
    assert_eq!(served(&echoes), [0, 1, 0]);
    write(proxy.folder(), &format!("127.0.0.3:{port}\n"));
    proxy.reload(&config).await;
    tunnels(&proxy, 1).await;
    assert_eq!(served(&echoes), [0, 1, 1]);
}
