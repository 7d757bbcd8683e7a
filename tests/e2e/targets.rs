//! Request targets and hosts as real clients write them: what reaches the endpoint unchanged, what matches
//! which route, and what is refused.

use serde_json::json;

use crate::harness::endpoint::Endpoint;
use crate::harness::operator::Operator;
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::wire::{HANDSHAKE, Head, SWITCH, Wire};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Sends a handshake or a plain request for this target, and returns the target that the endpoint gets.
async fn passed(proxy: &Proxy, endpoint: &Endpoint, target: &str, is_handshake: bool) -> String {
    let mut client = proxy.connect().await;
    let (request, answer, status) = match is_handshake {
        true => (HANDSHAKE.replace("/chat", target), SWITCH, 101),
        false => (format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), OK, 200),
    };
    client.send(request).await;
    let (mut served, head) = endpoint.request().await;
    served.send(answer).await;
    assert_eq!(client.head().await.status(), status, "{target}");
    let target = head.start().strip_prefix("GET ").unwrap();
    target.strip_suffix(" HTTP/1.1").unwrap().to_owned()
}

/// The status and the reason of the refusal, which says in a sentence what is wrong.
async fn refused(proxy: &Proxy, request: &str) -> (u16, String) {
    let mut client = proxy.connect().await;
    client.send(request).await;
    refusal(&mut client, request).await
}

async fn refusal(client: &mut Wire, request: &str) -> (u16, String) {
    let (head, body) = client.reply().await;
    assert!(
        body.len() > 10 && body.ends_with(".\n"),
        "{request}: {body}"
    );
    assert!(head.value("date").is_some(), "{head:?}");
    if matches!(head.status(), 400 | 431) {
        assert_eq!(head.value("connection"), Some("close"), "{head:?}");
        client.closed().await;
    }
    let reason = head.value("tidegate-reason").unwrap_or("none");
    (head.status(), reason.to_owned())
}

/// A URL keeps its bytes, whichever of them the client leaves as they are (WHATWG URL): the endpoint gets the
/// target that was sent, or the client the one 400 that the documentation lists.
#[tokio::test]
async fn every_printable_character_passes_unchanged_or_is_a_bad_target() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    for byte in b'!'..=b'~' {
        let character = char::from(byte);
        // `%` alone is an escape that is not valid, `?` ends the path.
        for (target, is_refused) in [
            (format!("/a{character}"), "\"#<>\\`%".contains(character)),
            (format!("/a/?b={character}&c"), "\"#<>".contains(character)),
        ] {
            for is_handshake in [true, false] {
                if is_refused {
                    let request = HANDSHAKE.replace("/chat", &target);
                    let request = match is_handshake {
                        true => request,
                        false => format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n"),
                    };
                    let seen = refused(&proxy, &request).await;
                    assert_eq!(seen, (400, "bad-target".to_owned()), "{target}");
                } else {
                    let seen = passed(&proxy, &endpoint, &target, is_handshake).await;
                    assert_eq!(seen, target);
                }
            }
        }
    }
    endpoint.stays_quiet().await;
}

