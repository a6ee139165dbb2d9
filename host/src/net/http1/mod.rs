//! HTTP/1.1, both directions, on leased buffers.
//!
//! [`ServerConnection`] reads requests and writes responses, [`ClientConnection`]
//! does the reverse; behind both stand the pure parts: `request` and `response`
//! make heads of bytes, `chunked` finds the end of a chunked body, `encode`
//! makes bytes of heads. Time limits are the flow's, which knows what it waits
//! for.
//!
//! The grammar is RFC 9112's and nothing else. Whatever two parsers could read
//! differently is refused: a head with two lengths, a length and a coding, a
//! bare line feed, a space before a colon, a folded line. A request that is
//! refused is answered and its connection closed; no byte of it goes on.

pub mod chunked;
mod client;
mod encode;
mod grammar;
mod input;
mod output;
mod request;
mod response;
mod server;

#[cfg(test)]
mod vectors;

pub use client::ClientConnection;
pub use grammar::tokens;
pub use request::{ParsedRequest, parse_request};
pub use response::{ParsedResponse, parse_response};
pub use server::{RequestError, ServerConnection};

/// Bounds of a message's head and of its chunked framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of a head: start line, fields and the empty line. Over it: 431.
    pub head_bytes_max: usize,
    /// Fields of a head. Over it: 431.
    pub fields_max: usize,
    /// Bytes of a request's target. Over it: 414.
    pub target_bytes_max: usize,
    /// Whether runs of slashes in a path become one.
    pub slashes: crate::net::path::Slashes,
}

impl Default for HeadLimits {
    /// 32 KiB, 100 fields, 16 KiB, slashes merged.
    fn default() -> Self {
        Self {
            head_bytes_max: 32 << 10,
            fields_max: 100,
            target_bytes_max: 16 << 10,
            slashes: crate::net::path::Slashes::Merge,
        }
    }
}

/// A request that is refused before it becomes one: the answer's status and a
/// fixed code for logs and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request refused with {status}: {reason}")]
pub struct Rejection {
    /// The status to answer with.
    pub status: u16,
    /// What was wrong.
    pub reason: &'static str,
}

impl Rejection {
    pub(crate) const fn bad(reason: &'static str) -> Self {
        Self { status: 400, reason }
    }

    pub(crate) const fn with(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }
}
