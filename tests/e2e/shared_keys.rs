//! Keys that nodes share through a folder: what one process has made is good for the other one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tidegate::config::model::Secret;
use tidegate::store::key_keeper::{KEYS_ITEM, KEYS_SCOPE};
use tidegate::store::key_set::{RetiredKey, SharedKeySet};
use tidegate::store::seal::Sealer;
use tidegate::store::sealed_store::SealedStore;
use tidegate::store::versioned_folder::VersionedFolder;
use tidegate::store::{ItemKind, ItemStore, VersionedStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::harness::certificates::{Authority, write};
use crate::harness::endpoint::Echo;
use crate::harness::etcd::Etcd;
use crate::harness::proxy::{Proxy, Signal, kill, simple};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{HANDSHAKE, Head, Wire, handshake_with};
use crate::harness::{quiet_for, until, within};

use HandshakeKind::{Full, Resumed};

const APPLIED: &str = "shared keys applied";

/// Longer than any node needs a key: none makes itself the maker to say that.
const YEAR: u64 = 365 * 24 * 60 * 60;

const AWAY: &str = "shared keys cannot be read or written; this process goes on without";

/// Two endpoints, and the folder of the store.
struct Fleet {
    authority: Authority,
    one: Echo,
    two: Echo,
    store: TempDir,
}

/// A process of the fleet; its secret is in the file `fleet.key`.
async fn node(fleet: &Fleet, secret: &str, more: &str) -> Proxy {
    let folder = TempDir::new().unwrap();
    fleet
        .authority
        .issue(folder.path(), "chat", &["chat.example.com"]);
    write(&folder.path().join("fleet.key"), secret);
    Proxy::start_in(folder, &config(fleet, more)).await
}

fn config(fleet: &Fleet, more: &str) -> String {
    let config = simple(&[fleet.one.address, fleet.two.address]);
    let config = config.replace("endpoints", "balance = \"round_robin\"\nendpoints");
    let folder = fleet.store.path().join("shared");
    format!(
        "{config}[listener.main.tls]\n\
         certificates = [{{ cert = \"chat.pem\", key = \"chat.key\" }}]\n\
         [upstream.main.sticky]\ncookie = \"node\"\nttl = \"1h\"\n\
         [store]\nfiles = \"{}\"\nsecret_file = \"fleet.key\"\n\
         [fleet]\nnode = \"a\"\nshare = [\"keys\"]\n{more}",
        folder.display()
    )
}

fn secret(fill: u8) -> String {
    format!("{fill:02x}").repeat(32)
}

fn key(fill: u8) -> Secret {
    Secret::new(vec![fill; 32].into())
}

/// Keys as the maker of another process has written them.
fn keys(previous: &[u8], current: Option<u8>, next: Option<u8>) -> SharedKeySet {
    let retired = |fill: &u8| RetiredKey {
        secret: key(*fill),
        age: Duration::ZERO,
        keep_for: YEAR,
    };
    SharedKeySet {
        version: 1,
        maker: "test".into(),
        previous: previous.iter().map(retired).collect(),
        current: current.map(key),
        age: Duration::ZERO,
        keep_for: YEAR,
        next: next.map(key),
        next_keep_for: YEAR,
    }
}

impl Fleet {
    async fn new() -> Self {
        Self {
            authority: Authority::new(),
            one: Echo::start("one").await,
            two: Echo::start("two").await,
            store: TempDir::new().unwrap(),
        }
    }

    fn items(&self) -> SealedStore<VersionedFolder> {
        Self::items_in(&self.store.path().join("shared"))
    }

    fn items_in(folder: &Path) -> SealedStore<VersionedFolder> {
        let secret = Secret::new(secret(1).into_bytes().into());
        let sealer = Sealer::new(&[secret], KEYS_SCOPE).unwrap();
        SealedStore::new(VersionedFolder::new(&folder.join(KEYS_SCOPE)), sealer)
    }

    /// Writes the keys for both purposes.
    async fn write(&self, set: SharedKeySet) {
        for kind in [ItemKind::TicketKeys, ItemKind::StickyKeys] {
            let before = self.stored(kind).await;
            let set = SharedKeySet {
                version: before.map_or(1, |before| before.version + 1),
                ..set.clone()
            };
            let items = self.items();
            let written = items.write(kind, KEYS_ITEM, set.to_json());
            written.await.unwrap();
        }
    }

    async fn stored(&self, kind: ItemKind) -> Option<SharedKeySet> {
        let item = self.items().load(kind, KEYS_ITEM).await;
        SharedKeySet::parse(&item.unwrap()?.content)
    }

    /// Waits until the stored ticket keys are like this.
    async fn until(&self, what: &str, reached: impl Fn(&SharedKeySet) -> bool) -> SharedKeySet {
        within(what, async {
            loop {
                if let Some(set) = self
                    .stored(ItemKind::TicketKeys)
                    .await
                    .filter(|set| reached(set))
                {
                    return set;
                }
                // No event of another process says that a file has changed.
                quiet_for(50, std::future::pending::<()>()).await;
            }
        })
        .await
    }
}

/// Opens a tunnel over TLS: how the session began, and the head of the 101.
async fn tunnel(proxy: &Proxy, client: &Arc<ClientConfig>, cookie: &str) -> (HandshakeKind, Head) {
    let socket = TcpStream::connect(proxy.address()).await.unwrap();
    let name = ServerName::try_from("chat.example.com").unwrap();
    let connector = TlsConnector::from(Arc::clone(client));
    let stream = connector.connect(name, socket).await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let mut wire = Wire::over(stream);
    match cookie {
        "" => wire.send(HANDSHAKE).await,
        cookie => {
            wire.send(handshake_with(&format!("Cookie: {cookie}\r\n")))
                .await
        }
    }
    let head = wire.head().await;
    assert_eq!(head.status(), 101, "{head:?}");
    (kind, head)
}

fn cookie(head: &Head) -> Option<String> {
    let set = head.value("set-cookie")?.split(';').next()?;
    Some(set.to_owned())
}

async fn kinds(client: &Arc<ClientConfig>, proxies: &[&Proxy]) -> Vec<HandshakeKind> {
    let mut kinds = Vec::new();
    for proxy in proxies {
        kinds.push(tunnel(proxy, client, "").await.0);
    }
    kinds
}

#[tokio::test]
async fn sessions_and_cookies_of_one_node_are_good_at_the_other_while_keys_change() {
    let fleet = Fleet::new().await;
    fleet.write(keys(&[], Some(1), None)).await;
    let a = node(&fleet, &secret(1), "").await;
    let b = node(&fleet, &secret(1), "").await;
    let client = fleet.authority.client_of(&[&TLS13]);
    let (kind, head) = tunnel(&a, &client, "").await;
    assert_eq!(kind, Full);
    let first = cookie(&head).unwrap();
    assert_eq!(kinds(&client, &[&b, &a, &b]).await, [Resumed; 3]);
    for proxy in [&b, &b, &a, &a] {
        let (_, head) = tunnel(proxy, &client, &first).await;
        assert_eq!(cookie(&head), None, "the client has a good one");
    }
    let old = fleet.authority.client_of(&[&TLS13]);
    assert_eq!(kinds(&old, &[&a]).await, [Full]);

    // The next key is known everywhere, and then it is current.
    fleet.write(keys(&[], Some(1), Some(2))).await;
    for proxy in [&a, &b] {
        proxy.logged_times(APPLIED, 4).await;
    }
    fleet.write(keys(&[1], Some(2), None)).await;
    a.logged_times(APPLIED, 6).await;
    // One node may learn of that later: it accepts what the other one has made.
    assert_eq!(kinds(&client, &[&a, &b]).await, [Resumed; 2]);
    b.logged_times(APPLIED, 6).await;
    assert_eq!(kinds(&old, &[&b]).await, [Resumed], "with the key before");
    let (_, head) = tunnel(&b, &client, &first).await;
    let second = cookie(&head).expect("a cookie with the new key");
    let (_, head) = tunnel(&a, &client, &second).await;
    assert_eq!(cookie(&head), None);
    let served = [fleet.one.served(), fleet.two.served()];
    assert!(served.iter().sum::<usize>() > 10);

    // The key before is dropped: a full handshake, and another cookie.
    let late = fleet.authority.client_of(&[&TLS13]);
    assert_eq!(kinds(&late, &[&a]).await, [Full]);
    fleet.write(keys(&[], Some(3), None)).await;
    b.logged_times(APPLIED, 8).await;
    assert_eq!(kinds(&late, &[&b]).await, [Full]);
}

#[tokio::test]
async fn another_node_makes_the_keys_when_the_one_that_did_is_killed() {
    let fleet = Fleet::new().await;
    let a = node(&fleet, &secret(1), "").await;
    let made = fleet.until("the first keys", |_| true).await;
    assert_eq!(made.current, None, "a key is used before others know it");
    let b = node(&fleet, &secret(1), "").await;
    b.logged_times(APPLIED, 2).await;
    // Until then, each has a key of its own.
    let client = fleet.authority.client_of(&[&TLS13]);
    assert_eq!(kinds(&client, &[&a, &a, &b]).await, [Full, Resumed, Full]);
    kill(a.pid(), Signal::KILL);
    let taken = fleet.until("another maker", |set| set.maker != made.maker);
    let taken = taken.await;
    assert_eq!(taken.keys(), made.keys());
    assert!(taken.version > made.version);
}

#[tokio::test]
async fn a_node_with_another_secret_shares_nothing_and_changes_nothing() {
    let fleet = Fleet::new().await;
    fleet.write(keys(&[], Some(1), None)).await;
    let a = node(&fleet, &secret(1), "").await;
    let stranger = node(&fleet, &secret(2), "").await;
    let line = stranger
        .logged("keys are not shared: this node has another secret than the others")
        .await;
    let error = line["error"].as_str().unwrap();
    assert!(
        error.contains("`store.secret_file` does not contain"),
        "{line}"
    );
    assert_eq!(line["level"], "ERROR");
    let client = fleet.authority.client_of(&[&TLS13]);
    let seen = kinds(&client, &[&a, &stranger, &stranger]).await;
    assert_eq!(seen, [Full, Full, Resumed]);
    // It could not be opened if the stranger had written it.
    assert!(fleet.stored(ItemKind::TicketKeys).await.is_some());
    // During a change of the secret, both are in the file, and it opens what the old one has sealed.
    let both = format!("{}\n{}\n", secret(2), secret(1));
    let changing = node(&fleet, &both, "").await;
    let client = fleet.authority.client_of(&[&TLS13]);
    assert_eq!(kinds(&client, &[&a, &changing]).await, [Full, Resumed]);
}

#[tokio::test]
async fn a_node_without_its_store_goes_on_and_catches_up() {
    let fleet = Fleet::new().await;
    let folder = fleet.store.path().join("shared");
    std::fs::write(&folder, "not a folder").unwrap();
    let a = node(&fleet, &secret(1), "").await;
    let line = a.logged(AWAY).await;
    assert_eq!(line["instead"], "keys of its own", "{line}");
    let client = fleet.authority.client_of(&[&TLS13]);
    let (_, head) = tunnel(&a, &client, "").await;
    let own = cookie(&head).unwrap();
    assert_eq!(kinds(&client, &[&a]).await, [Resumed]);
    let prepared = fleet.store.path().join("prepared");
    for kind in [ItemKind::TicketKeys, ItemKind::StickyKeys] {
        let items = Fleet::items_in(&prepared);
        let set = keys(&[], Some(1), None);
        let written = items.write(kind, KEYS_ITEM, set.to_json());
        written.await.unwrap();
    }
    let other = fleet.store.path().join("other");
    std::os::unix::fs::symlink(&prepared, &other).unwrap();
    std::fs::rename(&other, &folder).unwrap();
    a.logged_times(APPLIED, 2).await;
    // What it has made by itself stays good.
    assert_eq!(kinds(&client, &[&a]).await, [Resumed]);
    let (_, head) = tunnel(&a, &client, &own).await;
    assert!(
        cookie(&head).is_some(),
        "a cookie that other nodes can read"
    );
    let b = node(&fleet, &secret(1), "").await;
    let client = fleet.authority.client_of(&[&TLS13]);
    assert_eq!(kinds(&client, &[&a, &b]).await, [Full, Resumed]);
    let config = std::fs::read_to_string(a.folder().join("config.toml")).unwrap();
    a.reload(&config).await;
    assert_eq!(kinds(&client, &[&a, &b]).await, [Resumed; 2]);

    // The store is away again: the successor of an upgrade has the keys from its predecessor.
    std::fs::write(&other, "not a folder").unwrap();
    std::fs::rename(&other, &folder).unwrap();
    kill(a.serving(), Signal::USR2);
    a.successor(1).await;
    assert_eq!(kinds(&client, &[&a, &b]).await, [Resumed; 2]);
}

#[tokio::test]
async fn keys_from_files_are_not_shared() {
    use base64::Engine as _;

    let fleet = Fleet::new().await;
    fleet.write(keys(&[], Some(1), None)).await;
    let tickets = base64::engine::general_purpose::STANDARD.encode([7; 80]);
    let start = async || {
        let folder = TempDir::new().unwrap();
        fleet
            .authority
            .issue(folder.path(), "chat", &["chat.example.com"]);
        write(&folder.path().join("fleet.key"), &secret(1));
        write(&folder.path().join("tickets.key"), &tickets);
        write(&folder.path().join("sticky.key"), &secret(9));
        let config = config(&fleet, "");
        let config = config.replace(
            "certificates",
            "ticket_keys_file = \"tickets.key\"\ncertificates",
        );
        let config = config.replace("ttl", "secret_file = \"sticky.key\"\nttl");
        Proxy::start_in(folder, &config).await
    };
    let (one, two) = (start().await, start().await);
    let sharing = node(&fleet, &secret(1), "").await;
    let client = fleet.authority.client_of(&[&TLS13]);
    let (_, head) = tunnel(&one, &client, "").await;
    let given = cookie(&head).unwrap();
    assert_eq!(kinds(&client, &[&two, &sharing]).await, [Resumed, Full]);
    let (_, head) = tunnel(&two, &client, &given).await;
    assert_eq!(cookie(&head), None);
    let (_, head) = tunnel(&sharing, &client, &given).await;
    assert!(cookie(&head).is_some());
}

/// A process that shares its keys through etcd.
async fn etcd_node(fleet: &Fleet, etcd: &Etcd) -> Proxy {
    node_with(fleet, &etcd.settings()).await
}

async fn node_with(fleet: &Fleet, store: &str) -> Proxy {
    let store = format!("{store}secret_file = \"fleet.key\"\n[fleet]\nnode = \"a\"\n");
    let folder = TempDir::new().unwrap();
    let hosts = ["chat.example.com"];
    fleet.authority.issue(folder.path(), "chat", &hosts);
    write(&folder.path().join("fleet.key"), &secret(1));
    let config = config(fleet, "");
    let (front, _) = config.split_once("[store]").unwrap();
    let config = format!("{METRICS}{front}{store}share = [\"keys\"]\n");
    Proxy::start_in(folder, &config).await
}

/// The same over etcd: keys and cookies of one node are good at the other, and etcd never has them in plain text.
#[tokio::test]
async fn nodes_agree_through_etcd_and_go_on_without_it() {
    let fleet = Fleet::new().await;
    let mut etcd = Etcd::start().await;
    let a = etcd_node(&fleet, &etcd).await;
    a.logged_times(APPLIED, 2).await;
    let b = etcd_node(&fleet, &etcd).await;
    b.logged_times(APPLIED, 2).await;
    let made = etcd.text("/t/keys/ticket-keys/fleet").unwrap();
    assert!(made.starts_with("sealed:"));
    // Another program promotes the key that both know.
    let sealer = Sealer::new(&[Secret::new(secret(1).into_bytes().into())], KEYS_SCOPE).unwrap();
    let kind = ItemKind::TicketKeys;
    let opened = sealer.open(kind, KEYS_ITEM, made.as_bytes()).unwrap();
    let mut set = SharedKeySet::parse(&opened.content).unwrap();
    set.current = set.next.take();
    set.keep_for = set.next_keep_for;
    set.version += 100;
    set.maker = "test".into();
    let sealed = sealer.seal(kind, KEYS_ITEM, &set.to_json()).unwrap();
    let sealed = String::from_utf8(sealed).unwrap();
    etcd.put("/t/keys/ticket-keys/fleet", &sealed, 0);
    let age = "tidegate_shared_key_age_seconds";
    for node in [&a, &b] {
        node.logged_times(APPLIED, 3).await;
        let scrape = Scrape::of(node).await;
        let shown = |keys: &str| scrape.0.contains(&format!("{age}{{keys=\"{keys}\"}}"));
        // The other one is not current yet.
        assert!(
            shown("ticket-keys") && !shown("sticky-keys"),
            "{}",
            scrape.0
        );
    }
    let client = fleet.authority.client_of(&[&TLS13]);
    assert_eq!(kinds(&client, &[&a, &b]).await, [Full, Resumed]);
    // A start does not wait for members that are silent, and issues nothing with keys of its own.
    let mut silent = Vec::new();
    let mut store = etcd.settings();
    for _ in 0..2 {
        let member = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = member.local_addr().unwrap();
        let endpoints = format!("endpoints = [\"http://{address}\", ");
        store = store.replace("endpoints = [", &endpoints);
        silent.push(member);
    }
    let c = node_with(&fleet, &store).await;
    assert_eq!(kinds(&client, &[&c]).await, [Resumed]);
    etcd.stop(0).await;
    let line = b.logged(AWAY).await;
    assert_eq!(line["instead"], "those that are known", "{line}");
    assert_eq!(kinds(&client, &[&a, &b]).await, [Resumed; 2]);
}

/// The revisions of a new etcd are lower than what this node has written.
#[tokio::test]
async fn a_new_etcd_gets_the_keys_of_a_node_that_runs() {
    let (fleet, etcd) = (Fleet::new().await, Etcd::start().await);
    let empty = etcd.backup();
    for _ in 0..100 {
        etcd.put("/other", "1", 0);
    }
    let node = etcd_node(&fleet, &etcd).await;
    node.logged_times(APPLIED, 2).await;
    etcd.restore(empty);
    let again =
        "the store has begun again, or is that of an earlier time; all of it was read again";
    let logged = node.logged(again).await;
    assert_eq!(logged["revision"], 1, "{logged}");
    for kind in ["ticket-keys", "sticky-keys"] {
        let key = format!("/t/keys/{kind}/fleet");
        until(&key, || etcd.text(&key).is_some()).await;
    }
}

/// Where only keys are shared, nobody else would say that nothing can be written.
#[tokio::test]
async fn a_full_store_is_seen_by_who_writes_keys() {
    let (fleet, etcd) = (Fleet::new().await, Etcd::start().await);
    let node = etcd_node(&fleet, &etcd).await;
    node.logged_times(APPLIED, 2).await;
    etcd.set_full(true);
    let full = "the store cannot be written; other nodes do not see what changes here, and it is tried again";
    node.logged(full).await;
    etcd.set_full(false);
    node.logged("the store can be written again").await;
}
