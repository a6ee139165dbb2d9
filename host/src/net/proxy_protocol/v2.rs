//! Version 2: a binary header with TLVs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::{
    Addresses, HeaderError, ProxyHeader, SLUICE_PATH_BYTES_MAX, SslInfo, TLV_ALPN, TLV_AUTHORITY, TLV_CRC32C,
    TLV_SLUICE_PATH, TLV_SSL, TLV_SSL_CIPHER, TLV_SSL_CN, TLV_SSL_VERSION, TLV_UNIQUE_ID, V2_BYTES_MAX,
    V2_SIGNATURE, agrees,
};

/// Signature, version and command, family and transport, length.
const FIXED_BYTES: usize = 16;
const UNIX_PATH_BYTES: usize = 108;

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, HeaderError> {
    if !agrees(bytes, V2_SIGNATURE) {
        return Err(HeaderError::Missing);
    }
    let is_local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(byte) if byte >> 4 != 2 => return Err(HeaderError::Malformed("version is not 2")),
        Some(_) => return Err(HeaderError::Malformed("command is not LOCAL or PROXY")),
    };
    let Some(&[family, high, low]) = bytes.get(13..FIXED_BYTES) else { return Ok(None) };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > V2_BYTES_MAX {
        return Err(HeaderError::TooLong { bytes: length, limit: V2_BYTES_MAX });
    }
    // What the family allows is checked before the rest comes.
    let address_bytes = if is_local { 0 } else { address_bytes(family)? };
    if length < FIXED_BYTES + address_bytes {
        return Err(HeaderError::Malformed("length is shorter than the family's addresses"));
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    if is_local {
        // The hop speaks for itself; all else in the header is to be ignored.
        return Ok(Some((ProxyHeader::default(), length)));
    }
    let (addresses, tlvs) = header[FIXED_BYTES..].split_at(address_bytes);
    let addresses = addresses_of(family, addresses);
    let mut parsed = ProxyHeader { addresses, ..ProxyHeader::default() };
    // An unspecified family promises nothing about what follows it.
    if family >> 4 != 0 {
        take_tlvs(&mut parsed, header, tlvs)?;
    }
    Ok(Some((parsed, length)))
}

fn address_bytes(family: u8) -> Result<usize, HeaderError> {
    if family & 0x0f > 2 {
        return Err(HeaderError::Malformed("transport is not UNSPEC, STREAM or DGRAM"));
    }
    match family >> 4 {
        0 => Ok(0),
        1 => Ok(12),
        2 => Ok(36),
        3 => Ok(2 * UNIX_PATH_BYTES),
        _ => Err(HeaderError::Malformed("family is not UNSPEC, INET, INET6 or UNIX")),
    }
}

fn addresses_of(family: u8, bytes: &[u8]) -> Addresses {
    // Only a stream can be what came in here: of anything else, the
    // addresses would be of another connection.
    if family & 0x0f != 1 {
        return Addresses::Unknown;
    }
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    match family >> 4 {
        1 => {
            let ip =
                |at: usize| IpAddr::V4(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]));
            Addresses::Inet {
                source: SocketAddr::new(ip(0), port(8)),
                destination: SocketAddr::new(ip(4), port(10)),
            }
        }
        2 => {
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&bytes[at..at + 16]);
                IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
            };
            Addresses::Inet {
                source: SocketAddr::new(ip(0), port(32)),
                destination: SocketAddr::new(ip(16), port(34)),
            }
        }
        3 => {
            let (source, destination) = bytes.split_at(UNIX_PATH_BYTES);
            Addresses::Unix { source: unix_path(source), destination: unix_path(destination) }
        }
        _ => Addresses::Unknown,
    }
}

/// A path without the zeros that fill its field; an abstract one begins with a zero.
fn unix_path(field: &[u8]) -> Box<[u8]> {
    let used = field.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    field[..used].into()
}

