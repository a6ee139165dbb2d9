//! Edge functions: HTTP handlers of the standard interface `wasi:http`.

use serde::Serialize;

use crate::{Field, Plugin};

/// Answers HTTP requests itself, through `wasi:http/incoming-handler`. Such a
/// component runs on any host of that interface; where there is no configuration
/// it gets an empty one.
///
/// ```
/// use sluice_sdk::prelude::*;
///
/// /// Tells callers their address.
/// struct Mirror;
///
/// impl Plugin for Mirror {
///     type Config = ();
///
///     fn new(_: ()) -> Result<Self, ConfigError> {
///         Ok(Self)
///     }
///
///     fn interest(&self) -> Interest {
///         Interest::new()
///     }
/// }
///
/// impl Function for Mirror {
///     fn handle(&mut self, request: Request) -> Response {
///         match request.field("x-real-ip") {
///             Some(address) => Response::new(200).text(address),
///             None => Response::new(404).text("the gateway did not say\n"),
///         }
///     }
/// }
///
/// sluice_sdk::export!(Mirror: Function);
/// # fn main() {}
/// ```
pub trait Function: Plugin {
    /// Answers one request.
    fn handle(&mut self, request: Request) -> Response;

    /// The longest body a request may have, in bytes; a longer one is answered
    /// with 413 and never handled. 1 MiB when not written otherwise.
    fn body_max(&self) -> usize {
        1024 * 1024
    }
}

/// A request with its whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` and its like.
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// Host and port the client asked for; empty when it named none.
    pub authority: String,
    /// Header fields in the order in which they came, names in lower case.
    pub headers: Vec<Field>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without fields and body, as tests make them.
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            authority: String::new(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(Field::new(name, value));
        self
    }

    /// With this body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The path without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The first parameter of this name in the query, with its escapes read;
    /// none when there is none or it is not UTF-8.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(key)? == name).then(|| unescape(value))?
        })
    }

    /// The first field of this name, which is in lower case; none when there is
    /// none or it is not UTF-8.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let field = self.headers.iter().find(|field| field.name == name)?;
        std::str::from_utf8(&field.value).ok()
    }

    /// The first cookie of this name.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .filter(|field| field.name == "cookie")
            .filter_map(|field| std::str::from_utf8(&field.value).ok())
            .flat_map(|cookies| cookies.split(';'))
            .find_map(|cookie| cookie.trim().strip_prefix(name)?.strip_prefix('='))
    }
}

/// A text with `%41` and `+` read; none when what comes out is not UTF-8.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let hex = |byte: u8| char::from(byte).to_digit(16);
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                let value = hex(*high)? * 16 + hex(*low)?;
                bytes.push(u8::try_from(value).ok()?);
                rest = after;
            }
            _ => bytes.push(first),
        }
    }
    String::from_utf8(bytes).ok()
}

/// An answer with its whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Response {
    /// From 200 to 599.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<Field>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// An empty answer of this status.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a field.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(Field::new(name, value));
        self
    }

    /// These bytes as the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A text as the body, with its content type.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.header("content-type", "text/plain; charset=utf-8").body(text.into())
    }

    /// A value as JSON, with its content type. A value that has no JSON, such as
    /// a map whose keys are no strings, leaves the body empty.
    pub fn json(self, value: &impl Serialize) -> Self {
        self.header("content-type", "application/json").body(serde_json::to_vec(value).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_and_their_escapes_read() {
        let request = Request::new("GET", "/x?a=1&name=J%C3%B6+B%41&bad=%ff&flag");
        assert_eq!(request.path(), "/x");
        assert_eq!(request.parameter("name").as_deref(), Some("Jö BA"));
        assert_eq!(request.parameter("flag").as_deref(), Some(""));
        assert_eq!((request.parameter("bad"), request.parameter("b")), (None, None));
        assert_eq!(Request::new("GET", "/?a=%4").parameter("a").as_deref(), Some("%4"));
    }

    #[test]
    fn cookies_are_told_apart_by_their_whole_name() {
        let request = Request::new("GET", "/").header("cookie", "aa=1; a=2").header("cookie", "b=3");
        assert_eq!(request.cookie("a"), Some("2"));
        assert_eq!(request.cookie("b"), Some("3"));
        assert_eq!(request.cookie("c"), None);
    }
}
