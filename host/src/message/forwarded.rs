//! The client's address across trusted hops, and what is passed on of it.
//!
//! Reads `X-Forwarded-For` or `Forwarded` from right to left: each address is
//! believed only because the hop to its right is trusted, and the first one that
//! is not trusted itself is the client. Whatever stands left of it is the
//! client's own claim and is not passed on: in what goes to the upstream, the
//! leftmost address is always the client as the gateway knows it. The rules are
//! in `docs/client-address.md`. Start at [`Origin::of`] and [`Origin::pass_on`].

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use super::address_text::AddressText;
use super::addresses::IpSet;
use super::client::Client;
use super::fields::{Field, Fields, Name, Span};
use super::head::{RequestHead, Scheme};

/// Hops walked through at most; the walk stops there.
pub const HOPS_MAX: usize = 32;
/// Bytes of a chain that are looked at, counted from its right end.
const CHAIN_BYTES_MAX: usize = 8 << 10;

/// Where an [`Origin`] was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The connection, or its PROXY header.
    Connection,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`, where there is no `X-Forwarded-For`.
    Forwarded,
}

/// Why a walk ended before the chain did, or why headers were not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// An entry is no address.
    Malformed,
    /// The hop hides who is behind it: `unknown` or an obfuscated identifier.
    Hidden,
    /// More than [`HOPS_MAX`] trusted hops, or too many bytes.
    TooLong,
    /// The peer is not trusted, yet sent address headers: they are dropped.
    Untrusted,
}

impl Stop {
    /// The reason code, as counted in `sluice_client_address_ignored_total`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_chain",
            Self::Hidden => "hidden_hop",
            Self::TooLong => "chain_too_long",
            Self::Untrusted => "untrusted_peer",
        }
    }
}

/// Who sent a request, as far as trusted hops vouch for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The client's address.
    pub ip: IpAddr,
    /// The client's port, when it is known.
    pub port: Option<u16>,
    /// Where the address was learned.
    pub source: Source,
    /// Why nothing further left was believed, when there was something.
    pub stop: Option<Stop>,
    /// Trusted hops between the client and us, the nearest first.
    hops: SmallVec<[IpAddr; 2]>,
}

impl Origin {
    /// The client behind `client`'s connection for a request with these fields.
    #[must_use]
    pub fn of(client: &Client, fields: &Fields, trusted: &IpSet) -> Self {
        let mut origin = Self::of_connection(client.address);
        if !trusted.contains(origin.ip) {
            if has_claims(fields) {
                origin.stop = Some(Stop::Untrusted);
            }
            return origin;
        }
        if fields.value(Name::XForwardedFor).is_some() {
            origin.walk(Source::XForwardedFor, fields, trusted);
        } else if fields.value(Name::Forwarded).is_some() {
            origin.walk(Source::Forwarded, fields, trusted);
        }
        origin
    }

    /// The other end of a connection, no headers looked at.
    #[must_use]
    pub fn of_connection(address: SocketAddr) -> Self {
        Self {
            ip: address.ip().to_canonical(),
            port: Some(address.port()),
            source: Source::Connection,
            stop: None,
            hops: SmallVec::new(),
        }
    }

    /// Whether the connection's other end is a trusted hop that was followed.
    #[must_use]
    pub fn is_behind_hops(&self) -> bool {
        !self.hops.is_empty()
    }

    fn walk(&mut self, source: Source, fields: &Fields, trusted: &IpSet) {
        let name = if source == Source::Forwarded { Name::Forwarded } else { Name::XForwardedFor };
        let lines: SmallVec<[&[u8]; 4]> = fields.values(name).take(HOPS_MAX + 1).collect();
        let mut bytes = 0;
        for line in lines.iter().rev() {
            bytes += line.len();
            let mut rest = Some(*line);
            while let Some(text) = rest {
                // The chain's own text is bounded by the head's limits; this
                // bounds the work a single request can ask for.
                if bytes > CHAIN_BYTES_MAX || self.hops.len() >= HOPS_MAX {
                    return self.stop = Some(Stop::TooLong);
                }
                let entry;
                (rest, entry) = match source {
                    Source::Forwarded => match last_element(text) {
                        Ok(found) => found,
                        Err(stop) => return self.stop = Some(stop),
                    },
                    _ => last_entry(text),
                };
                let entry = entry.trim_ascii();
                // An empty entry is no entry (RFC 9110 §5.6.1).
                if entry.is_empty() {
                    continue;
                }
                let found = match source {
                    Source::Forwarded => forwarded_for(entry),
                    _ => address(entry),
                };
                let (ip, port) = match found {
                    Ok(found) => found,
                    Err(stop) => return self.stop = Some(stop),
                };
                self.hops.push(self.ip);
                (self.ip, self.port, self.source) = (ip, port, source);
                if !trusted.contains(ip) {
                    return;
                }
            }
        }
    }

    /// Replaces every address header of `head` by what the gateway vouches for.
    ///
    /// `X-Forwarded-Proto`, `-Host` and `-Port` of a trusted hop are kept when
    /// they are well-formed; everyone else's are replaced by what the client used
    /// here. `memory` is the connection's: requests of one client for one host
    /// carry the same headers, which are then copied in one piece.
    pub fn pass_on(&self, head: &mut RequestHead, client: &Client, trusted: &IpSet, memory: &AddressMemory) {
        let is_hop = trusted.contains(client.address.ip());
        let kept = Kept::of(&head.fields, is_hop);
        if head.fields.table().iter().any(|field| is_address_header(field.known)) {
            head.fields.retain(|name, _, _| !is_address_header(name));
        }
        if is_hop {
            let block = self.block(head, client, &kept);
            return head.fields.append_block(&block.text, &block.table);
        }
        let mut known = memory.0.borrow_mut();
        if known.as_ref().is_none_or(|block| !block.is_for(self.ip, head)) {
            *known = Some(Box::new(self.block(head, client, &kept)));
        }
        if let Some(block) = &*known {
            head.fields.append_block(&block.text, &block.table);
        }
    }

    fn block(&self, head: &RequestHead, client: &Client, kept: &Kept) -> Block {
        let scheme = head.scheme;
        let host = match kept.host {
            Some(span) => head.fields.get(span),
            None => head.authority_bytes(),
        };
        let mut block = Block {
            ip: self.ip,
            scheme,
            authority: head.authority_bytes().into(),
            text: Vec::with_capacity(320),
            table: Vec::with_capacity(6),
        };
        let own = AddressText::of(self.ip);
        block.add(Name::XRealIp, b"X-Real-IP", &own);

        let mut text = Scratch::new();
        text.extend_from_slice(&own);
        for hop in self.hops.iter().rev() {
            text.extend_from_slice(b", ");
            text.extend_from_slice(&AddressText::of(*hop));
        }
        block.add(Name::XForwardedFor, b"X-Forwarded-For", &text);

        let proto = kept.proto.unwrap_or(scheme.as_str());
        block.add(Name::XForwardedProto, b"X-Forwarded-Proto", proto.as_bytes());
        if !host.is_empty() {
            block.add(Name::XForwardedHost, b"X-Forwarded-Host", host);
        }
        let port = kept.port.unwrap_or_else(|| local_port(head.authority(), client, scheme));
        let port = itoa::Buffer::new().format(port).to_owned();
        block.add(Name::XForwardedPort, b"X-Forwarded-Port", port.as_bytes());

        text.clear();
        write_for(&mut text, self.ip);
        text.extend_from_slice(b";proto=");
        text.extend_from_slice(proto.as_bytes());
        if !host.is_empty() && host.iter().all(|byte| is_host_byte(*byte)) {
            text.extend_from_slice(b";host=\"");
            text.extend_from_slice(host);
            text.extend_from_slice(b"\"");
        }
        for hop in self.hops.iter().rev() {
            text.extend_from_slice(b", ");
            write_for(&mut text, *hop);
        }
        block.add(Name::Forwarded, b"Forwarded", &text);
        block
    }
}

/// The address headers of a connection's last request.
#[derive(Debug, Default)]
pub struct AddressMemory(RefCell<Option<Box<Block>>>);

/// Address headers as lines of a head, and for whom they hold.
#[derive(Debug)]
struct Block {
    ip: IpAddr,
    scheme: Scheme,
    authority: Box<[u8]>,
    text: Vec<u8>,
    table: Vec<Field>,
}

impl Block {
    fn is_for(&self, ip: IpAddr, head: &RequestHead) -> bool {
        self.ip == ip && self.scheme == head.scheme && *self.authority == *head.authority_bytes()
    }

    /// Adds a line.
    fn add(&mut self, known: Name, name: &[u8], value: &[u8]) {
        let text = &mut self.text;
        let start = text.len();
        text.extend_from_slice(name);
        text.extend_from_slice(b": ");
        let value_start = text.len();
        text.extend_from_slice(value);
        let (name, value) = (Span::of(start, start + name.len()), Span::of(value_start, text.len()));
        text.extend_from_slice(b"\r\n");
        self.table.push(Field { known, name, value });
    }
}

/// Text being put together on the stack.
struct Scratch(SmallVec<[u8; 256]>);

impl Scratch {
    fn new() -> Self {
        Self(SmallVec::new())
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

impl std::ops::Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

fn write_for(text: &mut Scratch, ip: IpAddr) {
    let (before, after): (&[u8], &[u8]) = match ip {
        IpAddr::V4(_) => (b"for=", b""),
        IpAddr::V6(_) => (b"for=\"[", b"]\""),
    };
    text.extend_from_slice(before);
    text.extend_from_slice(&AddressText::of(ip));
    text.extend_from_slice(after);
}

/// What a trusted hop said of the original request.
#[derive(Default)]
struct Kept {
    proto: Option<&'static str>,
    host: Option<Span>,
    port: Option<u16>,
}

impl Kept {
    fn of(fields: &Fields, is_hop: bool) -> Self {
        if !is_hop {
            return Self::default();
        }
        let only = |name| {
            let mut found = fields.table().iter().filter(|field| field.known == name);
            found.next().filter(|_| found.next().is_none()).map(|field| field.value)
        };
        let text = |span: Span| fields.get(span);
        Self {
            proto: only(Name::XForwardedProto).and_then(|span| match text(span) {
                value if value.eq_ignore_ascii_case(b"https") || value.eq_ignore_ascii_case(b"wss") => {
                    Some(Scheme::Https.as_str())
                }
                value if value.eq_ignore_ascii_case(b"http") || value.eq_ignore_ascii_case(b"ws") => {
                    Some(Scheme::Http.as_str())
                }
                _ => None,
            }),
            host: only(Name::XForwardedHost).filter(|span| {
                (1..=261).contains(&span.len) && text(*span).iter().all(|byte| is_host_byte(*byte))
            }),
            port: only(Name::XForwardedPort).and_then(|span| parse_port(text(span))),
        }
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(&byte)
}

fn is_address_header(name: Name) -> bool {
    matches!(
        name,
        Name::XForwardedFor
            | Name::Forwarded
            | Name::XRealIp
            | Name::XForwardedProto
            | Name::XForwardedHost
            | Name::XForwardedPort
    )
}

fn has_claims(fields: &Fields) -> bool {
    fields
        .table()
        .iter()
        .any(|field| matches!(field.known, Name::XForwardedFor | Name::Forwarded | Name::XRealIp))
}

/// The port the client asked for: that of the authority, or the listener's.
fn local_port(authority: &str, client: &Client, scheme: Scheme) -> u16 {
    let named = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
    match named.and_then(|colon| parse_port(&authority.as_bytes()[colon + 1..])) {
        Some(port) => port,
        None if client.local.port() != 0 => client.local.port(),
        None if scheme == Scheme::Https => 443,
        None => 80,
    }
}

/// Splits off what stands behind the last comma.
fn last_entry(text: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match memchr::memrchr(b',', text) {
        Some(comma) => (Some(&text[..comma]), &text[comma + 1..]),
        None => (None, text),
    }
}

/// Splits off the last element of a `Forwarded` value, read from the right: what
/// a client wrote to the left, an open quote for one, cannot swallow what a
/// trusted hop appended.
fn last_element(text: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Stop> {
    let mut quoted = false;
    for index in (0..text.len()).rev() {
        match text[index] {
            b'"' if is_escaped(&text[..index]) => {}
            b'"' => quoted = !quoted,
            b',' if !quoted => return Ok((Some(&text[..index]), &text[index + 1..])),
            _ => {}
        }
    }
    if quoted { Err(Stop::Malformed) } else { Ok((None, text)) }
}

fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The `for` of one `Forwarded` element.
fn forwarded_for(element: &[u8]) -> Result<(IpAddr, Option<u16>), Stop> {
    let mut node = None;
    let mut rest = element;
    loop {
        let (name, after) = split_at(rest, b'=').ok_or(Stop::Malformed)?;
        let name = name.trim_ascii();
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(Stop::Malformed);
        }
        let (value, after) = parameter_value(after)?;
        if name.eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
            return Err(Stop::Malformed);
        }
        match after {
            None => break,
            Some(after) => rest = after,
        }
    }
    // An element without `for` says nothing of who is behind the hop.
    let node = node.ok_or(Stop::Hidden)?;
    if node.first() == Some(&b'_') || node.starts_with(b"\"_") {
        return Err(Stop::Hidden);
    }
    address(unquoted(node))
}

/// One parameter's value as written, and what follows its `;`.
fn parameter_value(text: &[u8]) -> Result<(&[u8], Option<&[u8]>), Stop> {
    let end = match text.first() {
        Some(b'"') => {
            let closing = (1..text.len()).find(|at| text[*at] == b'"' && !is_escaped(&text[1..*at]));
            closing.ok_or(Stop::Malformed)? + 1
        }
        _ => text.iter().position(|byte| !is_token(*byte)).unwrap_or(text.len()),
    };
    let (value, rest) = text.split_at(end);
    if value.is_empty() {
        return Err(Stop::Malformed);
    }
    match rest.trim_ascii() {
        [] => Ok((value, None)),
        [b';', after @ ..] => Ok((value, Some(after))),
        _ => Err(Stop::Malformed),
    }
}

/// Without the quotes. Addresses need no escapes: with one it is no address.
fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        value => value,
    }
}

fn split_at(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, text)?;
    Some((&text[..at], &text[at + 1..]))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An address as hops write it: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`,
