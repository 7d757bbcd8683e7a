//! Readings for tests.

use serde_json::{Value, json};

use super::Reading;
use crate::cli::operate::live::older::OlderReading;

fn endpoint(address: &str, tunnels: u64, more: &Value) -> Value {
    let mut endpoint = json!({
        "endpoint": address, "state": "up", "weight": 1, "weight_overridden": false, "backup": false,
        "in_flight": 0, "tunnels": tunnels, "ended": {}, "checks_passed": 0, "checks_failed": 0,
        "ejections": 0,
    });
    for (name, value) in more.as_object().unwrap() {
        endpoint[name] = value.clone();
    }
    endpoint
}

fn traffic(messages: u64) -> Value {
    json!({
        "handshakes": { "ok": 9 }, "rejections": {}, "ended": {}, "links": [{
            "listener": "public", "route": "chat", "upstream": "chat", "endpoint": "10.0.0.1:9000",
            "tunnels": 8, "opened": 8, "handshake_seconds": 0.1, "connect_failures": 0, "resets": 0,
            "bytes_from_client": messages * 100, "bytes_from_endpoint": 0,
            "messages_from_client": messages, "messages_from_endpoint": 0,
        }],
    })
}

fn upstreams() -> Value {
    let down = json!({ "state": "down", "why": "refused", "down_seconds": 7 });
    let drained = json!({ "state": "drained", "ended": { "upstream-reset": 4 } });
    json!([{
        "name": "chat", "balance": "random", "discovery": "listed", "waiting": 0, "tunnels": 9,
        "endpoints": [
            endpoint("10.0.0.1:9000", 8, &json!({ "name": "one" })),
            endpoint("10.0.0.2:9000", 0, &down),
            endpoint("10.0.0.3:9000", 1, &drained),
        ],
    }])
}

/// A process of this generation, and an upstream with three endpoints, of which one is down and one is drained, and
/// that carries `messages`.
pub(in crate::cli::operate) fn reading(generation: u64, messages: u64) -> Reading {
    let status = json!({
        "version": "0.1.0", "pid": 40 + generation, "generation": generation, "state": "serving",
        "started": "1970-01-01T00:00:00Z", "uptime_seconds": 60, "config": "config.toml",
        "config_loaded": "1970-01-01T00:00:00Z", "config_warnings": [], "needs_restart": [],
        "reloads": 0, "failed_reloads": 0, "reload_errors": [], "workers": 2, "connections": 12,
        "max_connections": 1000, "tunnels": 9, "tunnels_opened": 9, "requests": 0, "rejections": 0,
        "log_dropped": 0, "access_log_dropped": 0, "endpoints": 3, "endpoints_up": 1,
        "certificates": [], "jobs": [], "generations": [],
    });
    Reading {
        status: serde_json::from_value(status).unwrap(),
        listeners: Vec::new(),
        upstreams: serde_json::from_value(upstreams()).unwrap(),
        traffic: serde_json::from_value(traffic(messages)).unwrap(),
        older: Vec::new(),
        members: "\"status\":{}".to_owned(),
    }
}

/// A process from before an upgrade, with nine tunnels as well.
pub(in crate::cli::operate) fn older(generation: u64, messages: u64) -> OlderReading {
    let info = json!({
        "generation": generation, "pid": 40 + generation, "version": "0.1.0",
        "started": "1970-01-01T00:00:00Z", "connections": 9, "tunnels": 9,
        "drain_ends": "1970-01-01T00:30:00Z",
    });
    OlderReading {
        info: serde_json::from_value(info).unwrap(),
        upstreams: serde_json::from_value(upstreams()).unwrap(),
        traffic: serde_json::from_value(traffic(messages)).unwrap(),
    }
}

/// A job that closes ten tunnels.
pub(in crate::cli::operate) fn job(number: u64, done: usize) -> tidegate::admin::closing::JobInfo {
    let job = json!({
        "job": number, "description": "tunnels of endpoint a", "reason": "killed", "tunnels": 10,
        "done": done, "closed": done,
    });
    serde_json::from_value(job).unwrap()
}
