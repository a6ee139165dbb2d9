//! `x-sluice-path`: the gateways a request passed, signed with the fleet's key.
//!
//! ```text
//! 1;203.0.113.9,edge-1;fra;leased;1767225600123,core-2;ams;public;1767225600127,Yk3…22 characters
//! version;client,node;region;line;milliseconds since 1970,…                    ,signature
//! ```
//!
//! The signature is HMAC-SHA256 cut to 128 bits, in base64url. It is chained:
//! that of the first hop covers version, client and hop, each further one covers
//! the signature before it and its own hop. So any gateway with the key can check
//! all of a path, and none without it can add, drop, reorder or change a hop or
//! the client's address. The same bytes stand in PROXY v2's TLV 0xE5. Reads no
//! clock: the caller says what time it is. Start at [`FleetKey`].

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::fields::{Fields, Name};

/// Gateways a path may name. A path that is full means a loop.
pub const HOPS_MAX: usize = 8;
/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 1024;
/// How far the last hop's time may be from ours, either way, in milliseconds.
/// It bounds for how long a path somebody saw can be played again.
pub const AGE_MAX_MS: u64 = 300_000;
/// Bytes of a node's, region's or line's name.
pub const NAME_BYTES_MAX: usize = 64;

const SIGNATURE_BYTES: usize = 16;
const SIGNATURE_TEXT: usize = 22;

/// The key a fleet of gateways shares, and those it used before.
pub struct FleetKey {
    current: hmac::Key,
    previous: Vec<hmac::Key>,
}

impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetKey(..)")
    }
}

/// Why a path is not believed or cannot grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not have the form.
    #[error("path is malformed")]
    Malformed,
    /// It is of another version.
    #[error("path is of an unknown version")]
    Version,
    /// It is longer than the limits allow.
    #[error("path is over {HOPS_MAX} hops or {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// No key of ours made its signature.
    #[error("path has a wrong signature")]
    Signature,
    /// Its last hop is too long ago, or in the future.
    #[error("path is more than {AGE_MAX_MS} ms away from this node's time")]
    Stale,
    /// It came more than once.
    #[error("path is given twice")]
    Twice,
}

impl PathError {
    /// The reason code, as counted in `sluice_client_address_ignored_total`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "path_malformed",
            Self::Version => "path_version",
            Self::TooLong => "path_too_long",
            Self::Signature => "path_signature",
            Self::Stale => "path_stale",
            Self::Twice => "path_twice",
        }
    }
}

/// How a fleet key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("fleet key has {bytes} bytes, at least 32 are needed")]
pub struct WeakKey {
    bytes: usize,
}

/// A path that was checked, or is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    text: Box<str>,
    client: IpAddr,
    hops: usize,
}

/// One gateway on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop<'a> {
    /// The gateway's id.
    pub node: &'a str,
    /// Its region.
    pub region: &'a str,
    /// The line it chose.
    pub line: &'a str,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Path {
    /// The path as it was received.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The client, as the first gateway knew it.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// The gateways passed, the first one first.
    pub fn hops(&self) -> impl Iterator<Item = Hop<'_>> {
        // Checked when the path was made.
        self.text.split(',').skip(1).take(self.hops).filter_map(parse_hop)
    }

    /// How often the path passed `node`: more than once is a loop.
    #[must_use]
    pub fn visits(&self, node: &str) -> usize {
        self.hops().filter(|hop| hop.node == node).count()
    }

    fn signature(&self) -> &str {
        &self.text[self.text.len() - SIGNATURE_TEXT..]
    }
}

impl FleetKey {
    /// A key from the fleet's secret, at least 32 bytes.
    pub fn new(secret: &[u8]) -> Result<Self, WeakKey> {
        Ok(Self { current: key(secret)?, previous: Vec::new() })
    }

    /// Also believes what was signed with `secret`: for a change of keys.
    pub fn with_previous(mut self, secret: &[u8]) -> Result<Self, WeakKey> {
        self.previous.push(key(secret)?);
        Ok(self)
    }

