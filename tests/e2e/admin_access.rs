//! Who may use the admin interface for what, and its OpenAPI description.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::admin::api::operation::Operation;
use tidegate::config::model::AdminRole;

use crate::harness::endpoint::Echo;
use crate::harness::operator::{Operator, TOKEN};
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::until;
use crate::harness::wire::Head;

/// The tokens of these tests: one for each role.
const ROLES: [&str; 4] = ["read", "steer", "revoke", "all"];

/// Configures the admin interface with a token for each role, and this line.
fn with_roles(line: &str) -> String {
    let tokens = ROLES.map(|role| {
        format!("{{ name = \"{role}-token\", file = \"{role}.token\", role = \"{role}\" }}")
    });
    let tokens = tokens.join(", ");
    format!("[admin]\nbind = \"127.0.0.1:0\"\n{line}\ntokens = [{tokens}]\n")
}

fn token_of(role: &str) -> String {
    format!("{role}-{TOKEN}")
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// A folder with the files of these tokens.
fn folder_with_roles() -> TempDir {
    let folder = TempDir::new().unwrap();
    for role in ROLES {
        let path = folder.path().join(format!("{role}.token"));
        write_private(&path, &token_of(role));
    }
    folder
}

async fn start_with_roles(line: &str) -> (Echo, Proxy, Operator) {
    let echo = Echo::start("echo").await;
    let json = "[server]\nlog.format = \"json\"\n";
    let config = [json, &with_roles(line), &simple(&[echo.address])].concat();
    let proxy = Proxy::start_in(folder_with_roles(), &config).await;
    let operator = Operator::of(&proxy).await;
    (echo, proxy, operator)
}

/// The head and the body of the response to a request without a body.
async fn ask(operator: &Operator, method: &str, path: &str, token: Option<&str>) -> (Head, Value) {
    let host = operator.address();
    let token = token.map(|it| format!("Authorization: Bearer {it}\r\n"));
    let token = token.unwrap_or_default();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{token}Content-Length: 0\r\n\r\n");
    operator.raw(&request).await
}

#[tokio::test]
async fn over_tcp_everything_needs_the_token_and_host_names_are_refused() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let host = operator.address().to_owned();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let status = |path: &'static str, fields: String| {
        let (operator, method) = (&operator, if path == "/v1/reload" { "POST" } else { "GET" });
        async move {
            let request = format!("{method} {path} HTTP/1.1\r\n{fields}Content-Length: 0\r\n\r\n");
            operator.raw(&request).await.0.status()
        }
    };
    for path in ["/v1/status", "/v1/reload"] {
        let right = format!("Host: {host}\r\n{bearer}");
        assert_eq!(status(path, right.clone()).await, 200);
        let named = format!("Host: attacker.example\r\n{bearer}");
        assert_eq!(status(path, named).await, 403);
        let evil = format!("{right}Origin: http://attacker.example\r\n");
        assert_eq!(status(path, evil).await, 403);
        assert_eq!(status(path, format!("Host: {host}\r\n")).await, 401);
        let wrong = format!("Host: {host}\r\nAuthorization: Bearer {TOKEN}x\r\n");
        assert_eq!(status(path, wrong).await, 401);
    }
    let (head, _) = ask(&operator, "GET", "/v1/status", None).await;
    assert_eq!(head.value("www-authenticate"), Some("Bearer"));
    // Without a token there is not even an answer to what exists.
    let (head, _) = ask(&operator, "GET", "/v1/secret", None).await;
    assert_eq!(head.status(), 401);
    let refused = proxy.logged("admin request refused").await;
    assert_eq!(refused["status"], 403, "the first was that of another host");
    assert!(refused["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    // One line for the many attempts of one address.
    assert_eq!(
        proxy.log().text().matches("admin request refused").count(),
        1
    );
    assert!(!proxy.log().text().contains(TOKEN), "no token in the log");
}

#[tokio::test]
async fn every_operation_has_a_role_and_open_reading_opens_no_more() {
    let (_echo, _proxy, operator) = start_with_roles("read = \"open\"").await;
    let mut changing = 0;
    for operation in Operation::ALL {
        let (method, path) = (operation.method(), operation.path());
        let (head, answer) = ask(&operator, method.as_str(), path, None).await;
        let needs_token =
            operation.changes() || operation.is_expensive() || operation.is_internal();
        assert_eq!(
            head.status() == 401,
            needs_token,
            "{method} {path}: {answer}"
        );
        changing += usize::from(operation.changes());
        if method == "GET" {
            assert!(!operation.changes(), "{path}");
        }
        let other = if method == "GET" { "DELETE" } else { "GET" };
        let (head, _) = ask(&operator, other, path, None).await;
        assert_eq!(
            (head.status(), head.value("allow")),
            (405, Some(method.as_str())),
            "{path}"
        );
    }
    assert_eq!(changing, 14);
    let (head, _) = ask(&operator, "GET", "/v1/status", Some("unknown")).await;
    assert_eq!(head.status(), 401, "a wrong token is not the same as none");
}

#[tokio::test]
async fn a_role_allows_its_operations_and_no_others() {
    let (_echo, proxy, operator) = start_with_roles("").await;
    for operation in Operation::ALL {
        // It would end this process.
        if *operation == Operation::Upgrade {
            continue;
        }
        let (method, path) = (operation.method(), operation.path());
        for name in ROLES {
            let allowed = match name {
                _ if operation.is_internal() => false,
                "read" => operation.role() == AdminRole::Read,
                "steer" => matches!(operation.role(), AdminRole::Read | AdminRole::Steer),
                "revoke" => operation.role() == AdminRole::Revoke,
                _ => true,
            };
            let token = token_of(name);
            let (head, answer) = ask(&operator, method.as_str(), path, Some(&token)).await;
            assert_eq!(
                head.status() != 403,
                allowed,
                "{name}: {method} {path}: {answer}"
            );
            if !allowed {
                let error = answer["error"].as_str().unwrap();
                for part in [
                    &format!("`{name}-token`"),
                    &format!("the role `{name}`"),
                    path,
                ] {
                    assert!(error.contains(part), "{part}: {error}");
                }
            }
        }
    }
    assert!(!proxy.log().text().contains(TOKEN), "no token in the log");
}

/// A request for each operation that changes something; the status of its response, and how much it affects
/// while there is one tunnel.
fn changes(endpoint: &str) -> Vec<(Operation, Value, u16, Option<u64>)> {
    // No token allows the internal ones.
    let changing = |it: &&Operation| it.changes() && !it.is_internal();
    let changing = Operation::ALL.iter().filter(changing);
    let change = |operation: &Operation| {
        let (body, status, affected) = match operation {
            Operation::DrainListener | Operation::UndrainListener => {
                (json!({ "listener": "main" }), 200, Some(1))
            }
            Operation::DrainEndpoint | Operation::UndrainEndpoint => {
                (json!({ "endpoint": endpoint }), 200, Some(1))
            }
            Operation::WeighEndpoint => {
                (json!({ "endpoint": endpoint, "weight": 2 }), 200, Some(1))
            }
            Operation::CloseTunnels => (json!({ "filter": { "route": "main" } }), 200, Some(1)),
            Operation::Revoke => (json!({ "subject": "me" }), 200, Some(0)),
            Operation::ExtendTunnel => (
                json!({ "id": "00000000000000ff", "expires_in": "10m" }),
                404,
                None,
            ),
            Operation::StopClosing => (json!({ "job": 77 }), 404, None),
            Operation::RenewCertificate | Operation::TryCertificate => {
                (json!({ "name": "chat.example.com" }), 404, None)
            }
            Operation::Reload => (json!({ "force": true }), 200, None),
            // Over TCP no binary may be named, and this process goes on.
            Operation::Upgrade => (json!({ "binary": "/bin/true" }), 400, None),
            other => panic!("no request for {other:?}"),
        };
        (*operation, body, status, affected)
    };
    changing.map(change).collect()
}

/// The least role that may carry out a change.
fn role_of(operation: Operation) -> &'static str {
    match operation.role() {
        AdminRole::Revoke => "revoke",
        _ => "steer",
    }
}

