//! Writing PROXY headers towards upstreams and relays.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::{
    SLUICE_PATH_BYTES_MAX, SslInfo, TLV_ALPN, TLV_AUTHORITY, TLV_CRC32C, TLV_NOOP, TLV_SLUICE_PATH, TLV_SSL,
    TLV_SSL_CIPHER, TLV_SSL_CN, TLV_SSL_VERSION, TLV_UNIQUE_ID, V2_BYTES_MAX, V2_SIGNATURE,
};

/// Whether a header carries a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// No: TCP has one already.
    #[default]
    Omit,
    /// Yes, CRC32c.
    Include,
}

/// What a header of version 2 is to say.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
    /// The name it asked for.
    pub authority: Option<&'a str>,
    /// The protocol agreed on by ALPN.
    pub alpn: Option<&'a [u8]>,
    /// The connection's id, at most 128 bytes.
    pub unique_id: Option<&'a [u8]>,
    /// Its TLS.
    pub ssl: Option<&'a SslInfo>,
    /// The path of hops up to here.
    pub path: Option<&'a str>,
    /// Whether to add a checksum.
    pub checksum: Checksum,
}

impl Outgoing<'_> {
    /// A header that says the two addresses and nothing else.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
            authority: None,
            alpn: None,
            unique_id: None,
            ssl: None,
            path: None,
            checksum: Checksum::Omit,
        }
    }
}

