use serde_json::{Value, json};

use super::*;
use crate::config::{Format, Object as Any, parse_value};

fn id() -> Id {
    Id::new("x").unwrap()
}

fn faults(kind: Kind, value: &Value) -> Vec<String> {
    match Any::parse(kind, &id(), value) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

#[track_caller]
fn assert_faults(kind: Kind, cases: &[(Value, &[&str])]) {
    for (value, expected) in cases {
        assert_eq!(faults(kind, value), *expected, "{kind} {value}");
    }
}

fn yaml<T: Object>(text: &str) -> T {
    parse(&id(), &parse_value(text.as_bytes(), Format::Yaml).unwrap()).unwrap()
}

const HOST: &str = "must be a host name or address, with at most one '*' in front";

#[test]
fn bad_routes_are_told_field_and_value() {
    assert_faults(
        Kind::Routes,
        &[
            (
                json!({}),
                &[
                    "uri: is required, or uris",
                    "needs at least one of plugins, upstream, upstream_id, service_id",
                ],
            ),
            (
                json!({"uri": "/", "uris": ["/"], "upstream_id": 1}),
                &["uris: cannot stand beside uri; use one of them"],
            ),
            (json!({"uri": "a", "upstream_id": "u"}), &["uri: must begin with '/' (\"a\")"]),
            (
                json!({"uri": "/a?b", "upstream_id": "u"}),
                &["uri: is matched against the path alone; use vars for the query (\"/a?b\")"],
            ),
            (json!({"uris": ["/a", "/a"], "upstream_id": "u"}), &["uris[1]: is in the list twice (\"/a\")"]),
            (
                json!({"uri": "/", "host": "a", "hosts": ["b"], "upstream_id": "u"}),
                &["hosts: cannot stand beside host; use one of them"],
            ),
            (
                json!({"uri": "/", "hosts": ["a b", "*.c"], "upstream_id": "u"}),
                &[&format!("hosts[0]: {HOST} (\"a b\")")],
            ),
            (
                json!({"uri": "/", "remote_addr": "10.0.0.0/33", "upstream_id": "u"}),
                &["remote_addr: expected an IP address or a block such as \"10.0.0.0/8\" (\"10.0.0.0/33\")"],
            ),
            (
                json!({"uri": "/", "methods": ["GET", "get"], "upstream_id": "u"}),
                &[
                    "methods[1]: expected one of GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS, CONNECT, TRACE, PURGE (\"get\")",
                ],
            ),
            (
                json!({"uri": "/", "filter_func": "function() end", "upstream_id": "u"}),
                &["filter_func: is not supported: Lua does not run here; use vars or a plugin"],
            ),
            (
                json!({"uri": "/", "upstream_id": "no good"}),
                &[
                    "upstream_id: must be 1 to 64 characters of a-z, A-Z, 0-9, '-', '_' and '.', or a positive integer \
             (\"no good\")",
                ],
            ),
            (
                json!({"uri": "/", "upstream_id": "u", "status": 2}),
                &["status: must be 1 (enabled) or 0 (disabled), not 2 (2)"],
            ),
            (
                json!({"uri": "/", "upstream_id": "u", "vars": {}}),
                &["vars: must be a list of expressions ({})"],
            ),
            (
                json!({"uri": "/", "upstream_id": "u", "timeout": {"connect": 1, "send": 0, "read": "5 s"}}),
                &[
                    "timeout.read: expected a time such as \"300ms\", \"10s\" or \"1m30s\", or a number of seconds (\"5 s\")",
                ],
            ),
            (
                json!({"uri": "/", "upstream_id": "u", "timeout": {"connect": 1, "send": 0, "read": 5}}),
                &["timeout.send: must be more than 0 (0)"],
            ),
            (
                json!({"uri": "/", "plugins": {"cors": 1, "x": {"_meta": {"disabled": true}}}}),
                &[
                    "plugins.cors: expected an object, the configuration of the plugin (1)",
                    "plugins.x._meta.disabled: is not a field; fields are disable, priority, filter, error_response",
                ],
            ),
            (
                json!({"uri": 5, "prioritty": 1, "priority": "high"}),
                &[
                    "uri: expected a string (5)",
                    "prioritty: is not a field; fields are id, uri, uris, host, hosts, remote_addr, remote_addrs, methods, \
             vars, priority, status, timeout, enable_websocket, protocol, plugins, plugin_config_id, upstream, upstream_id, \
             service_id, on_change, name, desc, labels, create_time, update_time, filter_func, script, script_id",
                    "priority: expected i32 (\"high\")",
                ],
            ),
            (
                json!({"id": "y", "uri": "/", "upstream_id": "u"}),
                &["id: does not match the id \"x\" it is stored under (\"y\")"],
            ),
        ],
    );
}

#[test]
fn bad_upstreams_are_told_field_and_value() {
    assert_faults(
        Kind::Upstreams,
        &[
            (json!({}), &["nodes: is required, or lines"]),
            (
                json!({"nodes": {"a:70000": 1}}),
                &["nodes: node \"a:70000\" must be host:port or host ({\"a:70000\":1})"],
            ),
            (json!({"nodes": [{"host": "a", "port": 1}]}), &["nodes[0].weight: is required"]),
            (
                json!({"nodes": [{"host": "a", "port": 1, "weight": 70000}]}),
                &["nodes[0].weight: must be at most 65535 (70000)"],
            ),
            (json!({"nodes": {"a": 1}, "scheme": "tcp"}), &["nodes[0].port: is required with scheme: tcp"]),
            (
                json!({"nodes": {"a:1": 1}, "scheme": "kafka"}),
                &[
                    "scheme: expected one of http, https, grpc, grpcs, tcp, tls, tlv, tlvs, ws, wss (\"kafka\")",
                ],
            ),
            (json!({"nodes": {"a:1": 1}, "type": "chash"}), &["key: is required with type: chash"]),
            (
                json!({"nodes": {"a:1": 1}, "type": "chash", "key": "$x"}),
                &["key: must be the name of a variable (\"$x\")"],
            ),
            (
                json!({"nodes": {"a:1": 1}, "pass_host": "rewrite"}),
                &["upstream_host: is required with pass_host: rewrite"],
            ),
            (json!({"nodes": {"a:1": 1}, "checks": {}}), &["checks: needs active, passive, or both"]),
            (
                json!({"nodes": {"a:1": 1}, "checks": {"active": {"healthy": {"http_statuses": [99], "successes": 0}}}}),
                &[
                    "checks.active.healthy.successes: must be 1 to 254 (0)",
                    "checks.active.healthy.http_statuses[0]: must be 200 to 599 (99)",
                ],
            ),
            (
                json!({"lines": [{"name": "l", "nodes": {"a:1": 1}, "via": ["relay"]}, {"name": "l", "nodes": {}}]}),
                &[
                    "lines[0].via[0]: must be host:port (\"relay\")",
                    "lines[1].name: is the name of two lines (\"l\")",
                ],
            ),
            (
                json!({"nodes": {"a:1": 1}, "tls": {"client_key": 5, "client_cert": "x"}}),
                &["tls.client_key: has the wrong type"],
            ),
            (
                json!({"nodes": {"a:1": 1}, "discovery_type": "dns", "service_name": "s"}),
                &[
                    "service_name: service discovery is not supported; use nodes, whose names are resolved by DNS (\"s\")",
                    "discovery_type: service discovery is not supported; use nodes, whose names are resolved by DNS (\"dns\")",
                ],
            ),
            (
                json!({"nodes": {"a:1": 1}, "retry_timeout": 1e300}),
                &["retry_timeout: is longer than 366 days (1e+300)"],
            ),
            (
                json!({"nodes": {"a:1": 1}, "retry_timeout": -1}),
                &["retry_timeout: a time cannot be negative (-1)"],
            ),
        ],
    );
}

#[test]
fn bad_listeners_formats_and_stream_routes_are_told_field_and_value() {
    assert_faults(
        Kind::Listeners,
        &[
            (json!({}), &["bind: is required"]),
            (
                json!({"bind": "8080"}),
                &["bind: expected an address and port such as \"0.0.0.0:8443\" or \"[::]:8443\" (\"8080\")"],
            ),
            (
                json!({"bind": ["1.1.1.1:1", "1.1.1.1:1"], "tls": "passthrough"}),
                &[
                    "bind[1]: is in the list twice (\"1.1.1.1:1\")",
                    "tls: is for protocol: tcp only (\"passthrough\")",
                ],
            ),
            (
                json!({"bind": "1.1.1.1:1", "tls": "on"}),
                &["tls: expected true, false, \"passthrough\" or an object (\"on\")"],
            ),
            (
                json!({"bind": "1.1.1.1:1", "tls": {"versions": ["TLSv1.1"]}}),
                &["tls.versions[0]: expected TLSv1.2 or TLSv1.3 (\"TLSv1.1\")"],
            ),
            (
                json!({"bind": "1.1.1.1:1", "limits": {"header_bytes": "64 kib"}}),
                &[
                    "limits.header_bytes: expected a size such as \"64KiB\" or \"1MiB\", or a number of bytes (\"64 kib\")",
                ],
            ),
            (
                json!({"bind": "1.1.1.1:1", "limits": {"streams": 0, "request_line": "65KiB"}}),
                &[
                    "limits.streams: must be 1 to 65535 (0)",
                    "limits.request_line: must not be more than header_bytes (66560)",
                ],
            ),
            (
                json!({"bind": "1.1.1.1:1", "proxy_protocol": {"from": []}}),
                &["proxy_protocol.from: must hold at least one address or block (0)"],
            ),
        ],
    );
    let field = |name: &str, at: u32, bytes: u32| json!({"name": name, "at": at, "bytes": bytes});
    assert_faults(
        Kind::FrameFormats,
        &[
            (
                json!({"header": [field("a", 0, 4), field("b", 2, 4)], "roles": {"length": "c"}}),
                &[
                    "header[1].at: overlaps the field \"a\" (2)",
                    "roles.length: is not a field of the header (\"c\")",
                ],
            ),
            (
                json!({"begin": 256, "header": [field("a", 0, 4)], "roles": {"length": "a"}}),
                &["begin: must fit in one byte, 0 to 255 (256)"],
            ),
            (
                json!({"header": [field("a", 0, 9)], "roles": {"length": "a"}, "body_max": "1GiB"}),
                &[
                    "header[0].bytes: must be 1, 2, 4 or 8 (9)",
                    "roles.length: must be a field of at most 4 bytes (\"a\")",
                    "body_max: must be 1 byte to 16MiB (1073741824)",
                ],
            ),
        ],
    );
    assert_faults(
        Kind::StreamRoutes,
        &[
            (json!({"listener": "l"}), &["needs one of upstream, upstream_id, service_id"]),
            (
                json!({"upstream_id": "u", "protocol": {"name": "redis"}}),
                &["protocol.name: expected tlv or tcp (\"redis\")"],
            ),
            (
                json!({"upstream_id": "u", "protocol": {"name": "tlv", "conf": {"replay": ["0x1", "one"]}}}),
                &[
                    "protocol.conf.replay[1]: expected a number from 0 to 4294967295, such as 10 or \"0x0A\" (\"one\")",
                ],
            ),
            (
                json!({"upstream_id": "u", "protocol": {"name": "tcp", "conf": {"replay": [1]}}}),
                &["protocol.conf: must be empty with name: tcp"],
            ),
        ],
    );
}

#[test]
fn bad_certificates_are_told_without_showing_keys() {
    let secret = "-----BEGIN PRIVATE KEY-----\nsecretsecret\n-----END PRIVATE KEY-----\n";
    let told = faults(Kind::Ssls, &json!({"cert": secret, "key": [secret], "sni": "a"}));
    assert_eq!(told, ["key: has the wrong type"]);
    let told = faults(Kind::Ssls, &json!({"cert": "x", "key": "y", "certs": ["z"]}));
    assert_eq!(
        told,
        [
            "cert: holds no certificate in PEM form",
            "key: holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1, not encrypted)",
            "keys: must be as many as certs, which are 1 (0)",
            "certs[0]: holds no certificate in PEM form",
            "sni: is required, or snis",
        ]
    );
    let told = faults(Kind::Ssls, &json!({"cert": secret, "key": "$secret://vault/a", "sni": secret}));
    assert!(!told.join("\n").contains("secretsecret"), "{told:?}");
    assert!(told[1].contains("reference to a secret"), "{told:?}");
}

#[test]
fn a_good_certificate_is_taken() {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let value = json!({"cert": cert, "key": key, "snis": ["a.example", "*.b.example"], "status": 0,
        "client": {"ca": cert, "skip_mtls_uri_regex": ["/open/.*"]}, "ssl_protocols": ["TLSv1.3"]});
    let ssl: Ssl = parse(&id(), &value).unwrap();
    assert_eq!(ssl.all_snis().collect::<Vec<_>>(), ["a.example", "*.b.example"]);
    assert_eq!((ssl.status, ssl.client.as_ref().unwrap().depth), (Status::Disabled, SSL_CLIENT_DEPTH));
    assert!(!format!("{ssl:?}").contains("PRIVATE"));
}

#[test]
fn the_documented_examples_are_read_as_documented() {
    let listener: Listener = yaml(
        "id: x\nbind: 0.0.0.0:8443\nprotocol: http\ntls: true\nproxy_protocol: {from: [10.0.0.0/8]}\ntrusted: [10.0.0.0/8]\n",
    );
    assert!(listener.tls_settings().is_some() && listener.merge_slashes);
    assert_eq!(listener.idle_timeout(), LISTENER_IDLE_TIMEOUT_HTTP);
    assert_eq!(listener.limits, Limits::default());

    let upstream: Upstream = yaml(
        "scheme: tlv\ntype: roundrobin\nlines:\n  - {name: leased, priority: 10, nodes: {\"10.1.0.5:9000\": 1}, checks: {active: {type: tlv, interval: 1}}}\n  - {name: via-fra, priority: 1, via: [fra-relay.example:7443], nodes: {\"10.1.0.5:9000\": 1}}\nfailover: {prefer: priority, hold_down: 10s, connect_timeout: 300ms}\n",
    );
    assert_eq!(upstream.failover, Failover::default());
    let lines = upstream.all_lines();
    let active = lines[0].checks.as_ref().unwrap().active.as_ref().unwrap();
    assert_eq!((active.check_type, active.healthy_interval()), (CheckType::Tlv, CHECK_INTERVAL));
    assert_eq!(lines[1].via, ["fra-relay.example:7443"]);

    let format: FrameFormat = yaml(
        "begin: 0x09\nend: 0x0A\nheader:\n  - {name: flag, at: 0, bytes: 1}\n  - {name: length, at: 16, bytes: 4}\nroles: {length: length}\nbody_max: 64KiB\n",
    );
    assert_eq!((format.begin, format.end, format.header_length()), (Some(9), Some(10), 20));
    assert_eq!(FrameFormat::built_in().header_length(), 20);

    let route: StreamRoute = yaml(
        "listener: im\nprotocol: {name: tlv, conf: {frame_format: im20, replay: [0x0101], safe: [0x0320], heartbeat: 0x0001}}\nplugins: {limit-req: {rate: 20, burst: 40, key: frame_from, rejected: error_frame}}\nupstream_id: im\n",
    );
    let conf = &route.protocol.as_ref().unwrap().conf;
    assert_eq!((conf.replay[0], conf.safe[0], conf.heartbeat), (0x101, 0x320, Some(1)));
    let named: Vec<String> =
        route.references().into_iter().map(|named| format!("{}/{}", named.kind, named.id)).collect();
    assert_eq!(named, ["listeners/im", "upstreams/im", "frame_formats/im20"]);
}

#[test]
fn nodes_are_written_as_a_map_or_a_list() {
    let map: Upstream = yaml("nodes: {\"a.example:80\": 1, \"[::1]:81\": 2, b: 0}\n");
    let list: Upstream = yaml(
        "nodes: [{host: a.example, port: 80, weight: 1}, {host: \"[::1]\", port: 81, weight: 2}, {host: b, weight: 0}]\n",
    );
    assert_eq!(map, list);
    assert_eq!(map.all_lines()[0].name, DEFAULT_LINE);
}

#[test]
fn every_object_survives_being_written_and_read() {
    let texts = [
        (
            Kind::Listeners,
            "bind: ['127.0.0.1:1', '[::1]:2']\nprotocol: tcp\ntls: passthrough\nlimits: {idle_timeout: 300ms}\n",
        ),
        (Kind::Listeners, "bind: '127.0.0.1:1'\ntls: {alpn: [h2], fallback_sni: a.example}\n"),
        (
            Kind::Upstreams,
            "nodes: {\"a:1\": 1}\ntimeout: {connect: 0.3, send: 1m30s, read: 5, total: 250us}\nchecks: {active: {rise: 3}, passive: {}}\n",
        ),
        (Kind::Services, "hosts: [a]\nplugins: {a: {x: 1, _meta: {priority: 5}}}\n"),
        (Kind::PluginConfigs, "plugins: {a: []}\n"),
        (Kind::GlobalRules, "plugins: {a: {_meta: {filter: [[\"arg_x\", \"==\", \"1\"]]}}}\n"),
        (
            Kind::Routes,
            "uri: /a\nremote_addrs: [10.0.0.1, 10.0.0.0/8, \"::1\"]\nupstream: {nodes: []}\nlabels: {a: b}\n",
        ),
        (
            Kind::Modules,
            "versions: [{version: '1', digest: 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'}]\nlimits: {memory_max: 1MiB, deadline: 20ms}\ngrants: {kv: [a]}\nconfig: {a: 1}\n",
        ),
        (
            Kind::Consumers,
            "username: x\ngroup_id: g\nlabels: {custom_id: x}\nplugins: {key-auth: {key: k}}\n",
        ),
        (Kind::ConsumerGroups, "plugins: {a: {x: 1}}\n"),
        (Kind::StreamRoutes, "server_port: 5\nupstream_id: 7\nprotocol: {name: tlv, conf: {replay: [1]}}\n"),
    ];
    for (kind, text) in texts {
        let value = parse_value(text.as_bytes(), Format::Yaml).unwrap();
        let first = Any::parse(kind, &id(), &value).unwrap();
        let written = match &first {
            Any::Listener(object) => serde_json::to_value(&**object),
            Any::Proto(object) => serde_json::to_value(&**object),
            Any::Upstream(object) => serde_json::to_value(&**object),
            Any::Service(object) => serde_json::to_value(&**object),
            Any::PluginConfig(object) => serde_json::to_value(&**object),
            Any::GlobalRule(object) => serde_json::to_value(&**object),
            Any::Route(object) => serde_json::to_value(&**object),
            Any::StreamRoute(object) => serde_json::to_value(&**object),
            Any::FrameFormat(object) => serde_json::to_value(&**object),
            Any::Ssl(object) => serde_json::to_value(&**object),
            Any::Module(object) => serde_json::to_value(&**object),
            Any::Secret(object) => serde_json::to_value(&**object),
            Any::ConsumerGroup(object) => serde_json::to_value(&**object),
            Any::Consumer(object) => serde_json::to_value(&**object),
            Any::Credential(object) => serde_json::to_value(&**object),
            Any::PluginMetadata(object) => serde_json::to_value(&**object),
            Any::TrustKey(object) => serde_json::to_value(&**object),
        };
        let second = Any::parse(kind, &id(), &written.unwrap());
        assert_eq!(second.as_ref(), Ok(&first), "{kind} {text}");
    }
}

#[test]
fn times_and_sizes_are_read_exactly() {
    use std::time::Duration;
    let good =
        [("300ms", 300_000), ("10s", 10_000_000), ("1m30s", 90_000_000), ("250us", 250), ("0.5s", 500_000)];
    for (text, micros) in good {
        assert_eq!(units::parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
    }
    for text in ["", "10", "s", "10x", "1..5s", "10s5", "-1s", "9999999999d", "1e3s"] {
        assert!(units::parse_duration(text).is_err(), "{text}");
    }
    for (text, bytes) in [("64KiB", 65_536), ("1MB", 1_000_000), ("5", 5), ("7B", 7), ("2 GiB", 2 << 30)] {
        assert_eq!(units::parse_bytes(text), Ok(bytes), "{text}");
    }
    for text in ["", "KiB", "1kb", "-1", "1.5MiB", "99999999999999999999", "99999999999GiB"] {
        assert!(units::parse_bytes(text).is_err(), "{text}");
    }
}

#[test]
fn every_field_is_documented() {
    let page = include_str!("../../../../docs/configuration.md");
    let wrong = json!({"no-such-field": 1});
    let probes = [
        (Kind::Routes, wrong.clone()),
        (Kind::Services, wrong.clone()),
        (Kind::Upstreams, wrong.clone()),
        (Kind::Upstreams, json!({"nodes": [wrong]})),
        (Kind::Upstreams, json!({"lines": [wrong]})),
        (Kind::Upstreams, json!({"failover": wrong})),
        (Kind::Upstreams, json!({"timeout": wrong})),
        (Kind::Upstreams, json!({"keepalive_pool": wrong})),
        (Kind::Upstreams, json!({"tls": wrong})),
        (Kind::Upstreams, json!({"checks": {"active": wrong}})),
        (Kind::Upstreams, json!({"checks": {"active": {"healthy": wrong}}})),
        (Kind::Upstreams, json!({"checks": {"active": {"unhealthy": wrong}}})),
        (Kind::Upstreams, json!({"checks": {"passive": {"unhealthy": wrong}}})),
        (Kind::Ssls, wrong.clone()),
        (Kind::Ssls, json!({"client": wrong})),
        (Kind::GlobalRules, json!({"plugins": {"a": {"_meta": wrong}}})),
        (Kind::StreamRoutes, wrong.clone()),
        (Kind::StreamRoutes, json!({"protocol": wrong})),
        (Kind::StreamRoutes, json!({"protocol": {"name": "tlv", "conf": wrong}})),
        (Kind::Listeners, wrong.clone()),
        (Kind::Listeners, json!({"tls": wrong})),
        (Kind::Listeners, json!({"proxy_protocol": wrong})),
        (Kind::Listeners, json!({"limits": wrong})),
        (Kind::TrustKeys, wrong.clone()),
        (Kind::Protos, wrong.clone()),
        (Kind::Routes, json!({"protocol": wrong})),
        (Kind::Routes, json!({"protocol": {"name": "tlv", "requests": wrong}})),
        (Kind::Routes, json!({"protocol": {"name": "tlv", "websocket": wrong}})),
        (Kind::Routes, json!({"protocol": {"name": "tlv", "sessions": wrong}})),
        (Kind::FrameFormats, wrong.clone()),
        (Kind::FrameFormats, json!({"header": [wrong]})),
        (Kind::FrameFormats, json!({"roles": wrong})),
    ];
    for (kind, value) in probes {
        let told = faults(kind, &value);
        let (_, fields) = told[0].split_once("is not a field; fields are ").expect(&told[0]);
        for field in fields.split(", ") {
            assert!(page.contains(&format!("`{field}`")), "{kind}: {field} of {value} is not in the page");
        }
    }
}
