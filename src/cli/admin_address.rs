//! Where the admin interface of a running tidegate is, and connecting to it.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tidegate::admin::default_socket;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::admin_tls::AdminTls;
use super::unreached::Unreached;

/// Where the admin interface is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum AdminAddress {
    /// Where it is unless configured: commands look in the same places as the process.
    #[default]
    Usual,
    /// A unix socket.
    Unix(PathBuf),
    /// A host and a port.
    Tcp(Box<str>),
    /// A host and a port, with TLS.
    Tls(Box<str>),
}

/// A connection to it.
#[derive(Debug)]
pub(super) enum AdminSocket {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AdminAddress {
    /// `unix:/path`, `ADDRESS:PORT`, `https://HOST:PORT`, or nothing for the usual places.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Usual);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err("the path of the socket is missing: use unix:/path".to_owned()),
                false => Ok(Self::Unix(path.into())),
            };
        }
        if text.contains('/') && !text.contains("://") {
            return Err(format!("for a unix socket, use unix:{text}"));
        }
        let secure = text.strip_prefix("https://");
        let address = secure.or(text.strip_prefix("http://")).unwrap_or(text);
        let address = address.strip_suffix('/').unwrap_or(address);
        let parts = address.rsplit_once(':');
        let is_valid = |(host, port): (&str, &str)| {
            !host.is_empty() && !address.contains('/') && port.parse::<u16>().is_ok()
        };
        match parts.is_some_and(is_valid) {
            true if secure.is_some() => Ok(Self::Tls(address.into())),
            true => Ok(Self::Tcp(address.into())),
            false => Err("use unix:/path, ADDRESS:PORT or https://HOST:PORT".to_owned()),
        }
    }

    /// The value of `Host` for requests to it.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Usual | Self::Unix(_) => "localhost",
            Self::Tcp(address) | Self::Tls(address) => address,
        }
    }

    /// Whether requests to it need a token.
    pub(super) fn takes_token(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Tls(_))
    }

    /// Connects to it.
    pub(super) async fn connect(&self, tls: &AdminTls) -> Result<AdminSocket, Unreached> {
        match self {
            Self::Tcp(address) => connect_tcp(address).await.map(AdminSocket::Tcp),
            Self::Tls(address) => {
                let socket = connect_tcp(address).await?;
                let stream = tls.handshake(address, socket).await?;
                Ok(AdminSocket::Tls(Box::new(stream)))
            }
            Self::Unix(path) => match UnixStream::connect(path).await {
                Ok(socket) => Ok(AdminSocket::Unix(socket)),
                Err(error) => Err(unreached(&[(path.clone(), error)])),
            },
            Self::Usual => connect_to_one_of(default_socket::places()).await,
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usual => f.write_str("the admin socket"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
            Self::Tls(address) => write!(f, "https://{address}"),
        }
    }
}

async fn connect_tcp(address: &str) -> Result<TcpStream, Unreached> {
    TcpStream::connect(address).await.map_err(|error| {
        let why = format!("no tidegate responds at {address}: {}", in_words(&error));
        Unreached::checking(why)
    })
}

/// Connects to the first place where a process listens that this user may trust. A command carries no secrets
/// over a unix socket, but its user acts on the response.
async fn connect_to_one_of(places: Vec<PathBuf>) -> Result<AdminSocket, Unreached> {
    let mut failures = Vec::new();
    let mut distrusted = None;
    for place in places {
        let connected = UnixStream::connect(&place).await;
        let peer = connected.and_then(|socket| Ok((socket.peer_cred()?.uid(), socket)));
        match peer {
            Ok((user, socket)) if default_socket::is_trusted(&place, user) => {
                return Ok(AdminSocket::Unix(socket));
            }
            Ok((user, _)) => distrusted = distrusted.or(Some((place, user))),
            Err(error) => failures.push((place, error)),
        }
    }
    let Some((place, user)) = distrusted else {
        return Err(unreached(&failures));
    };
    let place = place.display();
    Err(Unreached {
        why: format!(
            "the process at unix:{place} runs as user {user}, which is neither root nor you: nothing was sent"
        ),
        cure: format!("if you trust it, name it: --admin unix:{place}"),
    })
}

