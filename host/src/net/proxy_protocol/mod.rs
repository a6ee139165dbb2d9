//! The PROXY protocol, versions 1 and 2: who is behind a trusted hop.
//!
//! Pure: bytes in, values out. [`parse`] is called with everything that came
//! so far, as often as more comes; it decides on the first byte that cannot
//! be right. Who may send a header, and how long that may take, is the
//! caller's affair. [`encode_v1`] and [`encode_v2`] write headers.

mod encode;
mod v1;
mod v2;

use std::net::SocketAddr;
use std::sync::Arc;

pub use encode::{Checksum, EncodeError, Outgoing, encode_local, encode_v1, encode_v2};

use super::ProxyHeaderFailure;

/// Longest header of version 1, its line end included.
pub const V1_BYTES_MAX: usize = 107;

/// Longest header of version 2 that is accepted. The format allows 65,551
/// bytes; 16 KiB, a common buffer, is far more than any sender's TLVs need.
pub const V2_BYTES_MAX: usize = 16 << 10;

/// Type of the TLV with the path of earlier Sluice hops: UTF-8 text.
pub const TLV_SLUICE_PATH: u8 = 0xE5;

/// Longest path of earlier hops that is accepted or sent, in bytes.
pub const SLUICE_PATH_BYTES_MAX: usize = 4096;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_SIGNATURE: &[u8; 6] = b"PROXY ";

const TLV_ALPN: u8 = 0x01;
const TLV_AUTHORITY: u8 = 0x02;
const TLV_CRC32C: u8 = 0x03;
const TLV_NOOP: u8 = 0x04;
const TLV_UNIQUE_ID: u8 = 0x05;
const TLV_SSL: u8 = 0x20;
const TLV_SSL_VERSION: u8 = 0x21;
const TLV_SSL_CN: u8 = 0x22;
const TLV_SSL_CIPHER: u8 = 0x23;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyHeader {
    /// Both ends of the connection that the hop received.
    pub addresses: Addresses,
    /// The name the client asked the hop for (SNI or Host), in lower case.
    pub authority: Option<Box<str>>,
    /// The protocol agreed on by ALPN at the hop.
    pub alpn: Option<Box<[u8]>>,
    /// The connection's id at the hop, at most 128 bytes.
    pub unique_id: Option<Box<[u8]>>,
    /// What the hop knows of the client's TLS.
    pub ssl: Option<SslInfo>,
    /// The path of earlier Sluice hops.
    pub path: Option<Arc<str>>,
}

/// Both ends of the connection that a hop received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Addresses {
    /// The hop speaks for itself (a health check): the socket's ends count.
    #[default]
    Local,
    /// The hop does not know, or it was no TCP connection: the socket's ends count.
    Unknown,
    /// IPv4 or IPv6; IPv4 in IPv6 form is given as IPv4.
    Inet {
        /// The client.
        source: SocketAddr,
        /// What it connected to.
        destination: SocketAddr,
    },
    /// A Unix socket at the hop: no address that could stand for a client.
    Unix {
        /// The client's path, trailing zeros cut.
        source: Box<[u8]>,
        /// The listening path.
        destination: Box<[u8]>,
    },
}

/// What a hop knows of the client's TLS (`PP2_TYPE_SSL`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SslInfo {
    /// The client connected over TLS.
    pub is_tls: bool,
    /// It gave a certificate in this session.
    pub has_certificate: bool,
    /// The hop found the certificate good (`verify` is zero).
    pub is_verified: bool,
    /// TLS version as text.
    pub version: Option<Box<str>>,
    /// Common name of the certificate.
    pub common_name: Option<Box<str>>,
    /// Cipher suite.
    pub cipher: Option<Box<str>>,
}

/// Why bytes are not a PROXY header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Neither version's signature.
    #[error("connection does not begin with a PROXY header")]
    Missing,
    /// A line over 107 bytes, or a declared length over the limit.
    #[error("PROXY header of {bytes} bytes is over the limit of {limit}")]
    TooLong {
        /// Bytes declared, or seen so far.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The checksum does not fit the bytes.
    #[error("PROXY header has checksum {found:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// In the header.
        found: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// Another breach of the format.
    #[error("PROXY header is malformed: {0}")]
    Malformed(&'static str),
}

impl HeaderError {
    /// The reason to count it under.
    #[must_use]
    pub fn reason(&self) -> ProxyHeaderFailure {
        match self {
            Self::Missing => ProxyHeaderFailure::Missing,
            Self::TooLong { .. } => ProxyHeaderFailure::TooLong,
            Self::Checksum { .. } => ProxyHeaderFailure::Checksum,
            Self::Malformed(_) => ProxyHeaderFailure::Malformed,
        }
    }
}

/// Parses a header at the start of `bytes`: the header and its length, or
/// nothing when more bytes are needed. Never looks past the header.
///
/// # Errors
/// As soon as the bytes cannot become a header within the limits.
pub fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, HeaderError> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => v1::parse(bytes),
        Some(b'\r') => v2::parse(bytes),
        Some(_) => Err(HeaderError::Missing),
    }
}

/// Whether `bytes` begin as `signature` does, as far as they go.
fn agrees(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = vec![
            b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\r\n".to_vec(),
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::ffff ffff::ffff 65535 65535\r\n".to_vec(),
        ];
        let outgoing = Outgoing {
            source: "192.0.2.1:50000".parse().unwrap(),
            destination: "198.51.100.2:443".parse().unwrap(),
            authority: Some("im.example"),
            alpn: Some(b"h2"),
            unique_id: Some(b"id-1"),
            ssl: Some(&SslInfo {
                is_tls: true,
                version: Some("TLSv1.3".into()),
                cipher: Some("TLS13_AES_128_GCM_SHA256".into()),
                ..SslInfo::default()
            }),
            path: Some("edge-1;region=eu"),
            checksum: Checksum::Include,
        };
        let mut encoded = Vec::new();
        encode_v2(&outgoing, &mut encoded).unwrap();
        all.push(encoded);
        let mut local = Vec::new();
        encode_local(&mut local);
        all.push(local);
        all
    }

    #[test]
    fn every_header_survives_every_split_and_leaves_what_follows() {
        for header in headers() {
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Ok(None), "cut at {cut} of {header:?}");
            }
            let whole = parse(&header).unwrap().unwrap();
            assert_eq!(whole.1, header.len());
            let mut followed = header.clone();
            followed.extend_from_slice(b"GET / HTTP/1.1\r\nPROXY ");
            assert_eq!(parse(&followed).unwrap().unwrap(), whole);
        }
    }

    #[test]
    fn other_protocols_are_no_header_from_their_first_wrong_byte() {
        let table: [&[u8]; 8] = [
            b"GET / HTTP/1.1\r\n",
            b"POST ",
            b"PROXX",
            b"PROXY\t",
            b"\x16\x03\x01",
            b"\r\n\r\n\0\r\nQUIX",
            b"\r\n\r\n\x01",
            b"\x09\x00",
        ];
        for bytes in table {
            assert_eq!(parse(bytes), Err(HeaderError::Missing), "{bytes:?}");
        }
    }

    #[test]
    fn errors_have_reasons() {
        assert_eq!(parse(b"x").unwrap_err().reason(), ProxyHeaderFailure::Missing);
        assert_eq!(parse(b"PROXY TCP9 x\r\n").unwrap_err().reason(), ProxyHeaderFailure::Malformed);
    }
}
