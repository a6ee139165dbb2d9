//! curl as a client.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::network::Namespace;
use crate::process::{command_in, tool, without_proxies};

/// One call of curl, built step by step. Proxies of the environment are ignored.
#[derive(Debug, Clone)]
pub struct Curl {
    url: String,
    arguments: Vec<String>,
    body: Option<Vec<u8>>,
    namespace: Option<Namespace>,
}

/// What curl got.
#[derive(Debug, Clone)]
pub struct Reply {
    /// curl's exit code; 0 is success, 52 an empty answer, 56 a reset, 28 a
    /// time-out, 18 a body that ended early.
    pub exit: i32,
    /// The status; 0 if no answer came.
    pub status: u16,
    /// `1.1`, `2`, ….
    pub version: String,
    /// Fields of the last head, in order.
    pub headers: Vec<(String, String)>,
    /// Heads of interim answers and the last one, as text.
    pub heads: String,
    /// The body.
    pub body: Vec<u8>,
    /// curl's message.
    pub error: String,
    /// Everything curl measured (`--write-out '%{json}'`).
    pub measured: Value,
}

impl Curl {
    /// A GET request.
    pub fn get(url: impl Into<String>) -> Curl {
        Curl { url: url.into(), arguments: Vec::new(), body: None, namespace: None }
            .max_time(Duration::from_secs(30))
    }

    /// A POST request with a body.
    pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Curl {
        Curl { body: Some(body.into()), ..Curl::get(url) }
    }

    /// Another method.
    pub fn method(self, method: &str) -> Curl {
        if method == "HEAD" { self.arg("--head") } else { self.arg("--request").arg(method) }
    }

    /// Any argument of curl's.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Curl {
        self.arguments.push(argument.as_ref().to_string_lossy().into_owned());
        self
    }

    /// A request field, as `Name: value`; `Name;` sends it empty.
    pub fn header(self, field: &str) -> Curl {
        self.arg("--header").arg(field)
    }

    /// HTTP/2 by ALPN.
    pub fn http2(self) -> Curl {
        self.arg("--http2")
    }

    /// HTTP/2 without TLS, by prior knowledge.
    pub fn http2_prior_knowledge(self) -> Curl {
        self.arg("--http2-prior-knowledge")
    }

    /// HTTP/1.1 even where HTTP/2 is offered.
    pub fn http1(self) -> Curl {
        self.arg("--http1.1")
    }

    /// Trusts the authorities in a file.
    pub fn ca(self, path: impl AsRef<Path>) -> Curl {
        self.arg("--cacert").arg(path.as_ref())
    }

    /// Connects to `address`, whatever host and port the URL names.
    pub fn to(self, address: SocketAddr) -> Curl {
        self.arg("--connect-to").arg(format!("::{}:{}", address.ip(), address.port()))
    }

    /// Ends the whole call after that time.
    pub fn max_time(self, time: Duration) -> Curl {
        self.arg("--max-time").arg(time.as_secs_f64().to_string())
    }

    /// Runs inside a network namespace.
    pub fn within(mut self, namespace: &Namespace) -> Curl {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Runs it.
    pub fn run(self) -> Reply {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (head, body) = (folder.path().join("head"), folder.path().join("body"));
        let mut command = command_in(self.namespace.as_ref(), tool("curl").get_program());
        without_proxies(&mut command);
        command.args(["--silent", "--show-error", "--noproxy", "*", "--path-as-is", "--globoff"]);
        command.arg("--dump-header").arg(&head).arg("--output").arg(&body);
        command.args(["--write-out", "%{json}"]).args(&self.arguments);
        if let Some(bytes) = &self.body {
            let file = folder.path().join("request");
            std::fs::write(&file, bytes).expect("the body can be written");
            command.arg("--data-binary").arg(format!("@{}", file.display()));
        }
        let output = command.arg(&self.url).stdin(Stdio::null()).output().expect("curl runs");
        let measured: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let heads = String::from_utf8_lossy(&std::fs::read(head).unwrap_or_default()).into_owned();
        Reply {
            exit: output.status.code().unwrap_or(-1),
            status: measured["http_code"].as_u64().unwrap_or(0) as u16,
            version: measured["http_version"].as_str().unwrap_or_default().to_owned(),
            headers: last_head(&heads),
            heads,
            body: std::fs::read(body).unwrap_or_default(),
            error: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            measured,
        }
    }
}

fn last_head(heads: &str) -> Vec<(String, String)> {
    let last = heads.trim_end().rsplit("\r\n\r\n").next().unwrap_or_default();
    let fields = last.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

impl Reply {
    /// The first field of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics with the body if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}) in answer {}: {}", self.status, self.text()))
    }

    /// The request as [`HttpEcho`](crate::HttpEcho) saw it.
    pub fn seen(&self) -> sluice_services::http_echo::Seen {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no echo ({error}) in answer {}: {}", self.status, self.text()))
    }
}
