//! The way through relays: several Sluices between this one and the node.
//!
//! The dialler connects to the first relay and sends one PROXY v2 header: the
//! client's address, the signed path of hops (TLV 0xE5) and a *way* (TLV 0xE6),
//! which names what is still ahead and is signed with the fleet's key. A relay
//! checks the way, connects to the next stop (passing the shortened way on, if
//! that is a relay too), and only then answers with eight bytes. After a good
//! answer the connection is a plain pipe to the node; PROXY header and TLS of
//! the upstream itself go through it end to end. `docs/upstreams.md` has the
//! bytes. Reads no socket and no clock.

use std::net::SocketAddr;

use ::aws_lc_rs::hmac;

use crate::net::proxy_protocol::{self, Checksum, Outgoing};

/// The PROXY v2 TLV that carries the way.
pub const TLV_WAY: u8 = 0xE6;

/// Stops a way may have, the node included.
pub const STOPS_MAX: usize = 9;

/// Bytes of a way's text at most.
pub const WAY_BYTES_MAX: usize = 2048;

/// How far the clocks of two relays may be apart, and how long a way may be
/// played again by one who saw it: 60 s.
pub const AGE_MAX_MS: u64 = 60_000;

/// Bytes of a relay's answer.
pub const ANSWER_BYTES: usize = 8;

const MAGIC: &[u8; 4] = b"SLV1";
const TAG_BYTES: usize = 32;

/// The keys ways are signed with: derived from the fleet's, newest first.
pub struct WayKey(Vec<hmac::Key>);

impl std::fmt::Debug for WayKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("WayKey(..)")
    }
}

impl WayKey {
    /// From the fleet's secrets: the first signs, all are accepted. `None` for
    /// an empty list or a secret under 32 bytes.
    #[must_use]
    pub fn new(secrets: &[&[u8]]) -> Option<Self> {
        if secrets.is_empty() || secrets.iter().any(|secret| secret.len() < 32) {
            return None;
        }
        // A key of its own: a signature made for one purpose is none for another.
        let derive = |secret: &&[u8]| {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"sluice way 1");
            hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
        };
        Some(Self(secrets.iter().map(derive).collect()))
    }
}

/// Why a way is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WayError {
    /// The connection carries no way.
    #[error("connection carries no way")]
    Missing,
    /// It does not have the form.
    #[error("way is malformed")]
    Malformed,
    /// No key of ours made its signature.
    #[error("way has a wrong signature")]
    Signature,
    /// It was made too long ago, or in the future.
    #[error("way is {off_ms} ms away from this node's time, over the limit of {AGE_MAX_MS}")]
    Stale {
        /// Milliseconds it is off.
        off_ms: u64,
    },
    /// It has more stops or bytes than the limits allow.
    #[error("way is over {STOPS_MAX} stops or {WAY_BYTES_MAX} bytes")]
    TooLong,
}

impl WayError {
    /// A fixed code for logs and counters.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "way_missing",
            Self::Malformed => "way_malformed",
            Self::Signature => "way_signature",
            Self::Stale { .. } => "way_stale",
            Self::TooLong => "way_too_long",
        }
    }
}

/// What is ahead of a connection: relays, then the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// `host:port` each; the last one is the node.
    stops: Vec<Box<str>>,
}

impl Way {
    /// A way over these stops.
    ///
    /// # Errors
    /// When there are none or too many, or one cannot be written.
    pub fn new<'a>(stops: impl IntoIterator<Item = &'a str>) -> Result<Self, WayError> {
        let stops: Vec<Box<str>> = stops.into_iter().map(Box::from).collect();
        if stops.len() > STOPS_MAX || stops.iter().map(|stop| stop.len() + 1).sum::<usize>() > WAY_BYTES_MAX {
            return Err(WayError::TooLong);
        }
        if stops.is_empty() || stops.iter().any(|stop| split_stop(stop).is_none()) {
            return Err(WayError::Malformed);
        }
        Ok(Self { stops })
    }

    /// The next stop's host and port.
    #[must_use]
    pub fn next(&self) -> (&str, u16) {
        self.stops.first().and_then(|stop| split_stop(stop)).unwrap_or(("", 0))
    }

    /// What is ahead of the next stop; `None` when it is the node.
    #[must_use]
    pub fn after_next(&self) -> Option<Self> {
        (self.stops.len() > 1).then(|| Self { stops: self.stops[1..].to_vec() })
    }

    /// The TLV's value: time, tag, then the stops, each ended by a line feed.
    #[must_use]
    pub fn sign(&self, key: &WayKey, client: Option<SocketAddr>, now_ms: u64) -> Vec<u8> {
        let text = self.text();
        let mut value = now_ms.to_be_bytes().to_vec();
        if let Some(key) = key.0.first() {
            value.extend_from_slice(hmac::sign(key, &signed(now_ms, client, &text)).as_ref());
        }
        value.extend_from_slice(&text);
        value
    }

    /// Checks a TLV's value. `client` is the source address of the same header.
    ///
    /// # Errors
    /// When it is malformed, not signed by the fleet, or not of this time.
    pub fn verify(
        value: &[u8],
        key: &WayKey,
        client: Option<SocketAddr>,
        now_ms: u64,
    ) -> Result<Self, WayError> {
        let (time, rest) = value.split_first_chunk::<8>().ok_or(WayError::Malformed)?;
        let (tag, text) = rest.split_at_checked(TAG_BYTES).ok_or(WayError::Malformed)?;
        if text.len() > WAY_BYTES_MAX {
            return Err(WayError::TooLong);
        }
        let made_ms = u64::from_be_bytes(*time);
        let message = signed(made_ms, client, text);
        if !key.0.iter().any(|key| hmac::verify(key, &message, tag).is_ok()) {
            return Err(WayError::Signature);
        }
        let off_ms = made_ms.abs_diff(now_ms);
        if off_ms > AGE_MAX_MS {
            return Err(WayError::Stale { off_ms });
        }
        let text = std::str::from_utf8(text).map_err(|_| WayError::Malformed)?;
        let text = text.strip_suffix('\n').ok_or(WayError::Malformed)?;
        Self::new(text.split('\n'))
    }

    fn text(&self) -> Vec<u8> {
        self.stops.iter().flat_map(|stop| stop.bytes().chain([b'\n'])).collect()
    }
}

