//! How much memory does tidegate keep for a tunnel whose identity is checked again, and for a key of a shared limit?

use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::rig::client::{Client, Tunnel};
use super::scenario::{AT_ONCE, Results, settle};
use super::target::Target;
use super::{measure, service};

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holding {
    /// Tunnels alone, to compare the others with.
    Tunnels,
    /// Tunnels of clients that a service knows, each under another name.
    Identities,
    /// The same, and the service is asked about them again.
    Rechecks,
    /// Tunnels that count against a shared limit, each for a key of its own.
    LimitedTunnels,
    /// Keys that have used up some of their rate and have no tunnels.
    Keys,
}

/// The number of tunnels: as many as clients and endpoints can have in one process with 20,000 descriptors.
const TUNNELS: usize = 8000;

const KEYS: usize = 200_000;

/// What the first ones allocate and all share is not part of the cost of one.
const FIRST: usize = 200;

impl Holding {
    pub(crate) const ALL: [Self; 5] = [
        Self::Tunnels,
        Self::Identities,
        Self::Rechecks,
        Self::LimitedTunnels,
        Self::Keys,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tunnels => "8000 tunnels",
            Self::Identities => "8000 tunnels of a service",
            Self::Rechecks => "8000 tunnels of a service with recheck",
            Self::LimitedTunnels => "8000 tunnels with keys of a shared limit",
            Self::Keys => "200,000 keys of a shared limit",
        }
    }

    pub(crate) fn count(self) -> usize {
        match self {
            Self::Keys => KEYS,
            _ => TUNNELS,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Tunnels => "/echo",
            Self::Identities => "/service",
            Self::Rechecks => "/recheck",
            Self::LimitedTunnels => "/tunnels",
            Self::Keys => "/rate",
        }
    }
}

/// Runs the measurement.
pub(crate) async fn measure(
    target: &Target,
    client: &Client,
    of: Holding,
    count: usize,
) -> Results {
    target
        .reload_with(&config(&service::start().to_string()))
        .await;
    let mut held = keep(client, of, 0, FIRST).await;
    settle().await;
    let before = measure::memory(target.pid());
    held.extend(keep(client, of, FIRST, count).await);
    settle().await;
    let kept = measure::memory(target.pid()).saturating_sub(before);
    drop(held);
    vec![("bytes each", kept as f64 / count as f64)]
}

/// Opens a tunnel for each of `count` clients, or sends one plain request for each. Returns the tunnels.
async fn keep(client: &Client, of: Holding, first: usize, count: usize) -> Vec<Tunnel> {
    let tasks: Vec<JoinHandle<Vec<Tunnel>>> = (0..AT_ONCE)
        .map(|task| {
            let client = client.clone();
            let numbers = (first + task..first + count).step_by(AT_ONCE);
            tokio::task::spawn_local(async move {
                match of {
                    Holding::Keys => {
                        request_all(&client, of.path(), numbers).await;
                        Vec::new()
                    }
                    _ => open_all(&client, of.path(), numbers).await,
                }
            })
        })
        .collect();
    let mut tunnels = Vec::with_capacity(count);
    for task in tasks {
        tunnels.extend(task.await.unwrap());
    }
    tunnels
}

/// The fields of one client: what a browser sends to a service, and its key.
fn fields(number: usize) -> Rc<str> {
    format!("Cookie: user-{number:09}\r\nX-Key: key-{number:09}\r\n").into()
}

async fn open_all(
    client: &Client,
    path: &str,
    numbers: impl Iterator<Item = usize>,
) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    for number in numbers {
        let tunnel = client.try_open_with(path, &fields(number)).await;
        tunnels.push(tunnel.unwrap());
    }
    tunnels
}

/// One plain request for each, over one connection.
async fn request_all(client: &Client, path: &str, numbers: impl Iterator<Item = usize>) {
    let mut stream = client.connect().await.unwrap();
    let mut head = Vec::new();
    for number in numbers {
        let fields = fields(number);
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0);
        }
        assert!(head.starts_with(b"HTTP/1.1 200 "), "{head:?}");
    }
}

fn config(service: &str) -> String {
    let auth = |name: &str, recheck: &str| {
        format!(
            "[auth.{name}]\n{recheck}\nservice = {{ upstream = \"service\", path = \"/\", \
             request_headers = [\"cookie\"], response_headers = [\"remote-user\"], \
             subject_header = \"remote-user\" }}\n\
             [[route]]\npath_prefix = \"/{name}\"\nupstream = \"backend\"\nauth = \"{name}\"\n"
        )
    };
    let limit = |name: &str, upstream: &str, limits: &str| {
        format!(
            "[limit.{name}]\nkey = {{ header = \"x-key\" }}\n{limits}\n\
             [[route]]\npath_prefix = \"/{name}\"\nupstream = \"{upstream}\"\n\
             limits.shared = [\"{name}\"]\n"
        )
    };
    [
        auth("service", ""),
        // Longer than the measurement: it is about what is kept, not about what is asked.
        auth("recheck", "recheck = \"10m\""),
        limit("tunnels", "backend", "tunnels = 10"),
        limit(
            "rate",
            "service",
            "requests = { rate = \"1/h\", burst = 10 }",
        ),
        format!("[upstream.service]\nendpoints = [\"{service}\"]\n"),
    ]
    .concat()
}