    /// Checks a path.
    pub fn verify(&self, value: &[u8], now_ms: u64) -> Result<Path, PathError> {
        if value.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let text = std::str::from_utf8(value).map_err(|_| PathError::Malformed)?;
        let (body, signature) = text.rsplit_once(',').ok_or(PathError::Malformed)?;
        let mut items = body.split(',');
        let (version, client) =
            items.next().and_then(|item| item.split_once(';')).ok_or(PathError::Malformed)?;
        if version != "1" {
            return Err(PathError::Version);
        }
        let client: IpAddr = client.parse().map_err(|_| PathError::Malformed)?;
        let mut hops = 0;
        let mut last = None;
        for item in items {
            hops += 1;
            if hops > HOPS_MAX {
                return Err(PathError::TooLong);
            }
            last = Some(parse_hop(item).ok_or(PathError::Malformed)?);
        }
        let last = last.ok_or(PathError::Malformed)?;
        let mut given = [0; SIGNATURE_BYTES];
        if signature.len() != SIGNATURE_TEXT
            || URL_SAFE_NO_PAD.decode_slice(signature, &mut given) != Ok(SIGNATURE_BYTES)
        {
            return Err(PathError::Malformed);
        }
        let is_ours = std::iter::once(&self.current)
            .chain(&self.previous)
            .any(|key| constant_time::verify_slices_are_equal(&chain_signature(key, body), &given).is_ok());
        if !is_ours {
            return Err(PathError::Signature);
        }
        if last.at_ms.abs_diff(now_ms) > AGE_MAX_MS {
            return Err(PathError::Stale);
        }
        Ok(Path { text: text.into(), client, hops })
    }

    /// Takes the path out of a request's fields: one that is right is returned,
    /// any other is the reason to count. Either way the fields hold none after it.
    pub fn take(&self, fields: &mut Fields, now_ms: u64) -> Option<Result<Path, PathError>> {
        let mut values = fields.values(Name::SluicePath);
        let first = values.next()?;
        let outcome = match values.next() {
            None => self.verify(first, now_ms),
            Some(_) => Err(PathError::Twice),
        };
        drop(values);
        fields.remove_known(Name::SluicePath);
        Some(outcome)
    }

    /// Appends to `out` the path that `before` becomes with one more hop. Without
    /// `before` it begins at `client`. Characters that names may not have become `-`.
    pub fn extend(
        &self,
        before: Option<&Path>,
        client: IpAddr,
        hop: Hop<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), PathError> {
        use std::io::Write as _;
        let start = out.len();
        let signed_from = match before {
            None => {
                // Writing into a Vec does not fail.
                let _ = write!(out, "1;{client},");
                start
            }
            Some(path) if path.hops >= HOPS_MAX => return Err(PathError::TooLong),
            Some(path) => {
                out.extend_from_slice(&path.text.as_bytes()[..path.text.len() - SIGNATURE_TEXT]);
                out.len()
            }
        };
        for name in [hop.node, hop.region, hop.line] {
            push_name(out, name);
            out.push(b';');
        }
        out.extend_from_slice(itoa::Buffer::new().format(hop.at_ms).as_bytes());
        let signature = match before {
            None => sign(&self.current, &[], &out[signed_from..]),
            Some(path) => {
                let mut given = [0; SIGNATURE_BYTES];
                let decoded = URL_SAFE_NO_PAD.decode_slice(path.signature(), &mut given);
                decoded.map_err(|_| PathError::Malformed)?;
                // The chain of an older key is signed anew, so that it outlives that key by no hop.
                let body = &path.text[..path.text.len() - SIGNATURE_TEXT - 1];
                if !self.previous.is_empty() {
                    given = chain_signature(&self.current, body);
                }
                sign(&self.current, &given, &out[signed_from..])
            }
        };
        out.push(b',');
        let end = out.len();
        out.resize(end + SIGNATURE_TEXT, 0);
        // The room is exactly what 16 bytes need.
        let _ = URL_SAFE_NO_PAD.encode_slice(signature, &mut out[end..]);
        if out.len() - start > PATH_BYTES_MAX {
            out.truncate(start);
            return Err(PathError::TooLong);
        }
        Ok(())
    }
}