fn signed(made_ms: u64, client: Option<SocketAddr>, text: &[u8]) -> Vec<u8> {
    let mut message = made_ms.to_be_bytes().to_vec();
    if let Some(client) = client {
        // Canonical, since the header may carry an IPv4 address in IPv6 form.
        message.extend_from_slice(client.ip().to_canonical().to_string().as_bytes());
        message.extend_from_slice(&client.port().to_be_bytes());
    }
    message.push(0);
    message.extend_from_slice(text);
    message
}

fn split_stop(stop: &str) -> Option<(&str, u16)> {
    let (host, port) = stop.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    (!host.is_empty() && host.len() <= 255 && host.bytes().all(is_host)).then_some((host, port))
}

/// Writes `host:port`, an IPv6 address in brackets.
pub(super) fn stop_of(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// How a relay's try went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// The node is connected; what follows is its bytes.
    Connected = 0,
    /// The way was refused.
    Refused = 1,
    /// A stop could not be reached.
    Unreachable = 2,
    /// A stop answered with a reset.
    NoListener = 3,
    /// A stop took too long.
    TimedOut = 4,
    /// The relay is at a limit.
    Busy = 5,
}

impl Answer {
    /// Its bytes: `SLV1`, the answer, how many relays back it came from, two zeros.
    #[must_use]
    pub fn encode(self, relays_back: u8) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = self as u8;
        bytes[5] = relays_back;
        bytes
    }

    /// Reads an answer and how many relays back it was given.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(bytes: &[u8; ANSWER_BYTES]) -> Result<(Self, u8), WayError> {
        if &bytes[..4] != MAGIC {
            return Err(WayError::Malformed);
        }
        let answer = match bytes[4] {
            0 => Self::Connected,
            1 => Self::Refused,
            2 => Self::Unreachable,
            3 => Self::NoListener,
            4 => Self::TimedOut,
            5 => Self::Busy,
            _ => return Err(WayError::Malformed),
        };
        Ok((answer, bytes[5]))
    }

    /// A fixed code for logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoListener => "no_listener",
            Self::TimedOut => "timed_out",
            Self::Busy => "busy",
        }
    }
}

/// The header for the next relay.
///
/// # Errors
/// When the path is longer than its TLV may be.
pub fn encode_header(
    way: &Way,
    key: &WayKey,
    addresses: (SocketAddr, SocketAddr),
    path: Option<&str>,
    now_ms: u64,
) -> Result<Vec<u8>, proxy_protocol::EncodeError> {
    let (source, destination) = addresses;
    let mut out = Vec::with_capacity(512);
    let outgoing = Outgoing { path, checksum: Checksum::Omit, ..Outgoing::new(source, destination) };
    proxy_protocol::encode_v2(&outgoing, &mut out)?;
    let value = way.sign(key, Some(source), now_ms);
    append_tlv(&mut out, TLV_WAY, &value);
    Ok(out)
}

/// Appends a TLV to a PROXY v2 header and counts it in the header's length.
fn append_tlv(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    header.push(kind);
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(&value[..usize::from(length)]);
    let total = u16::from_be_bytes([header[14], header[15]]).saturating_add(3 + length);
    header[14..16].copy_from_slice(&total.to_be_bytes());
}

/// The value of a TLV in a whole PROXY v2 header.
#[must_use]
pub fn find_tlv(header: &[u8], kind: u8) -> Option<&[u8]> {
    let addresses = match header.get(13)? >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return None,
    };
    let mut rest = header.get(16 + addresses..)?;
    while let Some((head, tail)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let value = tail.get(..length)?;
        if head[0] == kind {
            return Some(value);
        }
        rest = &tail[length..];
    }
    None
}

/// What a relay was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What is ahead.
    pub way: Way,
    /// Bytes of the header, to be taken off the connection.
    pub header_bytes: usize,
    /// The client's address and what it connected to.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The path of hops so far, unchecked.
    pub path: Option<std::sync::Arc<str>>,
}

