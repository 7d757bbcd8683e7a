//! Addresses as text. An address occurs in several fields and log lines of each handshake, and the formatter of the
//! standard library takes more for it than all the rest of such a field.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The longest text: IPv6 with a scope and a port.
const MAX_BYTES: usize = 64;

/// The text of an address.
#[derive(Debug)]
pub struct AddressText {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

impl AddressText {
    /// The text of an address.
    pub fn of(address: IpAddr) -> Self {
        let mut text = Self::empty();
        match address {
            IpAddr::V4(address) => text.put_v4(address),
            IpAddr::V6(address) => text.put_shown(address),
        }
        text
    }

    /// The text of an address and a port.
    pub fn of_socket(address: SocketAddr) -> Self {
        let mut text = Self::empty();
        match address {
            SocketAddr::V4(address) => {
                text.put_v4(*address.ip());
                text.put(b':');
                text.put_number(address.port());
            }
            SocketAddr::V6(address) => text.put_shown(address),
        }
        text
    }

    /// The text of a port.
    pub fn of_port(port: u16) -> Self {
        let mut text = Self::empty();
        text.put_number(port);
        text
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    fn empty() -> Self {
        Self {
            bytes: [0; MAX_BYTES],
            length: 0,
        }
    }

    fn put_shown(&mut self, address: impl fmt::Display) {
        // Writing to an array does not fail: what has no room is left out.
        let _ = write!(self, "{address}");
    }

    fn put_v4(&mut self, address: Ipv4Addr) {
        for (position, octet) in address.octets().into_iter().enumerate() {
            if position > 0 {
                self.put(b'.');
            }
            self.put_number(octet.into());
        }
    }

    fn put_number(&mut self, number: u16) {
        for power in [10_000, 1000, 100, 10] {
            if number >= power {
                self.put_digit(number / power % 10);
            }
        }
        self.put_digit(number % 10);
    }

    fn put_digit(&mut self, digit: u16) {
        self.put(b'0' + digit as u8);
    }

    fn put(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }
}

impl Write for AddressText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddrV6;

    #[test]
    fn the_longest_address_has_room() {
        let address = SocketAddrV6::new([0xffff; 8].into(), u16::MAX, 0, u32::MAX);
        let text = AddressText::of_socket(address.into());
        assert_eq!(text.as_str(), address.to_string());
    }

    proptest! {
        #[test]
        fn it_is_what_the_standard_library_writes(address: IpAddr, port: u16) {
            let socket = SocketAddr::new(address, port);
            for (text, expected) in [
                (AddressText::of(address), address.to_string()),
                (AddressText::of_socket(socket), socket.to_string()),
                (AddressText::of_port(port), port.to_string()),
            ] {
                prop_assert_eq!(text.as_str(), expected);
            }
        }
    }
}
