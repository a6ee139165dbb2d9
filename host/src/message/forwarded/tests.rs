use super::*;
use crate::message::{Method, Version};

fn trusted() -> IpSet {
    IpSet::of(&["10.0.0.0/8", "fd00::/8", "10.1.0.0/16"].map(|net| net.parse().unwrap()))
}

fn client(address: &str) -> Client {
    let address: SocketAddr = address.parse().unwrap();
    Client { peer: address, address, local: "192.0.2.80:8443".parse().unwrap(), tls: None, path: None }
}

fn fields(list: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in list {
        fields.append(name.as_bytes(), value.as_bytes());
    }
    fields
}

fn origin(peer: &str, list: &[(&str, &str)]) -> (String, Option<Stop>) {
    let origin = Origin::of(&client(peer), &fields(list), &trusted());
    (origin.ip.to_string(), origin.stop)
}

#[test]
fn x_forwarded_for_is_read_from_the_right() {
    let table: &[(&str, &[&str], &str, Option<Stop>)] = &[
        ("203.0.113.9:1", &[], "203.0.113.9", None),
        ("203.0.113.9:1", &["1.1.1.1"], "203.0.113.9", Some(Stop::Untrusted)),
        ("10.0.0.1:1", &["1.1.1.1"], "1.1.1.1", None),
        ("10.0.0.1:1", &["9.9.9.9, 1.1.1.1"], "1.1.1.1", None),
        ("10.0.0.1:1", &["9.9.9.9, 1.1.1.1, 10.0.0.2,10.0.0.3"], "1.1.1.1", None),
        ("10.0.0.1:1", &["9.9.9.9", "1.1.1.1 , 10.0.0.2"], "1.1.1.1", None),
        ("10.0.0.1:1", &["10.0.0.5, 10.0.0.2"], "10.0.0.5", None),
        ("10.0.0.1:1", &["1.1.1.1:8080"], "1.1.1.1", None),
        ("10.0.0.1:1", &["[2001:db8::1]:8080"], "2001:db8::1", None),
        ("10.0.0.1:1", &["2001:db8::1"], "2001:db8::1", None),
        ("10.0.0.1:1", &["::ffff:1.1.1.1"], "1.1.1.1", None),
        ("10.0.0.1:1", &["1.1.1.1,, ,"], "1.1.1.1", None),
        ("10.0.0.1:1", &[""], "10.0.0.1", None),
        ("10.0.0.1:1", &["1.1.1.1, unknown"], "10.0.0.1", Some(Stop::Hidden)),
        ("10.0.0.1:1", &["1.1.1.1, _gazonk, 10.0.0.2"], "10.0.0.2", Some(Stop::Hidden)),
        ("10.0.0.1:1", &["1.1.1.1, 10.0.0.256"], "10.0.0.1", Some(Stop::Malformed)),
        ("10.0.0.1:1", &["1.1.1.1, 10.0.0.2 10.0.0.3"], "10.0.0.1", Some(Stop::Malformed)),
        ("10.0.0.1:1", &["1.1.1.1:99999"], "10.0.0.1", Some(Stop::Malformed)),
        ("10.0.0.1:1", &["1.1.1.1:"], "10.0.0.1", Some(Stop::Malformed)),
        ("10.0.0.1:1", &["[::1"], "10.0.0.1", Some(Stop::Malformed)),
        ("10.0.0.1:1", &["[::1]x"], "10.0.0.1", Some(Stop::Malformed)),
        ("10.0.0.1:1", &["fe80::1%eth0"], "10.0.0.1", Some(Stop::Malformed)),
        ("10.0.0.1:1", &["01.1.1.1"], "10.0.0.1", Some(Stop::Malformed)),
        ("10.0.0.1:1", &["localhost"], "10.0.0.1", Some(Stop::Malformed)),
        ("10.0.0.1:1", &["<script>, 10.0.0.2"], "10.0.0.2", Some(Stop::Malformed)),
        ("[::ffff:10.0.0.1]:1", &["1.1.1.1"], "1.1.1.1", None),
    ];
    for (peer, chains, ip, stop) in table {
        let list: Vec<_> = chains.iter().map(|chain| ("X-Forwarded-For", *chain)).collect();
        assert_eq!(origin(peer, &list), ((*ip).to_owned(), *stop), "{peer} {chains:?}");
    }
}

