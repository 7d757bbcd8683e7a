//! Publishes and removes the TXT records of dns-01: by the operator's program, or by a service that follows the
//! convention of lego's `httpreq` provider.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request};
use serde::Serialize;

use super::challenge::OpenChallenge;
use super::hook::{HOOK_TIMEOUT, run_hook};
use super::problem::one_line;
use crate::config::model::{DnsMeans, DnsPublisher, Secret};
use crate::https_client::HttpsClient;

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordAction {
    /// Publish it.
    Present,
    /// Remove it.
    Cleanup,
}

impl RecordAction {
    fn word(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Cleanup => "cleanup",
        }
    }
}

#[derive(Serialize)]
struct RecordRequest {
    fqdn: String,
    value: String,
}

/// Publishes or removes the record of a challenge.
///
/// # Errors
/// What went wrong, in one line.
pub(super) async fn change_record(
    publisher: &DnsPublisher,
    client: &HttpsClient,
    action: RecordAction,
    challenge: &OpenChallenge,
) -> Result<(), String> {
    let (name, value) = (challenge.record_name(), challenge.record_value());
    match &publisher.by {
        DnsMeans::Hook(argv) => {
            let own = [action.word().to_owned(), name, value];
            let argv = argv.iter().cloned().chain(own).collect();
            let ended = run_hook(argv, HOOK_TIMEOUT).await;
            ended.map_err(|error| error.to_string())
        }
        DnsMeans::Service { url, credentials } => {
            let body = RecordRequest {
                fqdn: format!("{name}."),
                value,
            };
            ask(
                client,
                &format!("{}/{}", url.trim_end_matches('/'), action.word()),
                credentials.as_ref(),
                &body,
            )
            .await
        }
    }
}

async fn ask(
    client: &HttpsClient,
    url: &str,
    credentials: Option<&(Box<str>, Secret)>,
    body: &RecordRequest,
) -> Result<(), String> {
    let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
    let request = Request::post(url).header(CONTENT_TYPE, "application/json");
    let mut request = request
        .body(Bytes::from(body))
        .map_err(|error| error.to_string())?;
    if let Some((user, password)) = credentials {
        let pair = [user.as_bytes(), b":", password.bytes()].concat();
        let value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(pair)));
        let mut value = value.map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let response = client
        .send(request)
        .await
        .map_err(|error| error.to_string())?;
    if response.status().is_success() {
        return Ok(());
    }
    let said = one_line(String::from_utf8_lossy(response.body()).trim());
    Err(format!("status {}: {said}", response.status().as_u16()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::*;
    use crate::config::model::{ChallengeKind, Roots};
    use crate::upstream::connect::Connector;

    fn challenge() -> OpenChallenge {
        OpenChallenge::new(
            ChallengeKind::Dns01,
            "a.example.com".into(),
            "abc".into(),
            "abc.thumb",
        )
    }

    async fn changed(by: DnsMeans, action: RecordAction) -> Result<(), String> {
        let publisher = DnsPublisher {
            by,
            propagation: Duration::ZERO,
        };
        let roots = Roots::Given(Vec::new());
        let client = HttpsClient::new(Connector::default(), &roots, Arc::default())
            .unwrap()
            .allow_plain();
        change_record(&publisher, &client, action, &challenge()).await
    }

    #[tokio::test]
    async fn a_service_gets_what_lego_would_send() {
        for (action, word, status) in [
            (RecordAction::Present, "present", "200 OK"),
            (RecordAction::Cleanup, "cleanup", "403 No"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/dns/", listener.local_addr().unwrap());
            let service = std::thread::spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    let mut buffer = [0; 1024];
                    let read = socket.read(&mut buffer).unwrap();
                    request.extend(&buffer[..read]);
                }
                write!(socket, "HTTP/1.1 {status}\r\ncontent-length: 3\r\n\r\nfoo").unwrap();
                String::from_utf8(request).unwrap()
            });
            let password = Secret::new(Zeroizing::new(b"pass".to_vec()));
            let by = DnsMeans::Service {
                url: url.into(),
                credentials: Some(("user".into(), password)),
            };
            let result = changed(by, action).await;
            let request = service.join().unwrap();
            assert!(
                request.starts_with(&format!("POST /dns/{word} HTTP/1.1\r\n")),
                "{request}"
            );
            assert!(
                request.contains("authorization: Basic dXNlcjpwYXNz\r\n"),
                "{request}"
            );
            let body = format!(
                r#"{{"fqdn":"_acme-challenge.a.example.com.","value":"{}"}}"#,
                challenge().record_value()
            );
            assert!(request.ends_with(&body), "{request}");
            match action {
                RecordAction::Present => assert_eq!(result, Ok(())),
                RecordAction::Cleanup => assert_eq!(result, Err("status 403: foo".to_owned())),
            }
        }
    }

    #[tokio::test]
    async fn a_hook_gets_action_name_and_value_after_its_own_arguments() {
        let check = r#"[ "$*" = "own present _acme-challenge.a.example.com VALUE" ]"#;
        let check = check.replace("VALUE", &challenge().record_value());
        let argv = ["/bin/sh", "-c", &check, "hook", "own"].map(str::to_owned);
        let hook = DnsMeans::Hook(argv.into());
        assert_eq!(changed(hook.clone(), RecordAction::Present).await, Ok(()));
        let error = changed(hook, RecordAction::Cleanup).await.unwrap_err();
        assert!(error.contains("exit status: 1"), "{error}");
    }
}
