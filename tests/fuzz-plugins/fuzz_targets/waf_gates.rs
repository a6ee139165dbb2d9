//! Neither the firewall's gates nor what it remembers of earlier requests keep a
//! rule from matching, and no request makes the engine panic: every request is
//! judged with gates after all those before it, and without gates as the first.
#![no_main]

use std::sync::{LazyLock, Mutex, PoisonError};

use sluice_waf::{Engine, Files, Options, PHP_RULES, RequestHead, Source, Transaction};

/// Operators and transformations the rules for PHP do not use.
const MORE: &str = r#"
SecRule ARGS|REQUEST_HEADERS "@detectSQLi" "id:1,phase:2,pass,capture,t:none,t:urlDecodeUni,logdata:'%{TX.0}'"
SecRule ARGS|REQUEST_HEADERS|XML:/* "@detectXSS" "id:2,phase:2,pass,t:none,t:jsDecode,t:cssDecode,t:htmlEntityDecode"
SecRule ARGS|ARGS_NAMES "@pm select union <script |41 42|c x" "id:3,phase:2,pass,t:lowercase,t:removeNulls"
SecRule ARGS "@rx (?i)[^a-z]sel(?:ect|f)\s+\w+|on(?:load|error)=" "id:4,phase:2,pass,multiMatch,t:htmlEntityDecode,t:cmdLine,t:normalizePathWin"
SecRule ARGS|REQUEST_BODY "@validateByteRange 9,10,13,32-126" "id:5,phase:2,pass,t:lowercase"
SecRule ARGS "@rx ^[A-Z]{2,}$" "id:6,phase:2,pass,t:uppercase,t:base64Decode"
SecRule ARGS "@rx \w+\s*[=<>]{1,2}\s*\w+" "id:7,phase:2,pass,t:escapeSeqDecode,t:compressWhitespace"
SecRule ARGS "@rx (?:..|%2e){2}/|^\d*$" "id:8,phase:2,pass,t:utf8toUnicode,t:replaceComments"
SecRule FILES|FILES_TMP_CONTENT|MULTIPART_PART_HEADERS "@contains php" "id:9,phase:2,pass,t:lowercase"
"#;

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &str, path: &str) -> Result<Vec<u8>, String> {
        Err(format!("{path} is not there"))
    }
}

fn engine(without_gates: bool) -> Engine {
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    let options = Options { without_gates, detect_only: true, ..Options::default() };
    Engine::load(&[source("more", MORE), source("php", PHP_RULES)], options, &NoFiles).expect("good rules")
}

static ENGINES: LazyLock<[Engine; 2]> = LazyLock::new(|| [engine(false), engine(true)]);

/// Sees one request after the other.
static OLD: LazyLock<Mutex<Transaction>> = LazyLock::new(|| Mutex::new(ENGINES[0].transaction()));

fn judge(transaction: &mut Transaction, data: &[u8]) {
    const TYPES: [&[u8]; 5] = [
        b"application/x-www-form-urlencoded",
        b"application/json",
        b"multipart/form-data; boundary=b",
        b"text/xml",
        b"text/plain",
    ];
    let (kind, data) = data.split_first().unwrap_or((&0, b""));
    let (header, body) = data.split_at(data.len() / 4);
    let (uri, header) = header.split_at(header.len() / 2);
    let uri = [b"/?q=", uri].concat();
    let headers: [(&[u8], &[u8]); 2] =
        [(b"content-type", TYPES[usize::from(*kind) % TYPES.len()]), (b"x-test", header)];
    transaction.request_head(&RequestHead {
        method: b"POST",
        uri: &uri,
        protocol: b"HTTP/1.1",
        headers: &headers,
        client: "192.0.2.1",
        unique_id: "",
    });
    transaction.request_body(body, false);
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut old = OLD.lock().unwrap_or_else(PoisonError::into_inner);
    old.reset();
    judge(&mut old, data);
    let mut new = ENGINES[1].transaction();
    judge(&mut new, data);
    assert_eq!(old.matches(), new.matches());
});
