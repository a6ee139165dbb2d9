//! How the transfer of a message fails.

use std::io;

/// A transfer that broke off, as either side's codec reports it.
///
/// Which side it was, the flow knows: it asked that side.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The peer closed before the message was whole.
    #[error("connection closed in the middle of a message")]
    Closed,
    /// The peer does not speak the protocol; the reason is a fixed code for logs and counters.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// A stated limit was passed; the reason names the limit.
    #[error("limit passed: {0}")]
    Limit(&'static str),
    /// The peer was too slow; the reason names the time limit.
    #[error("timed out: {0}")]
    Timeout(&'static str),
    /// The peer took back this one stream (HTTP/2 RST_STREAM) with this code.
    #[error("stream reset by peer with code {0}")]
    Reset(u32),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}
