//! The firewall as a module of the whole program, before a PHP site with holes:
//! with its own rules, with a published rule set, and swapped under load.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::guest::write_whole;
use sluice_harness::{HttpEcho, Php, Raw, Sluice, SluiceBuilder, SteadyLoad, eventually, within};

/// Compiling takes long where the compiler itself is not optimised.
const COMPILING: Duration = Duration::from_secs(240);
/// Preparing the whole rule set: three instances read it.
const PREPARING: Duration = Duration::from_secs(120);

/// Sets the firewall was developed with, a payload and its place on each line.
const ATTACKS: &str = include_str!("../../../plugins/waf/engine/tests/data/attacks.txt");
const HARMLESS: &str = include_str!("../../../plugins/waf/engine/tests/data/harmless.txt");

fn component() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins/waf.wasm");
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask plugins` builds it", path.display()))
}

/// The same component with other bytes: a section more, which nobody reads.
fn other_component() -> Vec<u8> {
    let mut bytes = component();
    // Section 0, 6 bytes: a name of five, and nothing.
    bytes.extend_from_slice(b"\0\x06\x05other");
    bytes
}

/// A folder of compiled code for all tests here, with both components in it.
fn compiled() -> &'static Path {
    static DONE: OnceLock<PathBuf> = OnceLock::new();
    DONE.get_or_init(|| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("waf");
        let sluice = Sluice::builder().boot("cache_dir", json!(cache)).start();
        write_whole(&sluice.conf().join("modules/one.wasm"), &component());
        write_whole(&sluice.conf().join("modules/two.wasm"), &other_component());
        within(COMPILING, "the firewall is compiled", || {
            let modules = sluice.status_path("/v1/modules");
            let modules = modules.as_array()?;
            (modules.len() == 2 && modules.iter().all(|module| module["state"] == "ready")).then_some(())
        });
        cache
    })
}

fn gateway(node: &str) -> SluiceBuilder {
    Sluice::builder()
        .boot("cache_dir", json!(compiled()))
        .listener("edge", json!({}))
        .put("upstreams", "site", json!({"nodes": {node: 1}}))
        .put("routes", "bare", json!({"uri": "/*", "host": "bare.test", "upstream_id": "site"}))
        .bytes("modules/waf.wasm", &component())
}

/// A route of its own host, with the firewall as `config` says.
fn guarded(module: &str, host: &str, config: Value) -> Value {
    json!({"uri": "/*", "host": host, "upstream_id": "site", "plugins": {module: config}})
}

/// A request to be sent, without the line that names its host.
struct Request {
    line: String,
    fields: Vec<String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Request {
    fn get(target: &str) -> Request {
        Request { line: format!("GET {target} HTTP/1.1"), fields: Vec::new(), body: Vec::new() }
    }

    fn post(target: &str, kind: &str, body: &str) -> Request {
        let fields = vec![format!("Content-Type: {kind}"), format!("Content-Length: {}", body.len())];
        Request { line: format!("POST {target} HTTP/1.1"), fields, body: body.into() }
    }

    fn field(mut self, field: &str) -> Request {
        self.fields.push(field.to_owned());
        self
    }

    /// The request a line of the sets describes, to `page`.
    fn of(line: &str, page: &str) -> Request {
        let (place, payload) = line.split_once('|').expect("a place and a payload");
        match place {
            "query" => Request::get(&format!("{page}?code={}", encoded(payload))),
            "raw" => {
                let (method, target) = payload.split_once(' ').expect("a method and a path");
                assert_eq!(method, "GET");
                Request::get(target)
            }
            "form" => Request::post(page, "application/x-www-form-urlencoded", payload),
            "json" => Request::post(page, "application/json", payload),
            "cookie" => Request::get(page).field(&format!("Cookie: {payload}")),
            "header" => Request::get(page).field(payload),
            "file" => {
                let (name, content) = payload.split_once('|').expect("a name and a content");
                let body = format!(
                    "--b0undary\r\nContent-Disposition: form-data; name=\"upload\"; filename=\"{name}\"\r\n\
                     Content-Type: application/octet-stream\r\n\r\n{content}\r\n--b0undary--\r\n"
                );
                Request::post(page, "multipart/form-data; boundary=b0undary", &body)
            }
            other => panic!("{other} is no place"),
        }
    }

    fn bytes(&self, host: &str) -> Vec<u8> {
        let agent = if self.fields.iter().any(|field| field.starts_with("User-Agent:")) {
            ""
        } else {
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
        };
        let fields: String = self.fields.iter().map(|field| format!("{field}\r\n")).collect();
        let head = format!(
            "{}\r\nHost: {host}\r\n{agent}Accept: text/html,*/*;q=0.8\r\n{fields}Connection: close\r\n\r\n",
            self.line
        );
        [head.as_bytes(), &self.body].concat()
    }

    fn send(&self, sluice: &Sluice, host: &str) -> Answer {
        let mut raw = Raw::connect(sluice.address("edge"));
        raw.send(self.bytes(host));
        let answer = String::from_utf8_lossy(&raw.read_to_close()).into_owned();
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{}: {answer:?}", self.line));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{}: {head}", self.line));
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b' ' => "+".to_owned(),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn lines(set: &str) -> impl Iterator<Item = &str> {
    set.lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

/// Attacks that are aimed at a page; the others name paths of their own.
fn at_a_page(line: &&str) -> bool {
    !line.starts_with("raw|")
}

#[test]
fn attacks_reach_no_hole_of_the_site_and_people_may_talk_about_php() {
    let php = Php::start();
    let sluice = gateway(&php.node()).put("routes", "shop", guarded("waf", "shop.test", json!({}))).start();
    let mut passed = Vec::new();
    for line in lines(ATTACKS) {
        let answer = Request::of(line, "/calc").send(&sluice, "shop.test");
        // Some are no requests at all, and get no further than the parser.
        if !matches!(answer.status, 403 | 400) {
            passed.push(format!("{} {line}", answer.status));
        }
    }
    assert!(passed.is_empty(), "{} got by:\n{}", passed.len(), passed.join("\n"));
    assert_eq!((php.holes_reached(), php.requests()), (0, 0), "nothing has reached the site");

    let mut denied = Vec::new();
    let texts: Vec<&str> = lines(HARMLESS).filter(at_a_page).collect();
    for line in &texts {
        let answer = Request::of(line, "/guestbook").send(&sluice, "shop.test");
        if answer.status != 200 {
            denied.push(format!("{} {line}", answer.status));
        }
    }
    assert!(denied.is_empty(), "{} denied:\n{}", denied.len(), denied.join("\n"));
    assert_eq!(php.requests(), texts.len(), "each has reached the site");
    let chat = r#"{"cmd": "chat.send", "body": {"text": "never call eval() on what users send, says the PHP manual"}}"#;
    assert_eq!(Request::post("/guestbook", "application/json", chat).send(&sluice, "shop.test").status, 200);

    // The attacks are such: without the firewall they reach the hole.
    for line in lines(ATTACKS).filter(at_a_page).step_by(10) {
        let before = php.holes_reached();
        let answer = Request::of(line, "/calc").send(&sluice, "bare.test");
        assert!(answer.body.contains("HOLE REACHED: eval"), "{line}: {}", answer.body);
        eventually("the site has noted it", || (php.holes_reached() > before).then_some(()));
    }
}

#[test]
fn a_denial_is_in_the_log_and_the_metrics_and_detection_only_notes() {
    let php = Php::start();
    let detecting = json!({"mode": "detect", "debug_header": "x-waf-rules"});
    let sluice = gateway(&php.node())
        .put("routes", "shop", guarded("waf", "shop.test", json!({"debug_header": "x-waf-rules"})))
        .put("routes", "detect", guarded("waf", "detect.test", detecting))
        .start();
    let attack = Request::get("/calc?code=%3C%3Fphp+system(%24_GET%5B1%5D)%3B");
    let refused = attack.send(&sluice, "shop.test");
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("denied by the firewall"), "{}", refused.body);
    assert!(refused.field("x-waf-rules").is_some_and(|rules| rules.contains("9100100")), "{}", refused.head);
    let line = sluice.logged("the denial", |line| line["status"] == 403);
    let verdicts = line["verdicts"].as_array().expect("there are verdicts");
    let denial = verdicts.iter().find(|verdict| verdict["verdict"] == "deny").expect("one denies");
    assert_eq!((&denial["plugin"], &denial["reason"]), (&json!("waf"), &json!("module_deny")), "{line}");
    let noted = |verdicts: &[Value], action: &str| {
        verdicts.iter().any(|one| one["verdict"] == action && one["rules"] == json!(["9100100"]))
    };
    assert!(noted(verdicts, "block"), "{line}");

    let let_through = attack.send(&sluice, "detect.test");
    assert_eq!(let_through.status, 200);
    assert!(let_through.body.contains("HOLE REACHED"), "{}", let_through.body);
    let rules = let_through.field("x-waf-rules");
    assert!(rules.is_some_and(|rules| rules.contains("9100100")), "{}", let_through.head);
    let line = sluice.logged("what was detected", |line| line["route"] == "detect");
    let verdicts = line["verdicts"].as_array().expect("there are verdicts");
    assert!(noted(verdicts, "detect") && !noted(verdicts, "block"), "{line}");

    let clean = Request::get("/search?q=tea").send(&sluice, "shop.test");
    assert_eq!((clean.status, clean.field("x-waf-rules")), (200, None));
    let metrics = sluice.metrics();
    for name in ["blocks", "detections"] {
        let labels = [("module", "waf"), ("name", name)];
        assert!(metrics.count("sluice_module_counter_total", &labels) >= 1.0, "{name}");
    }
    assert!(metrics.count("sluice_module_events_total", &[("module", "waf"), ("action", "block")]) >= 1.0);
}

/// Files of Debian's package, in order.
fn debian(names: &[&str]) -> Vec<String> {
    let folder = "/usr/share/modsecurity-crs/rules";
    let mut all: Vec<String> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{folder}, of the package modsecurity-crs: {error}"))
        .map(|entry| entry.expect("the folder can be read").path().to_string_lossy().into_owned())
        .filter(|path| {
            path.ends_with(".conf") && (names.is_empty() || names.iter().any(|name| path.contains(name)))
        })
        .collect();
    all.sort();
    all.insert(0, "/etc/modsecurity/crs/crs-setup.conf".to_owned());
    all
}

/// What the manual says a published rule set needs.
fn limits() -> Value {
    json!({"limits": {"memory_max": "64MiB", "deadline": "50ms", "configure_deadline": "60s"}})
}

#[test]
fn a_published_rule_set_is_loaded_as_it_is_and_blocks() {
    let php = Php::start();
    let header = |rules: Vec<String>| json!({"rules": rules, "debug_header": "x-waf-rules"});
    let sluice = gateway(&php.node()).start();
    write_whole(&sluice.conf().join("modules/crs.wasm"), &component());
    sluice.put("modules", "crs", limits());
    // The files for PHP do within the limits every module has.
    let some = header(debian(&["REQUEST-901", "REQUEST-933", "REQUEST-949"]));
    sluice.put("routes", "some", guarded("waf", "some.test", some));
    sluice.put("routes", "all", guarded("crs", "all.test", header(debian(&[]))));
    let clean = Request::get("/search?q=tea");
    for host in ["some.test", "all.test"] {
        within(PREPARING, &format!("{host} is served"), || {
            let quarantined = sluice.status()["config"]["quarantined"].clone();
            let waits = quarantined
                .as_array()
                .is_none_or(|all| all.iter().all(|one| one["reason"].to_string().contains("being prepared")));
            assert!(waits, "{quarantined}");
            (clean.send(&sluice, host).status == 200).then_some(())
        });
        let before = php.holes_reached();
        for attack in [
            Request::get("/calc?code=%3C%3Fphp+system(%24_GET%5B1%5D)%3B"),
            Request::of(r#"json|{"bio": "<?php system('id'); ?>"}"#, "/calc"),
            Request::of("query|eval(base64_decode('c3lzdGVtKCdpZCcpOw=='));", "/calc"),
        ] {
            let refused = attack.send(&sluice, host);
            assert_eq!(refused.status, 403, "{host}: {}", attack.line);
            let rules = refused.field("x-waf-rules").unwrap_or_default().to_owned();
            assert!(rules.contains("933"), "{host}: {}: {rules}", attack.line);
        }
        assert_eq!(php.holes_reached(), before, "{host}");
        for text in ["What is on in town tonight?", "Please send me two boxes of green tea."] {
            let line = format!("query|{text}");
            assert_eq!(Request::of(&line, "/guestbook").send(&sluice, host).status, 200, "{host}: {text}");
        }
    }
    let injection = Request::of("query|1' UNION SELECT name, password FROM users--", "/search");
    assert_eq!(injection.send(&sluice, "all.test").status, 403);
    assert_eq!(injection.send(&sluice, "some.test").status, 200, "rules for PHP do not look for it");
    let failed: Vec<Value> = sluice.status_path("/v1/modules").as_array().cloned().unwrap_or_default();
    assert!(failed.iter().all(|module| module["running"][0]["failures"] == json!({})), "{failed:?}");
}

#[test]
fn two_hundred_swaps_under_load_fail_no_clean_request_and_pass_no_hostile_one() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin.node())
        .put("routes", "shop", guarded("waf", "shop.test", json!({})))
        .threads(1)
        .start();
    let address = sluice.address("edge");
    let clean = SteadyLoad::get(address, "shop.test", "/search?q=what+does+eval+do", 2, 50);
    let hostile = SteadyLoad::get(address, "shop.test", "/calc?code=%3C%3Fphp+system(1)%3B", 2, 50);
    clean.until_good(20);
    hostile.until_good(20);
    let versions = [component(), other_component()];
    let running = || sluice.status_path("/v1/modules")[0]["running"].as_array().cloned().unwrap_or_default();
    let mut memory = 0;
    for swap in 1..=200 {
        let before = running().last().map(|version| version["digest"].clone());
        write_whole(&sluice.conf().join("modules/waf.wasm"), &versions[swap % 2]);
        eventually(&format!("swap {swap}"), || {
            let now = running().last().map(|version| version["digest"].clone());
            (now.is_some() && now != before).then_some(())
        });
        if swap == 20 {
            memory = sluice.observe().resident_bytes();
        }
    }
    clean.until_good(20);
    hostile.until_good(20);
    let (clean, hostile) = (clean.stop(), hostile.stop());
    assert_eq!(clean.failed, 0, "{:?}", clean.failures);
    assert_eq!(clean.servers.get("origin"), Some(&clean.good), "every clean one has reached the origin");
    assert_eq!(hostile.failed, 0, "{:?}", hostile.failures);
    assert_eq!(hostile.servers.get("origin"), None, "no hostile one has");
    assert!(origin.seen().iter().all(|seen| !seen.target.contains("php")));
    eventually("old versions are gone", || {
        let running = running();
        (running.len() == 1 && running[0]["instances"].as_u64() <= Some(2)).then_some(())
    });
    eventually("their memory is given back", || {
        (sluice.observe().resident_bytes() < memory + (64 << 20)).then_some(())
    });
}
