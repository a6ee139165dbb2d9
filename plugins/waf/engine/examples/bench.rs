//! What judging a request costs: `cargo run --release --example bench -- FILE…`.
//! Prints microseconds for each kind of request with the rules of the files,
//! or with the rules for PHP where none is named. Requests of a kind differ in a
//! number, as those of clients do.

use std::hint::black_box;
use std::time::Instant;

use sluice_waf::{Engine, Files, Options, PHP_RULES, RequestHead, Source, Transaction, Verdict};

/// Requests of one kind: more than the engine remembers the texts of.
const VARIANTS: u32 = 512;

struct Disk;

impl Files for Disk {
    fn read(&self, source: &str, path: &str) -> Result<Vec<u8>, String> {
        std::fs::read(sluice_waf::beside(source, path)).map_err(|error| format!("{path}: {error}"))
    }
}

fn main() {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let mut sources: Vec<Source> = Vec::new();
    for path in &paths {
        let bytes = std::fs::read(path).expect("the file can be read");
        sources.push(Source { name: path.clone(), text: String::from_utf8_lossy(&bytes).into_owned() });
    }
    if sources.is_empty() {
        sources.push(Source { name: "php.conf".into(), text: PHP_RULES.into() });
    }
    let start = Instant::now();
    let options =
        Options { without_gates: std::env::var_os("WITHOUT_GATES").is_some(), ..Options::default() };
    let engine = Engine::load(&sources, options, &Disk).unwrap_or_else(|error| panic!("{error}"));
    println!("load {:?}, {} rules, {} warnings", start.elapsed(), engine.rules(), engine.warnings().len());
    println!("resident after loading: {}", resident());
    let mut transaction = engine.transaction();
    let get =
        |number| (format!("/shop/items?category=books&page={number}&sort=price&q=red+shoes"), Vec::new());
    let post = |body: Vec<u8>| ("/api/v1/messages".to_owned(), body);
    let form = |number| ("/login".to_owned(), form(number));
    let few = |number| post(json_fields(number, 24));
    let many = |number| post(json_fields(number, 766));
    let text = |number| post(prose(number));
    type Make<'a> = &'a dyn Fn(u32) -> (String, Vec<u8>);
    let cases: [(&str, &str, &str, Make<'_>); 5] = [
        ("GET", "GET", "", &get),
        ("form", "POST", "application/x-www-form-urlencoded", &form),
        ("JSON, 24 objects", "POST", "application/json", &few),
        ("JSON, 766 objects", "POST", "application/json", &many),
        ("JSON, prose", "POST", "application/json", &text),
    ];
    for (name, method, content_type, make) in cases {
        let requests: Vec<(String, Vec<u8>)> = (0..VARIANTS).map(make).collect();
        let mut judged = |number: u32| {
            let (uri, body) = &requests[(number % VARIANTS) as usize];
            judge(&mut transaction, method, uri, content_type, body)
        };
        judged(0);
        let begin = Instant::now();
        let mut rounds = 0u32;
        while begin.elapsed().as_millis() < 300 {
            black_box(judged(rounds));
            rounds += 1;
        }
        let cost = begin.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
        let ids: Vec<u32> = transaction.matches().iter().map(|found| found.rule).collect();
        println!("{name:18} {:6} bytes {cost:10.1} us  {ids:?}", requests[0].1.len());
    }
    println!("resident at the end: {}", resident());
}

/// The process's memory, as Linux tells it.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or_else(|| "unknown".to_owned(), |line| line.trim().to_owned())
}

fn judge(transaction: &mut Transaction, method: &str, uri: &str, content_type: &str, body: &[u8]) -> bool {
    let length = body.len().to_string();
    let mut headers: Vec<(&[u8], &[u8])> = vec![
        (b"host", b"shop.example.com"),
        (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"),
        (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
        (b"accept-encoding", b"gzip, deflate, br"),
        (b"accept-language", b"en-GB,en;q=0.7,de;q=0.3"),
        (b"referer", b"https://shop.example.com/shop/items?category=books"),
        (b"cookie", b"session=3f7a9c0e51d24b6f8a0c; theme=dark; lang=en"),
        (b"connection", b"keep-alive"),
    ];
    if !body.is_empty() {
        headers.push((b"content-type", content_type.as_bytes()));
        headers.push((b"content-length", length.as_bytes()));
    }
    transaction.reset();
    let head = RequestHead {
        method: method.as_bytes(),
        uri: uri.as_bytes(),
        protocol: b"HTTP/1.1",
        headers: &headers,
        client: "203.0.113.9",
        unique_id: "bench",
    };
    transaction.request_head(&head) == Verdict::Pass && transaction.request_body(body, false) == Verdict::Pass
}

fn form(number: u32) -> Vec<u8> {
    format!("username=maria.lopez&password=Tr0ub4dor-3&remember=on&return_to=%2Faccount%2Forders&csrf=9f8b7a6c5d4e3f2a1b{number}").into_bytes()
}

fn json_fields(number: u32, count: u32) -> Vec<u8> {
    let ids = number * count..(number + 1) * count;
    let fields: Vec<String> = ids.map(|id| format!("{{\"id\":{id},\"t\":\"item {id}\"}}")).collect();
    format!(
        "{{\"list\":[{}],\"note\":\"see you at the station at nine, bring the blue folder\"}}",
        fields.join(",")
    )
    .into_bytes()
}

fn prose(number: u32) -> Vec<u8> {
    let sentence = "The committee met again on Tuesday, and agreed that the budget (which had grown) needs a second look; \
        nobody objected. ";
    format!("{{\"subject\":\"minutes {number}\",\"text\":\"{number}. {}\"}}", sentence.repeat(135))
        .into_bytes()
}
