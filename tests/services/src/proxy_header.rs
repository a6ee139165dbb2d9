//! Reads the PROXY protocol header (versions 1 and 2) in front of a connection.
//!
//! Services use it to learn the client's address from the gateway, and tests to
//! see what the gateway sent. Start at [`read`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Longest header taken, in bytes.
const HEADER_MAX: usize = 4096;

/// What a header said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's address; none for `LOCAL` and `UNKNOWN`.
    pub source: Option<SocketAddr>,
    /// The address the client connected to.
    pub destination: Option<SocketAddr>,
    /// Extra values of version 2: type and bytes, in order.
    pub values: Vec<(u8, Vec<u8>)>,
}

impl ProxyHeader {
    /// The bytes of the extra value of type `kind`.
    pub fn value(&self, kind: u8) -> Option<&[u8]> {
        self.values.iter().find(|(found, _)| *found == kind).map(|(_, bytes)| bytes.as_slice())
    }
}

/// Reads a header if the stream begins with one. What was read behind it, or
/// instead of it, stays in `buffer`.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> io::Result<Option<ProxyHeader>> {
    loop {
        match parse(buffer)? {
            Parsed::Header(header, length) => {
                buffer.advance(length);
                return Ok(Some(header));
            }
            Parsed::Absent => return Ok(None),
            Parsed::Partial if buffer.len() > HEADER_MAX => return Err(bad("header is too long")),
            Parsed::Partial => {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
        }
    }
}

enum Parsed {
    Header(ProxyHeader, usize),
    Absent,
    Partial,
}

fn bad(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("bad PROXY header: {reason}"))
}

fn parse(bytes: &[u8]) -> io::Result<Parsed> {
    let starts = |signature: &[u8]| {
        let shared = bytes.len().min(signature.len());
        (bytes[..shared] == signature[..shared], bytes.len() >= signature.len())
    };
    match (starts(SIGNATURE), starts(b"PROXY ")) {
        ((true, true), _) => parse_v2(bytes),
        (_, (true, true)) => parse_v1(bytes),
        ((true, false), _) | (_, (true, false)) => Ok(Parsed::Partial),
        _ => Ok(Parsed::Absent),
    }
}

fn parse_v1(bytes: &[u8]) -> io::Result<Parsed> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() > 107 { Err(bad("no line end")) } else { Ok(Parsed::Partial) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| bad("not text"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let header = match words[..] {
        ["PROXY", "UNKNOWN", ..] => ProxyHeader::default(),
        ["PROXY", "TCP4" | "TCP6", source, destination, from, to] => ProxyHeader {
            source: Some(address(source, from)?),
            destination: Some(address(destination, to)?),
            values: Vec::new(),
        },
        _ => return Err(bad("version 1 line")),
    };
    Ok(Parsed::Header(header, end + 2))
}

fn address(ip: &str, port: &str) -> io::Result<SocketAddr> {
    let ip: IpAddr = ip.parse().map_err(|_| bad("address"))?;
    Ok(SocketAddr::new(ip, port.parse().map_err(|_| bad("port"))?))
}

fn parse_v2(bytes: &[u8]) -> io::Result<Parsed> {
    if bytes.len() < 16 {
        return Ok(Parsed::Partial);
    }
    let length = 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if bytes.len() < length {
        return Ok(Parsed::Partial);
    }
    let mut rest = &bytes[16..length];
    let local = match bytes[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(bad("version or command")),
    };
    let (source, destination) = match bytes[13] >> 4 {
        1 if rest.len() >= 12 => {
            let (from, to) = (Ipv4Addr::from(rest.get_u32()), Ipv4Addr::from(rest.get_u32()));
            (SocketAddr::new(from.into(), rest.get_u16()), SocketAddr::new(to.into(), rest.get_u16()))
        }
        2 if rest.len() >= 36 => {
            let (from, to) = (Ipv6Addr::from(rest.get_u128()), Ipv6Addr::from(rest.get_u128()));
            (SocketAddr::new(from.into(), rest.get_u16()), SocketAddr::new(to.into(), rest.get_u16()))
        }
        0 => {
            return Ok(Parsed::Header(
                ProxyHeader { values: values(rest)?, ..ProxyHeader::default() },
                length,
            ));
        }
        _ => return Err(bad("address family or length")),
    };
    let values = values(rest)?;
    let known = !local;
    let header =
        ProxyHeader { source: known.then_some(source), destination: known.then_some(destination), values };
    Ok(Parsed::Header(header, length))
}

fn values(mut rest: &[u8]) -> io::Result<Vec<(u8, Vec<u8>)>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        if rest.len() < 3 {
            return Err(bad("extra value"));
        }
        let kind = rest.get_u8();
        let length = usize::from(rest.get_u16());
        if rest.len() < length {
            return Err(bad("length of an extra value"));
        }
        found.push((kind, rest[..length].to_vec()));
        rest.advance(length);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(bytes: &[u8]) -> (io::Result<Option<ProxyHeader>>, BytesMut) {
        let mut buffer = BytesMut::new();
        let mut stream = bytes;
        let header = read(&mut stream, &mut buffer).await;
        (header, buffer)
    }

    #[tokio::test]
    async fn both_versions_give_the_client() {
        let mut v2 = SIGNATURE.to_vec();
        v2.extend_from_slice(&[0x21, 0x11, 0, 16, 192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0, 80]);
        v2.extend_from_slice(&[0xE5, 0, 1, b'p']);
        v2.extend_from_slice(b"rest");
        let (header, rest) = read_all(&v2).await;
        let header = header.unwrap().unwrap();
        assert_eq!(header.source, Some("192.0.2.1:12345".parse().unwrap()));
        assert_eq!(header.destination, Some("10.0.0.1:80".parse().unwrap()));
        assert_eq!(header.value(0xE5), Some(&b"p"[..]));
        assert_eq!(&rest[..], b"rest");

        let (header, rest) = read_all(b"PROXY TCP6 2001:db8::1 ::1 9 80\r\nrest").await;
        assert_eq!(header.unwrap().unwrap().source, Some("[2001:db8::1]:9".parse().unwrap()));
        assert_eq!(&rest[..], b"rest");
    }

    #[tokio::test]
    async fn other_bytes_are_left_alone_and_broken_headers_fail() {
        let (header, rest) = read_all(b"\x09frame").await;
        assert_eq!(header.unwrap(), None);
        assert_eq!(&rest[..], b"\x09frame");
        let mut bad_family = SIGNATURE.to_vec();
        bad_family.extend_from_slice(&[0x21, 0x11, 0, 2, 0, 0]);
        for bytes in [&b"PROXY TCP4 x y 1 2\r\n"[..], b"PROXY nonsense\r\n", &bad_family] {
            assert!(read_all(bytes).await.0.is_err(), "{bytes:?}");
        }
    }
}
