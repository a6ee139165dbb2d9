//! IP addresses as text, without the machinery of formatting.
//!
//! Every request writes a handful of addresses, into headers and into the log;
//! the standard library's formatting of one costs more than parsing a head's
//! line. IPv6 is left to it: it is rarer, and its short form is intricate.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;

/// Bytes of the longest: an IPv6 address with an embedded IPv4 one, a scope,
/// brackets and a port.
const BYTES_MAX: usize = 64;

/// The text of an IP address, or of one with a port, on the stack.
#[derive(Clone, Copy)]
pub struct AddressText {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl AddressText {
    /// As `192.0.2.1` or `2001:db8::1`.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        let mut text = Self { bytes: [0; BYTES_MAX], length: 0 };
        match ip {
            IpAddr::V4(ip) => text.put_v4(ip),
            IpAddr::V6(ip) => text.show(ip),
        }
        text
    }

    /// As `192.0.2.1:80` or `[2001:db8::1]:80`.
    #[must_use]
    pub fn of_socket(address: SocketAddr) -> Self {
        let mut text = Self { bytes: [0; BYTES_MAX], length: 0 };
        match address {
            SocketAddr::V4(address) => {
                text.put_v4(*address.ip());
                text.put(b":");
                text.put(itoa::Buffer::new().format(address.port()).as_bytes());
            }
            SocketAddr::V6(address) => text.show(address),
        }
        text
    }

    fn put_v4(&mut self, ip: Ipv4Addr) {
        for (index, octet) in ip.octets().into_iter().enumerate() {
            if index > 0 {
                self.put(b".");
            }
            self.put(itoa::Buffer::new().format(octet).as_bytes());
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(space) = self.bytes.get_mut(self.length..self.length + bytes.len()) {
            space.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    fn show(&mut self, value: impl std::fmt::Display) {
        let mut space = &mut self.bytes[self.length..];
        // The room is enough for every address.
        let _ = write!(space, "{value}");
        self.length = BYTES_MAX - space.len();
    }
}

impl Deref for AddressText {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_text_the_standard_library_writes() {
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255";
        for ip in ["0.0.0.0", "255.255.255.255", "10.0.20.3", "::", "2001:db8::1", "::ffff:1.2.3.4", long] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(&*AddressText::of(ip), ip.to_string().as_bytes());
            for port in [0, 80, 65_535] {
                let address = SocketAddr::new(ip, port);
                assert_eq!(&*AddressText::of_socket(address), address.to_string().as_bytes());
            }
        }
        let scoped = "[fe80:1111:2222:3333:4444:5555:6666:7777%4294967295]:65535".parse().unwrap();
        assert_eq!(&*AddressText::of_socket(scoped), scoped.to_string().as_bytes());
    }
}