/// hyper removes fragments, so that the endpoint would get another target than the client has sent.
#[tokio::test]
async fn a_fragment_is_refused_in_later_requests_of_a_connection() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let keep = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let body = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 19\r\n\r\nGET /b#c HTTP/1.1\r\n";
    for first in ["GET /a HTTP/1.1\r\nHost: a\r\n\r\n", body] {
        for pieces in [
            &["GET /b#c HTTP/1.1\r\nHost: a\r\n\r\n"][..],
            &["\r\nGET /b", "#c HTTP/1", ".1\r\nHost: a\r\n\r\n"],
        ] {
            let mut client = proxy.connect().await;
            for request in [first, "GET /b HTTP/1.1\r\nReferer: /#c\r\nHost: a\r\n\r\n"] {
                client.send(request).await;
                let (mut served, _) = endpoint.request().await;
                served
                    .send(keep.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
                    .await;
                assert_eq!(client.reply().await.0.status(), 200, "{request}");
            }
            for piece in pieces {
                client.send(*piece).await;
            }
            let seen = refusal(&mut client, pieces[0]).await;
            assert_eq!(seen, (400, "bad-target".to_owned()));
        }
    }
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn routes_match_what_browsers_leave_as_it_is_like_its_escape() {
    let endpoint = Endpoint::bind().await;
    let route = "path = \"/ids[]\"\nquery = { \"f[]\" = \"{1|2}\" }\n";
    let proxy = Proxy::start(&settings(&[endpoint.address], "", route)).await;
    for target in [
        "/ids[]?f[]={1|2}",
        "/ids%5b%5D?f%5B%5D=%7B1%7C2%7d",
        "/%69ds[%5d?x=`^\\&f[]={1|2}",
    ] {
        for is_handshake in [true, false] {
            let seen = passed(&proxy, &endpoint, target, is_handshake).await;
            assert_eq!(seen, target);
        }
    }
    let missed = refused(&proxy, &HANDSHAKE.replace("/chat", "/ids[]?f[]={1|3}")).await;
    assert_eq!(missed, (404, "no-route".to_owned()));
}

/// Some servers read a backslash, `%5C` and `%2F` as a slash, several slashes as one, and no parameters.
#[tokio::test]
async fn no_spelling_leads_past_a_stricter_route() {
    let endpoint = Endpoint::bind().await;
    let route =
        "[[route]]\npath_prefix = \"/app/admin\"\nallow = [\"192.0.2.1\"]\nupstream = \"main\"\n";
    let config = simple(&[endpoint.address]).replace("[upstream", &format!("{route}[upstream"));
    let (proxy, operator) = Operator::start(&config).await;
    let url = format!("ws://a:{}/app%2Fadmin", proxy.address().port());
    let explained = operator.explain(json!({ "url": url })).await;
    assert_eq!(explained["response"]["reason"], "encoded-slash");
    // No route gets it, and all are listed.
    let others = explained["other_routes"].as_array().unwrap();
    assert_eq!(
        (explained.get("route"), others.len()),
        (None, 2),
        "{explained}"
    );
    for (target, status, reason) in [
        ("/app/admin", 403, "address-denied"),
        ("/app\\admin", 400, "bad-target"),
        ("/app%5Cadmin", 400, "encoded-slash"),
        ("/app%5cadmin/x", 400, "encoded-slash"),
        ("/app%2Fadmin", 400, "encoded-slash"),
        ("/%61pp%252fadmin", 400, "encoded-slash"),
        ("/app/admin%5Cx", 400, "encoded-slash"),
        ("/app/admin/%5Cx", 403, "address-denied"),
        ("/app//admin", 400, "encoded-slash"),
        ("/app%2F/admin", 400, "encoded-slash"),
        ("/app%5C%5Cadmin", 400, "encoded-slash"),
        ("/app;x/admin", 400, "encoded-slash"),
        ("/app%2525%2532Fadmin", 400, "encoded-slash"),
    ] {
        for request in [
            HANDSHAKE.replace("/chat", target),
            format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            let seen = refused(&proxy, &request).await;
            assert_eq!(seen, (status, reason.to_owned()), "{request}");
        }
    }
    endpoint.stays_quiet().await;
    for target in [
        "/app%5Cadmins",
        "/files/a%2Fb",
        "//a;v=1//b",
        "/app?x=\\admin",
    ] {
        assert_eq!(passed(&proxy, &endpoint, target, true).await, target);
    }
}

/// What the endpoint gets for this request, which gets its response.
async fn served(client: &mut Wire, endpoint: &Endpoint, request: &str) -> Head {
    client.send(request).await;
    let (mut served, head) = endpoint.request().await;
    served.send(OK).await;
    assert_eq!(client.head().await.status(), 200, "{request}");
    head
}

/// As HAProxy's `option httpchk` asks by default.
#[tokio::test]
async fn http_1_0_needs_no_host() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let own = endpoint.address.to_string();
    for (request, host, stated) in [
        ("OPTIONS / HTTP/1.0\r\n\r\n", &*own, None),
        ("GET /x HTTP/1.0\r\nHost: A:1\r\n\r\n", "A:1", Some("A:1")),
        ("GET http://a/x HTTP/1.0\r\n\r\n", "a", Some("a")),
    ] {
        let mut client = proxy.connect().await;
        let head = served(&mut client, &endpoint, request).await;
        assert_eq!(head.value("host"), Some(host), "{request}");
        assert_eq!(head.value("x-forwarded-host"), stated, "{request}");
        let forwarded = head.value("forwarded").unwrap();
        assert_eq!(forwarded.contains("host="), stated.is_some(), "{request}");
    }
    assert_eq!(
        refused(&proxy, "GET / HTTP/1.1\r\n\r\n").await,
        (400, "bad-host".to_owned())
    );
    let logged = proxy.logged("request").await;
    assert!(logged.get("host").is_none(), "{logged}");
}

