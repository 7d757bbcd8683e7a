//! A tidegate with a route on which a service decides about requests.

use tempfile::TempDir;

use super::endpoint::Endpoint;
use super::operator::write_token;
use super::proxy::Proxy;
use super::scrape::METRICS;
use super::wire::{Head, Wire, handshake_with};

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

pub(crate) const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// A tidegate with a service, and two upstreams.
pub(crate) struct Guarded {
    pub(crate) proxy: Proxy,
    pub(crate) service: Endpoint,
    pub(crate) app: Endpoint,
    pub(crate) other: Endpoint,
}

impl Guarded {
    /// With these settings of the service, of `[auth.sso]` and of the guarded route.
    pub(crate) async fn start(settings: &str, auth: &str, route: &str) -> Self {
        let [service, app, other] = [
            Endpoint::bind().await,
            Endpoint::bind().await,
            Endpoint::bind().await,
        ];
        let separator = if settings.is_empty() { "" } else { ", " };
        let config = format!(
            // One worker: idle connections and verdicts are not shared.
            "[server]\nworkers = 1\nrequest_id = \"x-request-id\"\nlog = {{ format = \"json\", level = \"debug\" }}\n\
             {METRICS}bind = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"\n\
             [listener.main]\nbind = [\"127.0.0.1:0\"]\n\
             [auth.sso]\n{auth}\n\
             service = {{ upstream = \"sso\", path = \"/verify?from=tidegate\"{separator}{settings} }}\n\
             [[route]]\nname = \"guarded\"\npath_prefix = \"/app/admin\"\nupstream = \"app\"\nauth = \"sso\"\n{route}\n\
             [[route]]\nname = \"open\"\npath_prefix = \"/app\"\nupstream = \"app\"\n\
             [[route]]\nname = \"other\"\npath_prefix = \"/other\"\nupstream = \"other\"\n\
             [upstream.sso]\nendpoints = [\"{}\"]\n\
             [upstream.app]\nendpoints = [\"{}\"]\n\
             [upstream.other]\nendpoints = [\"{}\"]\n",
            service.address, app.address, other.address
        );
        let folder = TempDir::new().unwrap();
        write_token(folder.path());
        Self {
            proxy: Proxy::start_in(folder, &config).await,
            service,
            app,
            other,
        }
    }

    /// Sends a request, and returns what the service is asked about it.
    pub(crate) async fn ask(&self, request: &str) -> (Wire, Wire, Head) {
        let mut client = self.proxy.connect().await;
        client.send(request).await;
        let (service, asked) = self.service.request().await;
        (client, service, asked)
    }

    /// Sends a request that the service answers with this, and that is not let in.
    pub(crate) async fn refused(&self, request: &str, answer: &str) -> (Head, String) {
        let (mut client, mut service, _) = self.ask(request).await;
        service.send(answer).await;
        client.reply().await
    }

    /// Sends a request that the service answers with this, and returns what the endpoint gets.
    pub(crate) async fn admitted(&self, request: &str, answer: &str) -> (Wire, Wire, Head) {
        let (client, mut service, _) = self.ask(request).await;
        service.send(answer).await;
        let (app, head) = self.app.request().await;
        (client, app, head)
    }
}

pub(crate) fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example.com\r\n{fields}\r\n")
}

pub(crate) fn to_guarded(fields: &str) -> String {
    get("/app/admin", fields)
}

pub(crate) fn handshake(fields: &str) -> String {
    handshake_with(fields)
        .replace("/chat", "/app/admin")
        .replace("chat.example.com", "a.example.com")
}

/// The lines of a head, in lower case and in order.
pub(crate) fn lines(head: &Head) -> Vec<String> {
    let lines = head.0.lines().filter(|line| !line.is_empty());
    let mut lines: Vec<_> = lines.map(str::to_ascii_lowercase).collect();
    lines.sort();
    lines
}

/// Every value that a head has under a name, as servers see it that take an underscore for a dash.
pub(crate) fn values(head: &Head, name: &str) -> Vec<String> {
    let lines = head.0.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(field, _)| field.to_ascii_lowercase().replace('_', "-") == name)
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

/// What clients may try to tell a service or an endpoint, in many spellings.
pub(crate) const LIES: &str = "X-Forwarded-Method: HEAD\r\n\
    X-Forwarded-Uri: /app\r\n\
    x_forwarded_uri: /app\r\n\
    X-Forwarded_Uri: /app\r\n\
    X-Forwarded-For: 6.6.6.6\r\n\
    X_Forwarded_For: 6.6.6.6\r\n\
    X-Forwarded-Host: evil\r\n\
    X-Forwarded-Proto: https\r\n\
    X-Original-Url: /app\r\n\
    Forwarded: for=6.6.6.6\r\n\
    X-Real-Ip: 6.6.6.6\r\n\
    Remote-User: admin\r\n\
    remote_user: admin\r\n\
    REMOTE-USER: root\r\n\
    Remote_Groups: admins\r\n\
    rEmote-groUps: admins\r\n";