#[tokio::test]
async fn every_change_has_an_audit_line_and_so_has_every_refusal() {
    let (echo, proxy, operator) = start_with_roles("").await;
    let _held = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    let changes = changes(&echo.address.to_string());
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (operation, body, status, affected) in &changes {
        let path = operation.path();
        let (given, answer) = operator.post_as(&token_of("read"), path, body).await;
        assert_eq!(given, 403, "{answer}");
        let role = role_of(*operation);
        let (given, answer) = operator.post_as(&token_of(role), path, body).await;
        assert_eq!(given, *status, "{path}: {answer}");
        let expected = (*operation, body.clone(), *status, *affected);
        match given {
            200 => done.push(expected),
            _ => failed.push(expected),
        }
    }
    let refused = proxy.logged_times("audit: refused", changes.len()).await;
    for (line, (operation, ..)) in refused.iter().zip(&changes) {
        assert_eq!(line["operation"], format!("POST {}", operation.path()));
        assert_eq!(
            (&line["operator"], &line["status"]),
            (&json!("read-token"), &json!(403))
        );
        assert!(
            line["error"].as_str().unwrap().contains("the role `read`"),
            "{line}"
        );
    }
    for (message, expected) in [
        ("audit: carried out", done),
        ("audit: not carried out", failed),
    ] {
        let written = proxy.logged_times(message, expected.len()).await;
        for (line, (operation, body, status, affected)) in written.iter().zip(expected) {
            let token = format!("{}-token", role_of(operation));
            assert_eq!(line["operator"], token, "{line}");
            let operation = format!("POST {}", operation.path());
            assert!(
                line["from"].as_str().unwrap().starts_with("127.0.0.1:"),
                "{line}"
            );
            let arguments: Value =
                serde_json::from_str(line["arguments"].as_str().unwrap()).unwrap();
            assert_eq!((&line["operation"], &arguments), (&json!(operation), &body));
            assert_eq!(
                (&line["status"], line["affected"].as_u64()),
                (&json!(status), affected),
                "{line}"
            );
            assert_eq!(line["error"].is_string(), status != 200, "{line}");
        }
    }
    // Reading has none.
    operator.get_as(&token_of("all"), "/v1/status").await;
    assert_eq!(
        proxy.log().text().matches("audit: ").count(),
        2 * changes.len()
    );
    assert!(!proxy.log().text().contains(TOKEN), "no token in the log");
}

