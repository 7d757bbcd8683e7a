//! The PROXY header at the beginning of a connection, as a load balancer sends it to us and as we
//! send it to endpoints (haproxy.org, `proxy-protocol.txt`, versions 1 and 2).

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

use crate::config::model::SendProxy;

/// The longest header that is accepted. Version 1 has at most 107 bytes; version 2 is longer if
/// load balancers add fields to it, such as certificates.
pub const MAX_LENGTH: usize = 16 * 1024;

/// The longest header of version 1, including the line end.
const V1_MAX_LENGTH: usize = 107;

const V1_BEGINS: &[u8] = b"PROXY ";

/// The length of version 2's fixed part, which states how much follows.
const V2_FIXED: usize = 16;

/// Version 2 with the command LOCAL: the connection is the load balancer's own.
const LOCAL: u8 = 0x20;

/// The type of the TLV about TLS (section 2.2.5), and the bit in it that says that the client used
/// TLS.
const TLV_SSL: u8 = 0x20;
const CLIENT_SSL: u8 = 0x01;

/// A valid PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The length of the header in bytes.
    pub length: usize,
    /// Source and destination of the client's connection; `None` if it is the load balancer's own
    /// (a health check), or of a kind without addresses.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Whether the client used TLS to the load balancer.
    pub secure: bool,
}

/// Why bytes are not a valid PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The bytes do not begin like a PROXY header.
    #[error("the connection does not begin with a PROXY header")]
    None,
    /// The bytes begin like a PROXY header, but are not a valid one.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// The header is longer than [`MAX_LENGTH`].
    #[error("the PROXY header is longer than {MAX_LENGTH} bytes")]
    TooLong,
}

/// Parses the header at the beginning of `bytes`. While it is incomplete, the inner `Err` has the
/// number of bytes that are needed at least.
///
/// # Errors
/// [`ProxyHeaderError`].
pub fn parse(bytes: &[u8]) -> Result<Result<ProxyHeader, usize>, ProxyHeaderError> {
    let begins = |with: &[u8]| {
        let common = bytes.len().min(with.len());
        bytes.get(..common) == with.get(..common)
    };
    if begins(V1_BEGINS) {
        parse_v1(bytes)
    } else if begins(v2::PROTOCOL_PREFIX) {
        parse_v2(bytes)
    } else {
        Err(ProxyHeaderError::None)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Result<ProxyHeader, usize>, ProxyHeaderError> {
    let line = bytes.get(..V1_MAX_LENGTH).unwrap_or(bytes);
    let Some(end) = line.iter().position(|b| *b == b'\n') else {
        if line.len() == V1_MAX_LENGTH {
            return Err(ProxyHeaderError::Malformed);
        }
        return Ok(Err(bytes.len() + 1));
    };
    let line = line.get(..=end).unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|_| ProxyHeaderError::Malformed)?;
    let body = text
        .strip_suffix("\r\n")
        .ok_or(ProxyHeaderError::Malformed)?;
    // The rest of such a line must be ignored (section 2.1).
    if body == "PROXY UNKNOWN" || body.starts_with("PROXY UNKNOWN ") {
        return Ok(Ok(ProxyHeader {
            length: line.len(),
            addresses: None,
            secure: false,
        }));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b" .:".contains(&b);
    if !body.bytes().all(plain) {
        return Err(ProxyHeaderError::Malformed);
    }
    let header = v1::Header::try_from(text).map_err(|_| ProxyHeaderError::Malformed)?;
    let addresses = match header.addresses {
        v1::Addresses::Tcp4(ip) => Some((
            SocketAddr::new(ip.source_address.into(), ip.source_port),
            SocketAddr::new(ip.destination_address.into(), ip.destination_port),
        )),
        v1::Addresses::Tcp6(ip) => Some((
            SocketAddr::new(ip.source_address.into(), ip.source_port),
            SocketAddr::new(ip.destination_address.into(), ip.destination_port),
        )),
        v1::Addresses::Unknown => None,
    };
    Ok(Ok(ProxyHeader {
        length: line.len(),
        addresses: addresses.map(canonical),
        secure: false,
    }))
}

fn parse_v2(bytes: &[u8]) -> Result<Result<ProxyHeader, usize>, ProxyHeaderError> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
        return Ok(Err(V2_FIXED));
    };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_LENGTH {
        return Err(ProxyHeaderError::TooLong);
    }
    if fixed[12] == LOCAL && bytes.len() < length {
        return Ok(Err(length));
    }
    let Some(whole) = bytes.get(..length) else {
        // An error may show before the header is complete: then the client need not be waited for.
        return match v2::Header::try_from(bytes) {
            Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => Ok(Err(length)),
            _ => Err(ProxyHeaderError::Malformed),
        };
    };
    // The load balancer's own connection: the rest of the header must be ignored (section 2.2).
    if fixed[12] == LOCAL {
        return Ok(Ok(ProxyHeader {
            length,
            addresses: None,
            secure: false,
        }));
    }
    let header = v2::Header::try_from(whole).map_err(|_| ProxyHeaderError::Malformed)?;
    let mut secure = false;
    for addition in header.tlvs() {
        let addition = addition.map_err(|_| ProxyHeaderError::Malformed)?;
        secure |= addition.kind == TLV_SSL
            && addition
                .value
                .first()
                .is_some_and(|bits| bits & CLIENT_SSL != 0);
    }
    let addresses = match (&header.command, &header.addresses) {
        (v2::Command::Local, _) | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        // Listeners accept streams only.
        _ if header.protocol == v2::Protocol::Datagram => return Err(ProxyHeaderError::Malformed),
        (_, v2::Addresses::IPv4(ip)) => Some((
            SocketAddr::new(ip.source_address.into(), ip.source_port),
            SocketAddr::new(ip.destination_address.into(), ip.destination_port),
        )),
        (_, v2::Addresses::IPv6(ip)) => Some((
            SocketAddr::new(ip.source_address.into(), ip.source_port),
            SocketAddr::new(ip.destination_address.into(), ip.destination_port),
        )),
    };
    Ok(Ok(ProxyHeader {
        length,
        addresses: addresses.map(canonical),
        secure: secure && header.command == v2::Command::Proxy,
    }))
}

