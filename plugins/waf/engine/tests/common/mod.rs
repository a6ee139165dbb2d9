//! What the tests of the engine share: rules from disk, and requests as short
//! texts.

#![allow(dead_code, reason = "each test uses a part of it")]

use sluice_waf::{Engine, Files, Options, RequestHead, Source, Transaction, Verdict};

/// Reads what rules name from the disk.
pub struct Disk;

impl Files for Disk {
    fn read(&self, source: &str, path: &str) -> Result<Vec<u8>, String> {
        std::fs::read(sluice_waf::beside(source, path)).map_err(|error| format!("{path}: {error}"))
    }
}

/// An engine with these rules.
pub fn engine(rules: &str) -> Engine {
    engine_with(rules, Options::default())
}

/// An engine with these rules and options.
pub fn engine_with(rules: &str, options: Options) -> Engine {
    let source = Source { name: "test.conf".into(), text: rules.into() };
    Engine::load(&[source], options, &Disk).unwrap_or_else(|error| panic!("{error}"))
}

/// The rule set of Debian's package, which set-up installs, as it is.
pub fn debian(options: Options) -> Engine {
    let folder = "/usr/share/modsecurity-crs/rules";
    let mut paths: Vec<String> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{folder}, of the package modsecurity-crs: {error}"))
        .map(|entry| entry.expect("the folder can be read").path().to_string_lossy().into_owned())
        .filter(|path| path.ends_with(".conf"))
        .collect();
    paths.sort();
    paths.insert(0, "/etc/modsecurity/crs/crs-setup.conf".into());
    let sources: Vec<Source> = paths
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            Source { name: path, text: String::from_utf8_lossy(&bytes).into_owned() }
        })
        .collect();
    Engine::load(&sources, options, &Disk).unwrap_or_else(|error| panic!("{error}"))
}

/// A request to be judged.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub uri: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Request {
    /// A request as a browser sends it.
    pub fn new(method: &str, uri: &str) -> Request {
        let headers = [
            ("host", "shop.example.com"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
            ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
        ];
        Request {
            method: method.into(),
            uri: uri.into(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec(),
            body: Vec::new(),
        }
    }

    /// With a header in place of those of its name.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Request {
        let name = name.to_ascii_lowercase();
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.as_ref().to_vec()));
        self
    }

    /// With a body.
    pub fn body(self, content_type: &str, body: impl AsRef<[u8]>) -> Request {
        let body = body.as_ref().to_vec();
        let length = body.len().to_string();
        Request { body, ..self.header("content-type", content_type).header("content-length", length) }
    }
}

/// Judges a request; the transaction tells the rest.
pub fn judge(engine: &Engine, request: &Request) -> (Verdict, Transaction) {
    let mut transaction = engine.transaction();
    let verdict = judge_again(&mut transaction, request);
    (verdict, transaction)
}

/// Judges a request with a transaction that has judged others.
pub fn judge_again(transaction: &mut Transaction, request: &Request) -> Verdict {
    transaction.reset();
    let headers: Vec<(&[u8], &[u8])> =
        request.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())).collect();
    let head = RequestHead {
        method: request.method.as_bytes(),
        uri: request.uri.as_bytes(),
        protocol: b"HTTP/1.1",
        headers: &headers,
        client: "203.0.113.9",
        unique_id: "test",
    };
    let mut verdict = transaction.request_head(&head);
    if verdict == Verdict::Pass {
        verdict = transaction.request_body(&request.body, false);
    }
    verdict
}

/// The ids of the rules that matched.
pub fn ids(transaction: &Transaction) -> Vec<u32> {
    transaction.matches().iter().map(|found| found.rule).collect()
}

/// Writes a text as a part of a query or form.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b' ' => "+".to_owned(),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// The requests of a file of cases: each line is one payload and its place.
pub fn cases(text: &str) -> Vec<(String, Request)> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| (line.to_owned(), case(line))).collect()
}

fn case(line: &str) -> Request {
    let (place, payload) = line.split_once('|').expect("a place and a payload");
    match place {
        "query" => Request::new("GET", &format!("/index.php?q={}", encode(payload))),
        "raw" => {
            let (method, uri) = payload.split_once(' ').expect("a method and a path");
            Request::new(method, uri)
        }
        "form" => Request::new("POST", "/post.php").body("application/x-www-form-urlencoded", payload),
        "json" => Request::new("POST", "/api/post").body("application/json", payload),
        "cookie" => Request::new("GET", "/").header("cookie", payload),
        "header" => {
            let (name, value) = payload.split_once(": ").expect("a name and a value");
            Request::new("GET", "/").header(name, value)
        }
        "file" => {
            let (name, content) = payload.split_once('|').expect("a name and a content");
            let body = format!(
                "--b0undary\r\nContent-Disposition: form-data; name=\"upload\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n{content}\r\n--b0undary--\r\n"
            );
            Request::new("POST", "/upload.php").body("multipart/form-data; boundary=b0undary", body)
        }
        other => panic!("{other} is no place"),
    }
}