/// Why a header cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A value is over its limit.
    #[error("PROXY header's {field} of {bytes} bytes is over the limit of {limit}")]
    TooLong {
        /// Which value.
        field: &'static str,
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Appends a header of version 1. It has no room for anything but addresses.
pub fn encode_v1(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (source, destination, family) = same_family(source, destination);
    // Writing into a vector does not fail.
    let _ = write!(
        out,
        "PROXY {} {} {} {} {}\r\n",
        if family == 0x11 { "TCP4" } else { "TCP6" },
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    );
}

/// Appends a LOCAL header of version 2: a connection of our own, as health
/// checks are.
pub fn encode_local(out: &mut Vec<u8>) {
    out.extend_from_slice(V2_SIGNATURE);
    out.extend_from_slice(&[0x20, 0x00, 0, 0]);
}

/// Appends a header of version 2.
///
/// # Errors
/// When a value is over its limit; nothing is appended then.
pub fn encode_v2(outgoing: &Outgoing<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    let result = encode_v2_at(outgoing, out, start);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn encode_v2_at(outgoing: &Outgoing<'_>, out: &mut Vec<u8>, start: usize) -> Result<(), EncodeError> {
    let (source, destination, family) = same_family(outgoing.source, outgoing.destination);
    out.extend_from_slice(V2_SIGNATURE);
    out.extend_from_slice(&[0x21, family, 0, 0]);
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());

    if let Some(alpn) = outgoing.alpn {
        tlv(out, TLV_ALPN, "ALPN", alpn, 255)?;
    }
    if let Some(authority) = outgoing.authority {
        tlv(out, TLV_AUTHORITY, "authority", authority.as_bytes(), 255)?;
    }
    if let Some(id) = outgoing.unique_id {
        tlv(out, TLV_UNIQUE_ID, "unique id", id, 128)?;
    }
    if let Some(ssl) = outgoing.ssl {
        let mut value = Vec::with_capacity(64);
        ssl_value(ssl, &mut value)?;
        tlv(out, TLV_SSL, "SSL", &value, 2048)?;
    }
    if let Some(path) = outgoing.path {
        tlv(out, TLV_SLUICE_PATH, "path of hops", path.as_bytes(), SLUICE_PATH_BYTES_MAX)?;
    }
    let sum_at = (outgoing.checksum == Checksum::Include).then(|| {
        out.extend_from_slice(&[TLV_CRC32C, 0, 4, 0, 0, 0, 0]);
        out.len() - 4
    });

    let length = out.len() - start;
    let declared = u16::try_from(length - 16).ok().filter(|_| length <= V2_BYTES_MAX);
    let declared =
        declared.ok_or(EncodeError::TooLong { field: "length", bytes: length, limit: V2_BYTES_MAX })?;
    out[start + 14..start + 16].copy_from_slice(&declared.to_be_bytes());
    if let Some(at) = sum_at {
        let sum = crc32c::crc32c(&out[start..]);
        out[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// Both addresses in one family, and the header's byte for it: IPv4 only when
/// both are.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr, u8) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() && destination.is_ipv4() {
        return (source, destination, 0x11);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(source), mapped(destination), 0x21)
}

fn tlv(
    out: &mut Vec<u8>,
    kind: u8,
    field: &'static str,
    value: &[u8],
    limit: usize,
) -> Result<(), EncodeError> {
    debug_assert_ne!(kind, TLV_NOOP);
    let length = u16::try_from(value.len()).ok().filter(|_| value.len() <= limit);
    let length = length.ok_or(EncodeError::TooLong { field, bytes: value.len(), limit })?;
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

fn ssl_value(ssl: &SslInfo, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let flags = u8::from(ssl.is_tls) | (if ssl.has_certificate { 0x06 } else { 0 });
    let verify = u32::from(!ssl.is_verified);
    out.push(flags);
    out.extend_from_slice(&verify.to_be_bytes());
    let parts = [
        (TLV_SSL_VERSION, "TLS version", &ssl.version),
        (TLV_SSL_CN, "common name", &ssl.common_name),
        (TLV_SSL_CIPHER, "cipher", &ssl.cipher),
    ];
    for (kind, field, value) in parts {
        if let Some(value) = value {
            tlv(out, kind, field, value.as_bytes(), 512)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Addresses, parse};
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let ssl = SslInfo {
            is_tls: true,
            has_certificate: true,
            is_verified: true,
            version: Some("TLSv1.3".into()),
            common_name: Some("client".into()),
            cipher: None,
        };
        let outgoing = Outgoing {
            authority: Some("im.example"),
            alpn: Some(b"h2"),
            unique_id: Some(b"42"),
            ssl: Some(&ssl),
            path: Some("edge"),
            checksum: Checksum::Include,
            ..Outgoing::new(address("192.0.2.1:1"), address("198.51.100.1:2"))
        };
        let mut bytes = b"before".to_vec();
        encode_v2(&outgoing, &mut bytes).unwrap();
        let (header, length) = parse(&bytes[6..]).unwrap().unwrap();
        assert_eq!(length, bytes.len() - 6);
        assert_eq!(
            header.addresses,
            Addresses::Inet { source: outgoing.source, destination: outgoing.destination }
        );
        assert_eq!(header.authority.as_deref(), outgoing.authority);
        assert_eq!(header.alpn.as_deref(), outgoing.alpn);
        assert_eq!(header.unique_id.as_deref(), outgoing.unique_id);
        assert_eq!(header.ssl.as_ref(), outgoing.ssl);
        assert_eq!(header.path.as_deref(), outgoing.path);
    }

    #[test]
    fn mixed_families_are_written_as_ipv6_and_read_as_they_were() {
        let (source, destination) = (address("192.0.2.1:1"), address("[2001:db8::1]:2"));
        for encode in [encode_v1, |source, destination, out: &mut Vec<u8>| {
            encode_v2(&Outgoing::new(source, destination), out).unwrap();
        }] {
            let mut bytes = Vec::new();
            encode(source, destination, &mut bytes);
            let (header, _) = parse(&bytes).unwrap().unwrap();
            assert_eq!(header.addresses, Addresses::Inet { source, destination });
        }
    }

    #[test]
    fn values_over_their_limit_are_refused_and_leave_nothing() {
        let long = "x".repeat(SLUICE_PATH_BYTES_MAX + 1);
        let outgoing =
            Outgoing { path: Some(&long), ..Outgoing::new(address("192.0.2.1:1"), address("192.0.2.2:2")) };
        let mut bytes = b"before".to_vec();
        let error = encode_v2(&outgoing, &mut bytes).unwrap_err();
        assert_eq!(error.to_string(), "PROXY header's path of hops of 4097 bytes is over the limit of 4096");
        assert_eq!(bytes, b"before");
    }
}