fn key(secret: &[u8]) -> Result<hmac::Key, WeakKey> {
    if secret.len() < 32 {
        return Err(WeakKey { bytes: secret.len() });
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

/// The signature of `version;client,hop,…`, hop by hop.
fn chain_signature(key: &hmac::Key, body: &str) -> [u8; SIGNATURE_BYTES] {
    let mut commas = memchr::memchr_iter(b',', body.as_bytes()).skip(1).chain([body.len()]);
    let first = commas.next().unwrap_or(body.len());
    let mut signature = sign(key, &[], &body.as_bytes()[..first]);
    let mut start = first;
    for end in commas {
        signature = sign(key, &signature, &body.as_bytes()[start + 1..end]);
        start = end;
    }
    signature
}

fn sign(key: &hmac::Key, before: &[u8], text: &[u8]) -> [u8; SIGNATURE_BYTES] {
    let mut context = hmac::Context::with_key(key);
    context.update(before);
    context.update(text);
    let mut signature = [0; SIGNATURE_BYTES];
    signature.copy_from_slice(&context.sign().as_ref()[..SIGNATURE_BYTES]);
    signature
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:".contains(&byte)
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    let clean = |byte: u8| if is_name_byte(byte) { byte } else { b'-' };
    out.extend(name.bytes().take(NAME_BYTES_MAX).map(clean));
}

fn parse_hop(item: &str) -> Option<Hop<'_>> {
    let mut parts = item.split(';');
    let mut name =
        || parts.next().filter(|name| name.len() <= NAME_BYTES_MAX && name.bytes().all(is_name_byte));
    let (node, region, line) = (name()?, name()?, name()?);
    let time =
        parts.next().filter(|text| text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit()))?;
    if parts.next().is_some() || node.is_empty() {
        return None;
    }
    Some(Hop { node, region, line, at_ms: time.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_225_600_000;

    fn fleet() -> FleetKey {
        FleetKey::new(&[7; 32]).unwrap()
    }

    fn hop(node: &str) -> Hop<'_> {
        Hop { node, region: "fra", line: "leased", at_ms: NOW }
    }

    fn path(key: &FleetKey, nodes: &[&str]) -> String {
        let mut before = None;
        let mut out = Vec::new();
        for node in nodes {
            out.clear();
            key.extend(before.as_ref(), "203.0.113.9".parse().unwrap(), hop(node), &mut out).unwrap();
            before = Some(key.verify(&out, NOW).unwrap());
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_path_grows_hop_by_hop_and_any_hop_can_check_it() {
        let text = path(&fleet(), &["edge-1", "core-2", "core-3"]);
        assert!(text.starts_with("1;203.0.113.9,edge-1;fra;leased;1767225600000,core-2;"), "{text}");
        let path = fleet().verify(text.as_bytes(), NOW + AGE_MAX_MS).unwrap();
        assert_eq!(path.client(), "203.0.113.9".parse::<IpAddr>().unwrap());
        assert_eq!(path.hops().map(|hop| hop.node).collect::<Vec<_>>(), ["edge-1", "core-2", "core-3"]);
        assert_eq!((path.visits("core-2"), path.visits("other")), (1, 0));
        assert_eq!(path.as_str(), text);
    }

    #[test]
    fn no_byte_of_a_path_can_be_changed() {
        let text = path(&fleet(), &["edge-1", "core-2"]);
        for index in 0..text.len() {
            for flip in [1u8, 2, 0x10] {
                let mut bytes = text.clone().into_bytes();
                bytes[index] ^= flip;
                // The unused low bits of the last base64 character do not exist in canonical text.
                assert!(fleet().verify(&bytes, NOW).is_err(), "{index} {flip}");
            }
        }
    }

    #[test]
    fn hops_cannot_be_dropped_reordered_or_added() {
        let text = path(&fleet(), &["a", "b", "c"]);
        let items: Vec<&str> = text.split(',').collect();
        for order in [&[0, 1, 2, 4][..], &[0, 2, 3, 4], &[0, 2, 1, 3, 4], &[0, 1, 2, 3, 3, 4]] {
            let forged = order.iter().map(|index| items[*index]).collect::<Vec<_>>().join(",");
            assert_eq!(fleet().verify(forged.as_bytes(), NOW), Err(PathError::Signature), "{forged}");
        }
    }

    #[test]
    fn bad_paths_are_refused_with_their_reason() {
        let good = path(&fleet(), &["edge-1"]);
        let long = format!("1;1.1.1.1{},{}", ",a;b;c;1".repeat(9), "A".repeat(22));
        let table: [(String, PathError); 16] = [
            (String::new(), PathError::Malformed),
            (",".into(), PathError::Malformed),
            ("1;203.0.113.9".into(), PathError::Malformed),
            (good.replacen("1;", "2;", 1), PathError::Version),
            (good.replacen("203.0.113.9", "203.0.113.256", 1), PathError::Malformed),
            (good.replacen("203.0.113.9", "203.0.113.8", 1), PathError::Signature),
            (good.replacen("edge-1", "", 1), PathError::Malformed),
            (good.replacen("edge-1", "edge 1", 1), PathError::Malformed),
            (good.replacen("edge-1", &"x".repeat(65), 1), PathError::Malformed),
            (good.replacen(";fra", "", 1), PathError::Malformed),
            (good.replacen(";fra", ";fra;x", 1), PathError::Malformed),
            (good.replacen("1767225600000", "-1", 1), PathError::Malformed),
            (good.replacen("1767225600000", "1767225600000000", 1), PathError::Malformed),
            (good[..good.len() - 1].into(), PathError::Malformed),
            (long, PathError::TooLong),
            ("x".repeat(1025), PathError::TooLong),
        ];
        for (text, error) in table {
            assert_eq!(fleet().verify(text.as_bytes(), NOW), Err(error), "{text}");
        }
        assert_eq!(fleet().verify(&[0xff; 40], NOW), Err(PathError::Malformed));
        for now in [NOW - AGE_MAX_MS - 1, NOW + AGE_MAX_MS + 1, 0, u64::MAX] {
            assert_eq!(fleet().verify(good.as_bytes(), now), Err(PathError::Stale));
        }
        let other = FleetKey::new(&[8; 32]).unwrap();
        assert_eq!(other.verify(good.as_bytes(), NOW), Err(PathError::Signature));
    }

    #[test]
    fn a_loop_ends_at_the_limit_of_hops() {
        let text = path(&fleet(), &["a"; HOPS_MAX]);
        let full = fleet().verify(text.as_bytes(), NOW).unwrap();
        let mut out = b"before".to_vec();
        let outcome = fleet().extend(Some(&full), full.client(), hop("b"), &mut out);
        assert_eq!((outcome, out.as_slice()), (Err(PathError::TooLong), &b"before"[..]));
    }

    #[test]
    fn a_change_of_keys_needs_no_pause() {
        let old = path(&fleet(), &["edge-1"]);
        let new = FleetKey::new(&[9; 40]).unwrap().with_previous(&[7; 32]).unwrap();
        let before = new.verify(old.as_bytes(), NOW).unwrap();
        let mut out = Vec::new();
        new.extend(Some(&before), before.client(), hop("core-2"), &mut out).unwrap();
        assert_eq!(FleetKey::new(&[9; 40]).unwrap().verify(&out, NOW).unwrap().hops().count(), 2);
        assert_eq!(
            FleetKey::new(&[1; 31]).unwrap_err().to_string(),
            "fleet key has 31 bytes, at least 32 are needed"
        );
    }

    #[test]
    fn names_are_cleaned_before_they_are_signed() {
        let mut out = Vec::new();
        let odd = Hop { node: "ä,b;c\r\n", region: "", line: &"l".repeat(100), at_ms: NOW };
        fleet().extend(None, "::1".parse().unwrap(), odd, &mut out).unwrap();
        let path = fleet().verify(&out, NOW).unwrap();
        let hop = path.hops().next().unwrap();
        assert_eq!((hop.node, hop.region, hop.line.len()), ("---b-c--", "", 64));
    }

    #[test]
    fn taking_a_path_leaves_none_behind() {
        let good = path(&fleet(), &["edge-1"]);
        let take = |values: &[&str]| {
            let mut fields = Fields::default();
            for value in values {
                fields.append(b"X-Sluice-Path", value.as_bytes());
            }
            let outcome = fleet().take(&mut fields, NOW);
            assert!(fields.is_empty());
            outcome.map(|outcome| outcome.map(|path| path.hops().count()))
        };
        assert_eq!(take(&[]), None);
        assert_eq!(take(&[&good]), Some(Ok(1)));
        assert_eq!(take(&["forged"]), Some(Err(PathError::Malformed)));
        assert_eq!(take(&[&good, &good]), Some(Err(PathError::Twice)));
    }
}
