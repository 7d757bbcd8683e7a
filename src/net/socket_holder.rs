//! Which process has an address: the kernel's tables in `/proc` know the owner of each socket, and the
//! processes of this user, or all of them for the superuser, show which sockets they have open.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::model::Bind;
use crate::config::user_name;

/// At most this many descriptors of other processes are looked at.
const MAX_DESCRIPTORS: usize = 200_000;

/// What is known about the process that has a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SocketHolder {
    /// The name of the process, and its id.
    Process(String, u32),
    /// Only the name of its user is known.
    User(String),
}

impl fmt::Display for SocketHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(name, pid) => write!(f, "`{name}` (process {pid})"),
            Self::User(name) => write!(f, "a process of user {name}"),
        }
    }
}

/// A listening socket in the tables of the kernel.
#[derive(Debug, PartialEq, Eq)]
struct ListeningEntry {
    inode: u64,
    /// Unknown for unix sockets.
    uid: Option<u32>,
}

/// The process that listens on `bind` or an address that overlaps it; `None` if that cannot be known.
pub(super) fn of(bind: &Bind) -> Option<SocketHolder> {
    let entry = match bind {
        Bind::Tcp(address) => {
            let file = match address {
                SocketAddr::V4(_) => "/proc/net/tcp",
                SocketAddr::V6(_) => "/proc/net/tcp6",
            };
            let own = tcp_entry(&fs::read_to_string(file).ok()?, address);
            // A dual-stack socket is in the table of IPv6, and takes the addresses of both.
            own.or_else(|| {
                let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
                tcp_entry(&fs::read_to_string("/proc/net/tcp6").ok()?, &any)
            })?
        }
        Bind::Unix { path, .. } => unix_entry(&fs::read_to_string("/proc/net/unix").ok()?, path)?,
        Bind::Systemd(_) => return None,
    };
    let user = || entry.uid.map(|uid| SocketHolder::User(user_name(uid)));
    process_with(entry.inode).or_else(user)
}

/// The listening socket that `address` overlaps, in the format of `/proc/net/tcp` (`proc(5)`).
fn tcp_entry(table: &str, address: &SocketAddr) -> Option<ListeningEntry> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, uid, _, inode, ..] = fields.as_slice() else {
            return None;
        };
        let local = socket_address(local)?;
        let any = local.ip().is_unspecified() || address.ip().is_unspecified();
        let overlaps = local.port() == address.port() && (any || local.ip() == address.ip());
        let entry = ListeningEntry {
            inode: inode.parse().ok()?,
            uid: uid.parse().ok(),
        };
        (*state == LISTEN && overlaps).then_some(entry)
    })
}

/// An address in the kernel's notation: words of four bytes in the order of the machine, and the port.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        let word = u32::from_str_radix(digits, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            for (into, byte) in bytes.iter_mut().zip(words.into_iter().flatten()) {
                *into = byte;
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The socket at `path`, in the format of `/proc/net/unix`.
fn unix_entry(table: &str, path: &Path) -> Option<ListeningEntry> {
    let path = path.to_str()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let inode = fields.nth(6)?.parse().ok()?;
        (fields.next() == Some(path)).then_some(ListeningEntry { inode, uid: None })
    })
}

/// The process that has the socket with this inode open.
fn process_with(inode: u64) -> Option<SocketHolder> {
    let wanted = format!("socket:[{inode}]");
    let mut left = MAX_DESCRIPTORS;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Those of other users are not shown.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            left = left.checked_sub(1)?;
            let target = fs::read_link(descriptor.path());
            if target.is_ok_and(|target| target.as_os_str() == wanted.as_str()) {
                let name = fs::read_to_string(process.path().join("comm"));
                let name = name.unwrap_or_default();
                return Some(SocketHolder::Process(name.trim().to_owned(), pid));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn addresses_in_the_notation_of_the_kernel() {
        let v4 = u32::from_ne_bytes([127, 0, 0, 1]);
        let text = format!("{v4:08X}:1F90");
        let expected = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(socket_address(&text), Some(expected));
        let one = u32::from_ne_bytes([0, 0, 0, 1]);
        let text = format!("{:024}{one:08X}:0050", 0);
        assert_eq!(socket_address(&text), Some("[::1]:80".parse().unwrap()));
        for text in ["", "0:0", "0100007F", "010000ZZ:1F90", "0100007F:1F901"] {
            assert_eq!(socket_address(text), None, "{text}");
        }
    }

    #[test]
    fn only_sockets_that_listen_are_in_the_way() {
        let v4 = u32::from_ne_bytes([10, 0, 0, 1]);
        let line = |state: &str| {
            format!(
                "  sl  local_address\n   0: {v4:08X}:0050 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0\n"
            )
        };
        let entry = |state, address: &str| tcp_entry(&line(state), &address.parse().unwrap());
        let found = ListeningEntry {
            inode: 4711,
            uid: Some(1000),
        };
        assert_eq!(entry("0A", "10.0.0.1:80"), Some(found));
        assert!(entry("0A", "0.0.0.0:80").is_some());
        assert_eq!(entry("01", "10.0.0.1:80"), None);
        assert_eq!(entry("0A", "10.0.0.2:80"), None);
        assert_eq!(entry("0A", "10.0.0.1:81"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_its_own_sockets() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let bind = Bind::Tcp(tcp.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let _unix = UnixListener::bind(&path).unwrap();
        for bind in [bind, Bind::Unix { path, mode: 0o600 }] {
            let Some(SocketHolder::Process(_, pid)) = of(&bind) else {
                panic!("{bind}");
            };
            assert_eq!(pid, std::process::id());
        }
    }
}