#[tokio::test]
async fn a_request_without_a_host_matches_routes_without_hosts() {
    let endpoint = Endpoint::bind().await;
    let hosts = settings(&[endpoint.address], "", "hosts = [\"a\", \"*.a\"]");
    let proxy = Proxy::start(&hosts).await;
    let probe = "GET / HTTP/1.0\r\n\r\n";
    assert_eq!(refused(&proxy, probe).await, (404, "no-route".to_owned()));
    // There is no place to redirect to.
    let everywhere = settings(&[endpoint.address], "redirect_to_https = true", "");
    proxy.reload(&everywhere).await;
    assert_eq!(refused(&proxy, probe).await, (400, "bad-host".to_owned()));
    let redirect = simple(&[endpoint.address]).replace(
        "[[route]]",
        "[[route]]\npath = \"/\"\nredirect = { to = \"https://${host}/\" }\n[[route]]",
    );
    proxy.reload(&redirect).await;
    assert_eq!(refused(&proxy, probe).await, (400, "bad-host".to_owned()));
    endpoint.stays_quiet().await;
}

/// It asks about the server as a whole, which no route stands for.
#[tokio::test]
async fn options_for_the_server_is_a_bad_target() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    for version in ["1.0", "1.1"] {
        let request = format!("OPTIONS * HTTP/{version}\r\nHost: a\r\n\r\n");
        assert_eq!(
            refused(&proxy, &request).await,
            (400, "bad-target".to_owned())
        );
    }
    endpoint.stays_quiet().await;
}

/// hyper would respond by itself to what it cannot read, without a reason and a text.
#[tokio::test]
async fn what_cannot_be_read_is_refused_like_everything_else() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000));
    let cases = [
        ("nonsense\r\n\r\n", 400, "bad-request"),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400, "bad-request"),
        ("GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad-target"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
            400,
            "bad-request",
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad-request"),
        (&*long, 431, "head-too-large"),
    ];
    for (bad, status, reason) in cases {
        let expected = (status, reason.to_owned());
        assert_eq!(refused(&proxy, bad).await, expected, "{bad}");
        // As a later request, too, and behind one that is sent together with it.
        for together in [false, true] {
            let mut client = proxy.connect().await;
            let first = if together {
                [good, bad].concat()
            } else {
                good.to_owned()
            };
            client.send(first).await;
            let (mut served, _) = endpoint.request().await;
            served.send(OK).await;
            let (head, body) = client.reply().await;
            assert_eq!((head.status(), &*body), (200, "ok"), "{bad}");
            if !together {
                client.send(bad).await;
            }
            assert_eq!(refusal(&mut client, bad).await, expected, "{bad}");
        }
    }
    let hidden = "[server]\nworkers = 2\nlog.format = \"json\"\nreason_header = false\n";
    proxy
        .reload(&(hidden.to_owned() + &simple(&[endpoint.address])))
        .await;
    let seen = refused(&proxy, "nonsense\r\n\r\n").await;
    assert_eq!(seen, (400, "none".to_owned()));
}
