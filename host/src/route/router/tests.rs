use serde_json::json;

use super::*;
use crate::message::RequestHead;
use crate::route::RouteFields;
use crate::route::testing::{Request, client};

#[derive(Debug, Clone, Default)]
struct Rule {
    hosts: Vec<String>,
    uris: Vec<String>,
    methods: Vec<String>,
    addresses: Vec<String>,
    vars: Option<serde_json::Value>,
    priority: i64,
}

impl Rule {
    fn uri(uri: &str) -> Self {
        Self { uris: vec![uri.to_owned()], ..Self::default() }
    }

    fn host(mut self, host: &str) -> Self {
        self.hosts.push(host.to_owned());
        self
    }

    fn priority(mut self, priority: i64) -> Self {
        self.priority = priority;
        self
    }

    fn parsed(&self) -> RouteMatch {
        RouteMatch::parse(&self.fields()).unwrap()
    }

    fn fields(&self) -> RouteFields<'_> {
        RouteFields {
            hosts: &self.hosts,
            uris: &self.uris,
            methods: &self.methods,
            remote_addrs: &self.addresses,
            vars: self.vars.as_ref(),
            priority: self.priority,
        }
    }
}

fn table(rules: &[(&str, Rule)]) -> Router<String> {
    let mut router = Router::new();
    for (key, rule) in rules {
        router.insert(key, rule.parsed(), (*key).to_owned());
    }
    router
}

fn found(router: &Router<String>, head: &RequestHead) -> Option<String> {
    let client = client("192.0.2.7:4711");
    router.find(&Subject::of_request(&client, client.ip(), head)).map(|found| found.value.clone())
}

#[test]
fn hosts_go_before_paths_and_paths_before_priority() {
    let router = table(&[
        ("any", Rule::uri("/*").priority(100)),
        ("any-exact", Rule::uri("/a")),
        ("wild", Rule::uri("/*").host("*.example")),
        ("wild-long", Rule::uri("/a*").host("*.shop.example")),
        ("exact", Rule::uri("/a/*").host("Shop.Example")),
        ("exact-first", Rule::uri("/a/*").host("shop.example").priority(1)),
        ("exact-long", Rule::uri("/a/b/*").host("shop.example")),
    ]);
    for (host, path, expected) in [
        ("shop.example", "/a/x", Some("exact-first")),
        ("SHOP.example.", "/a/x", Some("exact-first")),
        ("shop.example:8080", "/a/b/c", Some("exact-long")),
        // The exact host has nothing for this path: the wildcard has.
        ("shop.example", "/z", Some("wild")),
        ("x.shop.example", "/ab", Some("wild-long")),
        ("x.shop.example", "/z", Some("wild")),
        (".example", "/z", Some("any")),
        ("example", "/z", Some("any")),
        ("other.test", "/a", Some("any-exact")),
        ("other.test", "/b", Some("any")),
        ("", "/a", Some("any-exact")),
    ] {
        let head = Request::get(path).host(host).head();
        assert_eq!(found(&router, &head).as_deref(), expected, "{host} {path}");
    }
}

#[test]
fn methods_addresses_and_vars_let_the_next_candidate_try() {
    let mut post = Rule::uri("/a").priority(3);
    post.methods = vec!["POST".to_owned(), "PURGE".to_owned()];
    let mut inside = Rule::uri("/a").priority(2);
    inside.addresses = vec!["10.0.0.0/8".to_owned()];
    let mut beta = Rule::uri("/:page").priority(1);
    beta.vars = Some(json!([["arg_beta", "==", "1"], ["uri_param_page", "==", "a"]]));
    let router = table(&[("post", post), ("inside", inside), ("beta", beta), ("rest", Rule::uri("/*"))]);
    for (request, expected) in [
        (Request::get("/a").method("POST"), "post"),
        (Request::get("/a").method("PURGE"), "post"),
        (Request::get("/a?beta=1"), "beta"),
        (Request::get("/b?beta=1"), "rest"),
        (Request::get("/a"), "rest"),
    ] {
        assert_eq!(found(&router, &request.head()).as_deref(), Some(expected), "{request:?}");
    }
}