/// Reads what a relay is asked for from the first bytes of a connection;
/// `None` asks for more. At most [`proxy_protocol::V2_BYTES_MAX`] bytes are needed.
///
/// # Errors
/// When the bytes are no PROXY v2 header with a way the fleet has signed.
pub fn accept(bytes: &[u8], key: &WayKey, now_ms: u64) -> Result<Option<Accepted>, WayError> {
    let parsed = proxy_protocol::parse(bytes).map_err(|_| WayError::Malformed)?;
    let Some((header, header_bytes)) = parsed else { return Ok(None) };
    let value = find_tlv(&bytes[..header_bytes], TLV_WAY).ok_or(WayError::Missing)?;
    let addresses = match header.addresses {
        proxy_protocol::Addresses::Inet { source, destination } => Some((source, destination)),
        _ => None,
    };
    let way = Way::verify(value, key, addresses.map(|(source, _)| source), now_ms)?;
    Ok(Some(Accepted { way, header_bytes, addresses, path: header.path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_225_600_000;

    fn key(byte: u8) -> WayKey {
        WayKey::new(&[&[byte; 32]]).unwrap()
    }

    fn header(way: &Way, key: &WayKey) -> Vec<u8> {
        let addresses = ("192.0.2.1:5000".parse().unwrap(), "198.51.100.2:443".parse().unwrap());
        encode_header(way, key, addresses, Some("1;path"), NOW).unwrap()
    }

    #[test]
    fn a_way_survives_every_split_and_shortens_stop_by_stop() {
        let way = Way::new(["relay.example:7443", "[2001:db8::1]:9000"]).unwrap();
        assert_eq!(way.next(), ("relay.example", 7443));
        assert_eq!(way.after_next().unwrap().next(), ("2001:db8::1", 9000));
        assert_eq!(way.after_next().unwrap().after_next(), None);
        let mut bytes = header(&way, &key(1));
        let whole = bytes.len();
        bytes.extend_from_slice(b"payload");
        for cut in 0..whole {
            assert_eq!(accept(&bytes[..cut], &key(1), NOW).unwrap(), None, "cut at {cut}");
        }
        let accepted = accept(&bytes, &key(1), NOW).unwrap().unwrap();
        assert_eq!((accepted.way, accepted.header_bytes), (way, whole));
        assert_eq!(accepted.path.as_deref(), Some("1;path"));
    }

    #[test]
    fn no_byte_of_a_header_can_be_changed() {
        let bytes = header(&Way::new(["10.0.0.1:9000"]).unwrap(), &key(1));
        let value = find_tlv(&bytes, TLV_WAY).unwrap();
        let way_at = bytes.len() - value.len();
        // The client's address and all of the way; the path is signed on its own.
        for at in (16..20).chain(24..26).chain(way_at..bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(accept(&changed, &key(1), NOW), Err(WayError::Signature), "byte {at}");
        }
    }

    #[test]
    fn what_the_fleet_did_not_sign_just_now_is_refused() {
        let way = Way::new(["10.0.0.1:9000"]).unwrap();
        let bytes = header(&way, &key(1));
        assert_eq!(accept(&bytes, &key(2), NOW), Err(WayError::Signature));
        assert!(matches!(accept(&bytes, &key(1), NOW + AGE_MAX_MS + 1), Err(WayError::Stale { .. })));
        assert!(matches!(accept(&bytes, &key(1), NOW - AGE_MAX_MS - 1), Err(WayError::Stale { .. })));
        let both = WayKey::new(&[&[2; 32], &[1; 32]]).unwrap();
        assert!(accept(&bytes, &both, NOW).unwrap().is_some());
        let mut plain = Vec::new();
        proxy_protocol::encode_local(&mut plain);
        assert_eq!(accept(&plain, &key(1), NOW), Err(WayError::Missing));
        assert_eq!(accept(b"GET / HTTP/1.1\r\n", &key(1), NOW), Err(WayError::Malformed));
        assert!(WayKey::new(&[b"short"]).is_none() && WayKey::new(&[]).is_none());
    }

    #[test]
    fn stops_that_cannot_be_gone_to_are_refused() {
        for stop in ["", ":", "a:", "a:0", "a:65536", ":1", "a b:1", "a\n:1", "a/b:1"] {
            assert_eq!(Way::new([stop]), Err(WayError::Malformed), "{stop:?}");
        }
        assert_eq!(Way::new([]), Err(WayError::Malformed));
        assert_eq!(Way::new(["a:1"; STOPS_MAX + 1]), Err(WayError::TooLong));
    }

    #[test]
    fn answers_read_back() {
        for answer in [Answer::Connected, Answer::Refused, Answer::Unreachable, Answer::NoListener] {
            assert_eq!(Answer::decode(&answer.encode(2)), Ok((answer, 2)));
        }
        assert!(Answer::decode(b"HTTP/1.1").is_err());
        assert!(Answer::decode(b"SLV1\x09\0\0\0").is_err());
    }
}