#[tokio::test]
async fn over_the_socket_the_audit_line_names_user_and_process() {
    let echo = Echo::start("echo").await;
    let folder = TempDir::new().unwrap();
    let config = format!(
        "[server]\nlog.format = \"json\"\n[admin]\nbind = \"unix:{}/admin.sock\"\n{}",
        folder.path().display(),
        simple(&[echo.address])
    );
    let proxy = Proxy::start_in(folder, &config).await;
    let mut wire = proxy.connect_unix("admin.sock").await;
    wire.send("POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(wire.head().await.status(), 200);
    let line = proxy.logged("audit: carried out").await;
    let user = std::fs::metadata("/proc/self").unwrap().uid();
    assert_eq!(line["operator"], format!("uid:{user}"));
    assert_eq!(
        (&line["from"], &line["pid"]),
        (&json!("unix"), &json!(std::process::id()))
    );
}

#[tokio::test]
async fn a_new_token_in_a_file_is_applied_and_the_old_one_ends() {
    let (_echo, proxy, operator) = start_with_roles("").await;
    let (old, new) = (token_of("read"), format!("new-{TOKEN}"));
    let status = async |token: &str| {
        let (head, _) = ask(&operator, "GET", "/v1/status", Some(token)).await;
        head.status()
    };
    assert_eq!((status(&old).await, status(&new).await), (200, 401));
    write_private(&proxy.folder().join("read.token"), &new);
    proxy.logged("configuration reloaded").await;
    assert_eq!((status(&old).await, status(&new).await), (401, 200));
}

#[tokio::test]
async fn without_a_token_nothing_is_allowed_over_tcp_but_open_reading() {
    let echo = Echo::start("echo").await;
    for (line, reading) in [("", 403), ("read = \"open\"\n", 200)] {
        let config = format!(
            "[admin]\nbind = \"127.0.0.1:0\"\n{line}{}",
            simple(&[echo.address])
        );
        let proxy = Proxy::start(&config).await;
        let operator = Operator::of(&proxy).await;
        let (head, answer) = ask(&operator, "GET", "/v1/status", None).await;
        assert_eq!(head.status(), reading, "{answer}");
        let (status, refused) = operator.post("/v1/reload", &json!({})).await;
        assert_eq!(status, 403);
        assert!(refused["error"].as_str().unwrap().contains("admin.tokens"));
    }
}

#[tokio::test]
async fn a_unix_socket_is_its_owners_alone_and_goes_with_the_process() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("admin.sock");
    let echo = Echo::start("echo").await;
    let config = format!(
        "[admin]\nbind = \"unix:{}\"\n{}",
        path.display(),
        simple(&[echo.address])
    );
    let mut proxy = Proxy::start_in(folder, &config).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut wire = proxy.connect_unix("admin.sock").await;
    wire.send("POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(wire.head().await.status(), 200);
    drop(wire);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit().await, 0);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_process_does_not_start_without_its_admin_socket() {
    let echo = Echo::start("echo").await;
    let config =
        "[admin]\nbind = \"unix:/nonexistent/admin.sock\"\n".to_owned() + &simple(&[echo.address]);
    let mut proxy = Proxy::spawn(
        std::sync::Arc::new(TempDir::new().unwrap()),
        &config,
        |_| {},
    );
    assert_eq!(proxy.exit().await, 3);
    until("the reason", || {
        proxy.log().text().contains("/nonexistent/admin.sock")
    })
    .await;
}

#[tokio::test]
async fn the_description_has_every_operation_and_answers_are_as_described() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let _held = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    let described = operator.get("/v1/openapi.json").await;
    for operation in Operation::ALL {
        let method = operation.method().as_str().to_ascii_lowercase();
        let schema = &described["paths"][operation.path()][&method]["responses"]["200"]["content"]
            ["application/json"]["schema"];
        assert!(schema.is_object(), "{operation:?}");
        let endpoint = echo.address.to_string();
        let body = match operation {
            Operation::Explain => {
                json!({ "url": "ws://chat.example.com/chat", "listener": "main" })
            }
            Operation::CloseTunnels => json!({ "all": true, "dry_run": true }),
            // There is no job to stop; that error has a test of its own.
            Operation::StopClosing => continue,
            // There is no authority; `issued` has a test of them.
            Operation::RenewCertificate | Operation::TryCertificate => continue,
            // `bound_tunnels` has a test of it.
            Operation::ExtendTunnel => continue,
            // This node is not one of a fleet; `fleet` has tests of it.
            Operation::Fleet => continue,
            // They are not for operators; `shared_limits` has tests of older generations.
            it if it.is_internal() => continue,
            Operation::Revoke => json!({ "subject": "me" }),
            Operation::Reload | Operation::Upgrade => json!({}),
            Operation::DrainListener | Operation::UndrainListener => json!({ "listener": "main" }),
            _ => json!({ "endpoint": endpoint }),
        };
        let answer = match method.as_str() {
            "get" => operator.get(operation.path()).await,
            _ => {
                let (status, answer) = operator.post(operation.path(), &body).await;
                assert_eq!(status, 200, "{operation:?}: {answer}");
                answer
            }
        };
        assert!(
            fits(&answer, schema, &described),
            "{operation:?}: {answer}\n{schema}"
        );
    }
    let wrong = json!({ "version": 1 });
    let schema = json!({ "$ref": "#/components/schemas/StatusInfo" });
    assert!(!fits(&wrong, &schema, &described));
}

