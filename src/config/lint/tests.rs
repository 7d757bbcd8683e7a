//! Warnings: each is given where it matters, and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::config::sources::{SourceId, SourceText, Sources};

const CERTIFICATE: &str = "tls.certificates = [{ cert = \"a.pem\", key = \"a.key\" }]\n";
const BEHIND: &str = "trusted_proxies = [\"10.0.0.0/8\"]\n";

/// A folder with the files that these configurations refer to.
fn folder() -> tempfile::TempDir {
    use base64::Engine as _;
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tickets = base64::engine::general_purpose::STANDARD.encode([7; 80]);
    for (name, text) in [
        ("a.pem", made.cert.pem()),
        ("a.key", made.signing_key.serialize_pem()),
        ("tickets.key", tickets),
        ("sticky.key", "7".repeat(64)),
        ("admin.token", "7".repeat(32)),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

/// A listener, a route and an upstream, with these lines in addition.
fn whole(listener: &str, route: &str, upstream: &str) -> String {
    let bind = "bind = [\"127.0.0.1:8080\"]\n";
    let bind = if listener.contains("bind") { "" } else { bind };
    let endpoints = "endpoints = [\"127.0.0.1:9000\"]\n";
    format!(
        "[listener.a]\n{bind}{listener}\n[[route]]\nupstream = \"a\"\n{route}\n\
         [upstream.a]\n{endpoints}{upstream}\n"
    )
}

#[test]
fn operators_are_not_for_everybody() {
    let folder = folder();
    let token = "token_file = \"admin.token\"";
    let open = "read = \"open\"";
    let both = &format!("{token}\n{open}");
    let tls = "tls = { cert = \"a.pem\", key = \"a.key\" }";
    let mutual = &tls.replace(" }", ", client_ca = \"a.pem\" }");
    for (bind, lines, expected) in [
        ("0.0.0.0:9900", open, &["open-admin"][..]),
        ("0.0.0.0:9900", both, &["open-admin", "plain-token"]),
        ("0.0.0.0:9900", "", &["no-effect"]),
        ("0.0.0.0:9900", token, &["plain-token"]),
        ("0.0.0.0:9900", &format!("{token}\n{tls}"), &[]),
        ("0.0.0.0:9900", &format!("{both}\n{tls}"), &["open-admin"]),
        ("0.0.0.0:9900", &format!("{both}\n{mutual}"), &[]),
        ("127.0.0.1:9900", open, &[]),
        ("127.0.0.1:9900", token, &[]),
        ("127.0.0.1:9900", "", &["no-effect"]),
        ("[::1]:9900", both, &[]),
        ("unix:/run/admin.sock", "", &[]),
        ("off", "", &[]),
    ] {
        let source = format!("[admin]\nbind = \"{bind}\"\n{lines}\n{}", whole("", "", ""));
        assert_eq!(warned(folder.path(), &source), expected, "{source}");
    }
}

fn warned(folder: &Path, source: &str) -> Vec<&'static str> {
    match super::super::parse(source, &folder.join("a.toml"), &|_| None) {
        Ok(loaded) => {
            let diagnostics = loaded.warnings.diagnostics().iter();
            diagnostics.map(|each| each.code.token()).collect()
        }
        Err(report) => panic!("{source}\n{}", report.render(false)),
    }
}

/// Checks the warnings for each of these lines of a listener, a route and an upstream.
#[track_caller]
fn check(cases: &[(&str, &str, &str, &[&str])]) {
    let folder = folder();
    for (listener, route, upstream, expected) in cases {
        let source = whole(listener, route, upstream);
        assert_eq!(warned(folder.path(), &source), *expected, "{source}");
    }
}

#[test]
fn ages_that_nobody_means() {
    check(&[
        ("", "timeouts.max_age = \"59s\"", "", &["short-max-age"]),
        ("", "timeouts.max_age = \"1m\"", "", &[]),
        ("", "timeouts.max_age = \"off\"", "", &[]),
        (
            "",
            "timeouts = { max_age = \"12h\", max_age_jitter = 0 }",
            "",
            &["no-jitter"],
        ),
        (
            "",
            "timeouts = { max_age = \"12h\", max_age_jitter = 0.1 }",
            "",
            &[],
        ),
        ("", "timeouts.max_age_jitter = 0", "", &[]),
    ]);
}

#[test]
fn endpoints_that_nothing_checks() {
    let folder = folder();
    let two = |more: &str| {
        let one = "endpoints = [\"127.0.0.1:9000\"]";
        let two = "endpoints = [\"127.0.0.1:9000\", \"127.0.0.1:9001\"]";
        warned(folder.path(), &whole("", "", more).replace(one, two))
    };
    assert_eq!(two(""), ["unchecked"]);
    assert!(two("health = { websocket = {} }").is_empty());
    assert!(two("ejection = {}").is_empty());
    let closes = "on_down = { action = \"close\" }";
    check(&[
        ("", "", "", &[]),
        ("", "", closes, &["no-effect"]),
        (
            "",
            "",
            &format!("ejection = {{}}\n{closes}"),
            &["no-effect"],
        ),
        ("", "", &format!("health = {{ tcp = {{}} }}\n{closes}"), &[]),
        ("", "", "on_down = { action = \"keep\" }", &[]),
    ]);
    let found = whole("", "", "dns = { name = \"a.internal\", port = 9000 }")
        .replace("endpoints = [\"127.0.0.1:9000\"]\n", "");
    assert!(warned(folder.path(), &found).is_empty());
}

#[test]
fn tunnels_that_end_with_their_pod() {
    let folder = folder();
    let pods = |more: &str| {
        let listed = "endpoints = [\"127.0.0.1:9000\"]";
        let service = "kubernetes = { service = \"chat\", port = \"ws\" }";
        warned(folder.path(), &whole("", "", more).replace(listed, service))
    };
    assert_eq!(pods(""), ["grace-period"]);
    assert_eq!(pods("on_drain = { action = \"keep\" }"), ["grace-period"]);
    assert!(pods("on_drain = { action = \"close\" }").is_empty());
    assert!(pods("on_drain = { action = \"drain\", over = \"4m\" }").is_empty());
    check(&[("", "", "on_drain = { action = \"keep\" }", &[])]);
}

#[test]
fn pings_that_come_too_late() {
    let late: &[&str] = &["late-ping"];
    let check = |timeouts: &str, late| {
        let folder = folder();
        let source = whole("", &format!("timeouts = {{ {timeouts} }}"), "");
        let mut warned = warned(folder.path(), &source);
        warned.sort_unstable();
        assert_eq!(warned, late, "{timeouts}");
    };
    check("ping = \"60s\"", late);
    check("ping = \"59s\"", &late[1..]);
    check("ping = \"15s\", idle = \"30s\"", late);
    check("ping = \"14s\", idle = \"30s\"", &late[1..]);
    check("ping = \"50s\", idle = \"off\"", &late[1..]);
    check("ping = \"off\", idle = \"30s\"", &[]);
}

#[test]
fn quiet_tunnels_that_something_in_front_ends() {
    let route = |idle: &str| format!("allow = [\"10.0.0.1\"]\ntimeouts.idle = \"{idle}\"");
    check(&[
        (BEHIND, &route("61s"), "", &["long-idle"]),
        (BEHIND, &route("off"), "", &["long-idle"]),
        (BEHIND, &route("60s"), "", &[]),
        (BEHIND, "allow = [\"10.0.0.1\"]", "", &[]),
        ("", &route("1h"), "", &[]),
        (
            BEHIND,
            "allow = [\"10.0.0.1\"]\ntimeouts = { idle = \"1h\", ping = \"25s\" }",
            "",
            &[],
        ),
    ]);
    // Only the listeners that it is bound to count.
    let other = "[listener.b]\nbind = [\"127.0.0.1:8081\"]\ntrusted_proxies = [\"10.0.0.1\"]\n";
    let bound = |name: &str| {
        let route = route("1h");
        format!(
            "{}{other}",
            whole("", &format!("listeners = [\"{name}\"]\n{route}"), "")
        )
    };
    let folder = folder();
    assert_eq!(warned(folder.path(), &bound("b")), ["long-idle"]);
    assert!(warned(folder.path(), &bound("a")).is_empty());
}

#[test]
fn pages_of_any_site() {
    let open = "bind = [\"0.0.0.0:80\"]\n";
    let local = "bind = [\"127.0.0.1:80\", \"[::1]:80\", \"unix:/run/a.sock\"]\n";
    check(&[
        (open, "", "", &["any-origin"]),
        ("bind = [\"[::]:80\"]\n", "", "", &["any-origin"]),
        (local, "", "", &[]),
        (BEHIND, "", "", &["any-origin"]),
        (open, "origins_required = true", "", &["any-origin"]),
        (open, "origins = [\"https://a.example\"]", "", &[]),
        (open, "allow = [\"10.0.0.0/8\"]", "", &[]),
        (open, "deny = [\"10.0.0.0/8\"]", "", &["any-origin"]),
        (open, "request_headers.remove = [\"Cookie\"]", "", &[]),
        (
            open,
            "request_headers.remove = [\"x-a\"]",
            "",
            &["any-origin"],
        ),
        (open, "request_headers.set.cookie = \"a=b\"", "", &[]),
        (open, "headers.x-token = \"a\"", "", &[]),
        (open, "headers.user-agent = \"a\"", "", &["any-origin"]),
    ]);
    let folder = folder();
    let open = "bind = [\"0.0.0.0:443\"]\n";
    let auth = format!("{open}{CERTIFICATE}tls.client_auth = {{ ca = \"a.pem\" }}\n");
    assert!(warned(folder.path(), &whole(&auth, "", "")).is_empty());
    let redirect = "[listener.a]\nbind = [\"0.0.0.0:80\"]\n[[route]]\n\
                    redirect.to = \"https://a.example\"\n";
    assert!(warned(folder.path(), redirect).is_empty());
}

#[test]
fn cookies_and_tickets_that_nobody_else_understands() {
    let mine = "origins = [\"https://a.example\"]";
    let sticky = "sticky = { cookie = \"a\" }";
    let shared = "sticky = { cookie = \"a\", secret_file = \"sticky.key\" }";
    let tls = format!("{CERTIFICATE}{BEHIND}proxy_protocol = \"required\"\n");
    let tickets = "tls.ticket_keys_file = \"tickets.key\"\n";
    check(&[
        (BEHIND, mine, sticky, &["unshared-key"]),
        (BEHIND, mine, shared, &[]),
        ("", mine, sticky, &[]),
        (&tls, mine, "", &["unshared-key"]),
        (&format!("{tls}{tickets}"), mine, "", &[]),
        (&format!("{CERTIFICATE}{BEHIND}"), mine, "", &[]),
        (CERTIFICATE, mine, "", &[]),
    ]);
    let folder = folder();
    let store = "[store]\nfiles = \"shared\"\nsecret_file = \"sticky.key\"\n";
    let agreed = format!("{store}[fleet]\nnode = \"a\"\nshare = [\"keys\"]\n");
    let alone = whole(&tls, mine, sticky);
    assert!(!warned(folder.path(), &alone).is_empty());
    assert!(warned(folder.path(), &format!("{alone}{agreed}")).is_empty());
}

#[test]
fn checks_that_would_be_refused() {
    let reject = "http = \"reject\"";
    let path = "http = \"reject\"\npath = \"/ws\"";
    let check_of = |http: &str| format!("health.http = {{ {http} }}");
    check(&[
        ("", reject, &check_of(""), &["http-check"]),
        ("", path, &check_of(""), &["http-check"]),
        ("", path, &check_of("path = \"/ws?a=1\""), &["http-check"]),
        ("", path, &check_of("path = \"/health\""), &[]),
        ("", reject, &check_of("path = \"/health\""), &[]),
        ("", reject, &check_of("expect = \"426\""), &[]),
        ("", "", &check_of(""), &[]),
        ("", reject, "health.tcp = {}", &[]),
        ("", reject, "health.websocket = {}", &[]),
    ]);
    let two = format!("{}[[route]]\nupstream = \"a\"\npath = \"/b\"\n", {
        whole("", reject, &check_of(""))
    });
    assert!(warned(folder().path(), &two).is_empty());
}

#[test]
fn more_tunnels_than_files_may_be_open() {
    let folder = folder();
    let at_most = |source: &str, most: u64| {
        let mut diagnostics = Vec::new();
        let root = crate::config::raw::read(SourceId::MAIN, source, &|_| None, &mut diagnostics);
        let sources = Sources::new(SourceText::new(&folder.path().join("a.toml"), source));
        let built = crate::config::build::build(&root, &sources, &mut diagnostics);
        lint_descriptors(&built.config, &built.places, most, &mut diagnostics);
        let told = |each: &Diagnostic| format!("{}: {}", each.code, each.message);
        diagnostics.iter().map(told).collect::<Vec<_>>()
    };
    let tunnels = format!("[server]\nmax_tunnels = 1000\n{}", whole("", "", ""));
    assert!(at_most(&tunnels, 2192).is_empty());
    assert_eq!(
        at_most(&tunnels, 2191),
        ["descriptors: 1000 tunnels require 2192 open files, but the limit here is 2191"]
    );
    let connections = whole("limits.connections = 1000", "", "");
    assert!(at_most(&connections, 2192).is_empty());
    assert_eq!(at_most(&connections, 2191).len(), 1);
    assert!(at_most(&whole("", "", ""), 64).is_empty());
    // Nowhere may there be so many.
    let most = format!(
        "[server]\nmax_tunnels = 1_000_000_000\n{}",
        whole("", "", "")
    );
    assert_eq!(warned(folder.path(), &most), ["descriptors"]);
}

#[test]
fn a_file_with_errors_is_told_about_those_alone() {
    let source = whole("bind = [\"0.0.0.0:80\"]\n", "http = 1", "");
    let report = super::super::parse(&source, Path::new("a.toml"), &|_| None).unwrap_err();
    assert_eq!(report.count(Severity::Warning), 0);
}

#[test]
fn what_is_allowed_is_not_told_and_what_is_no_warning_cannot_be() {
    let folder = folder();
    let source = |allowed: &str| {
        let whole = whole("bind = [\"0.0.0.0:80\"]\n", "timeouts.max_age = \"1s\"", "");
        format!("[server]\nallow_warnings = [{allowed}]\n{whole}")
    };
    assert_eq!(
        warned(folder.path(), &source("")),
        ["any-origin", "short-max-age"]
    );
    assert_eq!(
        warned(folder.path(), &source("\"any-origin\"")),
        ["short-max-age"]
    );
    let all = Code::WARNINGS.iter().map(|code| format!("\"{code}\""));
    let all: Vec<String> = all.collect();
    assert!(warned(folder.path(), &source(&all.join(", "))).is_empty());
    for (code, hint) in [
        ("any-origins", "did you mean `\"any-origin\"`?"),
        (
            "dangling",
            "the possible values are: renamed-key, unreachable, ",
        ),
    ] {
        let source = source(&format!("\"{code}\""));
        let report = super::super::parse(&source, Path::new("a.toml"), &|_| None).unwrap_err();
        let error = &report.diagnostics()[0];
        assert_eq!(error.code, Code::Value);
        assert!(error.hint.as_ref().unwrap().starts_with(hint));
    }
}

#[test]
fn listeners_that_fit_neither_their_ports_nor_their_hosts() {
    let mine = "origins = [\"https://a.example\"]";
    let hosts = |hosts: &str| format!("{mine}\nhosts = [{hosts}]");
    let on = |port: &str| format!("bind = [\"0.0.0.0:{port}\"]\n");
    let secure = format!("{}{CERTIFICATE}", on("443"));
    let both = &hosts("\"localhost\", \"a.example\", \"*.b.example\"");
    check(&[
        (&on("443"), mine, "", &["usual-port"]),
        (&format!("{}{BEHIND}", on("443")), mine, "", &[]),
        (
            &format!("{}{CERTIFICATE}", on("80")),
            mine,
            "",
            &["usual-port"],
        ),
        (&secure, mine, "", &[]),
        (&secure, &hosts("\"localhost\""), "", &[]),
        (&secure, &hosts("\"127.0.0.1\", \"[::1]\""), "", &[]),
        (&secure, &hosts("\"a.example\""), "", &["certificate-names"]),
        (
            &secure,
            both,
            "",
            &["certificate-names", "certificate-names"],
        ),
        (&format!("{secure}{BEHIND}"), both, "", &[]),
    ]);
}

#[test]
fn paths_that_look_like_patterns() {
    let path = |path: &str| format!("path = \"{path}\"");
    check(&[
        ("", &path("/a/*"), "", &["path-pattern"]),
        ("", &path("/:room/ws"), "", &["path-pattern"]),
        ("", &path("/rooms/{id}"), "", &["path-pattern"]),
        ("", &path("/a:b"), "", &[]),
        ("", &path("/a{b}"), "", &[]),
        ("", "path_prefix = \"/a/*/b\"", "", &["path-pattern"]),
        ("", "path = \"/a:id/:id\"", "", &["path-pattern"]),
    ]);
}

#[test]
fn clients_that_are_gone_without_a_word() {
    let off = "keepalive = \"off\"";
    let found: &[&str] = &["no-liveness"];
    check(&[
        ("", "timeouts.idle = \"off\"", "", found),
        ("", "timeouts = { idle = \"off\", ping = \"25s\" }", "", &[]),
        (
            "",
            "timeouts = { idle = \"off\", max_age = \"12h\" }",
            "",
            &[],
        ),
        (off, "", "", found),
        (off, "timeouts.ping = \"25s\"", "", &[]),
        ("", "", off, &[]),
        (
            "",
            "timeouts.idle = \"off\"",
            off,
            &["no-liveness", "no-liveness"],
        ),
    ]);
}

#[test]
fn checks_that_last_longer_than_their_interval() {
    let health = |times: &str| format!("health = {{ tcp = {{}}{times} }}");
    check(&[
        ("", "", &health(""), &[]),
        ("", "", &health(", interval = \"1s\""), &["slow-check"]),
        ("", "", &health(", timeout = \"6s\""), &["slow-check"]),
        ("", "", &health(", interval = \"2s\""), &[]),
    ]);
}
