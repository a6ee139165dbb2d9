//! Between JSON and the bodies of frames.

use std::fmt;

use crate::{Plugin, RequestHead};

/// A request for the upstream, without its framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The frame's command.
    pub command: u32,
    /// The command of the reply; none when none is awaited.
    pub reply: Option<u32>,
    /// The frame's body.
    pub body: Vec<u8>,
}

/// A text message a client sent over WebSocket or a polling session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What goes to the upstream.
    pub outgoing: Outgoing,
    /// What the client calls it, raw JSON; it comes back with the reply.
    pub id: Option<String>,
}

/// Why something cannot be transcoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As an HTTP status: 400 bad input, 404 no such command, 502 the upstream's
    /// bytes are not what the command says.
    pub status: u16,
    /// The place in the JSON, as in `messages[3].sent_at`; empty for the whole.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl Problem {
    /// The client's input is bad at `path`.
    pub fn bad_input(path: &str, message: impl fmt::Display) -> Self {
        Self { status: 400, path: path.to_owned(), message: message.to_string() }
    }

    /// No command goes by this name or number.
    pub fn no_command(command: impl fmt::Display) -> Self {
        Self { status: 404, path: String::new(), message: format!("no command {command}") }
    }

    /// The upstream's bytes are not what the command says.
    pub fn bad_upstream(message: impl fmt::Display) -> Self {
        Self { status: 502, path: String::new(), message: message.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(formatter, "{} ({})", self.message, self.status),
            path => write!(formatter, "{path}: {} ({})", self.message, self.status),
        }
    }
}

impl std::error::Error for Problem {}

/// Between JSON and the bodies of frames: the one place that knows both.
///
/// ```
/// use serde_json::Value;
/// use sluice_sdk::prelude::*;
///
/// /// Frames whose bodies are JSON already: only the command has to be found.
/// struct Plain;
///
/// impl Plugin for Plain {
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
/// impl Transcoder for Plain {
///     fn encode_request(&mut self, head: RequestHead<'_>, body: &[u8], _: Option<u64>) -> Result<Outgoing, Problem> {
///         let command = match &*head.path() {
///             "/im/send" => 0x0301,
///             path => return Err(Problem::no_command(path)),
///         };
///         serde_json::from_slice::<Value>(body).map_err(|error| Problem::bad_input("", error))?;
///         Ok(Outgoing { command, reply: Some(command + 1), body: body.to_vec() })
///     }
///
///     fn decode_reply(&mut self, _: u32, _: u32, body: &[u8]) -> Result<Vec<u8>, Problem> {
///         serde_json::from_slice::<Value>(body).map_err(Problem::bad_upstream)?;
///         Ok(body.to_vec())
///     }
///
///     fn encode_message(&mut self, text: &[u8], _: Option<u64>) -> Result<Message, Problem> {
///         let message: Value = serde_json::from_slice(text).map_err(|error| Problem::bad_input("", error))?;
///         let command = message["cmd"].as_u64().and_then(|command| u32::try_from(command).ok());
///         let command = command.ok_or_else(|| Problem::bad_input("cmd", "not a number of 32 bits"))?;
///         Ok(Message {
///             outgoing: Outgoing { command, reply: Some(command + 1), body: message["body"].to_string().into() },
///             id: message.get("id").map(Value::to_string),
///         })
///     }
///
///     fn decode_message(&mut self, command: u32, id: Option<&str>, body: &[u8]) -> Result<Vec<u8>, Problem> {
///         let body = std::str::from_utf8(body).map_err(Problem::bad_upstream)?;
///         let id = id.unwrap_or("null");
///         Ok(format!(r#"{{"cmd":{command},"id":{id},"body":{body}}}"#).into_bytes())
///     }
///
///     fn text_fields(&mut self, _: u32, body: &[u8]) -> Result<Vec<String>, Problem> {
///         Ok(vec![String::from_utf8_lossy(body).into_owned()])
///     }
/// }
///
/// sluice_sdk::export!(Plain: Transcoder);
/// # fn main() {}
/// ```
///
/// `user` is who the authenticated caller is; the body never says that.
pub trait Transcoder: Plugin {
    /// The frame of an HTTP request.
    ///
    /// # Errors
    ///
    /// The client gets the problem as JSON, with its status.
    fn encode_request(
        &mut self,
        head: RequestHead<'_>,
        body: &[u8],
        user: Option<u64>,
    ) -> Result<Outgoing, Problem>;

    /// The JSON of the response to an HTTP request that was sent as the command
    /// `request`.
    ///
    /// # Errors
    ///
    /// The upstream's bytes are not what the command says.
    fn decode_reply(&mut self, request: u32, reply: u32, body: &[u8]) -> Result<Vec<u8>, Problem>;

    /// The frame of a text message, `{"cmd": …, "id": …, "body": {…}}`.
    ///
    /// # Errors
    ///
    /// The client gets the problem as a text message.
    fn encode_message(&mut self, text: &[u8], user: Option<u64>) -> Result<Message, Problem>;

    /// A reply or a push as a text message; `id` is that of the message it
    /// answers.
    ///
    /// # Errors
    ///
    /// The upstream's bytes are not what the command says.
    fn decode_message(&mut self, command: u32, id: Option<&str>, body: &[u8]) -> Result<Vec<u8>, Problem>;

    /// The text fields of a frame's body, for filters that look at text.
    ///
    /// # Errors
    ///
    /// The bytes are not what the command says.
    fn text_fields(&mut self, command: u32, body: &[u8]) -> Result<Vec<String>, Problem>;
}