/// Whether a value fits a schema. Supports what the description uses: references, types, properties,
/// required ones, items and alternatives.
fn fits(value: &Value, schema: &Value, root: &Value) -> bool {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#')).unwrap();
        return fits(value, target, root);
    }
    if let Some(alternatives) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        return alternatives.iter().any(|it| fits(value, it, root));
    }
    if schema.get("const").is_some_and(|it| it != value) {
        return false;
    }
    if let Some(names) = schema["enum"].as_array() {
        return names.contains(value);
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        _ => value.is_null(),
    };
    let kinds_fit = match &schema["type"] {
        Value::String(kind) => is(kind),
        Value::Array(kinds) => kinds.iter().any(|kind| is(kind.as_str().unwrap())),
        _ => true,
    };
    let required = schema["required"].as_array().into_iter().flatten();
    let has_required = value.as_object().is_none_or(|object| {
        required
            .map(|it| it.as_str().unwrap())
            .all(|name| object.contains_key(name))
    });
    let properties = schema["properties"].as_object();
    let properties_fit = value.as_object().is_none_or(|object| {
        object.iter().all(|(name, value)| match properties {
            Some(known) => known.get(name).is_some_and(|it| fits(value, it, root)),
            None => true,
        })
    });
    let items_fit = value.as_array().is_none_or(|items| {
        schema
            .get("items")
            .is_none_or(|schema| items.iter().all(|it| fits(it, schema, root)))
    });
    kinds_fit && has_required && properties_fit && items_fit
}
