//! How does the cost of a request grow with what a client sends? Each line should cost twice as much as
//! the one before; `tests/growth.rs` counts the same in instructions.

use divan::{Bencher, black_box};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use tidegate::config::model::{
    Conditions, Family, HeaderChanges, Net, Nets, PathMatch, RouteConfig, Trust,
};
use tidegate::protocol::edit::{Edit, TemplateValues};
use tidegate::protocol::forwarded::{ForwardingFacts, trusted_claim};
use tidegate::protocol::handshake::HandshakeRequest;
use tidegate::protocol::hop_by_hop::strip_request;
use tidegate::protocol::sticky_cookie::cookie_value;
use tidegate::protocol::target::Target;
use tidegate::route::{RouteQuery, RouteTable};

/// Lengths in bytes. The longest is what a head may have by default.
const LENGTHS: [usize; 4] = [2 << 10, 4 << 10, 8 << 10, 16 << 10];

/// The number of fields in a head of the greatest length.
const FIELDS: usize = 88;

fn parts(path: &str, fields: &[(String, String)]) -> Parts {
    let mut request = http::Request::get(path).header("host", "a");
    for (name, value) in fields {
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

/// A request with a long `Connection`, and many fields that it does not name.
fn with_connection(length: usize) -> Parts {
    let count = FIELDS * length / LENGTHS[3];
    let other = |number| (format!("x-{number}"), "1".to_owned());
    let mut fields: Vec<_> = (0..count).map(other).collect();
    fields.push(("connection".to_owned(), "a,".repeat(length / 2)));
    parts("/", &fields)
}

fn headers(name: &'static str, unit: &str, length: usize) -> HeaderMap {
    let value = unit.repeat(length / unit.len());
    [(name, value)]
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::try_from(value).unwrap()))
        .into_iter()
        .collect()
}

#[divan::bench(args = LENGTHS)]
fn target_of_escaped_escapes(bencher: Bencher<'_, '_>, length: usize) {
    let parts = parts(&format!("/%{}41", "25".repeat(length / 2)), &[]);
    bencher.bench_local(|| Target::of(black_box(&parts)).unwrap());
}

fn find(bencher: Bencher<'_, '_>, path: &str, query: Option<&str>) {
    let to = |path: &str, room: Option<usize>| RouteConfig {
        path: PathMatch::Prefix(path.into()),
        conditions: Conditions {
            query: room
                .map(|room| ("room".into(), room.to_string().into()))
                .into_iter()
                .collect(),
            ..Conditions::default()
        },
        ..RouteConfig::to_upstream("route", "backend")
    };
    let mut routes = vec![to("/socket.io", None), to("/api/v1", None)];
    routes.extend((0..20).map(|room| to("/rooms", Some(room))));
    let table = RouteTable::new(&routes);
    let headers = HeaderMap::new();
    bencher.bench_local(|| {
        table.find(&RouteQuery {
            listener: "public",
            bound_only: false,
            host: "a",
            path: black_box(path),
            loose_path: None,
            query,
            method: &Method::GET,
            headers: &headers,
            handshake: None,
        })
    });
}

#[divan::bench(args = LENGTHS)]
fn route_of_slashes(bencher: Bencher<'_, '_>, length: usize) {
    find(bencher, &"/".repeat(length), None);
}

#[divan::bench(args = LENGTHS)]
fn route_of_a_long_query(bencher: Bencher<'_, '_>, length: usize) {
    find(bencher, "/rooms", Some(&"room=x&".repeat(length / 7)));
}

#[divan::bench(args = LENGTHS)]
fn handshake_with_a_long_connection(bencher: Bencher<'_, '_>, length: usize) {
    let parts = with_connection(length);
    let changes = HeaderChanges::default();
    let edit = Edit::new(&changes, &[], &TemplateValues::default());
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        HandshakeRequest {
            parts: black_box(&parts),
            origin_form: "/",
            host: "a",
            forwarding: ForwardingFacts {
                client: None,
                is_known: true,
                proxies: &[],
                secure: true,
                host: Some("a"),
                port: None,
            },
            edit: &edit,
            compression: true,
            header_case: None,
        }
        .write(&mut out);
        out.len()
    });
}

#[divan::bench(args = LENGTHS)]
fn request_with_a_long_connection(bencher: Bencher<'_, '_>, length: usize) {
    let parts = with_connection(length);
    bencher
        .with_inputs(|| parts.headers.clone())
        .bench_local_values(|mut headers| {
            strip_request(&mut headers);
            headers
        });
}

#[divan::bench(args = LENGTHS)]
fn cookies(bencher: Bencher<'_, '_>, length: usize) {
    let headers = headers("cookie", "a=1; ", length);
    bencher.bench_local(|| cookie_value(black_box(&headers), "sid").is_some());
}

#[divan::bench(args = LENGTHS)]
fn forwarded_elements(bencher: Bencher<'_, '_>, length: usize) {
    let headers = headers("forwarded", "for=10.0.0.1;proto=https, ", length);
    let trust = Trust {
        proxies: Nets::new(vec![Net::Ip("10.0.0.0/8".parse().unwrap())]),
        family: Family::Forwarded,
        proxy_protocol: false,
    };
    bencher.bench_local(|| trusted_claim(black_box(&headers), &trust, Some([10, 0, 0, 9].into())));
}
