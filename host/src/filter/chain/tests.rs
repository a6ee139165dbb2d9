use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::assemble::REQUEST_BODY_MAX;
use super::*;
use crate::config::Problem;
use crate::config::objects::Plugins;
use crate::filter::build::{BuildContext, Groups, ModulePlace, UpstreamSource, merge};
use crate::filter::exchange::Exchange;
use crate::filter::verdict::{BodyAction, Longer, Rewritten, Verdict};
use crate::message::{FrameRole, ResponseHead};
use crate::route::testing::{Request, client};
use crate::upstream::{Environment, Options, References, Upstream};

fn upstream(source: UpstreamSource<'_>) -> Result<Arc<Upstream>, String> {
    let id = match source {
        UpstreamSource::Id("missing") => return Err("does not exist".to_owned()),
        UpstreamSource::Id(id) => id,
        UpstreamSource::Inline { place, .. } => place,
    };
    let object = json!({"type": "roundrobin", "nodes": {"127.0.0.1:1": 1}});
    let object = serde_json::from_value(object).map_err(|error| error.to_string())?;
    let environment = Environment::new(Options::default());
    Upstream::build(&object, id, None, &References::NONE, &environment)
        .map(Arc::new)
        .map_err(|problem| problem.to_string())
}

struct Bench {
    groups: Groups,
    kind: ChainKind,
}

impl Bench {
    fn http() -> Self {
        Self { groups: Groups::default(), kind: ChainKind::Http }
    }

    fn of(kind: ChainKind) -> Self {
        Self { groups: Groups::default(), kind }
    }

    fn build_on(&self, plugins: &Value, previous: Option<&Chain>) -> Result<Chain, Vec<String>> {
        let plugins: Plugins = serde_json::from_value(plugins.clone()).unwrap();
        let context = BuildContext {
            module: &|_| Err("unknown plugin".to_owned()),
            kind: self.kind,
            upstream: &upstream,
            groups: &self.groups,
            https_port: 8443,
            frame_fields: &["flag", "to"],
            modules: ModulePlace::default(),
        };
        let shown = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
        Chain::build(&plugins, &context, previous).map_err(shown)
    }

    fn build(&self, plugins: Value) -> Chain {
        self.build_on(&plugins, None).unwrap()
    }

    fn fails(&self, plugins: Value) -> String {
        self.build_on(&plugins, None).map(|_| ()).expect_err(&plugins.to_string()).join(" | ")
    }
}

fn exchange(request: &Request) -> Exchange {
    let client = Arc::new(client("192.0.2.7:4711"));
    let ip = client.ip();
    Exchange::new(request.head(), client, ip, Instant::now())
}

async fn run(chain: &Chain, exchange: &mut Exchange) -> Option<LocalResponse> {
    let global = Chain::default();
    match (Filters { global: &global, route: Some(chain) }).on_request(exchange).await {
        Verdict::Continue => None,
        Verdict::Respond(response) => Some(*response),
    }
}

fn answer(chain: &Chain, exchange: &mut Exchange, mut head: ResponseHead) -> (ResponseHead, BodyAction) {
    let global = Chain::default();
    let action = Filters { global: &global, route: Some(chain) }.on_response(exchange, &mut head, None);
    (head, action)
}

fn field<'a>(head: &'a ResponseHead, name: &str) -> Option<&'a str> {
    head.fields.value_of(name.as_bytes()).map(|value| std::str::from_utf8(value).unwrap())
}

fn text(body: &[u8]) -> &str {
    std::str::from_utf8(body).unwrap()
}