#[test]
fn captured_values_outlive_a_rewrite_of_the_path() {
    let router = table(&[("user", Rule::uri("/u/:id/p/:page"))]);
    let mut head = Request::get("/u/42/p/7?x=1").head();
    let client = client("192.0.2.7:4711");
    let found = router.find(&Subject::of_request(&client, client.ip(), &head)).unwrap();
    assert_eq!(found.uri, "/u/:id/p/:page");
    let params = found.params;
    head.set_path("/elsewhere");
    assert_eq!(params.get("id", &head.fields), Some(&b"42"[..]));
    assert_eq!(params.get("page", &head.fields), Some(&b"7"[..]));
    assert_eq!(params.get("other", &head.fields), None);
}

#[test]
fn a_clone_is_untouched_by_what_happens_to_the_other() {
    let router = table(&[("a", Rule::uri("/a")), ("b", Rule::uri("/b").host("h.example"))]);
    let mut next = router.clone();
    assert!(next.remove("b"));
    assert!(!next.remove("b"));
    next.insert("a", Rule::uri("/other").parsed(), "changed".to_owned());
    assert_eq!((next.len(), router.len()), (1, 2));
    assert_eq!(found(&next, &Request::get("/a").head()), None);
    assert_eq!(found(&next, &Request::get("/other").head()).as_deref(), Some("changed"));
    assert_eq!(found(&router, &Request::get("/a").head()).as_deref(), Some("a"));
    assert_eq!(found(&router, &Request::get("/b").host("h.example").head()).as_deref(), Some("b"));
    next.remove("a");
    assert!(next.is_empty() && next.anywhere.is_empty() && next.hosts.is_empty());
}

#[test]
fn bad_fields_are_named() {
    let with = |change: &dyn Fn(&mut Rule)| {
        let mut rule = Rule::uri("/a");
        change(&mut rule);
        RouteMatch::parse(&rule.fields()).unwrap_err().to_string()
    };
    let own = |text: &str| vec![text.to_owned()];
    assert_eq!(with(&|rule| rule.uris.clear()), "uri: is missing: a route needs uri or uris");
    assert_eq!(with(&|rule| rule.uris = own("a")), "uris[0]: \"a\" must begin with '/'");
    assert_eq!(
        with(&|rule| rule.hosts = own("a.*.b")),
        "hosts[0]: \"a.*.b\" has '*' elsewhere than at its beginning"
    );
    assert_eq!(
        with(&|rule| rule.hosts = own("a:80")),
        "hosts[0]: \"a:80\" names a port; a route's host has none, use vars with server_port"
    );
    assert_eq!(with(&|rule| rule.hosts = own("a b")), "hosts[0]: \"a b\" is not a host name");
    assert_eq!(with(&|rule| rule.methods = own("get")), "methods[0]: \"get\" is not a method in upper case");
    assert_eq!(
        with(&|rule| rule.addresses = own("10.0.0.0/99")),
        "remote_addrs: \"10.0.0.0/99\" is neither an IP address nor a CIDR block"
    );
    assert_eq!(
        with(&|rule| rule.vars = Some(json!([["uri", "?", 1]]))),
        "vars[0][1]: unknown operator \"?\""
    );
}

/// A small generator with a seed, so that a failure can be seen again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.roll(list.len())]
    }
}

