use super::*;

#[test]
fn what_did_not_change_lives_on() {
    let environment = environment();
    let first = upstream_in(&environment, json!({"nodes": {"10.0.0.1:80": 1, "10.0.0.2:80": 1}}), None);
    fail(&first, 0, 0, Failure::Refused);
    let second = upstream_in(
        &environment,
        json!({"nodes": {"10.0.0.1:80": 5, "10.0.0.3:80": 1}, "retries": 7}),
        Some(&first),
    );
    let (old, new) = (&first.lines[0], &second.lines[0]);
    assert!(Arc::ptr_eq(&old.live, &new.live));
    assert!(Arc::ptr_eq(&old.nodes[0].live, &new.nodes[0].live) && !new.nodes[0].is_up());
    assert!(Arc::ptr_eq(&old.nodes[0].pool, &new.nodes[0].pool));
    assert!(new.nodes[1].is_up());
    assert_eq!((new.nodes[0].weight, second.retries), (5, 7));
    // Connections that would be made otherwise now are not used again.
    let third =
        upstream_in(&environment, json!({"scheme": "https", "nodes": {"10.0.0.1:80": 5}}), Some(&second));
    assert!(!Arc::ptr_eq(&new.nodes[0].pool, &third.lines[0].nodes[0].pool));
    assert!(Arc::ptr_eq(&new.nodes[0].live, &third.lines[0].nodes[0].live));
}

#[test]
fn a_plan_of_tls_is_kept_with_its_sessions_while_its_settings_are_the_same() {
    let environment = environment();
    let value = |retries: u32, verify: bool| json!({"scheme": "https", "nodes": {"10.0.0.1:443": 1}, "retries": retries, "tls": {"verify": verify}});
    let first = upstream_in(&environment, value(1, true), None);
    let same = upstream_in(&environment, value(2, true), Some(&first));
    let other = upstream_in(&environment, value(2, false), Some(&same));
    let plan = |upstream: &Upstream| Arc::clone(upstream.lines[0].plan.tls.as_ref().unwrap());
    assert!(Arc::ptr_eq(&plan(&first), &plan(&same)));
    assert!(!Arc::ptr_eq(&plan(&same), &plan(&other)));
}

#[test]
fn hosts_and_names_follow_pass_host() {
    let host = |pass: Value| {
        let mut value = json!({"scheme": "https", "nodes": {"origin.example:443": 1, "[::1]:8443": 1}});
        value.as_object_mut().unwrap().extend(pass.as_object().unwrap().clone());
        let upstream = upstream(value);
        let nodes = &upstream.lines[0].nodes;
        let target = upstream.select(0, &mut Tried::default()).unwrap();
        (
            upstream.host_for(&nodes[0], "a.example").to_owned(),
            upstream.host_for(&nodes[1], "a.example").to_owned(),
            target.tls_name(Some("a.example")).unwrap().to_owned(),
        )
    };
    let strings = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(host(json!({})), strings("a.example", "a.example", "a.example"));
    assert_eq!(host(json!({"pass_host": "node"})), strings("origin.example", "[::1]:8443", "origin.example"));
    assert_eq!(
        host(json!({"pass_host": "rewrite", "upstream_host": "b.example:99"})),
        strings("b.example:99", "b.example:99", "b.example")
    );
    assert_eq!(host(json!({"tls": {"sni": "c.example"}})), strings("a.example", "a.example", "c.example"));
}

#[test]
fn what_cannot_be_used_is_refused_with_its_field() {
    let bare = Environment::new(Options::default());
    for (value, field, message) in [
        (json!({}), "nodes", "is required, or lines"),
        (json!({"scheme": "tlv", "nodes": {"10.0.0.1": 1}}), "nodes", "node 10.0.0.1 needs a port"),
        (
            json!({"type": "chash", "key": "no_such", "nodes": {"10.0.0.1:80": 1}}),
            "key",
            "unknown variable \"no_such\"",
        ),
        (
            json!({"scheme": "tcp", "lines": [{"name": "a", "via": ["r:1"], "nodes": {"10.0.0.1:80": 1}}]}),
            "lines[0].via",
            "needs the fleet's key, which this node was not given",
        ),
        (
            json!({"scheme": "https", "nodes": {"10.0.0.1:80": 1}, "tls": {"ca": "none"}}),
            "tls.ca",
            "holds no certificate",
        ),
        (
            json!({"scheme": "https", "nodes": {"10.0.0.1:80": 1}, "tls": {"client_cert_id": "own"}}),
            "tls.client_cert_id",
            "names no client certificate: own",
        ),
        (
            json!({"scheme": "tlv", "lines": [{"name": "a", "nodes": {"10.0.0.1:80": 1},
                "checks": {"active": {"type": "tlv", "frame_format": "im99"}}}]}),
            "lines[0].checks.active.frame_format",
            "names no frame format: im99",
        ),
        (
            json!({"scheme": "tlv", "nodes": {"10.0.0.1:80": 1},
                "checks": {"active": {"type": "tlv", "command": 70000}}}),
            "checks.active.command",
            "value 0x11170 does not fit its field, the largest is 0xffff",
        ),
    ] {
        let error = Upstream::build(&object(value), "test", None, &References::NONE, &bare).unwrap_err();
        assert_eq!((error.field.as_str(), error.message.as_str()), (field, message));
    }
}

#[test]
fn a_request_without_the_hashed_value_is_hashed_by_its_address() {
    use crate::message::{Client, Subject};
    let upstream = upstream(json!({
        "type": "chash", "hash_on": "header", "key": "x-user", "nodes": {"10.0.0.1:80": 1},
    }));
    let client = |ip: &str| {
        let address: SocketAddr = format!("{ip}:1000").parse().unwrap();
        Client { peer: address, address, local: address, tls: None, path: None }
    };
    let hash = |client: &Client| upstream.hash_key(&Subject::of_client(client));
    assert_eq!(hash(&client("192.0.2.1")), hash(&client("192.0.2.1")));
    assert_ne!(hash(&client("192.0.2.1")), hash(&client("192.0.2.2")));
}
