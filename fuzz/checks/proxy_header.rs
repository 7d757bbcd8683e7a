//! Any bytes are parsed as a PROXY header without a panic, with the same result whatever follows them.

use tidegate::config::model::SendProxy;
use tidegate::protocol::proxy_header::{parse, write};

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let header = match parse(bytes) {
        Err(_) => return,
        Ok(Err(needed)) => {
            assert!(needed > bytes.len());
            return;
        }
        Ok(Ok(header)) => header,
    };
    assert!(header.length <= bytes.len());
    assert_eq!(parse(&bytes[..header.length]), Ok(Ok(header)));
    for length in 0..header.length.min(300) {
        assert!(matches!(parse(&bytes[..length]), Ok(Err(_))), "{length}");
    }
    for version in [SendProxy::V1, SendProxy::V2] {
        let again = parse(&write(version, header.addresses));
        assert!(again.is_ok_and(|read| read.is_ok_and(|read| read.addresses == header.addresses)));
    }
}
