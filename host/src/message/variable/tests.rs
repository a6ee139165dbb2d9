use std::sync::Arc;

use super::*;
use crate::message::{Captures, Params, ResponseHead, RouteLabels, Template, TlsClient, UpstreamView};
use crate::route::testing::{Request, client};

fn shown(name: &str, stage: Stage, subject: &Subject<'_>) -> Option<String> {
    let variable = Variable::parse(name, stage).unwrap();
    variable.read(subject).map(|value| String::from_utf8(value.to_vec()).unwrap())
}

#[test]
fn values_are_what_nginx_and_apisix_give() {
    let mut client = client("192.0.2.7:4711");
    client.tls = Some(Arc::new(TlsClient {
        sni: Some("shop.example".into()),
        version: "TLSv1.3",
        ..TlsClient::default()
    }));
    let head = Request::get("/a/b?x=1&y=%41+b&flag&x=2&z%31=q")
        .https()
        .host("Shop.Example:8443")
        .header("X-Two", "1")
        .header("x-two", "2")
        .header("Under_Score", "u")
        .header("Cookie", "a=1; b=two")
        .header("Cookie", "c=3")
        .header("Content-Type", "text/plain")
        .head();
    let labels = RouteLabels { route_id: "r1".into(), ..RouteLabels::default() };
    let params = Params::default();
    let response = ResponseHead::new(404).with("X-Own", "yes");
    let upstream = UpstreamView {
        address: "10.0.0.1:80",
        status: Some(502),
        response_time: Some(Duration::from_millis(1234)),
        ..UpstreamView::default()
    };
    let subject = Subject {
        labels: Some(&labels),
        params: Some(&params),
        request_id: "id",
        response: Some(&response),
        upstream: Some(upstream),
        ..Subject::of_request(&client, "2001:db8::1".parse().unwrap(), &head)
    };
    let table = [
        ("uri", Some("/a/b")),
        ("request_uri", Some("/a/b?x=1&y=%41+b&flag&x=2&z%31=q")),
        ("args", Some("x=1&y=%41+b&flag&x=2&z%31=q")),
        ("is_args", Some("?")),
        ("arg_x", Some("1")),
        ("arg_y", Some("A b")),
        ("arg_flag", Some("")),
        ("arg_z1", Some("q")),
        ("arg_X", None),
        ("http_x_two", Some("1, 2")),
        ("http_under_score", Some("u")),
        ("http_cookie", Some("a=1; b=two; c=3")),
        ("http_none", None),
        ("cookie_b", Some("two")),
        ("cookie_c", Some("3")),
        ("cookie_B", None),
        ("host", Some("shop.example")),
        ("http_host", Some("Shop.Example:8443")),
        ("remote_addr", Some("2001:db8::1")),
        ("remote_port", Some("4711")),
        ("realip_remote_addr", Some("192.0.2.7")),
        ("server_addr", Some("198.51.100.1")),
        ("server_port", Some("8443")),
        ("scheme", Some("https")),
        ("https", Some("on")),
        ("request_method", Some("GET")),
        ("server_protocol", Some("HTTP/1.1")),
        ("content_type", Some("text/plain")),
        ("content_length", None),
        ("request_id", Some("id")),
        ("route_id", Some("r1")),
        ("service_id", None),
        ("consumer_name", None),
        ("ssl_server_name", Some("shop.example")),
        ("ssl_protocol", Some("TLSv1.3")),
        ("ssl_client_verify", Some("NONE")),
        ("ssl_client_s_dn", None),
        ("status", Some("404")),
        ("sent_http_x_own", Some("yes")),
        ("upstream_addr", Some("10.0.0.1:80")),
        ("upstream_status", Some("502")),
        ("upstream_response_time", Some("1.234")),
    ];
    for (name, expected) in table {
        assert_eq!(shown(name, Stage::Response, &subject).as_deref(), expected, "{name}");
    }
}

#[test]
fn broken_escapes_stay_and_never_panic() {
    for (query, expected) in
        [("a=%", "%"), ("a=%4", "%4"), ("a=%zz", "%zz"), ("a=%%41", "%A"), ("a=é%C3", "é\u{fffd}")]
    {
        let value = find_arg(query.as_bytes(), b"a").unwrap();
        assert_eq!(String::from_utf8_lossy(&value), expected, "{query}");
    }
    assert_eq!(find_arg(b"&&=&a", b"b"), None);
}

#[test]
fn names_are_refused_where_they_have_no_value() {
    let table = [
        ("", Stage::Request, "unknown variable \"\""),
        ("arg_", Stage::Request, "unknown variable \"arg_\""),
        ("uri2", Stage::Request, "unknown variable \"uri2\""),
        (
            "post_arg_a",
            Stage::Route,
            "variable \"post_arg_a\" has no value here: the request's body is not read before a route has matched",
        ),
        (
            "post_arg.a.b",
            Stage::Request,
            "variable \"post_arg.a.b\" is not supported: only form fields can be read, as post_arg_<name>",
        ),
        (
            "graphql_name",
            Stage::Request,
            "variable \"graphql_name\" is not supported: GraphQL bodies are not parsed",
        ),
        (
            "route_id",
            Stage::Route,
            "variable \"route_id\" has no value here: it is known only once a route has matched",
        ),
        (
            "status",
            Stage::Request,
            "variable \"status\" has no value here: it is known only once the response has come",
        ),
        ("uri", Stage::Frame, "variable \"uri\" has no value here: it is known only for HTTP requests"),
        (
            "frame_from",
            Stage::Connection,
            "variable \"frame_from\" has no value here: it is known only for the frames of a stream route",
        ),
    ];
    for (name, stage, message) in table {
        assert_eq!(Variable::parse(name, stage).unwrap_err().to_string(), message, "{name}");
    }
}

#[test]
fn templates_are_filled_and_their_faults_are_placed() {
    let client = client("192.0.2.7:4711");
    let head = Request::get("/a?x=1").head();
    let subject = Subject::of_request(&client, client.ip(), &head);
    for (text, expected) in [
        ("$remote_addr-${arg_x}", "192.0.2.7-1"),
        ("${uri}b$arg_none.", "/ab."),
        ("5\\$ $ \\n $$uri", "5$ $ \\n $/a"),
        ("", ""),
        ("$", "$"),
    ] {
        let template = Template::parse(text, Stage::Request, Captures::None).unwrap();
        let mut out = SmallVec::<[u8; 64]>::new();
        template.fill(&subject, &mut out);
        assert_eq!(std::str::from_utf8(&out), Ok(expected), "{text}");
    }
    for (text, message) in [
        ("ü ${uri", "'${' at character 3 is not closed"),
        ("ü$nope", "unknown variable \"nope\" (at character 2; write \\$ for a dollar sign)"),
        ("$1", "unknown variable \"1\" (at character 1; write \\$ for a dollar sign)"),
        ("${}", "unknown variable \"\" (at character 1; write \\$ for a dollar sign)"),
    ] {
        let error = Template::parse(text, Stage::Request, Captures::None).unwrap_err();
        assert_eq!(error.to_string(), message, "{text}");
    }
}
