//! Between JSON and the bodies of frames, as the flows see it.
//!
//! Mirrors the plugin interface `transcoder` of `wit/transcoder.wit`: only a
//! module knows what stands in a body. The flows of `proxy` ask a
//! [`Transcode`], which a route has where its `transcode` plugin names one.

use std::fmt;
use std::net::IpAddr;

use super::head::RequestHead;

/// A request for the upstream, without its framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The command of its frame.
    pub command: u32,
    /// The command of the reply; `None` when none is awaited.
    pub reply: Option<u32>,
    /// The frame's body.
    pub body: Vec<u8>,
}

/// A text message a client sent over WebSocket or a polling session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextMessage {
    /// What goes to the upstream.
    pub outgoing: Outgoing,
    /// What the client calls it, raw JSON; it comes back with the reply.
    pub id: Option<String>,
}

/// Why something cannot be transcoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranscodeProblem {
    /// As an HTTP status: 400 bad input, 404 no such command, 502 the
    /// upstream's bytes are not what the command says; 500 to 504 too when the
    /// transcoder itself failed.
    pub status: u16,
    /// The place in the JSON, as in `messages[3].sent_at`; empty for the whole.
    pub path: String,
    /// What is wrong, for whoever sent it. Names no secret.
    pub message: String,
}

impl fmt::Display for TranscodeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for TranscodeProblem {}

/// Who the authenticated caller is; a body never says that.
pub type CallerId = Option<u64>;

/// Turns requests and text messages into the bodies of frames and back.
///
/// Calls do not wait: an implementation bounds their time and memory itself (a
/// module by its `deadline` and `memory_max`) and answers with a problem when a
/// bound is passed. They come from every worker thread.
pub trait Transcode: fmt::Debug + Send + Sync {
    /// An HTTP request by the map of commands. `client` is its address.
    fn encode_request(
        &self,
        head: &RequestHead,
        client: IpAddr,
        body: &[u8],
        user: CallerId,
    ) -> Result<Outgoing, TranscodeProblem>;

    /// The JSON of the response to an HTTP request that was sent as the command
    /// `request` and answered as `reply`.
    fn decode_reply(&self, request: u32, reply: u32, body: &[u8]) -> Result<Vec<u8>, TranscodeProblem>;

    /// A text message, `{"cmd": …, "id": …, "body": {…}}`.
    fn encode_message(&self, text: &[u8], user: CallerId) -> Result<TextMessage, TranscodeProblem>;

    /// A reply or a push as a text message; `id` is that of the message it
    /// answers, raw JSON.
    fn decode_message(
        &self,
        command: u32,
        id: Option<&str>,
        body: &[u8],
    ) -> Result<Vec<u8>, TranscodeProblem>;

    /// The text fields of a frame's body, for filters that look at text.
    fn text_fields(&self, command: u32, body: &[u8]) -> Result<Vec<String>, TranscodeProblem>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_place_where_it_has_one() {
        let mut problem =
            TranscodeProblem { status: 400, path: "to".into(), message: "must be a number".into() };
        assert_eq!(problem.to_string(), "to: must be a number");
        problem.path.clear();
        assert_eq!(problem.to_string(), "must be a number");
    }
}
