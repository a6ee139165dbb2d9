//! Requests of the plugin's own, by the module's grant `fetch: [host]`.
//!
//! Addresses of the node itself are refused unless they are named in the grant.

use std::fmt;
use std::time::Duration;

use super::backend;
use crate::Field;

/// A request. Nothing is sent before [`Request::send`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Request {
    /// `GET` and its like.
    pub method: String,
    /// `http://` or `https://`, with host and path.
    pub url: String,
    /// Header fields.
    pub headers: Vec<Field>,
    /// The body.
    pub body: Vec<u8>,
    /// The longest wait for the whole answer; the module's limits may say less.
    pub timeout: Duration,
}

/// An answer with its whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<Field>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The host is not granted.
    Denied(String),
    /// No whole answer in time.
    Timeout,
    /// The connection or the answer broke.
    Failed(String),
}

/// The wait when none is said.
const TIMEOUT: Duration = Duration::from_secs(2);

impl Request {
    /// A request that waits two seconds.
    pub fn new(method: &str, url: &str) -> Self {
        Self {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: TIMEOUT,
        }
    }

    /// A `GET`.
    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// A `POST` of this body.
    pub fn post(url: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", url) }
    }

    /// Adds a field.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(Field::new(name, value));
        self
    }

    /// The longest wait for the whole answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends it and waits for the whole answer.
    ///
    /// # Errors
    ///
    /// There is no answer; a status such as 500 is one.
    pub fn send(self) -> Result<Response, Error> {
        backend::fetch(self)
    }
}

impl Response {
    /// The first field of this name, in lower case; none when there is none or it
    /// is not UTF-8.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let field = self.headers.iter().find(|field| field.name == name)?;
        std::str::from_utf8(&field.value).ok()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(reason) => write!(formatter, "not granted: {reason}"),
            Self::Timeout => formatter.write_str("no answer in time"),
            Self::Failed(reason) => formatter.write_str(reason),
        }
    }
}

impl std::error::Error for Error {}