/// Why no unix socket could be used. A place that exists says more than those that do not.
fn unreached(failures: &[(PathBuf, io::Error)]) -> Unreached {
    let is_denied =
        |(_, error): &&(PathBuf, io::Error)| error.kind() == io::ErrorKind::PermissionDenied;
    if let Some((path, _)) = failures.iter().find(is_denied) {
        return denied(path);
    }
    let each = |(path, error): &(PathBuf, io::Error)| {
        format!("unix:{}: {}", path.display(), in_words(error))
    };
    let each: Vec<String> = failures.iter().map(each).collect();
    Unreached::checking(format!(
        "no tidegate responds at {}",
        each.join(", nor at ")
    ))
}

fn denied(path: &Path) -> Unreached {
    let owner = fs::metadata(path).map(|it| format!(" (user {})", it.uid()));
    let owner = owner.unwrap_or_default();
    Unreached {
        why: format!("no permission to connect to unix:{}", path.display()),
        cure: format!(
            "run this command as root or as the owner of the socket{owner}; `mode = \"0660\"` in `[admin]` \
             admits its group, too"
        ),
    }
}

/// The usual errors of a connection, in words for a user of commands.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "no process listens there".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_a_port() {
        let unix = |path: &str| Ok(AdminAddress::Unix(path.into()));
        let tcp = |address: &str| Ok(AdminAddress::Tcp(address.into()));
        let tls = |address: &str| Ok(AdminAddress::Tls(address.into()));
        let wrong = |text: &str| Err(text.to_owned());
        let forms = "use unix:/path, ADDRESS:PORT or https://HOST:PORT";
        for (text, expected) in [
            ("", Ok(AdminAddress::Usual)),
            ("unix:/run/admin.sock", unix("/run/admin.sock")),
            ("unix:admin.sock", unix("admin.sock")),
            ("127.0.0.1:9900", tcp("127.0.0.1:9900")),
            ("http://localhost:9900/", tcp("localhost:9900")),
            ("[::1]:9900", tcp("[::1]:9900")),
            (
                "unix:",
                wrong("the path of the socket is missing: use unix:/path"),
            ),
            (
                "/run/admin.sock",
                wrong("for a unix socket, use unix:/run/admin.sock"),
            ),
            ("localhost", wrong(forms)),
            ("localhost:http", wrong(forms)),
            (":9900", wrong(forms)),
            ("https://a.example:9900", tls("a.example:9900")),
            ("https://[::1]:9900/", tls("[::1]:9900")),
            ("https://a.example", wrong(forms)),
            ("https://a.example:9900/v1", wrong(forms)),
        ] {
            assert_eq!(AdminAddress::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_missing_permission_is_not_a_missing_process() {
        let at = |path: &str, kind: io::ErrorKind| (PathBuf::from(path), io::Error::from(kind));
        let missing = at("/run/tidegate/admin.sock", io::ErrorKind::NotFound);
        let left = at(
            "/run/user/7/tidegate/admin.sock",
            io::ErrorKind::ConnectionRefused,
        );
        let failure = unreached(&[missing, left]);
        assert_eq!(
            failure.why,
            "no tidegate responds at unix:/run/tidegate/admin.sock: there is no such socket, nor at \
             unix:/run/user/7/tidegate/admin.sock: no process listens there"
        );
        assert!(failure.cure.contains("is running"));
        let closed = at("/nonexistent/a.sock", io::ErrorKind::PermissionDenied);
        let missing = at("/x", io::ErrorKind::NotFound);
        let failure = unreached(&[closed, missing]);
        assert_eq!(
            failure.why,
            "no permission to connect to unix:/nonexistent/a.sock"
        );
        assert!(!failure.cure.contains("running"), "{}", failure.cure);
    }
}
