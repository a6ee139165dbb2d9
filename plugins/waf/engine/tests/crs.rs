//! The rule set of Debian's package, loaded as it is.

mod common;

use common::{Request, cases, debian, encode, ids, judge, judge_again};
use sluice_waf::{Options, Verdict};

/// One case in the form of the rule set's own regression tests: a request, and
/// a rule that must match or must not.
struct Case(u32, Expect, Request);

#[derive(PartialEq)]
enum Expect {
    Match,
    NoMatch,
}

fn get(payload: &str) -> Request {
    Request::new("GET", &format!("/?var={}", encode(payload)))
}

fn post(body: &str) -> Request {
    Request::new("POST", "/").body("application/x-www-form-urlencoded", body)
}

fn regression() -> Vec<Case> {
    use Expect::{Match, NoMatch};
    let no_host = Request { headers: vec![("user-agent".into(), b"x".to_vec())], ..Request::new("GET", "/") };
    vec![
        Case(911_100, Match, Request::new("TRACE", "/")),
        Case(911_100, NoMatch, Request::new("GET", "/")),
        Case(913_100, Match, Request::new("GET", "/").header("user-agent", "sqlmap/1.0")),
        Case(920_160, Match, Request::new("POST", "/").header("content-length", "x5")),
        Case(920_170, Match, Request::new("GET", "/").header("content-length", "5")),
        Case(920_180, Match, Request::new("POST", "/")),
        Case(920_190, Match, Request::new("GET", "/").header("range", "bytes=9-3")),
        Case(920_190, NoMatch, Request::new("GET", "/").header("range", "bytes=3-9")),
        Case(920_210, Match, Request::new("GET", "/").header("connection", "keep-alive, close")),
        Case(920_270, Match, get("a\0b")),
        Case(920_280, Match, no_host),
        Case(920_350, Match, Request::new("GET", "/").header("host", "192.0.2.1")),
        Case(920_420, Match, Request::new("POST", "/").body("application/octets", "x")),
        Case(920_430, NoMatch, Request::new("GET", "/")),
        Case(920_440, Match, Request::new("GET", "/config.bak")),
        Case(920_450, Match, Request::new("GET", "/").header("proxy", "x")),
        Case(921_120, Match, get("x\r\nSet-Cookie: a=b")),
        Case(930_100, Match, get("../../../../etc/passwd")),
        Case(930_120, Match, get("/etc/passwd")),
        Case(930_130, Match, Request::new("GET", "/.git/config")),
        Case(931_100, Match, get("http://10.0.0.1/evil.txt")),
        Case(932_100, Match, get("; cat /etc/passwd")),
        Case(932_160, Match, get("/bin/bash")),
        Case(933_100, Match, get("<?php echo 1;")),
        Case(933_150, Match, get("base64_decode")),
        Case(933_160, Match, get("system('ls');")),
        Case(933_160, NoMatch, get("the system is down")),
        Case(933_170, Match, get("O:4:\"Evil\":0:{}")),
        Case(933_180, Match, get("$_GET[x](1);")),
        Case(934_100, Match, get("_$$ND_FUNC$$_function(){}")),
        Case(941_100, Match, get("<script>alert(1)</script>")),
        Case(941_110, Match, post("a=%3Cscript%3Ealert%281%29%3C%2Fscript%3E")),
        Case(941_160, Match, get("<img src=x onerror=alert(1)>")),
        Case(942_100, Match, get("1' or '1'='1")),
        Case(942_100, NoMatch, get("hello there, friend")),
        Case(942_190, Match, get("union select password from users")),
        Case(942_270, Match, get("1 union select 1,2 from users")),
        Case(943_120, NoMatch, Request::new("GET", "/")),
        Case(944_100, Match, get("java.lang.Runtime.exec")),
        Case(941_110, Match, Request::new("POST", "/").body("application/json", "{\"a\":{\"b\":\"<script>x\"}}")),
        Case(942_100, Match, Request::new("POST", "/").body("text/xml", "<a b=\"x\">1' or '1'='1</a>")),
        Case(
            922_110,
            Match,
            Request::new("POST", "/").body(
                "multipart/form-data; boundary=bb",
                "--bb\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; charset=utf-7\r\n\r\nx\r\n--bb--\r\n",
            ),
        ),
    ]
}

