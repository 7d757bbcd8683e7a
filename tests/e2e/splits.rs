//! Routes that divide their requests among several upstreams.

use std::collections::HashSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tidegate::config::model::{SameSite, Sticky};
use tidegate::protocol::sticky_cookie::CookieSigner;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::frame;
use crate::harness::free_address;
use crate::harness::operator::{ADMIN, Operator};
use crate::harness::proxy::Proxy;
use crate::harness::wire::{Head, Wire, handshake_with};

/// A route that is split between `blue` and `green`, with these weights and these other lines.
fn split(weights: [u32; 2], route: &str, upstreams: [&str; 2]) -> String {
    let [blue, green] = weights;
    format!(
        "[listener.main]\nbind = [\"127.0.0.1:0\"]\n\
         [[route]]\nname = \"main\"\n\
         split = [{{ upstream = \"blue\", weight = {blue} }}, {{ upstream = \"green\", weight = {green} }}]\n\
         {route}\n\
         [upstream.blue]\n{}\n[upstream.green]\n{}\n",
        upstreams[0], upstreams[1]
    )
}

fn listed(address: impl std::fmt::Display) -> String {
    format!("endpoints = [\"{address}\"]")
}

/// The upstream that a handshake with these fields reaches, and the head of its 101.
async fn reached(proxy: &Proxy, fields: &str) -> (String, Head) {
    let mut wire = proxy.connect().await;
    wire.send(handshake_with(fields)).await;
    let head = wire.head().await;
    assert_eq!(head.status(), 101, "{head:?}");
    wire.send(frame(0x81, Some([0; 4]), b"name")).await;
    let length = usize::from(wire.exactly(2).await[1]);
    (String::from_utf8(wire.exactly(length).await).unwrap(), head)
}

async fn name_of(proxy: &Proxy, fields: &str) -> String {
    reached(proxy, fields).await.0
}

