//! The fuzz entry of what reads headers about the client: address chains, paths,
//! traces. It asserts what must hold for any input, and is called by the tests
//! beside it and by a fuzzer from outside.

use std::net::SocketAddr;

use super::forwarded::{AddressMemory, HOPS_MAX, Origin, Stop};
use super::path_signature::{FleetKey, Hop};
use super::trace::{self, IdSource, TraceContext, TraceOrigin};
use super::{Client, Fields, IpSet, Method, Name, RequestHead, Scheme, Version};

/// Reads `data` as headers about the client, a line each, the first byte of a
/// line choosing which.
pub fn client_headers(data: &[u8]) {
    let mut fields = Fields::default();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some((choice, value)) = line.split_first() else { continue };
        let names = [
            "x-forwarded-for",
            "forwarded",
            "x-forwarded-host",
            "x-sluice-path",
            "traceparent",
            "tracestate",
        ];
        fields.append(names[usize::from(*choice) % names.len()].as_bytes(), value);
    }
    address(fields.clone());
    path(&mut fields);
    context(&mut fields);
}

/// What goes on names the same client to whoever reads it next, left or right.
fn address(mut fields: Fields) {
    let address = SocketAddr::from(([10, 0, 0, 1], 1));
    let client = Client { peer: address, address, local: address, tls: None, path: None };
    let trusted = IpSet::parse(&["10.0.0.0/8", "fd00::/8"]).unwrap_or_default();
    let authority = fields.store(b"a.example");
    let target = fields.store(b"/");
    let mut head =
        RequestHead::new(Method::Get, Version::Http11, Scheme::Http, authority, target, None, fields);
    let origin = Origin::of(&client, &head.fields, &trusted);
    origin.pass_on(&mut head, &client, &trusted, &AddressMemory::default());
    let chain = head.fields.value(Name::XForwardedFor).unwrap_or_default();
    let leftmost = chain.split(|byte| *byte == b',').next().unwrap_or_default();
    assert_eq!(leftmost, origin.ip.to_string().as_bytes());
    assert!(chain.split(|byte| *byte == b',').count() <= HOPS_MAX + 1);
    // The next gateway trusts us, and finds the same client by either header.
    let next = SocketAddr::from(([10, 9, 9, 9], 1));
    let next = Client { peer: next, address: next, ..client };
    for name in [Name::XForwardedFor, Name::Forwarded] {
        let mut kept = head.fields.clone();
        kept.retain(|known, _, _| known == name);
        let found = Origin::of(&next, &kept, &trusted);
        assert!(found.ip == origin.ip || found.stop == Some(Stop::TooLong), "{name:?}: {found:?} {origin:?}");
    }
}

/// Nothing without the key is a path, and what is one can grow.
fn path(fields: &mut Fields) {
    const NOW: u64 = 1_767_225_600_000;
    let Ok(key) = FleetKey::new(b"a key that no corpus can hold: 0123456789abcdef") else { return };
    if let Some(outcome) = key.take(fields, NOW) {
        assert!(outcome.is_err());
    }
    let text = String::from_utf8_lossy(fields.text()).into_owned();
    let hop = Hop { node: &text, region: &text, line: &text, at_ms: NOW };
    let mut out = Vec::new();
    let client = std::net::Ipv4Addr::LOCALHOST.into();
    let extended = key.extend(None, client, hop, &mut out);
    // A hop without a node's name cannot be read back; nodes always have one.
    assert!(extended.is_err() || text.is_empty() || key.verify(&out, NOW).is_ok());
}

/// What goes on is a valid context, or none.
fn context(fields: &mut Fields) {
    let found = trace::pass_on(fields, TraceOrigin::PassOnly, &IdSource::seeded(1));
    let mut left = fields.values(Name::Traceparent);
    assert_eq!(left.next().and_then(TraceContext::parse), found);
    assert!(left.next().is_none());
    assert!(found.is_some() || fields.value(Name::Tracestate).is_none());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines put together from pieces the parsers look for.
    #[test]
    fn any_mixture_of_pieces_keeps_the_promises() {
        const PIECES: [&[u8]; 32] = [
            b"\n0",
            b"\n1",
            b"\n2",
            b"\n3",
            b"\n4",
            b"\n5",
            b"for=",
            b"\"",
            b"\\",
            b",",
            b";",
            b"=",
            b" ",
            b"[",
            b"]",
            b":",
            b"10.0.0.2",
            b"1.1.1.1",
            b"fd00::1",
            b"2001:db8::1",
            b"unknown",
            b"_x",
            b"proto=http",
            b"1;1.1.1.1,a;b;c;1767225600000,",
            b"AAAAAAAAAAAAAAAAAAAAAA",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-",
            b"00f067aa0ba902b7-01",
            b"a=b",
            b"\xff",
            b"\0",
            b"%",
            b"999999",
        ];
        let random = IdSource::seeded(42);
        for _ in 0..20_000 {
            let mut data = Vec::new();
            for _ in 0..random.next_u64() % 40 {
                data.extend_from_slice(PIECES[(random.next_u64() % 32) as usize]);
            }
            client_headers(&data);
        }
    }

    #[test]
    fn long_chains_keep_the_promises() {
        for count in [31, 32, 33, 100] {
            client_headers(format!("0{}", vec!["10.0.0.2"; count].join(",")).as_bytes());
            client_headers(format!("1{}", vec!["for=10.0.0.2"; count].join(",")).as_bytes());
        }
    }
}