#[test]
fn rules_match_what_they_are_for_and_nothing_else() {
    let engine = debian(Options { detect_only: true, ..Options::default() });
    let mut wrong = Vec::new();
    for Case(rule, expect, request) in regression() {
        let (_, transaction) = judge(&engine, &request);
        let found = ids(&transaction);
        if found.contains(&rule) != (expect == Expect::Match) {
            wrong.push(format!("{rule}: {} {} {found:?}", request.method, request.uri));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A regression suite alone cannot tell an engine that denies everything.
#[test]
fn harmless_requests_pass_and_attacks_do_not() {
    let engine = debian(Options::default());
    for uri in [
        "/",
        "/shop/items?category=books&page=2&q=red+shoes",
        "/a/b.html?x=1,2&name=Ann+Lee",
        "/img/logo.png?v=3",
    ] {
        let (verdict, transaction) = judge(&engine, &Request::new("GET", uri));
        assert_eq!(verdict, Verdict::Pass, "{uri} {:?}", transaction.matches());
    }
    let bodies = [
        ("application/x-www-form-urlencoded", "name=Ann+Lee&comment=I+liked+the+book%2C+thanks."),
        ("application/json", "{\"to\":42,\"text\":\"see you at nine\",\"list\":[1,2,{\"k\":true}]}"),
        ("text/xml", "<order id=\"7\"><item>book</item></order>"),
    ];
    for (content_type, body) in bodies {
        let (verdict, transaction) = judge(&engine, &Request::new("POST", "/api").body(content_type, body));
        assert_eq!(verdict, Verdict::Pass, "{body} {:?}", transaction.matches());
    }
    for request in [get("1' or '1'='1' -- "), get("<script>alert(1)</script>"), get("../../../../etc/passwd")]
    {
        let Verdict::Deny(denial) = judge(&engine, &request).0 else { panic!("{} passed", request.uri) };
        assert_eq!((denial.status, denial.rule), (403, 949_110));
    }
}

#[test]
fn the_paranoia_level_of_the_configuration_decides_which_rules_run() {
    let rules: Vec<usize> = (1..=4)
        .map(|level| debian(Options { paranoia_level: Some(level), ..Options::default() }).rules())
        .collect();
    assert!(rules.is_sorted() && rules[0] < rules[3], "{rules:?}");
    let request = Request::new("GET", "/?x=%27%27%27%27");
    let matches = |level| {
        let options = Options { paranoia_level: Some(level), detect_only: true, ..Options::default() };
        ids(&judge(&debian(options), &request).1).len()
    };
    assert!(matches(4) > matches(1));
}

/// A missed candidate is a bypass: with gates, after all requests before, and without,
/// as the first, must come to the same.
#[test]
fn neither_gates_nor_memory_keep_a_rule_from_matching() {
    let options = |without_gates| Options {
        paranoia_level: Some(4),
        detect_only: true,
        without_gates,
        ..Options::default()
    };
    let (gated, full) = (debian(options(false)), debian(options(true)));
    let attacks = cases(include_str!("data/attacks.txt"));
    let harmless = cases(include_str!("data/harmless.txt"));
    let own = regression().into_iter().map(|Case(rule, _, request)| (rule.to_string(), request));
    let mut one = gated.transaction();
    for (line, request) in attacks.into_iter().chain(harmless).chain(own) {
        judge_again(&mut one, &request);
        let (_, other) = judge(&full, &request);
        assert_eq!(one.matches(), other.matches(), "{line}");
        for name in ["anomaly_score", "inbound_anomaly_score_pl1", "anomaly_score_pl1", "sql_injection_score"]
        {
            assert_eq!(one.variable(name), other.variable(name), "{name} of {line}");
        }
    }
}
