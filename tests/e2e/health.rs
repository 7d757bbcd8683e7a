//! Endpoints that fail health checks or sessions: when they are taken out of rotation and for how long.

use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::Value;

use crate::harness::endpoint::Echo;
use crate::harness::faulty::{FaultyEndpoint, Reaction};
use crate::harness::frames::frame;
use crate::harness::free_address;
use crate::harness::operator::{ADMIN, Operator, write_token};
use crate::harness::proxy::{Proxy, simple, verbose};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{until, within};

/// Round robin over these endpoints, with these settings of the upstream.
fn config(endpoints: &[SocketAddr], settings: &str) -> String {
    let settings = format!("balance = \"round_robin\"\n{settings}\nendpoints");
    simple(endpoints).replace("endpoints", &settings)
}

/// Frequent checks with a generous timeout.
const OFTEN: &str = "interval = \"50ms\", timeout = \"30s\"";

fn by_http(more: &str) -> String {
    format!("health = {{ http = {{ path = \"/health\" }}, {OFTEN}, {more} }}")
}

/// Sends a handshake: the status of the response.
async fn handshake(proxy: &Proxy) -> u16 {
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    client.head().await.status()
}

fn endpoints_of(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .map(|event| event["endpoint"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_failing_check_says_why() {
    let websocket = "websocket = { path = \"/health\" }";
    let pinging = "websocket = { path = \"/health\", ping = true }";
    let chat = "websocket = { path = \"/health\", subprotocols = [\"chat\"] }";
    let http = "http = { path = \"/health\", expect = \"200-299, 404\" }";
    let cases = [
        (None, "tcp = {}", "cannot connect: "),
        (None, http, "cannot connect: "),
        (Some(Reaction::Answer(503)), http, "answered 503"),
        (Some(Reaction::Answer(426)), http, "answered 426"),
        (Some(Reaction::Hang), http, "no response within 300ms"),
        (Some(Reaction::Answer(404)), websocket, "answered 404"),
        (Some(Reaction::Hang), websocket, "no response within 300ms"),
        (
            Some(Reaction::WrongAccept),
            websocket,
            "the 101 has a wrong `Sec-WebSocket-Accept`",
        ),
        (
            Some(Reaction::Echo),
            chat,
            "the 101 selects none of the subprotocols",
        ),
        // The echo is masked and a Ping: wrong in both respects.
        (
            Some(Reaction::Echo),
            pinging,
            "no Pong: a frame has the wrong masking",
        ),
        (
            Some(Reaction::Close),
            pinging,
            "closed with code 1008 without a Pong",
        ),
    ];
    let mut config = simple(&[free_address()]);
    let mut endpoints = Vec::new();
    for (number, (does, check, _)) in cases.iter().enumerate() {
        let address = match does {
            None => free_address(),
            Some(does) => {
                endpoints.push(FaultyEndpoint::start(*does, Reaction::Hang).await);
                endpoints.last().unwrap().address
            }
        };
        let timeout = match does {
            Some(Reaction::Hang) => "300ms",
            _ => "30s",
        };
        config += &format!(
            "[upstream.case{number}]\nendpoints = [\"{address}\"]\n\
             health = {{ {check}, interval = \"100ms\", timeout = \"{timeout}\", fall = 2 }}\n"
        );
    }
    let proxy = Proxy::start(&config).await;
    let down = proxy.logged_times("endpoint down", cases.len()).await;
    for (number, (does, check, expected)) in cases.iter().enumerate() {
        let name = format!("case{number}");
        let event = down.iter().find(|event| event["upstream"] == name);
        let why = event.unwrap()["why"].as_str().unwrap();
        assert!(
            why.starts_with(expected),
            "{does:?} {check}: {why} instead of {expected}"
        );
    }
    // The failing checks were logged before.
    let failing = proxy.logged_by_now("health check failed").await;
    assert_eq!(failing.len(), cases.len(), "{failing:#?}");
}

/// A server that supports nothing but WebSocket passes a WebSocket check.
#[tokio::test]
async fn an_endpoint_is_checked_in_the_way_it_is_used() {
    let (asked, plain) = (Echo::start("asked").await, Echo::start("plain").await);
    let config = format!(
        "{}[upstream.asked]\nendpoints = [\"{}\"]\n\
         health = {{ websocket = {{ ping = true }}, {OFTEN}, fall = 1 }}\n\
         [upstream.plain]\nendpoints = [\"{}\"]\n\
         health = {{ http = {{}}, {OFTEN}, fall = 1 }}\n",
        simple(&[free_address()]),
        asked.address,
        plain.address
    );
    let proxy = Proxy::start(&config).await;
    let down = proxy.logged("endpoint down").await;
    assert_eq!(down["upstream"], "plain");
    assert!(down["why"].is_string(), "{down}");
    // Each check closes its tunnel, and nothing stays open.
    until("checks", || asked.served() > 5).await;
    until("checks to leave", || asked.open() <= 1).await;
    let down = proxy.logged_by_now("endpoint down").await;
    assert_eq!(down.len(), 1, "{down:#?}");
}

#[tokio::test]
async fn results_count_in_a_row() {
    let (good, bad) = (Reaction::Answer(204), Reaction::Answer(500));
    let alternating = [bad, bad, good].repeat(4);
    let endpoint = FaultyEndpoint::scripted(&alternating, bad, Reaction::Echo).await;
    let settings = by_http("rise = 2, fall = 3");
    let proxy = Proxy::start(&config(&[endpoint.address], &settings)).await;
    let down = proxy.logged("endpoint down").await;
    assert!(endpoint.checked() >= 15, "{}", endpoint.checked());
    assert_eq!(down["why"], "answered 500");
    assert_eq!(down["in_flight"], 0);
    assert_eq!(handshake(&proxy).await, 503);
    endpoint.checks(good);
    proxy.logged("endpoint up").await;
    assert_eq!(handshake(&proxy).await, 101);
    assert_eq!(proxy.logged_by_now("endpoint down").await.len(), 1);
}

#[tokio::test]
async fn a_down_endpoint_gets_no_new_tunnels_and_keeps_its_old_ones() {
    let endpoints = [
        FaultyEndpoint::start(Reaction::Answer(200), Reaction::Echo).await,
        FaultyEndpoint::start(Reaction::Answer(200), Reaction::Echo).await,
    ];
    let addresses = endpoints.each_ref().map(|each| each.address);
    let proxy = Proxy::start(&config(&addresses, &by_http("fall = 2"))).await;
    let mut tunnels = Vec::new();
    for _ in 0..4 {
        tunnels.push(proxy.tunnel().await);
    }
    endpoints[0].checks(Reaction::Answer(500));
    let down = proxy.logged("endpoint down").await;
    assert_eq!(down["endpoint"], addresses[0].to_string());
    assert_eq!(down["in_flight"], 2);
    for _ in 0..6 {
        tunnels.push(proxy.tunnel().await);
    }
    assert_eq!(endpoints.each_ref().map(FaultyEndpoint::asked), [2, 8]);
    for tunnel in &mut tunnels {
        let message = frame(0x81, Some([1, 2, 3, 4]), b"still here");
        tunnel.send(&message).await;
        assert_eq!(tunnel.exactly(message.len()).await, message);
    }
    assert!(proxy.logged_by_now("tunnel ended").await.is_empty());
}

#[tokio::test]
async fn a_reload_keeps_health_states() {
    let endpoint = FaultyEndpoint::start(Reaction::Answer(500), Reaction::Echo).await;
    let settings = by_http("fall = 1");
    let proxy = Proxy::start(&config(&[endpoint.address], &settings)).await;
    proxy.logged("endpoint down").await;
    let other = format!("{settings}\ntries = 1");
    proxy.reload(&config(&[endpoint.address], &other)).await;
    assert_eq!(handshake(&proxy).await, 503);
    assert_eq!(proxy.logged_by_now("endpoint down").await.len(), 1);
    // An endpoint without checks is not down any more.
    proxy.reload(&config(&[endpoint.address], "")).await;
    within("the endpoint to serve", async {
        while handshake(&proxy).await != 101 {}
    })
    .await;
}

/// If a reload restarted the interval, frequent reloads would prevent all checks.
#[tokio::test]
async fn frequent_reloads_do_not_delay_health_checks() {
    let endpoint = FaultyEndpoint::start(Reaction::Answer(200), Reaction::Echo).await;
    let settings = by_http("fall = 1").replace("50ms", "1s");
    let configs =
        ["", "tries = 1\n"].map(|more| config(&[endpoint.address], &format!("{more}{settings}")));
    let proxy = Proxy::start(&configs[0]).await;
    let mut reloads = 0;
    while endpoint.checked() < 4 {
        reloads += 1;
        assert!(reloads < 12_500, "only {} checks", endpoint.checked());
        proxy.reload(&configs[reloads % 2]).await;
    }
    assert!(reloads > 4, "{reloads}: they were not frequent enough");
}

#[tokio::test]
async fn when_all_endpoints_are_down_the_client_gets_503_or_any_is_tried() {
    let endpoints = [
        FaultyEndpoint::start(Reaction::Answer(500), Reaction::Echo).await,
        FaultyEndpoint::start(Reaction::Answer(500), Reaction::Echo).await,
    ];
    let addresses = endpoints.each_ref().map(|each| each.address);
    let health = by_http("fall = 1");
    let proxy = Proxy::start(&config(&addresses, &health)).await;
    proxy.logged_times("endpoint down", 2).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (503, Some("no-endpoint"))
    );
    let any = format!("all_down = \"try_any\"\n{health}");
    proxy.reload(&config(&addresses, &any)).await;
    for _ in 0..4 {
        proxy.tunnel().await;
    }
    assert_eq!(endpoints.each_ref().map(FaultyEndpoint::asked), [2, 2]);
    // As soon as one is up, it gets all requests.
    endpoints[1].checks(Reaction::Answer(200));
    proxy.logged("endpoint up").await;
    for _ in 0..4 {
        proxy.tunnel().await;
    }
    assert_eq!(endpoints.each_ref().map(FaultyEndpoint::asked), [2, 6]);
}

/// Without checks and ejection, an endpoint that was killed would look the least loaded for ever.
#[tokio::test]
async fn a_dead_endpoint_that_nothing_checks_is_asked_last() {
    let (dead, echo) = (free_address(), Echo::start("alive").await);
    let config = METRICS.replace("[admin]\n", ADMIN)
        + &simple(&[dead, echo.address])
        + "on_down = { action = \"close\" }\n";
    let folder = tempfile::TempDir::new().unwrap();
    write_token(folder.path());
    let config = verbose(&config);
    let proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(proxy.tunnel().await);
    }
    let failed = proxy.logged_by_now("cannot connect to endpoint").await;
    // One, and one more for each ten seconds that this took.
    assert!((1..5).contains(&failed.len()), "{failed:#?}");
    let event = proxy.logged("endpoint unreachable").await;
    assert_eq!(event["endpoint"], dead.to_string());
    let why = event["why"].as_str().unwrap();
    assert!(why.starts_with("cannot connect: "), "{why}");
    let upstreams = operator.get("/v1/upstreams").await;
    let shown = &upstreams[0]["endpoints"][0];
    assert_eq!(shown["connect_error"], why);
    // `up` again if ten seconds have passed.
    let printed = operator.run(&["status"]).await.out;
    let line = printed.lines().find(|it| it.contains(&dead.to_string()));
    let line = line.unwrap();
    assert!(
        line.contains("unreachable") || line.contains("latest connection failed"),
        "{line}"
    );
    let labels = [format!("endpoint=\"{dead}\"")];
    let scrape = Scrape::of(&proxy).await;
    let labels = labels.each_ref().map(String::as_str);
    assert_eq!(scrape.sum("tidegate_endpoint_unreachable", &labels), 1.0);
    assert_eq!(scrape.sum("tidegate_endpoint_up", &labels), 1.0);
    assert!(proxy.logged_by_now("tunnel ended").await.is_empty());
    // It comes back, and is the only one left: nothing is refused, and the first connection puts it back.
    let back = FaultyEndpoint::at(dead, Reaction::Echo).await;
    proxy
        .reload(&config.replace(&format!(", \"{}\"", echo.address), ""))
        .await;
    proxy.tunnel().await;
    assert_eq!(back.asked(), 1);
    proxy.logged("endpoint reachable again").await;
    let upstreams = operator.get("/v1/upstreams").await;
    assert_eq!(upstreams[0]["endpoints"][0]["state"], "up");
}

const EJECTION: &str = "ejection = { failures = 3, window = \"10m\", base = \"10m\", \
    ceiling = \"1h\" }\n";

#[tokio::test]
async fn an_endpoint_that_refuses_is_ejected() {
    let echo = Echo::start("good").await;
    let refusing = free_address();
    let config = |endpoints: &[SocketAddr]| verbose(&config(endpoints, EJECTION));
    let proxy = Proxy::start(&config(&[refusing, echo.address])).await;
    for _ in 0..20 {
        proxy.tunnel().await;
    }
    let ejected = proxy.logged("endpoint ejected").await;
    assert_eq!(ejected["endpoint"], refusing.to_string());
    assert_eq!(ejected["why"], "connections fail");
    assert_eq!(ejected["for_s"], 600.0);
    assert_eq!(
        proxy
            .logged_by_now("cannot connect to endpoint")
            .await
            .len(),
        3
    );
    // The state outlives a reload.
    proxy.reload(&config(&[echo.address, refusing])).await;
    for _ in 0..4 {
        proxy.tunnel().await;
    }
    assert_eq!(
        proxy
            .logged_by_now("cannot connect to endpoint")
            .await
            .len(),
        3
    );
}

#[tokio::test]
async fn an_endpoint_that_hangs_or_does_not_answer_well_is_ejected() {
    for does in [
        Reaction::Hang,
        Reaction::Answer(502),
        Reaction::Answer(503),
        Reaction::Answer(504),
    ] {
        let endpoints = [
            FaultyEndpoint::start(Reaction::Hang, does).await,
            FaultyEndpoint::start(Reaction::Hang, Reaction::Echo).await,
        ];
        let addresses = endpoints.each_ref().map(|each| each.address);
        // Short only for the case that needs it, because the good endpoint has to respond within it, too.
        let timeout = if does == Reaction::Hang { "1s" } else { "30s" };
        let settings = format!(
            "retry_on = [\"502\", \"503\", \"504\", \"timeout\"]\n{EJECTION}\
             timeouts = {{ handshake = \"{timeout}\" }}\n"
        );
        let proxy = Proxy::start(&config(&addresses, &settings)).await;
        for _ in 0..10 {
            proxy.tunnel().await;
        }
        let ejected = proxy.logged("endpoint ejected").await;
        assert_eq!(ejected["why"], "handshakes fail", "{does:?}");
        assert_eq!(
            endpoints.each_ref().map(FaultyEndpoint::asked),
            [3, 10],
            "{does:?}"
        );
    }
}

#[tokio::test]
async fn an_endpoint_that_cuts_its_tunnels_is_ejected() {
    let endpoints = [
        FaultyEndpoint::start(Reaction::Hang, Reaction::Cut).await,
        FaultyEndpoint::start(Reaction::Hang, Reaction::Echo).await,
    ];
    let addresses = endpoints.each_ref().map(|each| each.address);
    let proxy = Proxy::start(&config(&addresses, EJECTION)).await;
    let message = frame(0x81, Some([1, 2, 3, 4]), b"hello");
    for number in 1..=6 {
        let mut tunnel = proxy.tunnel().await;
        tunnel.send(&message).await;
        tunnel.at_least(message.len()).await;
        drop(tunnel);
        proxy.logged_times("tunnel ended", number).await;
    }
    let ejected = proxy.logged("endpoint ejected").await;
    assert_eq!(ejected["endpoint"], addresses[0].to_string());
    assert_eq!(ejected["why"], "tunnels are cut soon after they open");
    proxy.tunnel().await;
    proxy.tunnel().await;
    assert_eq!(endpoints[0].asked(), 3);
}

/// Normal events, and those that clients can cause, eject no endpoint.
#[tokio::test]
async fn closes_and_client_errors_eject_no_endpoint() {
    let endpoint = FaultyEndpoint::start(Reaction::Hang, Reaction::Close).await;
    let other = FaultyEndpoint::start(Reaction::Hang, Reaction::Echo).await;
    let settings = EJECTION.replace("failures = 3", "failures = 1");
    let addresses = [endpoint.address, other.address];
    let proxy = Proxy::start(&config(&addresses, &settings)).await;
    // Closed by the endpoint, closed by the client, and reset by the client.
    for _ in 0..6 {
        let mut tunnel = proxy.tunnel().await;
        tunnel.finish_anyway().await;
    }
    for _ in 0..6 {
        proxy.tunnel().await.reset();
    }
    proxy.logged_times("tunnel ended", 12).await;
    // Responses of the application; for a plain request even a 503.
    for status in [400, 401, 404, 429, 500] {
        endpoint.others(Reaction::Answer(status));
        other.others(Reaction::Answer(status));
        for _ in 0..4 {
            assert_eq!(handshake(&proxy).await, status);
        }
    }
    for status in [500, 502, 503, 504] {
        endpoint.others(Reaction::Answer(status));
        other.others(Reaction::Answer(status));
        for _ in 0..4 {
            let mut client = proxy.connect().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(client.head().await.status(), status);
        }
    }
    assert!(proxy.logged_by_now("endpoint ejected").await.is_empty());
}

#[tokio::test]
async fn invalid_frames_of_a_client_do_not_eject_the_endpoint() {
    let settings = EJECTION.replace("failures = 3", "failures = 1");
    let message = frame(0x81, Some([1, 2, 3, 4]), b"hello");
    for (bytes, ejected) in [
        (&b"\xff\xff\xff\xff, which is no frame at all"[..], 0),
        (&message, 1),
    ] {
        let endpoints = [
            FaultyEndpoint::start(Reaction::Hang, Reaction::Cut).await,
            FaultyEndpoint::start(Reaction::Hang, Reaction::Cut).await,
        ];
        let addresses = endpoints.each_ref().map(|each| each.address);
        let proxy = Proxy::start(&config(&addresses, &settings)).await;
        for _ in 0..2 {
            let mut tunnel = proxy.tunnel().await;
            tunnel.send(bytes).await;
            tunnel.until_gone().await;
        }
        proxy.logged_times("tunnel ended", 2).await;
        let events = proxy.logged_by_now("endpoint ejected").await;
        assert_eq!(events.len(), ejected, "{events:#?}");
    }
}

#[tokio::test]
async fn no_more_than_the_maximum_share_is_ejected() {
    let refusing = std::array::from_fn::<_, 5, _>(|_| free_address());
    let settings = format!("{EJECTION}tries = 5\n");
    let proxy = Proxy::start(&verbose(&config(&refusing, &settings))).await;
    let addresses = proxy.address();
    let clients = (0..40).map(|_| async move {
        let mut client = Wire::connect(addresses).await;
        client.send(HANDSHAKE).await;
        client.head().await.status()
    });
    assert_eq!(join_all(clients).await, [503; 40]);
    let ejected = endpoints_of(&proxy.logged_by_now("endpoint ejected").await);
    assert_eq!(ejected.len(), 2, "{ejected:?}");
    // With fewer endpoints, fewer may be ejected: one of them is readmitted.
    let left: Vec<SocketAddr> = ejected.iter().map(|each| each.parse().unwrap()).collect();
    let before = proxy
        .logged_by_now("cannot connect to endpoint")
        .await
        .len();
    proxy.reload(&verbose(&config(&left, EJECTION))).await;
    assert_eq!(handshake(&proxy).await, 503);
    let after = proxy
        .logged_by_now("cannot connect to endpoint")
        .await
        .len();
    assert_eq!(after - before, 1);
}

#[tokio::test]
async fn an_ejection_ends_by_a_passing_check_or_by_time() {
    let endpoints = [
        FaultyEndpoint::start(Reaction::Hang, Reaction::Answer(503)).await,
        FaultyEndpoint::start(Reaction::Hang, Reaction::Echo).await,
    ];
    let addresses = endpoints.each_ref().map(|each| each.address);
    let short = EJECTION.replace("base = \"10m\"", "base = \"1s\"");
    let checks = format!("{EJECTION}health = {{ tcp = {{}}, {OFTEN} }}");
    for (settings, by) in [(&short, "time"), (&checks, "check")] {
        let proxy = Proxy::start(&config(&addresses, settings)).await;
        while proxy.log().events("endpoint ejected").is_empty() {
            handshake(&proxy).await;
        }
        let readmitted = proxy.logged("endpoint back in rotation").await;
        assert_eq!(readmitted["by"], by);
        assert_eq!(readmitted["endpoint"], addresses[0].to_string());
        let asked = endpoints[0].asked();
        for _ in 0..2 {
            handshake(&proxy).await;
        }
        assert_eq!(endpoints[0].asked(), asked + 1);
    }
}

/// Eight simultaneous clients with a handshake, a message and its echo: the statuses that they get.
async fn visit(proxy: &Proxy) -> [u16; 8] {
    let address = proxy.address();
    let client = || async move {
        let mut client = Wire::connect(address).await;
        client.send(HANDSHAKE).await;
        let status = client.head().await.status();
        if status == 101 {
            let message = frame(0x81, Some([1, 2, 3, 4]), b"hello");
            client.flood_once(&message).await;
            // If its endpoint dies, the tunnel ends without an echo.
            client.at_least(message.len()).await;
        }
        status
    };
    let statuses = join_all((0..8).map(|_| client())).await;
    statuses.try_into().unwrap()
}

/// One of three endpoints refuses, hangs, or dies and comes back while clients come and go: no client
/// is refused.
#[tokio::test]
async fn clients_do_not_notice_the_failure_of_one_of_three_endpoints() {
    let endpoints = [
        FaultyEndpoint::start(Reaction::Echo, Reaction::Echo).await,
        FaultyEndpoint::start(Reaction::Echo, Reaction::Echo).await,
        FaultyEndpoint::start(Reaction::Echo, Reaction::Echo).await,
    ];
    let addresses = endpoints.each_ref().map(|each| each.address);
    let settings = "health = { websocket = { path = \"/health\" }, interval = \"100ms\", \
                    timeout = \"1s\" }\n\
                    ejection = { base = \"1s\" }\n\
                    retry_on = [\"timeout\"]\ntries = 3\n\
                    timeouts = { handshake = \"1s\" }\n";
    let settings = format!("[upstream.main]\n{settings}");
    let config = simple(&addresses).replace("[upstream.main]\n", &settings);
    let proxy = Proxy::start(&config).await;
    let all_well = |statuses: [u16; 8]| assert_eq!(statuses, [101; 8], "{}", proxy.log().text());
    let [dying, hanging, staying] = endpoints;
    for _ in 0..5 {
        all_well(visit(&proxy).await);
    }
    let address = dying.address;
    drop(dying);
    while proxy.log().events("endpoint down").is_empty() {
        all_well(visit(&proxy).await);
    }
    let back = FaultyEndpoint::at(address, Reaction::Echo).await;
    while proxy.log().events("endpoint up").is_empty() || back.asked() == 0 {
        all_well(visit(&proxy).await);
    }
    hanging.others(Reaction::Hang);
    hanging.checks(Reaction::Hang);
    while proxy.log().events("endpoint down").len() < 2 {
        all_well(visit(&proxy).await);
    }
    for _ in 0..5 {
        all_well(visit(&proxy).await);
    }
    assert!(staying.asked() > 0);
    let rejected = proxy.logged_by_now("rejected").await;
    assert!(rejected.is_empty(), "{rejected:#?}");
}