/// Writes IPv4-mapped IPv6 addresses as IPv4, so that they match the IPv4 networks in the
/// configuration.
fn canonical((one, other): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    (canonical(one), canonical(other))
}

/// The header for an endpoint: the client's address, and the address that it connected to. Without
/// both, the header says "unknown".
pub fn write(version: SendProxy, addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let addresses = addresses.map(of_one_family);
    match (version, addresses) {
        (SendProxy::Off, _) => Vec::new(),
        (SendProxy::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (SendProxy::V1, Some((from, to))) => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (source, destination) = (from.ip(), to.ip());
            let (source_port, destination_port) = (from.port(), to.port());
            format!("PROXY {family} {source} {destination} {source_port} {destination_port}\r\n")
                .into_bytes()
        }
        (SendProxy::V2, addresses) => {
            let (protocol, addresses) = match addresses {
                None => (v2::Protocol::Unspecified, v2::Addresses::Unspecified),
                Some(addresses) => (v2::Protocol::Stream, addresses.into()),
            };
            v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, protocol, addresses)
                .build()
                .unwrap_or_default()
        }
    }
}

/// Makes both addresses the same family, as a header requires: if they differ, the IPv4 address is
/// mapped to IPv6 (`::ffff:192.0.2.1`).
fn of_one_family((from, to): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    if from.is_ipv4() == to.is_ipv4() {
        return (from, to);
    }
    let mapped = |at: SocketAddr| match at.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), at.port()),
        IpAddr::V6(_) => at,
    };
    (mapped(from), mapped(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(from: &str, to: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((from.parse().unwrap(), to.parse().unwrap()))
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<(SocketAddr, SocketAddr)>) {
        let with_more = [bytes, b"GET / HTTP/1.1\r\n"].concat();
        let header = parse(&with_more).unwrap().unwrap();
        assert_eq!((header.length, header.addresses), (bytes.len(), expected));
        for length in 0..bytes.len() {
            let needed = parse(&bytes[..length]).unwrap().unwrap_err();
            assert!(
                needed > length && needed <= bytes.len(),
                "{length}: {needed}"
            );
        }
    }

    #[test]
    fn version_1() {
        check(
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
            addresses("192.0.2.1:56324", "192.0.2.2:443"),
        );
        check(
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
            addresses("[2001:db8::1]:1", "[2001:db8::2]:65535"),
        );
        check(
            b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n",
            addresses("192.0.2.1:1", "192.0.2.2:2"),
        );
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff:f what \xc3\xa9 ever\r\n", None);
    }

    #[test]
    fn version_2() {
        for (from, to) in [
            ("192.0.2.1:56324", "192.0.2.2:443"),
            ("[2001:db8::1]:1", "[2001:db8::2]:2"),
        ] {
            check(
                &write(SendProxy::V2, addresses(from, to)),
                addresses(from, to),
            );
        }
        check(&write(SendProxy::V2, None), None);
        // LOCAL, whatever addresses it has.
        let mut local = write(SendProxy::V2, addresses("192.0.2.1:1", "192.0.2.2:2"));
        local[12] = 0x20;
        check(&local, None);
        check(&[v2::PROTOCOL_PREFIX, &[0x20, 0x11, 0, 0]].concat(), None);
        check(
            &[v2::PROTOCOL_PREFIX, &[0x20, 0xff, 0, 3, 1, 2, 3]].concat(),
            None,
        );
    }

    #[test]
    fn tls_to_the_load_balancer_is_reported() {
        let mut header = write(SendProxy::V2, addresses("192.0.2.1:1", "192.0.2.2:2"));
        header.extend([TLV_SSL, 0, 5, CLIENT_SSL, 0, 0, 0, 0]);
        header[15] += 8;
        let read = parse(&header).unwrap().unwrap();
        assert!(read.secure && read.length == header.len());
        header[19 + 12] = 0;
        assert!(!parse(&header).unwrap().unwrap().secure);
    }

    #[test]
    fn garbage() {
        let long = [
            b"PROXY UNKNOWN ".to_vec(),
            vec![b'x'; 200],
            b"\r\n".to_vec(),
        ]
        .concat();
        let datagram = {
            let mut header = write(SendProxy::V2, addresses("192.0.2.1:1", "192.0.2.2:2"));
            header[13] = 0x12;
            header
        };
        let huge = [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff]].concat();
        let version_3 = [v2::PROTOCOL_PREFIX, &[0x31, 0x11, 0, 12]].concat();
        let short = [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0, 4, 1, 2, 3, 4]].concat();
        let cases: [(&[u8], ProxyHeaderError); 14] = [
            (b"GET / HTTP/1.1\r\n", ProxyHeaderError::None),
            (b"\x16\x03\x01", ProxyHeaderError::None),
            (b"proxy TCP4", ProxyHeaderError::None),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
                ProxyHeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \n",
                ProxyHeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
                ProxyHeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
                ProxyHeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n",
                ProxyHeaderError::Malformed,
            ),
            (
                b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
                ProxyHeaderError::Malformed,
            ),
            (&long, ProxyHeaderError::Malformed),
            (&datagram, ProxyHeaderError::Malformed),
            (&huge, ProxyHeaderError::TooLong),
            (&version_3, ProxyHeaderError::Malformed),
            (&short, ProxyHeaderError::Malformed),
        ];
        for (bytes, expected) in cases {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(parse(bytes), Err(expected), "{shown}");
        }
    }

    #[test]
    fn written_headers_have_one_address_family() {
        assert_eq!(
            write(SendProxy::V1, addresses("192.0.2.1:1", "[2001:db8::2]:2")),
            b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n"
        );
        assert_eq!(write(SendProxy::V1, None), b"PROXY UNKNOWN\r\n");
        assert_eq!(write(SendProxy::Off, None), b"");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_a_panic(
            begin in prop::sample::select(vec![&b""[..], V1_BEGINS, v2::PROTOCOL_PREFIX]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [begin, &rest].concat();
            if let Ok(Ok(header)) = parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
                // Bytes behind the header change nothing.
                prop_assert_eq!(parse(&bytes[..header.length]), Ok(Ok(header)));
            }
        }

        #[test]
        fn written_headers_parse_back(
            from in any::<SocketAddr>(), to in any::<SocketAddr>(),
            version in prop::sample::select(vec![SendProxy::V1, SendProxy::V2]),
        ) {
            let read = parse(&write(version, Some((from, to)))).unwrap().unwrap();
            let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
            prop_assert_eq!(read.addresses, Some((plain(from), plain(to))));
        }
    }
}
