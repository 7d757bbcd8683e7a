//! All checks, for tests that run them on other inputs than a fuzzer's.

#[path = "checks/answer.rs"]
mod answer;
#[path = "checks/config.rs"]
mod config;
#[path = "checks/credential.rs"]
mod credential;
#[path = "checks/endpoint_cookie.rs"]
mod endpoint_cookie;
#[path = "checks/endpoint_map.rs"]
mod endpoint_map;
#[path = "checks/endpoint_slices.rs"]
mod endpoint_slices;
#[path = "checks/endpoints_file.rs"]
mod endpoints_file;
#[path = "checks/etcd_message.rs"]
mod etcd_message;
#[path = "checks/forwarded.rs"]
mod forwarded;
#[path = "checks/forwarder.rs"]
mod forwarder;
#[path = "checks/frame.rs"]
mod frame;
#[path = "checks/handshake.rs"]
mod handshake;
#[path = "checks/http2_head.rs"]
mod http2_head;
#[path = "checks/http2_stream.rs"]
mod http2_stream;
#[path = "checks/limits.rs"]
mod limits;
#[path = "checks/load_report.rs"]
mod load_report;
#[path = "checks/proxy_header.rs"]
mod proxy_header;
#[path = "checks/request.rs"]
mod request;
#[path = "checks/tls_records.rs"]
mod tls_records;

pub(crate) type Check = fn(&[u8]);

/// Every check, with the name of its file.
pub(crate) const ALL: [(&str, Check); 19] = [
    ("answer", answer::check),
    ("config", config::check),
    ("credential", credential::check),
    ("endpoint_cookie", endpoint_cookie::check),
    ("endpoint_map", endpoint_map::check),
    ("endpoint_slices", endpoint_slices::check),
    ("endpoints_file", endpoints_file::check),
    ("etcd_message", etcd_message::check),
    ("forwarded", forwarded::check),
    ("forwarder", forwarder::check),
    ("frame", frame::check),
    ("handshake", handshake::check),
    ("http2_head", http2_head::check),
    ("http2_stream", http2_stream::check),
    ("limits", limits::check),
    ("load_report", load_report::check),
    ("proxy_header", proxy_header::check),
    ("request", request::check),
    ("tls_records", tls_records::check),
];
