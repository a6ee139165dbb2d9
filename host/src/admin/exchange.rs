//! A request to the control plane and its answer, free of any HTTP library.

use serde::Serialize;

/// A request, read whole and within limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// The method as it stands on the wire.
    pub method: String,
    /// The path, as received.
    pub path: String,
    /// The query without its `?`.
    pub query: Option<String>,
    /// Header fields, names in lower case; values that are no UTF-8 are left out.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields beyond those the server writes itself.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// A set of paths under one address.
///
/// Called on a thread where waiting is allowed, a bounded number at a time.
pub trait Site: Send + Sync {
    /// Says by the head alone whether a request is worth its body; it is refused
    /// with this answer otherwise, before anything of the body is kept. Must not
    /// wait.
    ///
    /// # Errors
    /// The answer that refuses.
    fn admit(&self, _head: &Request) -> Result<(), Response> {
        Ok(())
    }

    /// Answers a request.
    fn respond(&self, request: &Request) -> Response;
}

impl Request {
    /// A GET without anything else.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self { method: "GET".into(), path: path.into(), ..Self::default() }
    }

    /// The first value of a header; `name` in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a query argument, decoded; `None` when it is not there.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<String> {
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let pairs = self.query.as_deref()?.split('&');
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(key, _)| decoded(key) == name).map(|(_, value)| decoded(value))
    }

    /// Whether it only reads.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

impl Response {
    /// JSON.
    #[must_use]
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self { status, headers: vec![("content-type", "application/json".into())], body },
            Err(error) => Self::error(500, &format!("answer cannot be written: {error}")),
        }
    }

    /// An error in APISIX's form.
    #[must_use]
    pub fn error(status: u16, message: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error_msg": message }))
    }

    /// Text of some type.
    #[must_use]
    pub fn text(status: u16, content_type: &str, body: String) -> Self {
        Self { status, headers: vec![("content-type", content_type.into())], body: body.into_bytes() }
    }

    /// With one more header field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer to a method a path does not have.
    #[must_use]
    pub fn only_reads() -> Self {
        Self::error(405, "only GET and HEAD are answered here").with("allow", "GET, HEAD")
    }
}