/// The documented order, written down without any tree.
fn naive<'r>(rules: &'r [(String, Rule)], host: &str, path: &str, method: &str) -> Option<&'r str> {
    let mut best: Option<(Vec<i64>, &str)> = None;
    for (key, rule) in rules {
        if !rule.methods.is_empty() && !rule.methods.iter().any(|own| own == method) {
            continue;
        }
        let hosts = rule.hosts.iter().map(|own| match own.strip_prefix('*') {
            Some(suffix) => {
                (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len() as i64 + 1)
            }
            None => (host == own).then_some(i64::from(u16::MAX)),
        });
        let host_rank = if rule.hosts.is_empty() { Some(0) } else { hosts.flatten().max() };
        let Some(host_rank) = host_rank else { continue };
        for uri in &rule.uris {
            let Some(path_rank) = naive_path(uri, path) else { continue };
            let order = vec![host_rank, path_rank, rule.priority, uri.len() as i64];
            let is_better = match &best {
                None => true,
                Some((own, best_key)) => order > *own || (order == *own && key.as_str() < *best_key),
            };
            if is_better {
                best = Some((order, key));
            }
        }
    }
    best.map(|(_, key)| key)
}

fn naive_path(uri: &str, path: &str) -> Option<i64> {
    if let Some(at) = uri.find("/:") {
        let (own, theirs): (Vec<_>, Vec<_>) = (uri.split('/').collect(), path.split('/').collect());
        let fits = own.len() == theirs.len()
            && own.iter().zip(&theirs).all(|(a, b)| if a.starts_with(':') { !b.is_empty() } else { a == b });
        return fits.then_some(at as i64 + 1);
    }
    match uri.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix).then_some(prefix.len() as i64),
        None => (path == uri).then_some(i64::from(u16::MAX)),
    }
}

#[test]
fn the_tree_agrees_with_a_naive_matcher_over_random_tables() {
    let hosts = ["a.example", "b.a.example", "*.example", "*.a.example", "*a.example", "c.test", "*"];
    let parts = ["a", "b", "ab", "abc", ":x", ":y"];
    let mut dice = Dice(0x0005_eed0_fa11);
    for round in 0..60 {
        let mut rules: Vec<(String, Rule)> = Vec::new();
        let mut router = Router::new();
        for change in 0..80 {
            let key = format!("r{}", dice.roll(40));
            rules.retain(|(own, _)| *own != key);
            if dice.roll(4) == 0 {
                router.remove(&key);
            } else {
                let rule = random_rule(&mut dice, &hosts, &parts);
                router.insert(&key, rule.parsed(), key.clone());
                rules.push((key, rule));
            }
            assert_eq!(router.len(), rules.len());
            for _ in 0..6 {
                let host = dice.pick(&[
                    "a.example",
                    "b.a.example",
                    "x.b.a.example",
                    "c.test",
                    "example",
                    "ba.example",
                ]);
                let path = random_path(&mut dice, &["a", "b", "ab", "abc", "abcd", ""]);
                let method = dice.pick(&["GET", "POST", "PURGE"]);
                let head = Request::get(&path).host(host).method(method).head();
                let expected = naive(&rules, host, &path, method);
                let shown = format!("round {round}, change {change}: {method} {host}{path} in {rules:#?}");
                assert_eq!(found(&router, &head).as_deref(), expected, "{shown}");
            }
        }
    }
}

fn random_path(dice: &mut Dice, parts: &[&str]) -> String {
    let count = 1 + dice.roll(4);
    let mut path = String::new();
    for _ in 0..count {
        path.push('/');
        path.push_str(dice.pick(parts));
    }
    path
}

fn random_rule(dice: &mut Dice, hosts: &[&str], parts: &[&str]) -> Rule {
    let mut rule = Rule { priority: dice.roll(3) as i64, ..Rule::default() };
    for _ in 0..dice.roll(3) {
        rule.hosts.push(dice.pick(hosts).to_owned());
    }
    for _ in 0..=dice.roll(2) {
        let mut uri = random_path(dice, parts);
        if uri.matches(":x").count() > 1 || uri.matches(":y").count() > 1 {
            uri = "/a/:x".to_owned();
        }
        if !uri.contains(':') && dice.roll(2) == 0 {
            uri.push_str(dice.pick(&["*", "/*"]));
        }
        rule.uris.push(uri);
    }
    if dice.roll(3) == 0 {
        rule.methods = vec![dice.pick(&["GET", "POST", "PURGE"]).to_owned()];
    }
    rule
}
