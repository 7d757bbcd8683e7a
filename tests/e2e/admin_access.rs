//! Who may use the admin interface for what, and its OpenAPI description.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::admin::api::operation::Operation;

use crate::harness::endpoint::Echo;
use crate::harness::operator::{Operator, TOKEN};
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::until;

#[tokio::test]
async fn over_tcp_changes_need_the_token_and_host_names_are_refused() {
    let echo = Echo::start("echo").await;
    let (_proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let host = operator.address().to_owned();
    let status = |method: &'static str, fields: String| {
        let operator = &operator;
        async move {
            let path = if method == "GET" {
                "/v1/status"
            } else {
                "/v1/reload"
            };
            let request = format!("{method} {path} HTTP/1.1\r\n{fields}Content-Length: 0\r\n\r\n");
            operator.raw(&request).await.0.status()
        }
    };
    assert_eq!(status("GET", format!("Host: {host}\r\n")).await, 200);
    assert_eq!(
        status("GET", "Host: attacker.example\r\n".into()).await,
        403
    );
    let evil = format!("Host: {host}\r\nOrigin: http://attacker.example\r\n");
    assert_eq!(status("GET", evil).await, 403);
    assert_eq!(status("POST", format!("Host: {host}\r\n")).await, 401);
    let wrong = format!("Host: {host}\r\nAuthorization: Bearer {TOKEN}x\r\n");
    assert_eq!(status("POST", wrong).await, 401);
    let right = format!("Host: {host}\r\nAuthorization: Bearer {TOKEN}\r\n");
    assert_eq!(status("POST", right).await, 200);
}

#[tokio::test]
async fn every_operation_that_changes_something_needs_the_token() {
    let echo = Echo::start("echo").await;
    let (_proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let host = operator.address();
    let mut guarded = 0;
    for operation in Operation::ALL {
        let (method, path) = (operation.method(), operation.path());
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        let (head, answer) = operator.raw(&request).await;
        assert_eq!(
            head.status() == 401,
            operation.needs_token(),
            "{method} {path}: {answer}"
        );
        guarded += usize::from(operation.needs_token());
        let other = if method == "GET" { "DELETE" } else { "GET" };
        let request =
            format!("{other} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        let (head, _) = operator.raw(&request).await;
        assert_eq!(
            (head.status(), head.value("allow")),
            (405, Some(method.as_str())),
            "{path}"
        );
    }
    assert_eq!(guarded, 12);
}

#[tokio::test]
async fn without_a_token_there_are_no_changes_over_tcp() {
    let echo = Echo::start("echo").await;
    let config = "[admin]\nbind = \"127.0.0.1:0\"\n".to_owned() + &simple(&[echo.address]);
    let proxy = Proxy::start(&config).await;
    let operator = Operator::of(&proxy).await;
    assert_eq!(operator.post("/v1/reload", &json!({})).await.0, 403);
    assert_eq!(operator.get("/v1/status").await["state"], "serving");
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