/// `[2001:db8::1]`, `[2001:db8::1]:80`. An obfuscated port is passed over.
fn address(entry: &[u8]) -> Result<(IpAddr, Option<u16>), Stop> {
    if entry.eq_ignore_ascii_case(b"unknown") || entry.first() == Some(&b'_') {
        return Err(Stop::Hidden);
    }
    let text = std::str::from_utf8(entry).map_err(|_| Stop::Malformed)?;
    let (ip, port) = if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or(Stop::Malformed)?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| Stop::Malformed)?;
        (IpAddr::V6(ip), (!rest.is_empty()).then_some(rest))
    } else if text.matches(':').count() > 1 {
        (text.parse().map(IpAddr::V6).map_err(|_| Stop::Malformed)?, None)
    } else {
        let end = text.find(':').unwrap_or(text.len());
        let ip: Ipv4Addr = text[..end].parse().map_err(|_| Stop::Malformed)?;
        (IpAddr::V4(ip), (end < text.len()).then_some(&text[end..]))
    };
    let port = match port.map(str::as_bytes) {
        None => None,
        Some([b':', b'_', rest @ ..]) if rest.iter().all(|byte| is_token(*byte)) => None,
        Some([b':', digits @ ..]) => Some(parse_port(digits).ok_or(Stop::Malformed)?),
        Some(_) => return Err(Stop::Malformed),
    };
    Ok((ip.to_canonical(), port))
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