/// The name and value of the cookie that is set.
fn pair(head: &Head) -> String {
    let set = head.value("set-cookie").unwrap();
    set.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn chance_divides_by_weight() {
    let (blue, green) = (Echo::start("blue").await, Echo::start("green").await);
    let upstreams = [&listed(blue.address), &listed(green.address)];
    let config = split([1, 1], "", upstreams.map(String::as_str));
    let proxy = Proxy::start(&config).await;
    let mut seen = HashSet::new();
    // The chance that one of them is never reached is one in 2^199.
    for _ in 0..200 {
        seen.insert(name_of(&proxy, "").await);
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 2);
    // With weight 0, an upstream gets no new clients.
    proxy
        .reload(&split([0, 1], "", upstreams.map(String::as_str)))
        .await;
    for _ in 0..20 {
        assert_eq!(name_of(&proxy, "").await, "green");
    }
}

/// The upstream of each of sixty users.
async fn all(proxy: &Proxy) -> Vec<String> {
    let mut names = Vec::new();
    for user in 0..60 {
        names.push(name_of(proxy, &format!("X-User: {user}\r\n")).await);
    }
    names
}

#[tokio::test]
async fn a_key_always_has_the_same_upstream_and_a_greater_weight_only_takes() {
    let (blue, green) = (Echo::start("blue").await, Echo::start("green").await);
    let upstreams = [&listed(blue.address), &listed(green.address)];
    let upstreams = upstreams.map(String::as_str);
    let by = "split_by = { header = \"x-user\" }";
    let proxy = Proxy::start(&split([80, 20], by, upstreams)).await;
    let before = all(&proxy).await;
    let of_green = |names: &[String]| names.iter().filter(|name| *name == "green").count();
    assert!((1..30).contains(&of_green(&before)), "{before:?}");
    // Another process agrees.
    let other = Proxy::start(&split([80, 20], by, upstreams)).await;
    assert_eq!(all(&other).await, before);
    proxy.reload(&split([40, 60], by, upstreams)).await;
    let after = all(&proxy).await;
    assert!(of_green(&after) > of_green(&before));
    for (before, after) in before.iter().zip(&after) {
        assert!(before == "blue" || after == "green", "{before} {after}");
    }
}

#[tokio::test]
async fn a_cookie_decides_before_the_key() {
    let (blue, green) = (Echo::start("blue").await, Echo::start("green").await);
    let sticky =
        |address, cookie: &str| format!("{}\nsticky.cookie = \"{cookie}\"", listed(address));
    let upstreams = [sticky(blue.address, "b"), sticky(green.address, "g")];
    let upstreams = upstreams.each_ref().map(String::as_str);
    let by = "split_by = \"path\"";
    let proxy = Proxy::start(&split([1, 0], by, upstreams)).await;
    let (name, head) = reached(&proxy, "").await;
    let of_blue = pair(&head);
    assert_eq!((name.as_str(), &of_blue[..2]), ("blue", "b="));
    // All new clients go to green; the others stay, although blue has no weight.
    proxy.reload(&split([0, 1], by, upstreams)).await;
    let (name, head) = reached(&proxy, "").await;
    let of_green = pair(&head);
    assert_eq!((name.as_str(), &of_green[..2]), ("green", "g="));
    let (name, head) = reached(&proxy, &format!("Cookie: {of_blue}\r\n")).await;
    assert_eq!((name.as_str(), head.value("set-cookie")), ("blue", None));
    // A cookie that is not valid decides nothing, also under the name of the other's.
    for cookie in [of_blue.replace("b=", "b=A"), of_blue.replace("b=", "g=")] {
        let name = name_of(&proxy, &format!("Cookie: {cookie}\r\n")).await;
        assert_eq!(name, "green", "{cookie}");
    }
    proxy.reload(&split([1, 0], by, upstreams)).await;
    let name = name_of(&proxy, &format!("Cookie: {of_green}\r\n")).await;
    assert_eq!(name, "green");
}

#[tokio::test]
async fn an_upstream_that_is_down_gives_to_the_other() {
    let (gone, green) = (free_address(), Echo::start("green").await);
    let drained = format!("endpoints = [{{ address = \"{gone}\", drain = true }}]");
    for blue in [
        // Nothing listens there, which a connection finds out: nothing was sent.
        listed(gone),
        drained,
        format!("{}\nhealth = {{ tcp = {{}}, fall = 1 }}", listed(gone)),
    ] {
        let green = listed(green.address);
        let config = split([1, 0], "split_by = \"path\"", [&blue, &green]);
        // With weight 0, green gets no new clients, not even those of the other.
        let proxy = Proxy::start(&config).await;
        let mut client = proxy.connect().await;
        client.send(handshake_with("")).await;
        assert_eq!(client.reply().await.0.status(), 503, "{blue}");
        let config = split([1_000, 1], "split_by = \"client_ip\"", [&blue, &green]);
        proxy.reload(&config).await;
        for _ in 0..3 {
            assert_eq!(name_of(&proxy, "").await, "green", "{blue}");
        }
    }
}

/// A plain request that was not sent moves on with its body.
#[tokio::test]
async fn a_plain_request_goes_to_the_other_with_its_body() {
    let (gone, green) = (free_address(), Endpoint::bind().await);
    let (blue, listed_green) = (listed(gone), listed(green.address));
    let by = "split_by = \"client_ip\"";
    let proxy = Proxy::start(&split([10_000, 1], by, [&blue, &listed_green])).await;
    let mut client = proxy.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    let (mut served, head) = green.request().await;
    assert_eq!(head.value("content-length"), Some("5"));
    assert_eq!(served.exactly(5).await, b"hello");
    served
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(client.reply().await.1, "ok");
}

/// What was sent is not sent to another upstream, unlike what reached no endpoint.
#[tokio::test]
async fn a_request_that_was_sent_does_not_move_on() {
    let (blue, green) = (Endpoint::bind().await, Endpoint::bind().await);
    let listed_blue = listed(blue.address) + "\nretry_on = []";
    let by = "split_by = \"client_ip\"";
    let config = split([10_000, 1], by, [&listed_blue, &listed(green.address)]);
    let proxy = Proxy::start(&config).await;
    for request in [
        handshake_with(""),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        drop(blue.request().await);
        let (head, _) = client.reply().await;
        assert_eq!(
            (head.status(), head.value("tidegate-reason")),
            (502, Some("bad-answer"))
        );
    }
    green.stays_quiet().await;
}

/// Endpoints that are full are not down: a split does not override their limits.
#[tokio::test]
async fn an_upstream_that_is_full_keeps_its_clients() {
    let (blue, green) = (Echo::start("blue").await, Endpoint::bind().await);
    let full = format!(
        "endpoints = [{{ address = \"{}\", max_tunnels = 1 }}]",
        blue.address
    );
    let by = "split_by = \"client_ip\"";
    let config = split([10_000, 1], by, [&full, &listed(green.address)]);
    let proxy = Proxy::start(&config).await;
    let _held = proxy.tunnel().await;
    let mut client = proxy.connect().await;
    client.send(handshake_with("")).await;
    let (head, _) = client.reply().await;
    assert_eq!(head.value("tidegate-reason"), Some("endpoints-full"));
    green.stays_quiet().await;
}

/// Also if another of its endpoints is gone.
#[tokio::test]
async fn an_upstream_that_is_partly_full_and_partly_down_keeps_its_clients() {
    let (blue, gone) = (Echo::start("blue").await, free_address());
    let green = Endpoint::bind().await;
    let full = format!(
        "tries = 3\nendpoints = [{{ address = \"{}\", max_tunnels = 1 }}, {{ address = \"{gone}\" }}]",
        blue.address
    );
    let by = "split_by = \"client_ip\"";
    let config = split([10_000, 1], by, [&full, &listed(green.address)]);
    let proxy = Proxy::start(&config).await;
    let _held = proxy.tunnel().await;
    for request in [
        handshake_with(""),
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
    ] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let (head, _) = client.reply().await;
        assert_eq!(head.value("tidegate-reason"), Some("connect-failed"));
    }
    green.stays_quiet().await;
}