/// Calls `take` with the type, the value and the value's place in `bytes`.
fn each_tlv<'a>(
    bytes: &'a [u8],
    mut take: impl FnMut(u8, &'a [u8], usize) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    let mut at = 0;
    while at < bytes.len() {
        let Some(&[kind, high, low]) = bytes.get(at..at + 3) else {
            return Err(HeaderError::Malformed("a TLV's head is cut short"));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some(value) = bytes.get(at + 3..at + 3 + length) else {
            return Err(HeaderError::Malformed("a TLV is longer than the header"));
        };
        take(kind, value, at + 3)?;
        at += 3 + length;
    }
    Ok(())
}

fn take_tlvs(parsed: &mut ProxyHeader, header: &[u8], tlvs: &[u8]) -> Result<(), HeaderError> {
    let base = header.len() - tlvs.len();
    let mut has_checksum = false;
    each_tlv(tlvs, |kind, value, at| {
        match kind {
            TLV_ALPN => once(&mut parsed.alpn, value.into())?,
            TLV_AUTHORITY => {
                let name = text(value)?.to_ascii_lowercase();
                if name.is_empty() || name.len() > 255 {
                    return Err(HeaderError::Malformed("authority is empty or over 255 bytes"));
                }
                once(&mut parsed.authority, name.into())?;
            }
            TLV_CRC32C => {
                if std::mem::replace(&mut has_checksum, true) {
                    return Err(HeaderError::Malformed("a TLV is there twice"));
                }
                check_sum(header, base + at, value)?;
            }
            TLV_UNIQUE_ID if value.len() > 128 => {
                return Err(HeaderError::Malformed("unique id is over 128 bytes"));
            }
            TLV_UNIQUE_ID => once(&mut parsed.unique_id, value.into())?,
            TLV_SSL => once(&mut parsed.ssl, ssl_info(value)?)?,
            TLV_SLUICE_PATH if value.len() > SLUICE_PATH_BYTES_MAX => {
                return Err(HeaderError::Malformed("path of hops is over 4096 bytes"));
            }
            TLV_SLUICE_PATH => once(&mut parsed.path, Arc::from(text(value)?))?,
            // Other types are for others.
            _ => {}
        }
        Ok(())
    })
}

/// Two values of one type would let two readers disagree.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), HeaderError> {
    if place.replace(value).is_some() {
        return Err(HeaderError::Malformed("a TLV is there twice"));
    }
    Ok(())
}

fn text(value: &[u8]) -> Result<&str, HeaderError> {
    let text = std::str::from_utf8(value).map_err(|_| HeaderError::Malformed("a TLV is not UTF-8 text"))?;
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(HeaderError::Malformed("a TLV's text has control characters"));
    }
    Ok(text)
}

/// The checksum is over the whole header, its own field taken as zeros.
fn check_sum(header: &[u8], at: usize, value: &[u8]) -> Result<(), HeaderError> {
    let &[a, b, c, d] = value else {
        return Err(HeaderError::Malformed("checksum is not 4 bytes"));
    };
    let found = u32::from_be_bytes([a, b, c, d]);
    let computed = crc32c::crc32c(&header[..at]);
    let computed = crc32c::crc32c_append(computed, &[0; 4]);
    let computed = crc32c::crc32c_append(computed, &header[at + 4..]);
    if found == computed { Ok(()) } else { Err(HeaderError::Checksum { found, computed }) }
}

