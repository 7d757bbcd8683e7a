//! What an operator does: asks the interface, and types commands.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use super::proxy::Proxy;
use super::wire::{Head, Wire};
use super::within;

/// Serves operators on any port.
pub(crate) const ADMIN: &str = "[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"\n";

/// What is in that file.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Who steers a running proxy.
pub(crate) struct Operator {
    address: String,
    token_file: String,
}

/// Writes the token's file.
pub(crate) fn write_token(folder: &Path) {
    let path = folder.join("admin.token");
    std::fs::write(&path, TOKEN).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// What a command has printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

impl Operator {
    /// Runs with this configuration, and whatever an operator needs.
    pub(crate) async fn start(config: &str) -> (Proxy, Self) {
        let folder = tempfile::TempDir::new().unwrap();
        write_token(folder.path());
        let proxy = Proxy::start_in(folder, &(ADMIN.to_owned() + config)).await;
        let operator = Self::of(&proxy).await;
        (proxy, operator)
    }

    /// Of a running proxy.
    pub(crate) async fn of(proxy: &Proxy) -> Self {
        let logged = proxy.logged("serving the admin interface").await;
        Self {
            address: logged["address"].as_str().unwrap().to_owned(),
            token_file: proxy.folder().join("admin.token").display().to_string(),
        }
    }

    /// Where it is served.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request as it is.
    pub(crate) async fn raw(&self, request: &str) -> (Head, Value) {
        let mut wire = Wire::connect(self.address.parse().unwrap()).await;
        wire.send(request).await;
        let (head, body) = wire.reply().await;
        (head, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// What a reload would change.
    pub(crate) async fn plan(&self) -> Value {
        self.get("/v1/reload/plan").await
    }

    /// Asks for something that is there.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let address = &self.address;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        );
        let (head, answer) = self.raw(&request).await;
        assert_eq!(head.status(), 200, "{path}: {answer}");
        answer
    }

    /// Has something done: the status, and the answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (address, body) = (&self.address, body.to_string());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (head, answer) = self.raw(&request).await;
        (head.status(), answer)
    }

    /// Types a command.
    pub(crate) async fn types(&self, words: &[&str]) -> Printed {
        command(words, &self.address, Some(&self.token_file)).await
    }
}

/// Runs the program like this, against what is served at `admin`.
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