#[test]
fn bad_configurations_name_plugin_field_and_value() {
    let table = [
        (json!({"no-such": {}}), "plugins.no-such: unknown plugin"),
        (json!({"limit-req": {"rate": 1, "burst": 0}}), "plugins.limit-req: missing field `key`"),
        (
            json!({"limit-req": {"rate": "a", "burst": 0, "key": "uri"}}),
            "plugins.limit-req.rate: invalid type: string \"a\", expected f64",
        ),
        (
            json!({"limit-req": {"rate": 0, "burst": 0, "key": "uri"}}),
            "plugins.limit-req.rate: must be more than 0 (0.0)",
        ),
        (
            json!({"limit-req": {"rate": 1, "burst": -1, "key": "uri"}}),
            "plugins.limit-req.burst: must be 0 or more (-1.0)",
        ),
        (
            json!({"limit-req": {"rate": 1, "burst": 900, "key": "uri"}}),
            "plugins.limit-req.burst: delays requests by more than 300 s at this rate; lower it or set nodelay (900.0)",
        ),
        (
            json!({"limit-req": {"rate": 1, "burst": 0, "key": "nonsense"}}),
            "plugins.limit-req.key: unknown variable \"nonsense\" (\"nonsense\")",
        ),
        (
            json!({"limit-req": {"rate": 1, "burst": 0, "key": "frame_from"}}),
            "plugins.limit-req.key: variable \"frame_from\" has no value here: it is known only for the frames of a stream route (\"frame_from\")",
        ),
        (
            json!({"limit-req": {"rate": 1, "burst": 0, "key": "uri", "policy": "redis", "redis_host": "r"}}),
            "plugins.limit-req.policy: only \"local\" is offered: counters are kept in the memory of each node (\"redis\")",
        ),
        (
            json!({"limit-req": {"rate": 1, "burst": 0, "key": "uri", "rejected": "drop"}}),
            "plugins.limit-req.rejected: is for the frames of a stream route only (\"drop\")",
        ),
        (
            json!({"limit-req": {"rate": 1, "burst": 0, "key": "uri", "rejected_code": 100}}),
            "plugins.limit-req.rejected_code: must be from 200 to 599 (100)",
        ),
        (
            json!({"limit-conn": {"conn": 0, "burst": 0, "default_conn_delay": 1, "key": "uri"}}),
            "plugins.limit-conn.conn: must be from 1 to 2147483647 (0)",
        ),
        (
            json!({"limit-conn": {"conn": 1, "burst": 0, "default_conn_delay": 0, "key": "uri"}}),
            "plugins.limit-conn.default_conn_delay: must be more than 0 and at most 60 seconds (0.0)",
        ),
        (json!({"limit-count": {"count": 1}}), "plugins.limit-count.time_window: is missing"),
        (
            json!({"limit-count": {"count": 0, "time_window": 1}}),
            "plugins.limit-count.count: must be from 1 to 4294967295 (0)",
        ),
        (
            json!({"limit-count": {"count": "x", "time_window": 1}}),
            "plugins.limit-count.count: is neither a number nor a variable (\"x\")",
        ),
        (
            json!({"limit-count": {"count": 1, "time_window": 1, "key": "$x", "key_type": "var_combination"}}),
            "plugins.limit-count.key: unknown variable \"x\" (at character 1; write \\$ for a dollar sign) (\"$x\")",
        ),
        (
            json!({"limit-count": {"rules": [{"count": 1, "time_window": 1, "key": "$uri"}, {"count": 2, "time_window": 1, "key": "$uri"}]}}),
            "plugins.limit-count.rules[1].key: is the key of another rule too (\"$uri\")",
        ),
        (json!({"proxy-rewrite": {}}), "plugins.proxy-rewrite: needs at least one field"),
        (
            json!({"proxy-rewrite": {"uri": "x"}}),
            "plugins.proxy-rewrite.uri: must begin with '/' and have at most 4096 bytes (\"x\")",
        ),
        (
            json!({"proxy-rewrite": {"regex_uri": ["^/(", "/"]}}),
            "plugins.proxy-rewrite.regex_uri[0]: \"^/(\" is not a regular expression: unclosed group",
        ),
        (
            json!({"proxy-rewrite": {"regex_uri": ["^/"]}}),
            "plugins.proxy-rewrite.regex_uri: must be pairs of expression and template, at most 64 (1)",
        ),
        (
            json!({"proxy-rewrite": {"scheme": "https"}}),
            "plugins.proxy-rewrite.scheme: is set on the upstream, as in APISIX since 3.0 (\"https\")",
        ),
        (
            json!({"proxy-rewrite": {"headers": {"set": {"a b": "1"}}}}),
            "plugins.proxy-rewrite.headers.set.a b: is not the name of a header field (\"a b\")",
        ),
        (
            json!({"proxy-rewrite": {"headers": {"Content-Length": "1"}}}),
            "plugins.proxy-rewrite.headers.Content-Length: belongs to the connection and cannot be changed (\"Content-Length\")",
        ),
        (
            json!({"proxy-rewrite": {"headers": {"X": "a\r\nY: b"}}}),
            "plugins.proxy-rewrite.headers.X: is not the value of a header field (\"a\\r\\nY: b\")",
        ),
        (
            json!({"proxy-rewrite": {"method": "YELL"}}),
            "plugins.proxy-rewrite.method: must be one of GET, POST, PUT, HEAD, DELETE, OPTIONS, MKCOL, COPY, MOVE, PROPFIND, LOCK, UNLOCK, PATCH, TRACE (\"YELL\")",
        ),
        (
            json!({"response-rewrite": {"body": "a", "filters": [{"regex": "a", "replace": "b"}]}}),
            "plugins.response-rewrite.filters: cannot be combined with body",
        ),
        (
            json!({"response-rewrite": {"body": "?", "body_base64": true}}),
            "plugins.response-rewrite.body: is not base64 (\"?\")",
        ),
        (
            json!({"response-rewrite": {"filters": [{"regex": "a", "replace": "b", "options": "jz"}]}}),
            "plugins.response-rewrite.filters[0].options: option 'z' is not offered, only i, j, m, o, s, u and x (\"jz\")",
        ),
        (
            json!({"response-rewrite": {"headers": {"add": ["no colon"]}}}),
            "plugins.response-rewrite.headers.add[0]: must be text like \"name: value\" (\"no colon\")",
        ),
        (
            json!({"redirect": {"uri": "/a", "http_to_https": true}}),
            "plugins.redirect: needs exactly one of http_to_https, uri and regex_uri",
        ),
        (
            json!({"redirect": {"uri": "/a", "ret_code": 1000}}),
            "plugins.redirect.ret_code: must be from 200 to 599 (1000)",
        ),
        (
            json!({"real-ip": {"source": "http_x", "trusted_addresses": ["10.0.0.0/44"]}}),
            "plugins.real-ip.trusted_addresses: \"10.0.0.0/44\" is neither an IP address nor a CIDR block",
        ),
        (json!({"ip-restriction": {}}), "plugins.ip-restriction: needs whitelist or blacklist"),
        (
            json!({"ip-restriction": {"whitelist": ["x"]}}),
            "plugins.ip-restriction.whitelist: \"x\" is neither an IP address nor a CIDR block",
        ),
        (
            json!({"cors": {"allow_credential": true}}),
            "plugins.cors.allow_methods: must be spelled out when allow_credential is true (\"*\")",
        ),
        (
            json!({"cors": {"allow_origins": "a.example"}}),
            "plugins.cors.allow_origins: is not an origin like https://host:port (\"a.example\")",
        ),
        (
            json!({"cors": {"allow_origins_by_regex": ["("]}}),
            "plugins.cors.allow_origins_by_regex[0]: \"(\" is not a regular expression: unclosed group",
        ),
        (
            json!({"traffic-split": {"rules": [{"weighted_upstreams": [{"upstream_id": "missing"}]}]}}),
            "plugins.traffic-split.rules[0].weighted_upstreams[0].upstream_id: does not exist (\"missing\")",
        ),
        (
            json!({"traffic-split": {"rules": [{"weighted_upstreams": [{"weight": 0}]}]}}),
            "plugins.traffic-split.rules[0].weighted_upstreams: all weights are 0",
        ),
        (
            json!({"traffic-split": {"rules": [{"match": [{"vars": [["uri", "=", 1]]}]}]}}),
            "plugins.traffic-split.rules[0].match[0].vars[0][1]: unknown operator \"=\"",
        ),
        (json!({"fault-injection": {}}), "plugins.fault-injection: needs abort or delay"),
        (
            json!({"fault-injection": {"delay": {"duration": 301}}}),
            "plugins.fault-injection.delay.duration: must be from 0 to 300 seconds (301.0)",
        ),
        (
            json!({"fault-injection": {"abort": {"http_status": 500, "percentage": 101}}}),
            "plugins.fault-injection.abort.percentage: must be from 0 to 100 (101)",
        ),
        (json!({"mocking": {}}), "plugins.mocking: needs response_example or response_schema"),
        (
            json!({"mocking": {"response_schema": {"properties": {"a": {"type": "date"}}}}}),
            "plugins.mocking.response_schema.properties.a.type: must be string, number, integer, boolean, array or object (\"date\")",
        ),
        (
            json!({"mocking": {"response_example": "{\"$schema\": 1}"}}),
            "plugins.mocking.response_example: unknown variable \"schema\" (at character 3; write \\$ for a dollar sign)",
        ),
        (
            json!({"request-id": {"algorithm": "dice"}}),
            "plugins.request-id.algorithm: unknown variant `dice`, expected one of `uuid`, `nanoid`, `range_id`, `ksuid`",
        ),
        (
            json!({"request-id": {"range_id": {"length": 3}, "algorithm": "range_id"}}),
            "plugins.request-id.range_id.length: must be from 6 to 128 (3)",
        ),
        (
            json!({"cors": {"max_age": 1, "colour": 1}}),
            "plugins.cors.colour: unknown field `colour`, expected one of `allow_origins`, `allow_methods`, `allow_headers`, `expose_headers`, `max_age`, `allow_credential`, `allow_origins_by_regex`, `allow_origins_by_metadata`, `timing_allow_origins`, `timing_allow_origins_by_regex`",
        ),
        (
            json!({"cors": {"_meta": {"filter": [["uri", "=", 1]]}}}),
            "plugins.cors._meta.filter[0][1]: unknown operator \"=\"",
        ),
        (
            json!({"cors": {"max_age": "a"}, "redirect": {}}),
            "plugins.cors.max_age: invalid type: string \"a\", expected i64 | plugins.redirect: needs exactly one of http_to_https, uri and regex_uri",
        ),
    ];
    for (plugins, message) in table {
        assert_eq!(Bench::http().fails(plugins.clone()), message, "{plugins}");
    }
    for (kind, plugins, message) in [
        (ChainKind::Frames, json!({"cors": {}}), "plugins.cors: has no effect on stream routes"),
        (
            ChainKind::Stream,
            json!({"limit-req": {}}),
            "plugins.limit-req: has no effect on stream routes without frames",
        ),
        (
            ChainKind::Frames,
            json!({"limit-req": {"rate": 1, "burst": 0, "key": "frame_nope"}}),
            "plugins.limit-req.key: the frame format has no field \"nope\" (\"frame_nope\")",
        ),
        (
            ChainKind::Frames,
            json!({"limit-req": {"rate": 1, "burst": 0, "key": "uri"}}),
            "plugins.limit-req.key: variable \"uri\" has no value here: it is known only for HTTP requests (\"uri\")",
        ),
        (
            ChainKind::Frames,
            json!({"limit-conn": {"conn": 1, "burst": 0, "default_conn_delay": 1, "key": "frame_from"}}),
            "plugins.limit-conn.key: variable \"frame_from\" has no value here: it is known only for the frames of a stream route (\"frame_from\")",
        ),
    ] {
        assert_eq!(Bench::of(kind).fails(plugins.clone()), message, "{plugins}");
    }
}

