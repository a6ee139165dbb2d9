//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, HeaderError, ProxyHeader, V1_BYTES_MAX, V1_SIGNATURE, agrees};

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, HeaderError> {
    if !agrees(bytes, V1_SIGNATURE) {
        return Err(HeaderError::Missing);
    }
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', window) else {
        if bytes.len() >= V1_BYTES_MAX {
            return Err(HeaderError::TooLong { bytes: bytes.len(), limit: V1_BYTES_MAX });
        }
        return Ok(None);
    };
    match window.get(end..end + 2) {
        Some(b"\r\n") => {}
        None if bytes.len() < V1_BYTES_MAX && window[end] == b'\r' => return Ok(None),
        None if window[end] == b'\r' => {
            return Err(HeaderError::TooLong { bytes: bytes.len(), limit: V1_BYTES_MAX });
        }
        _ => return Err(HeaderError::Malformed("line does not end with CR LF")),
    }
    let line = std::str::from_utf8(&window[V1_SIGNATURE.len()..end])
        .map_err(|_| HeaderError::Malformed("line is not text"))?;
    let addresses = addresses(line)?;
    Ok(Some((ProxyHeader { addresses, ..ProxyHeader::default() }, end + 2)))
}

fn addresses(line: &str) -> Result<Addresses, HeaderError> {
    let mut words = line.split(' ');
    let parse_ip: fn(&str) -> Option<IpAddr> = match words.next() {
        Some("TCP4") => |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some("TCP6") => |word| word.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical()),
        // Whatever follows is to be ignored: no format is promised.
        Some("UNKNOWN") => return Ok(Addresses::Unknown),
        _ => return Err(HeaderError::Malformed("protocol is not TCP4, TCP6 or UNKNOWN")),
    };
    let mut ip = || words.next().and_then(parse_ip).ok_or(HeaderError::Malformed("bad IP address"));
    let (source, destination) = (ip()?, ip()?);
    let mut port = || words.next().and_then(port).ok_or(HeaderError::Malformed("bad port"));
    let (source_port, destination_port) = (port()?, port()?);
    if words.next().is_some() {
        return Err(HeaderError::Malformed("more than four fields follow the protocol"));
    }
    Ok(Addresses::Inet {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

/// A decimal port without sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let is_canonical = word == "0" || !word.starts_with('0');
    let is_decimal = word.bytes().all(|byte| byte.is_ascii_digit());
    (is_canonical && is_decimal).then(|| word.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn addresses_and_ports_are_taken() {
        let (header, length) = parse(b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\r\nGET").unwrap().unwrap();
        assert_eq!(length, 45);
        assert_eq!(
            header.addresses,
            Addresses::Inet {
                source: "192.0.2.1:50000".parse().unwrap(),
                destination: "198.51.100.2:443".parse().unwrap()
            }
        );
        let (header, _) = parse(b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n").unwrap().unwrap();
        assert_eq!(
            header.addresses,
            Addresses::Inet {
                source: "192.0.2.1:1".parse().unwrap(),
                destination: "[2001:db8::2]:2".parse().unwrap()
            }
        );
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_does_not() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX - 16));
        assert_eq!(longest.len(), V1_BYTES_MAX);
        assert!(parse(longest.as_bytes()).unwrap().is_some());
        let over = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX - 15));
        for cut in V1_BYTES_MAX..=over.len() {
            assert!(matches!(parse(&over.as_bytes()[..cut]), Err(HeaderError::TooLong { .. })), "{cut}");
        }
    }

    #[test]
    fn bad_lines_are_refused() {
        let table: [&[u8]; 25] = [
            b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\rX",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 50000\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2\r\n",
            b"PROXY TCP4\r\n",
            b"PROXY \r\n",
            b"PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
            b"PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXY TCP6 2001:db8::1%eth0 2001:db8::2 1 2\r\n",
            b"PROXY TCP6 [2001:db8::1] 2001:db8::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 2\r\n",
            b"PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXY TCP4\t192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 \xff 1 2\r\n",
        ];
        for line in table {
            let outcome = parse(line);
            assert!(
                matches!(outcome, Err(HeaderError::Malformed(_))),
                "{} gave {outcome:?}",
                line.escape_ascii()
            );
        }
    }
}