/// A request that was sent over an idle connection may have been acted on.
#[tokio::test]
async fn a_request_that_was_sent_over_an_idle_connection_does_not_move_on() {
    let (blue, green) = (Endpoint::bind().await, Endpoint::bind().await);
    let by = "split_by = \"client_ip\"";
    let config = split(
        [10_000, 1],
        by,
        [&listed(blue.address), &listed(green.address)],
    );
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(get).await;
    let (mut served, _) = blue.request().await;
    served
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(client.reply().await.1, "ok");
    // Nothing listens there any more.
    drop(blue);
    client.send(get).await;
    served.head().await;
    drop(served);
    let (head, _) = client.reply().await;
    assert_eq!(head.value("tidegate-reason"), Some("connect-failed"));
    green.stays_quiet().await;
}

/// The cookies of a client that was moved to another upstream, and perhaps back.
#[tokio::test]
async fn the_newest_cookie_decides() {
    let (blue, green) = (Echo::start("blue").await, Echo::start("green").await);
    let folder = tempfile::tempdir().unwrap();
    let secret = [7; 32];
    let file = folder.path().join("sticky.key");
    std::fs::write(&file, secret).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let sticky = |address: &str, cookie: &str| {
        let file = file.display();
        format!(
            "{}\nsticky = {{ cookie = \"{cookie}\", secret_file = \"{file}\" }}",
            listed(address)
        )
    };
    let addresses = [blue.address, green.address].map(|address| address.to_string());
    let upstreams = [sticky(&addresses[0], "b"), sticky(&addresses[1], "g")];
    let upstreams = upstreams.each_ref().map(String::as_str);
    let proxy = Proxy::start(&split([1, 1], "split_by = \"path\"", upstreams)).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let cookie = |upstream: &str, address: &str, age| {
        let settings = Sticky {
            cookie: upstream[..1].into(),
            ttl: Duration::from_secs(3600),
            domain: None,
            path: "/".into(),
            same_site: SameSite::Lax,
            partitioned: false,
            secret: None,
        };
        let signer = CookieSigner::new(&secret, upstream);
        let set = signer.set(signer.tag(address), &settings, false, now - age);
        let set = set.unwrap();
        set.to_str().unwrap().split(';').next().unwrap().to_owned()
    };
    let of_blue = |age| cookie("blue", &addresses[0], age);
    let of_green = |age| cookie("green", &addresses[1], age);
    let fields = |blue, green| format!("Cookie: {}; {}\r\n", of_blue(blue), of_green(green));
    for (ages, expected) in [((20, 10), "green"), ((10, 20), "blue")] {
        let (name, head) = reached(&proxy, &fields(ages.0, ages.1)).await;
        assert_eq!((name.as_str(), head.value("set-cookie")), (expected, None));
    }
    // A client that comes back gets a new cookie: the older one would lead it away again.
    let gone = free_address().to_string();
    let upstreams = [upstreams[0].to_owned(), sticky(&gone, "g")];
    let upstreams = upstreams.each_ref().map(String::as_str);
    proxy
        .reload(&split([1, 1], "split_by = \"path\"", upstreams))
        .await;
    let newer = cookie("green", &gone, 10);
    let (name, head) = reached(&proxy, &format!("Cookie: {}; {newer}\r\n", of_blue(20))).await;
    assert_eq!((name.as_str(), &pair(&head)[..2]), ("blue", "b="));
}

