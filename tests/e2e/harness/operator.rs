//! An operator: requests to the admin interface, and commands.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use super::proxy::Proxy;
use super::wire::{Head, Wire};
use super::within;

/// Configures the admin interface on any free port.
pub(crate) const ADMIN: &str = "[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"\n";

/// Configures the admin interface and metrics, each on any free port.
pub(crate) const ADMIN_AND_METRICS: &str = "[admin]\nbind = \"127.0.0.1:0\"\n\
    token_file = \"admin.token\"\nmetrics_bind = \"127.0.0.1:0\"\n";

/// The content of the token file.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// An operator of a running proxy.
pub(crate) struct Operator {
    address: String,
    token_file: String,
}

/// A configuration with an admin interface and with `server`, for upgrades.
pub(crate) fn upgradable(server: &str, rest: &str) -> String {
    format!("[server]\nworkers = 2\nlog.format = \"json\"\n{server}\n{ADMIN}{rest}")
}

/// Writes the token file.
pub(crate) fn write_token(folder: &Path) {
    let path = folder.join("admin.token");
    std::fs::write(&path, TOKEN).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// The output of a command, and its exit code.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

impl Operator {
    /// Starts a proxy with this configuration and an admin interface.
    pub(crate) async fn start(config: &str) -> (Proxy, Self) {
        Self::start_whole(&(ADMIN.to_owned() + config)).await
    }

    /// Starts a proxy with this configuration, which has an admin interface.
    pub(crate) async fn start_whole(config: &str) -> (Proxy, Self) {
        let folder = tempfile::TempDir::new().unwrap();
        write_token(folder.path());
        let proxy = Proxy::start_in(folder, config).await;
        let operator = Self::of(&proxy).await;
        (proxy, operator)
    }

    /// The operator of a running proxy.
    pub(crate) async fn of(proxy: &Proxy) -> Self {
        let logged = proxy.logged("serving the admin interface").await;
        Self {
            address: logged["address"].as_str().unwrap().to_owned(),
            token_file: proxy.folder().join("admin.token").display().to_string(),
        }
    }

    /// The address of the admin interface.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The file of the token.
    pub(crate) fn token_file(&self) -> &str {
        &self.token_file
    }

    /// Sends a request verbatim.
    pub(crate) async fn raw(&self, request: &str) -> (Head, Value) {
        let mut wire = Wire::connect(self.address.parse().unwrap()).await;
        wire.send(request).await;
        let (head, body) = wire.reply().await;
        (head, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// The changes that a reload would make.
    pub(crate) async fn plan(&self) -> Value {
        self.get("/v1/reload/plan").await
    }

    /// What would happen to this request, which has to be a valid one.
    pub(crate) async fn explain(&self, request: Value) -> Value {
        let (status, explained) = self.post("/v1/explain", &request).await;
        assert_eq!(status, 200, "{explained}");
        explained
    }

    /// GET: the body of the response, whose status has to be 200.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.get_as(TOKEN, path).await
    }

    /// The same with this token.
    pub(crate) async fn get_as(&self, token: &str, path: &str) -> Value {
        let address = &self.address;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let (head, answer) = self.raw(&request).await;
        assert_eq!(head.status(), 200, "{path}: {answer}");
        answer
    }

    /// POST: the status and the body of the response.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_as(TOKEN, path, body).await
    }

    /// The same with this token.
    pub(crate) async fn post_as(&self, token: &str, path: &str, body: &Value) -> (u16, Value) {
        let (address, body) = (&self.address, body.to_string());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (head, answer) = self.raw(&request).await;
        (head.status(), answer)
    }

    /// Runs a command against the proxy.
    pub(crate) async fn run(&self, words: &[&str]) -> Printed {
        command(words, &self.address, Some(&self.token_file)).await
    }
}

/// Runs the program with these arguments, against the admin interface at `admin`.
pub(crate) async fn command(words: &[&str], admin: &str, token_file: Option<&str>) -> Printed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(words).env("TIDEGATE_ADMIN", admin);
    if let Some(file) = token_file {
        command.env("TIDEGATE_TOKEN_FILE", file);
    }
    let output = within("a command", command.output()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Printed {
        out: text(&output.stdout),
        err: text(&output.stderr),
        code: output.status.code().unwrap(),
    }
}