#[test]
fn filters_run_by_phase_then_priority_and_meta_can_change_both() {
    let bench = Bench::http();
    let chain = bench.build(json!({
        "redirect": {"uri": "/x"},
        "limit-count": {"count": 1, "time_window": 60},
        "ip-restriction": {"blacklist": ["10.0.0.0/8"], "_meta": {"priority": 1}},
        "cors": {},
        "request-id": {"_meta": {"disable": true}},
    }));
    assert_eq!(chain.names().collect::<Vec<_>>(), ["cors", "limit-count", "redirect", "ip-restriction"]);
    let order: Vec<&str> =
        chain.request.iter().map(|place| &*chain.links[usize::from(*place)].name).collect();
    assert_eq!(order, ["cors", "redirect", "limit-count", "ip-restriction"]);
    assert_eq!(chain.body_interest(), BodyInterest::None);
}

#[test]
fn merging_takes_whole_plugins_from_the_nearest_object() {
    let parse = |value: Value| serde_json::from_value::<Plugins>(value).unwrap();
    let service = parse(json!({"cors": {"max_age": 1}, "redirect": {"uri": "/s"}, "mocking": {"delay": 1}}));
    let config = parse(json!({"redirect": {"uri": "/c"}, "mocking": {"delay": 2}}));
    let route = parse(json!({"mocking": {"response_example": "r"}}));
    let merged = merge(Some(&service), Some(&config), Some(&route));
    let expected =
        json!({"cors": {"max_age": 1}, "redirect": {"uri": "/c"}, "mocking": {"response_example": "r"}});
    assert_eq!(serde_json::to_value(&merged).unwrap(), expected);
}