#[test]
fn forwarded_is_read_from_the_right() {
    let table: &[(&[&str], &str, Option<Stop>)] = &[
        (&["for=1.1.1.1"], "1.1.1.1", None),
        (&["For=\"1.1.1.1:4711\";proto=http;by=10.0.0.1"], "1.1.1.1", None),
        (&["for=9.9.9.9, for=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17", None),
        (&["for=9.9.9.9, for=1.1.1.1, for=10.0.0.9;host=\"a,b;c\""], "1.1.1.1", None),
        (&["for=1.1.1.1", "for=10.0.0.9"], "1.1.1.1", None),
        (&["for=\"1.1.1.1:_port\""], "1.1.1.1", None),
        // A client's open quote cannot swallow what the hop appended.
        (&["for=\", for=1.1.1.1"], "1.1.1.1", None),
        (&["for=\"9.9.9.9, for=\"[2001:db8::1]\""], "2001:db8::1", None),
        (&["for=\", for=10.0.0.2"], "10.0.0.2", Some(Stop::Malformed)),
        (&["for=unknown"], "10.0.0.1", Some(Stop::Hidden)),
        (&["for=_hidden"], "10.0.0.1", Some(Stop::Hidden)),
        (&["for=\"_hidden\", for=10.0.0.2"], "10.0.0.2", Some(Stop::Hidden)),
        (&["proto=https"], "10.0.0.1", Some(Stop::Hidden)),
        (&["for=2001:db8::1"], "10.0.0.1", Some(Stop::Malformed)),
        (&["for=1.1.1.1;for=2.2.2.2"], "10.0.0.1", Some(Stop::Malformed)),
        (&["for"], "10.0.0.1", Some(Stop::Malformed)),
        (&["for="], "10.0.0.1", Some(Stop::Malformed)),
        (&["=1.1.1.1"], "10.0.0.1", Some(Stop::Malformed)),
        (&["for=1.1.1.1;"], "10.0.0.1", Some(Stop::Malformed)),
        (&["for=1.1.1.1 proto=http"], "10.0.0.1", Some(Stop::Malformed)),
        (&["for=\"1.1.1.\\1\""], "10.0.0.1", Some(Stop::Malformed)),
        (&["\u{fc}=1"], "10.0.0.1", Some(Stop::Malformed)),
    ];
    for (chains, ip, stop) in table {
        let list: Vec<_> = chains.iter().map(|chain| ("Forwarded", *chain)).collect();
        assert_eq!(origin("10.0.0.1:1", &list), ((*ip).to_owned(), *stop), "{chains:?}");
    }
}

#[test]
fn x_forwarded_for_is_preferred_to_forwarded() {
    let both = [("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "1.1.1.1")];
    assert_eq!(origin("10.0.0.1:1", &both), ("1.1.1.1".to_owned(), None));
}

#[test]
fn endless_chains_stop_at_a_limit() {
    let long = vec!["10.0.0.2"; 1000].join(",");
    assert_eq!(origin("10.0.0.1:1", &[("X-Forwarded-For", &long)]).1, Some(Stop::TooLong));
    let wide = format!("1.1.1.1{}", ",".repeat(9000));
    assert_eq!(origin("10.0.0.1:1", &[("X-Forwarded-For", &wide)]).1, Some(Stop::TooLong));
    let lines = vec![("X-Forwarded-For", "10.0.0.2"); 500];
    assert_eq!(origin("10.0.0.1:1", &lines).1, Some(Stop::TooLong));
}

fn passed_on(peer: &str, list: &[(&str, &str)], authority: &str) -> Vec<(String, String)> {
    let mut fields = fields(list);
    let authority = fields.store(authority.as_bytes());
    let path = fields.store(b"/");
    let mut head =
        RequestHead::new(Method::Get, Version::Http11, Scheme::Https, authority, path, None, fields);
    let client = client(peer);
    Origin::of(&client, &head.fields, &trusted()).pass_on(
        &mut head,
        &client,
        &trusted(),
        &AddressMemory::default(),
    );
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    head.fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn expected(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_client_cannot_forge_what_is_passed_on() {
    let forged = [
        ("X-Forwarded-For", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "admin.internal"),
        ("X-Forwarded-Port", "1"),
        ("Forwarded", "for=127.0.0.1"),
        ("Accept", "*/*"),
    ];
    let after = passed_on("203.0.113.9:5000", &forged, "a.example");
    let wanted = [
        ("Accept", "*/*"),
        ("X-Real-IP", "203.0.113.9"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "a.example"),
        ("X-Forwarded-Port", "8443"),
        ("Forwarded", "for=203.0.113.9;proto=https;host=\"a.example\""),
    ];
    assert_eq!(after, expected(&wanted));
}

#[test]
fn the_chain_of_trusted_hops_goes_on_and_begins_with_the_client() {
    let chain = [
        ("X-Forwarded-For", "127.0.0.1, 2001:db8::7, 10.0.0.2"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "shop.example"),
        ("X-Forwarded-Port", "80"),
    ];
    let after = passed_on("10.0.0.1:5000", &chain, "inner.example:9443");
    let wanted = [
        ("X-Real-IP", "2001:db8::7"),
        ("X-Forwarded-For", "2001:db8::7, 10.0.0.2, 10.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "shop.example"),
        ("X-Forwarded-Port", "80"),
        ("Forwarded", "for=\"[2001:db8::7]\";proto=http;host=\"shop.example\", for=10.0.0.2, for=10.0.0.1"),
    ];
    assert_eq!(after, expected(&wanted));
}

#[test]
fn what_a_trusted_hop_garbles_is_replaced() {
    let garbled = [
        ("X-Forwarded-Proto", "gopher"),
        ("X-Forwarded-Host", "a\"b"),
        ("X-Forwarded-Port", "80"),
        ("X-Forwarded-Port", "81"),
    ];
    let after = passed_on("10.0.0.1:5000", &garbled, "inner.example:9443");
    let value = |name: &str| after.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap();
    assert_eq!(value("X-Forwarded-Proto"), "https");
    assert_eq!(value("X-Forwarded-Host"), "inner.example:9443");
    assert_eq!(value("X-Forwarded-Port"), "9443");
}