fn ssl_info(value: &[u8]) -> Result<SslInfo, HeaderError> {
    let Some((&[flags, a, b, c, d], parts)) = value.split_first_chunk::<5>() else {
        return Err(HeaderError::Malformed("the SSL TLV is shorter than 5 bytes"));
    };
    let mut info = SslInfo {
        is_tls: flags & 0x01 != 0,
        has_certificate: flags & 0x06 != 0,
        is_verified: flags & 0x06 != 0 && [a, b, c, d] == [0; 4],
        ..SslInfo::default()
    };
    each_tlv(parts, |kind, value, _| match kind {
        TLV_SSL_VERSION => once(&mut info.version, text(value)?.into()),
        TLV_SSL_CN => once(&mut info.common_name, text(value)?.into()),
        TLV_SSL_CIPHER => once(&mut info.cipher, text(value)?.into()),
        _ => Ok(()),
    })?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const INET: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xC3, 0x50, 1, 0xBB];

    fn inet_with(tlvs: &[u8]) -> Vec<u8> {
        header(0x21, 0x11, &[&INET, tlvs].concat())
    }

    fn good(bytes: &[u8]) -> ProxyHeader {
        let (parsed, length) = parse(bytes).unwrap().unwrap();
        assert_eq!(length, bytes.len());
        parsed
    }

    #[test]
    fn each_family_is_read() {
        assert_eq!(
            good(&inet_with(b"")).addresses,
            Addresses::Inet {
                source: "192.0.2.1:50000".parse().unwrap(),
                destination: "198.51.100.2:443".parse().unwrap()
            }
        );
        let mut inet6 = [0_u8; 36];
        inet6[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        inet6[16..32].copy_from_slice(&"::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets());
        inet6[33] = 7;
        inet6[35] = 8;
        assert_eq!(
            good(&header(0x21, 0x21, &inet6)).addresses,
            Addresses::Inet {
                source: "[2001:db8::1]:7".parse().unwrap(),
                destination: "10.0.0.1:8".parse().unwrap()
            }
        );
        let mut unix = [0_u8; 216];
        unix[..4].copy_from_slice(b"/a/b");
        unix[108..110].copy_from_slice(b"/c");
        assert_eq!(
            good(&header(0x21, 0x31, &unix)).addresses,
            Addresses::Unix { source: (*b"/a/b").into(), destination: (*b"/c").into() }
        );
    }

    #[test]
    fn what_is_no_stream_of_a_client_leaves_the_sockets_ends() {
        assert_eq!(good(&header(0x20, 0x00, b"")).addresses, Addresses::Local);
        assert_eq!(good(&header(0x20, 0xff, b"junk that is not a TLV")).addresses, Addresses::Local);
        assert_eq!(good(&header(0x21, 0x00, b"anything")).addresses, Addresses::Unknown);
        assert_eq!(good(&header(0x21, 0x01, b"")).addresses, Addresses::Unknown);
        assert_eq!(good(&header(0x21, 0x12, &INET)).addresses, Addresses::Unknown);
    }

    #[test]
    fn tlvs_are_taken_and_unknown_ones_passed_over() {
        let parsed = good(&inet_with(
            b"\x02\0\x0aIM.example\x04\0\x03\0\0\0\x30\0\x02ns\xE0\0\0\xE5\0\x06edge-1\
              \x20\0\x0f\x05\0\0\0\0\x21\0\x07TLSv1.2",
        ));
        assert_eq!(parsed.authority.as_deref(), Some("im.example"));
        assert_eq!(parsed.path.as_deref(), Some("edge-1"));
        let ssl = parsed.ssl.unwrap();
        assert!(ssl.is_tls && ssl.has_certificate && ssl.is_verified);
        assert_eq!(ssl.version.as_deref(), Some("TLSv1.2"));
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let mut bytes = inet_with(b"\x03\0\x04\0\0\0\0\x04\0\x01x");
        let sum = crc32c::crc32c(&bytes);
        let at = FIXED_BYTES + 12 + 3;
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        good(&bytes);
        // Only the TLV's own type may change: then it is no checksum any more.
        for place in (0..bytes.len()).filter(|place| *place != at - 3) {
            let mut changed = bytes.clone();
            changed[place] ^= 0x40;
            assert!(
                !matches!(parse(&changed), Ok(Some((ref header, _)))
                if matches!(header.addresses, Addresses::Inet { .. })),
                "byte {place}"
            );
        }
    }

    #[test]
    fn bad_headers_are_refused() {
        let long = vec![0; V2_BYTES_MAX - FIXED_BYTES + 1];
        let unique_id = [&[TLV_UNIQUE_ID, 0, 129][..], &[1; 129]].concat();
        let table: Vec<(&str, Vec<u8>)> = vec![
            ("version 1", header(0x11, 0x11, &INET)),
            ("version 3", header(0x31, 0x11, &INET)),
            ("command 2", header(0x22, 0x11, &INET)),
            ("family 4", header(0x21, 0x41, &INET)),
            ("transport 3", header(0x21, 0x13, &INET)),
            ("short inet", header(0x21, 0x11, &INET[..11])),
            ("short inet6", header(0x21, 0x21, &[0; 35])),
            ("short unix", header(0x21, 0x31, &[0; 215])),
            ("too long", header(0x21, 0x11, &long)),
            ("tlv head cut", inet_with(b"\x04")),
            ("tlv head cut", inet_with(b"\x04\0")),
            ("tlv over the end", inet_with(b"\x04\0\x02x")),
            ("tlv of 65535", inet_with(b"\x04\xff\xffx")),
            ("authority not text", inet_with(b"\x02\0\x01\xff")),
            ("authority empty", inet_with(b"\x02\0\0")),
            ("authority with a line end", inet_with(b"\x02\0\x03a\r\n")),
            ("authority twice", inet_with(b"\x02\0\x01a\x02\0\x01a")),
            ("checksum of 3 bytes", inet_with(b"\x03\0\x03abc")),
            ("checksum wrong", inet_with(b"\x03\0\x04abcd")),
            ("ssl short", inet_with(b"\x20\0\x04abcd")),
            ("ssl part over the end", inet_with(b"\x20\0\x09\x01\0\0\0\0\x21\0\x02x")),
            ("path not text", inet_with(b"\xE5\0\x01\xff")),
            ("path twice", inet_with(b"\xE5\0\x01a\xE5\0\x01b")),
            ("unique id long", inet_with(&unique_id)),
        ];
        for (name, bytes) in table {
            let outcome = parse(&bytes);
            assert!(outcome.is_err(), "{name} gave {outcome:?}");
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        let mut start = V2_SIGNATURE.to_vec();
        start.extend([0x21, 0x11, 0xff, 0xff]);
        assert_eq!(parse(&start), Err(HeaderError::TooLong { bytes: 65551, limit: V2_BYTES_MAX }));
    }
}