#[tokio::test]
async fn a_meta_filter_leaves_a_plugin_out_and_error_response_speaks_for_it() {
    let chain = Bench::http().build(json!({"ip-restriction": {
        "whitelist": ["10.0.0.0/8"],
        "_meta": {"filter": [["arg_strict", "==", "1"]], "error_response": {"message": "no"}},
    }}));
    assert!(run(&chain, &mut exchange(&Request::get("/"))).await.is_none());
    let mut strict = exchange(&Request::get("/?strict=1"));
    let response = run(&chain, &mut strict).await.unwrap();
    assert_eq!((response.head.status, text(&response.body)), (403, r#"{"message":"no"}"#));
    assert_eq!(strict.notes[0].reason, "ip_denied");
}

#[tokio::test]
async fn counts_answer_with_headers_and_survive_a_rebuild_that_does_not_touch_them() {
    let bench = Bench::http();
    let plugins = json!({"limit-count": {"count": 2, "time_window": 60, "rejected_code": 429, "rejected_msg": "slow down"}});
    let mut chain = bench.build(plugins.clone());
    for remaining in ["1", "0"] {
        let mut exchange = exchange(&Request::get("/"));
        assert!(run(&chain, &mut exchange).await.is_none());
        let (head, _) = answer(&chain, &mut exchange, ResponseHead::new(200));
        assert_eq!(field(&head, "X-RateLimit-Limit"), Some("2"));
        assert_eq!(field(&head, "X-RateLimit-Remaining"), Some(remaining));
        assert_eq!(field(&head, "X-RateLimit-Reset"), Some("60"));
        chain = bench.build_on(&plugins, Some(&chain)).unwrap();
    }
    let mut over = exchange(&Request::get("/"));
    let response = run(&chain, &mut over).await.unwrap();
    assert_eq!((response.head.status, field(&response.head, "Retry-After")), (429, Some("60")));
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(body["error_msg"], "slow down");
    assert_eq!(body["request_id"], over.request_id.get());
    let (head, _) = answer(&chain, &mut over, response.head);
    assert_eq!(field(&head, "X-RateLimit-Remaining"), Some("0"));
    let changed =
        bench.build_on(&json!({"limit-count": {"count": 3, "time_window": 60}}), Some(&chain)).unwrap();
    assert!(run(&changed, &mut exchange(&Request::get("/"))).await.is_none(), "a changed limit counts anew");
}

#[tokio::test]
async fn routes_of_a_group_share_their_count() {
    let bench = Bench::http();
    let plugins = json!({"limit-count": {"count": 1, "time_window": 60, "group": "g"}});
    let (one, two) = (bench.build(plugins.clone()), bench.build(plugins));
    assert!(run(&one, &mut exchange(&Request::get("/"))).await.is_none());
    assert!(run(&two, &mut exchange(&Request::get("/"))).await.is_some());
    let other = json!({"limit-count": {"count": 9, "time_window": 60, "group": "g"}});
    assert_eq!(
        bench.fails(other.clone()),
        "plugins.limit-count.group: is in use with another configuration (\"g\")"
    );
    drop((one, two));
    bench.build(other);
}

#[tokio::test(start_paused = true)]
async fn a_leaky_bucket_delays_what_is_in_the_burst_and_refuses_the_rest() {
    let chain = Bench::http().build(json!({"limit-req": {"rate": 1, "burst": 1, "key": "arg_user"}}));
    let request = Request::get("/?user=a");
    let mut first = exchange(&request);
    assert!(run(&chain, &mut first).await.is_none());
    assert_eq!(first.delayed, Duration::ZERO);
    let mut second = exchange(&request);
    assert!(run(&chain, &mut second).await.is_none());
    assert!(second.delayed > Duration::from_millis(900), "{:?}", second.delayed);
    let response = run(&chain, &mut exchange(&request)).await.unwrap();
    assert_eq!((response.head.status, response.reason), (503, "rate_limited"));
    assert!(run(&chain, &mut exchange(&Request::get("/?user=b"))).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_place_is_held_until_the_exchange_is_gone() {
    let plugins =
        json!({"limit-conn": {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}});
    let chain = Bench::http().build(plugins);
    let request = Request::get("/");
    let mut held = exchange(&request);
    assert!(run(&chain, &mut held).await.is_none());
    let response = run(&chain, &mut exchange(&request)).await.unwrap();
    assert_eq!(response.reason, "concurrency_limited");
    drop(held);
    assert!(run(&chain, &mut exchange(&request)).await.is_none());
}

#[tokio::test]
async fn targets_hosts_methods_and_headers_are_rewritten() {
    let chain = Bench::http().build(json!({"proxy-rewrite": {
        "regex_uri": ["^/iresty/(.*)/(.*)$", "/$1-$2?from=$remote_addr"],
        "host": "inner.example:8080",
        "method": "POST",
        "headers": {
            "set": {"X-Was": "$request_uri", "X-Group": "$2", "X-Drop": "", "X-Evil": "a$arg_evil"},
            "add": {"X-Many": "2"},
            "remove": ["X-Gone"],
        },
    }}));
    let request = Request::get("/iresty/a/b?x=1&evil=%0d%0aY:1")
        .header("X-Many", "1")
        .header("X-Gone", "1")
        .header("X-Drop", "1");
    let mut exchange = exchange(&request);
    assert!(run(&chain, &mut exchange).await.is_none());
    let own = |name: &str| exchange.request.fields.value_of(name.as_bytes()).map(text);
    assert_eq!(exchange.request.path(), "/a-b");
    assert_eq!(exchange.request.query(), Some("from=192.0.2.7&x=1&evil=%0d%0aY:1"));
    assert_eq!(exchange.upstream_host(), "inner.example:8080");
    assert_eq!(exchange.request.method.as_str(), "POST");
    assert_eq!(own("X-Was"), Some("/iresty/a/b?x=1&evil=%0d%0aY:1"));
    assert_eq!((own("X-Group"), own("X-Evil")), (Some("b"), Some("aY:1")));
    assert_eq!((own("X-Drop"), own("X-Gone")), (None, None));
    assert_eq!(exchange.request.fields.values_of(b"X-Many").count(), 2);
}

#[tokio::test]
async fn what_a_client_sent_can_neither_climb_nor_begin_a_query() {
    let chain = Bench::http().build(json!({"proxy-rewrite": {"uri": "/files/$arg_name"}}));
    for (name, expected) in
        [("a%2Fb", Some("/files/a/b")), ("a%3Fb=1", Some("/files/a%3Fb=1")), ("../../x", None), ("%5C", None)]
    {
        let mut exchange = exchange(&Request::get(&format!("/?name={name}")));
        let response = run(&chain, &mut exchange).await;
        match expected {
            Some(path) => assert_eq!((exchange.request.path(), response.is_none()), (path, true)),
            None => assert_eq!(response.unwrap().head.status, 400, "{name}"),
        }
    }
}

#[tokio::test]
async fn redirects_name_the_place_asked_for() {
    let table = [
        (
            json!({"http_to_https": true}),
            Request::get("/a?b=1"),
            Some((301, "https://shop.example:8443/a?b=1")),
        ),
        (
            json!({"http_to_https": true}),
            Request::get("/a").method("POST"),
            Some((308, "https://shop.example:8443/a")),
        ),
        (json!({"http_to_https": true}), Request::get("/a").https(), None),
        (
            json!({"uri": "$uri/index.html", "ret_code": 301}),
            Request::get("/a?b=1"),
            Some((301, "/a/index.html")),
        ),
        (
            json!({"uri": "/x?y=1", "append_query_string": true}),
            Request::get("/a?b=1"),
            Some((302, "/x?y=1&b=1")),
        ),
        (json!({"regex_uri": ["^/old/(.*)$", "/new/$1"]}), Request::get("/old/x"), Some((302, "/new/x"))),
        (json!({"regex_uri": ["^/old/(.*)$", "/new/$1"]}), Request::get("/other"), None),
        (
            json!({"uri": "/a$arg_x"}),
            Request::get("/?x=%0d%0aSet-Cookie:%20a"),
            Some((302, "/aSet-Cookie:%20a")),
        ),
    ];
    for (config, request, expected) in table {
        let chain = Bench::http().build(json!({ "redirect": config }));
        let response = run(&chain, &mut exchange(&request)).await;
        let found = response.as_ref().map(|own| (own.head.status, field(&own.head, "Location").unwrap()));
        assert_eq!(found, expected, "{config} {request:?}");
    }
}

#[tokio::test]
async fn an_address_is_taken_over_from_trusted_hops_only() {
    let trusted = ["192.0.2.0/24", "10.0.0.0/8"];
    let table = [
        (
            json!({"source": "http_x_forwarded_for", "trusted_addresses": trusted}),
            "1.1.1.1, 10.0.0.9",
            "10.0.0.9",
        ),
        (
            json!({"source": "http_x_forwarded_for", "trusted_addresses": trusted, "recursive": true}),
            "6.6.6.6, 1.1.1.1, 10.0.0.9",
            "1.1.1.1",
        ),
        (
            json!({"source": "http_x_forwarded_for", "trusted_addresses": trusted, "recursive": true}),
            "junk, 10.0.0.9",
            "10.0.0.9",
        ),
        (
            json!({"source": "http_x_forwarded_for", "trusted_addresses": ["10.0.0.0/8"]}),
            "1.1.1.1",
            "192.0.2.7",
        ),
        (json!({"source": "http_x_forwarded_for"}), "1.1.1.1", "192.0.2.7"),
        (
            json!({"source": "http_x_forwarded_for", "trusted_addresses": trusted}),
            "[2001:db8::1]:99",
            "2001:db8::1",
        ),
        (json!({"source": "http_x_forwarded_for", "trusted_addresses": trusted}), "junk", "192.0.2.7"),
        (json!({"source": "arg_ip", "trusted_addresses": trusted}), "", "9.9.9.9"),
    ];
    for (config, forwarded, expected) in table {
        let chain = Bench::http().build(json!({ "real-ip": config }));
        let mut exchange = exchange(&Request::get("/?ip=9.9.9.9:80").header("X-Forwarded-For", forwarded));
        assert!(run(&chain, &mut exchange).await.is_none());
        assert_eq!(exchange.client_ip, expected.parse::<IpAddr>().unwrap(), "{config} {forwarded}");
    }
}

#[tokio::test]
async fn origins_are_answered_by_rule() {
    let list = "https://a.example,https://b.example";
    let table = [
        (json!({}), Some("https://x.test"), Some("*")),
        (json!({"allow_origins": "**"}), Some("https://x.test"), Some("https://x.test")),
        (json!({"allow_origins": list}), Some("https://b.example"), Some("https://b.example")),
        (json!({"allow_origins": list}), Some("https://c.example"), None),
        (json!({"allow_origins": list}), None, None),
        (
            json!({"allow_origins_by_regex": [".*\\.example"]}),
            Some("https://z.example"),
            Some("https://z.example"),
        ),
        (json!({"allow_origins_by_regex": [".*\\.example"]}), Some("https://z.example.evil.test"), None),
        (
            json!({"allow_origins": "https://a.example", "allow_origins_by_regex": [".*\\.b"]}),
            Some("http://x.b"),
            Some("http://x.b"),
        ),
    ];
    for (config, origin, expected) in table {
        let chain = Bench::http().build(json!({ "cors": config }));
        let mut request = Request::get("/");
        if let Some(origin) = origin {
            request = request.header("Origin", origin);
        }
        let mut exchange = exchange(&request);
        assert!(run(&chain, &mut exchange).await.is_none());
        let (head, _) = answer(&chain, &mut exchange, ResponseHead::new(200));
        assert_eq!(field(&head, "Access-Control-Allow-Origin"), expected, "{config} {origin:?}");
        assert_eq!(field(&head, "Vary").is_some(), expected != Some("*"), "{config}");
    }
    let chain = Bench::http().build(json!({"cors": {"allow_headers": "**", "allow_methods": "**"}}));
    let request = Request::get("/").method("OPTIONS").header("Access-Control-Request-Headers", "x-a");
    let mut preflight = exchange(&request);
    let response = run(&chain, &mut preflight).await.unwrap();
    let (head, _) = answer(&chain, &mut preflight, response.head);
    assert_eq!((head.status, field(&head, "Access-Control-Allow-Headers")), (200, Some("x-a")));
    assert!(field(&head, "Access-Control-Allow-Methods").unwrap().contains("PATCH"));
}

#[tokio::test]
async fn ids_are_made_passed_on_and_answered_with() {
    let chain = Bench::http().build(json!({"request-id": {}}));
    let mut made = exchange(&Request::get("/"));
    run(&chain, &mut made).await;
    let id = made.request.fields.value_of(b"X-Request-Id").map(<[u8]>::to_vec).unwrap();
    assert_eq!((id.len(), made.request_id.get()), (36, text(&id)));
    let mut given = exchange(&Request::get("/").header("X-Request-Id", "mine"));
    run(&chain, &mut given).await;
    let (head, _) = answer(&chain, &mut given, ResponseHead::new(200));
    assert_eq!((given.request_id.get(), field(&head, "X-Request-Id")), ("mine", Some("mine")));
}

#[tokio::test(start_paused = true)]
async fn faults_and_mocks_answer_in_place_of_the_service() {
    let chain = Bench::http().build(json!({"fault-injection": {
        "delay": {"duration": 2.5},
        "abort": {"http_status": 502, "body": "hi $arg_name", "headers": {"X-A": "$uri"}, "vars": [[["arg_name", "==", "jack"]]]},
    }}));
    let mut hit = exchange(&Request::get("/p?name=jack"));
    let response = run(&chain, &mut hit).await.unwrap();
    assert_eq!((response.head.status, text(&response.body)), (502, "hi jack"));
    assert_eq!((field(&response.head, "X-A"), hit.delayed), (Some("/p"), Duration::from_millis(2500)));
    assert!(run(&chain, &mut exchange(&Request::get("/p"))).await.is_none());
    let never =
        Bench::http().build(json!({"fault-injection": {"abort": {"http_status": 500, "percentage": 0}}}));
    assert!(run(&never, &mut exchange(&Request::get("/"))).await.is_none());

    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string", "example": "abcd"},
        "list": {"type": "array", "items": {"type": "integer", "example": 155.5}},
        "deep": {"type": "object", "properties": {"yes": {"type": "boolean"}}},
    }});
    let chain = Bench::http().build(json!({"mocking": {"response_schema": schema, "response_status": 201}}));
    let response = run(&chain, &mut exchange(&Request::get("/"))).await.unwrap();
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((response.head.status, &body["name"], &body["list"][0]), (201, &json!("abcd"), &json!(155)));
    assert!(body["deep"]["yes"].is_boolean());
    assert!(field(&response.head, "x-mock-by").unwrap().starts_with("Sluice/"));
}

#[tokio::test]
async fn traffic_is_split_by_weight_where_a_rule_matches() {
    let chain = Bench::http().build(json!({"traffic-split": {"rules": [
        {"match": [{"vars": [["arg_beta", "==", "1"]]}], "weighted_upstreams": [{"upstream_id": "beta"}]},
        {"match": [{"vars": [["uri", "==", "/split"]]}],
         "weighted_upstreams": [{"upstream": {"nodes": {}}, "weight": 3}, {"weight": 7}]},
    ]}}));
    let mut beta = exchange(&Request::get("/?beta=1"));
    run(&chain, &mut beta).await;
    assert_eq!(beta.upstream.as_ref().map(|own| own.id.to_string()).as_deref(), Some("beta"));
    let mut none = exchange(&Request::get("/"));
    run(&chain, &mut none).await;
    assert!(none.upstream.is_none());
    let mut moved = 0;
    for _ in 0..100 {
        let mut exchange = exchange(&Request::get("/split"));
        run(&chain, &mut exchange).await;
        moved += usize::from(exchange.upstream.is_some());
    }
    assert_eq!(moved, 30);
}

#[tokio::test]
async fn responses_are_rewritten_within_bounds() {
    let chain = Bench::http().build(json!({"response-rewrite": {
        "status_code": 203,
        "headers": {"add": ["Set-Cookie: a=$arg_c; Path=/"], "set": {"X-Status": "$status"}, "remove": ["X-Gone"]},
        "filters": [
            {"regex": "h(el+)o", "replace": "<$1>", "scope": "global"},
            {"regex": "WORLD", "replace": "\\$x", "options": "ij"},
        ],
        "body_max": 1000,
    }}));
    let mut exchange = exchange(&Request::get("/?c=5"));
    run(&chain, &mut exchange).await;
    let head = ResponseHead::new(200).with("X-Gone", "1").with("ETag", "x").with("Content-Length", "11");
    let (head, action) = answer(&chain, &mut exchange, head);
    assert_eq!(
        (head.status, action),
        (203, BodyAction::Transform { max: 1000, longer: Longer::Pass, encoded: false })
    );
    assert_eq!((field(&head, "Set-Cookie"), field(&head, "X-Status")), (Some("a=5; Path=/"), Some("203")));
    assert_eq!(
        (field(&head, "X-Gone"), field(&head, "ETag"), field(&head, "Content-Length")),
        (None, None, None)
    );
    let global = Chain::default();
    let filters = Filters { global: &global, route: Some(&chain) };
    let body = filters.transform_body(&mut exchange, Bytes::from_static(b"hello helllo world world"), true);
    let Rewritten::Body(body) = body else { panic!("{body:?}") };
    assert_eq!(text(&body), "<ell> <elll> $x world");
    let longer = Bytes::from("hello ".repeat(200));
    let body = filters.transform_body(&mut exchange, longer.clone(), true);
    assert!(matches!(body, Rewritten::Body(own) if own == longer), "others may want to see more");
    let encoded = ResponseHead::new(200).with("Content-Encoding", "gzip");
    assert_eq!(answer(&chain, &mut exchange, encoded).1, BodyAction::Pass);

    let chain = Bench::http().build(json!({"response-rewrite": {
        "body": "aGk=", "body_base64": true, "vars": [["status", "==", 500]],
    }}));
    assert_eq!(answer(&chain, &mut exchange, ResponseHead::new(200)).1, BodyAction::Pass);
    let (_, action) = answer(&chain, &mut exchange, ResponseHead::new(500));
    assert_eq!(action, BodyAction::Replace(Bytes::from_static(b"hi")));
}

#[tokio::test]
async fn a_body_is_asked_for_only_where_a_variable_needs_it() {
    let chain =
        Bench::http().build(json!({"limit-count": {"count": 1, "time_window": 9, "key": "post_arg_user"}}));
    assert_eq!(
        chain.body_interest(),
        BodyInterest::Buffered { max: REQUEST_BODY_MAX, longer: Longer::Refuse }
    );
    let request = Request::get("/").header("Content-Type", "application/x-www-form-urlencoded");
    for (body, is_let_in) in [("user=a", true), ("user=b", true), ("x=1&user=%61", false)] {
        let mut exchange = exchange(&request);
        exchange.body = Some(Bytes::copy_from_slice(body.as_bytes()));
        assert_eq!(run(&chain, &mut exchange).await.is_none(), is_let_in, "{body}");
    }
}

struct Header {
    from: u64,
    command: u64,
}

impl FrameFields for Header {
    fn role(&self, role: FrameRole) -> Option<u64> {
        match role {
            FrameRole::User => Some(self.from),
            FrameRole::Command => Some(self.command),
            FrameRole::Sequence | FrameRole::Length => Some(0),
        }
    }

    fn field(&self, name: &str) -> Option<u64> {
        (name == "to").then_some(9)
    }
}

#[test]
fn frames_are_limited_by_their_fields() {
    let client = client("192.0.2.7:4711");
    let now = Instant::now();
    let verdicts = |plugins: Value, frames: &[(u64, u64)]| {
        let chain = Bench::of(ChainKind::Frames).build(plugins);
        assert!(chain.sees_frames());
        let judge = |(from, command): &(u64, u64)| {
            let frame = Header { from: *from, command: *command };
            chain.on_frame(&FrameContext { client: &client, labels: None, frame: &frame, now })
        };
        frames.iter().map(judge).collect::<Vec<_>>()
    };
    let limit = |rejected: &str| json!({"limit-req": {"rate": 10, "burst": 1, "key": "frame_from", "rejected": rejected}});
    let wait = FrameVerdict::Delay(Duration::from_millis(100));
    for (rejected, last) in [
        (
            "error_frame",
            FrameVerdict::Reject { code: "rate_limited", retry_after: Some(Duration::from_millis(100)) },
        ),
        ("drop", FrameVerdict::Drop("rate_limited")),
        ("close", FrameVerdict::Close("rate_limited")),
        ("delay", FrameVerdict::Delay(Duration::from_millis(200))),
    ] {
        let found = verdicts(limit(rejected), &[(1, 0), (1, 0), (2, 0), (1, 0)]);
        assert_eq!(found, [FrameVerdict::Pass, wait.clone(), FrameVerdict::Pass, last], "{rejected}");
    }
    let counted = json!({"limit-count": {
        "count": 1, "time_window": 60, "key": "$frame_from-$frame_to", "key_type": "var_combination",
        "rejected": "drop", "_meta": {"filter": [["frame_cmd", "==", 3]]},
    }});
    let found = verdicts(counted, &[(1, 3), (1, 4), (1, 3), (2, 3)]);
    assert_eq!(
        found,
        [FrameVerdict::Pass, FrameVerdict::Pass, FrameVerdict::Drop("quota_exceeded"), FrameVerdict::Pass]
    );
}

#[test]
fn connections_are_limited_and_give_their_place_back() {
    let chain = Bench::of(ChainKind::Stream).build(json!({
        "limit-conn": {"conn": 1, "burst": 1, "default_conn_delay": 0.5, "key": "remote_addr"},
        "ip-restriction": {"blacklist": ["203.0.113.0/24"]},
    }));
    let judge = |address: &str| {
        let mut scope = ConnectionScope::default();
        (chain.on_connection(&client(address), None, &mut scope), scope)
    };
    let (first, held) = judge("192.0.2.1:1");
    let (second, _also) = judge("192.0.2.1:2");
    assert_eq!(
        (first, second),
        (ConnectionVerdict::Continue, ConnectionVerdict::Delay(Duration::from_millis(500)))
    );
    assert_eq!(judge("192.0.2.1:3").0, ConnectionVerdict::Close("concurrency_limited"));
    assert_eq!(judge("203.0.113.5:1").0, ConnectionVerdict::Close("ip_denied"));
    drop(held);
    assert_ne!(judge("192.0.2.1:4").0, ConnectionVerdict::Close("concurrency_limited"));
}