#[tokio::test]
async fn a_split_is_explained_and_planned() {
    let (blue, green) = (Echo::start("blue").await, Echo::start("green").await);
    let sticky =
        |address, cookie: &str| format!("{}\nsticky.cookie = \"{cookie}\"", listed(address));
    let upstreams = [sticky(blue.address, "b"), sticky(green.address, "g")];
    let upstreams = upstreams.each_ref().map(String::as_str);
    let by = "split_by = { header = \"x-user\" }";
    let config = |weights| split(weights, by, upstreams);
    let (proxy, operator) = Operator::start(&config([90, 10])).await;
    let explain = |headers: Value| {
        let asked = json!({ "url": "ws://a/chat", "listener": "main", "headers": headers });
        let operator = &operator;
        async move { operator.explain(asked).await }
    };
    let explained = explain(json!({})).await;
    let up = |upstream: &str, weight: u32| json!({ "upstream": upstream, "weight": weight, "state": "up" });
    assert_eq!(
        explained["split"],
        json!({
            "why": "by chance; this is the most likely one",
            "upstreams": [up("blue", 90), up("green", 10)],
        })
    );
    assert_eq!(explained["upstream"]["name"], "blue");
    assert_eq!(explained["endpoint"], blue.address.to_string());
    let explained = explain(json!({ "x-user": "1" })).await;
    assert_eq!(explained["split"]["why"], "by its key");
    let (_, head) = reached(&proxy, "").await;
    let cookie = pair(&head);
    let chosen = match cookie.starts_with('b') {
        true => "blue",
        false => "green",
    };
    let explained = explain(json!({ "cookie": cookie })).await;
    assert_eq!(explained["split"]["why"], "its sticky cookie leads there");
    assert_eq!(explained["upstream"]["name"], chosen);
    // The one that is drained gives to the other.
    let drain = json!({ "upstream": "blue", "endpoint": blue.address.to_string() });
    let (status, answer) = operator.post("/v1/endpoints/drain", &drain).await;
    assert_eq!(status, 200, "{answer}");
    let explained = explain(json!({})).await;
    assert_eq!(explained["endpoint"], green.address.to_string());
    assert_eq!(
        explained["split"]["upstreams"][1],
        json!({ "upstream": "blue", "weight": 90, "state": "down" })
    );
    let why = explained["split"]["why"].as_str().unwrap();
    assert!(why.starts_with("no endpoint of `blue` can serve"), "{why}");
    let printed = operator
        .run(&["explain", "ws://a/chat", "--listener", "main"])
        .await;
    for line in [
        "split     green (weight 10): no endpoint",
        "then blue (weight 90, down)",
    ] {
        assert!(printed.out.contains(line), "{}", printed.out);
    }
    // A changed weight is a changed route, and closes nothing.
    let changed = ADMIN.to_owned() + &config([50, 50]);
    proxy.rewrite(&changed);
    let plan = operator.plan().await;
    assert_eq!(plan["routes"][0]["change"], "changed");
    assert_eq!(
        (&plan["closed"], &plan["displaced"]),
        (&json!(0), &json!(0))
    );
}

/// Long polling finds its server again by the cookie.
#[tokio::test]
async fn plain_requests_of_a_client_stay_together_by_a_cookie() {
    let (blue, green) = (Endpoint::bind().await, Endpoint::bind().await);
    let sticky =
        |address, cookie: &str| format!("{}\nsticky.cookie = \"{cookie}\"", listed(address));
    let upstreams = [sticky(blue.address, "b"), sticky(green.address, "g")];
    let config = split([1, 1], "", upstreams.each_ref().map(String::as_str));
    let proxy = Proxy::start(&config).await;
    let mut first = Wire::connect(proxy.address()).await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (home, mut served) = tokio::select! {
        (served, _) = blue.request() => (&blue, served),
        (served, _) = green.request() => (&green, served),
    };
    served.send(ok).await;
    let cookie = pair(&first.reply().await.0);
    drop((first, served));
    for _ in 0..8 {
        let mut next = proxy.connect().await;
        next.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        ))
        .await;
        let (mut served, _) = home.request().await;
        served
            .send(ok.replace("OK\r\n", "OK\r\nConnection: close\r\n"))
            .await;
        assert_eq!(next.reply().await.0.status(), 200);
    }
}
