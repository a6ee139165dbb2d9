//! One client's text messages and frames, translated both ways.
//!
//! A text message is `{"cmd", "id", "body"}`; what stands in it is the
//! transcoder's business. Here each gets a sequence number of its own, and the
//! reply that carries it gets the message's `id` back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::frame::Frame;
use crate::message::{TextMessage, Transcode, TranscodeProblem};
use crate::proxy::SharedWorker;
use crate::snapshot::{Bridge, TlvSettings};

/// Finds a route's transcoder again after the configuration changed.
pub(super) struct Transcoder {
    worker: SharedWorker,
    route: Arc<str>,
    revision: u64,
    found: Option<Arc<dyn Transcode>>,
}

impl Transcoder {
    pub(super) fn new(worker: SharedWorker, route: Arc<str>) -> Self {
        let mut own = Self { worker, route, revision: 0, found: None };
        own.look();
        own
    }

    fn look(&mut self) {
        let snapshot = self.worker.snapshot();
        self.revision = snapshot.revision;
        // A route that is gone leaves its sessions what they had.
        if let Some(route) = snapshot.router.get(&self.route) {
            self.found = route.transcoder.clone();
        }
    }

    /// The transcoder of this moment.
    fn get(&mut self) -> Option<&Arc<dyn Transcode>> {
        if self.worker.snapshot().revision != self.revision {
            self.look();
        }
        self.found.as_ref()
    }
}

/// A message that has no reply yet.
struct Waiting {
    sequence: u64,
    command: u32,
    reply: Option<u32>,
    id: Option<String>,
}

/// One client's messages.
pub(super) struct Translator {
    source: Source,
    settings: Arc<TlvSettings>,
    user: Option<u64>,
    sequence: u64,
    waiting: VecDeque<Waiting>,
}

enum Source {
    Route(Transcoder),
    #[cfg(test)]
    Fixed(Arc<dyn Transcode>),
}

impl Translator {
    pub(super) fn new(transcoder: Transcoder, bridge: &Bridge, user: Option<u64>) -> Self {
        Self::with(Source::Route(transcoder), Arc::clone(&bridge.tlv), user)
    }

    fn with(source: Source, settings: Arc<TlvSettings>, user: Option<u64>) -> Self {
        Self { source, settings, user, sequence: 0, waiting: VecDeque::new() }
    }

    fn transcoder(&mut self) -> Result<Arc<dyn Transcode>, TranscodeProblem> {
        let found = match &mut self.source {
            Source::Route(transcoder) => transcoder.get().cloned(),
            #[cfg(test)]
            Source::Fixed(transcoder) => Some(Arc::clone(transcoder)),
        };
        found.ok_or_else(|| TranscodeProblem {
            status: 503,
            path: String::new(),
            message: "the route has no transcoder any more".to_owned(),
        })
    }

    /// Who the client is.
    pub(super) fn user(&self) -> Option<u64> {
        self.user
    }

    /// The next sequence number: 1 to the field's largest, then 1 again.
    pub(super) fn next_sequence(&mut self) -> u64 {
        let largest = self.settings.format.sequence().map_or(1, |field| field.largest());
        self.sequence = if self.sequence >= largest { 1 } else { self.sequence + 1 };
        self.sequence
    }

    /// The frame of a text message; the error is the text to answer with.
    pub(super) fn encode(&mut self, text: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        let user = self.user;
        let encoded = self.transcoder().and_then(|transcoder| transcoder.encode_message(text, user));
        match encoded.and_then(|message| self.frame(message)) {
            Ok(frame) => Ok(frame),
            Err(problem) => Err(refusal(text, &problem)),
        }
    }

    fn frame(&mut self, message: TextMessage) -> Result<Vec<u8>, TranscodeProblem> {
        let sequence = self.next_sequence();
        let command = message.outgoing.command;
        let mut out = Vec::new();
        encode_frame(&self.settings, &mut out, command, sequence, self.user, &message.outgoing.body)?;
        let is_answered = message.outgoing.reply.is_some() || message.id.is_some();
        if is_answered && self.settings.pending_max > 0 {
            if self.waiting.len() >= self.settings.pending_max {
                self.waiting.pop_front();
            }
            let reply = message.outgoing.reply;
            self.waiting.push_back(Waiting { sequence, command, reply, id: message.id });
        }
        Ok(out)
    }

    /// The text of a frame from the upstream, or of one of the gateway's own.
    pub(super) fn decode(&mut self, frame: &Frame<'_>) -> Vec<u8> {
        let read =
            |field: Option<crate::frame::FrameField>| field.map_or(0, |field| field.read(frame.head()));
        let command = u32::try_from(read(self.settings.format.command())).unwrap_or(u32::MAX);
        let sequence = read(self.settings.format.sequence());
        let settings = &self.settings;
        let place = self.waiting.iter().position(|waiting| {
            waiting.sequence == sequence
                && (waiting.reply == Some(command) || settings.is_reply(waiting.command, command))
        });
        let id = place.and_then(|place| self.waiting.remove(place)).and_then(|waiting| waiting.id);
        let decoded = self
            .transcoder()
            .and_then(|transcoder| transcoder.decode_message(command, id.as_deref(), frame.body()));
        decoded.unwrap_or_else(|problem| {
            // The operator need not map the error frame: its fields are known here.
            let is_error = self.settings.error.is_some_and(|(error, _)| error == command);
            match is_error.then(|| ErrorFrame::read(&self.settings, frame.body())).flatten() {
                Some(error) => error.text(command, id.as_deref()),
                None => problem_text(Some(command), id.as_deref(), &problem),
            }
        })
    }
}

#[cfg(test)]
impl Translator {
    pub(super) fn fixed(
        transcoder: Arc<dyn Transcode>,
        settings: Arc<TlvSettings>,
        user: Option<u64>,
    ) -> Self {
        Self::with(Source::Fixed(transcoder), settings, user)
    }
}

/// A translator that sends and receives at different places of one worker.
pub(super) type SharedTranslator = Rc<RefCell<Translator>>;

/// A heartbeat sent in the name of a client that says nothing; its answer goes
/// no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    command: u32,
    sequence: u64,
}

impl Beat {
    /// The next heartbeat of a client that speaks in texts, where the route
    /// knows one and the format can write it.
    pub(super) fn make(settings: &TlvSettings, translator: &SharedTranslator) -> Option<(Bytes, Self)> {
        let mut translator = translator.borrow_mut();
        let sequence = translator.next_sequence();
        Self::with(settings, sequence, translator.user)
    }

    /// A heartbeat with this sequence number.
    pub(super) fn with(settings: &TlvSettings, sequence: u64, user: Option<u64>) -> Option<(Bytes, Self)> {
        let command = settings.heartbeat?;
        let mut frame = Vec::new();
        encode_frame(settings, &mut frame, command, sequence, user, b"").ok()?;
        Some((frame.into(), Self { command, sequence }))
    }

    /// Whether a frame answers the heartbeat that was sent last, which is over then.
    pub(super) fn take(own: &mut Option<Self>, settings: &TlvSettings, frame: &Frame<'_>) -> bool {
        let Some(beat) = *own else { return false };
        let read =
            |field: Option<crate::frame::FrameField>| field.map_or(0, |field| field.read(frame.head()));
        let found = u32::try_from(read(settings.format.command())).unwrap_or(u32::MAX);
        let is_answer =
            read(settings.format.sequence()) == beat.sequence && settings.is_reply(beat.command, found);
        if is_answer {
            *own = None;
        }
        is_answer
    }
}

/// Appends a frame; a value or body that does not fit is the client's problem.
pub(super) fn encode_frame(
    settings: &TlvSettings,
    out: &mut Vec<u8>,
    command: u32,
    sequence: u64,
    user: Option<u64>,
    body: &[u8],
) -> Result<(), TranscodeProblem> {
    let format = &settings.format;
    let mut fields = smallvec::SmallVec::<[_; 3]>::new();
    fields.extend(format.command().map(|field| (field, u64::from(command))));
    fields.extend(format.sequence().map(|field| (field, sequence)));
    fields.extend(format.user().zip(user));
    format.encode(out, &fields, body).map_err(|error| {
        let status = if matches!(error, crate::frame::EncodeError::BodyTooLarge { .. }) { 413 } else { 400 };
        TranscodeProblem { status, path: String::new(), message: error.to_string() }
    })
}

/// An error frame's body, as `error.body` says it is written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorFrame {
    pub(super) code: u64,
    pub(super) text: String,
    pub(super) retry_after_ms: u64,
}

impl ErrorFrame {
    /// Reads a body; `None` where it is not what the route says it is.
    pub(super) fn read(settings: &TlvSettings, body: &[u8]) -> Option<Self> {
        use crate::config::objects::StreamErrorBody as Body;
        match settings.error?.1 {
            Body::Empty => Some(Self::default()),
            Body::Text => Some(Self { text: std::str::from_utf8(body).ok()?.to_owned(), ..Self::default() }),
            Body::Json => {
                let value: serde_json::Value = serde_json::from_slice(body).ok()?;
                let text = value.get("error_msg").and_then(serde_json::Value::as_str).unwrap_or_default();
                let code = value.get("code").and_then(serde_json::Value::as_u64).unwrap_or_default();
                Some(Self { code, text: text.to_owned(), retry_after_ms: 0 })
            }
            Body::Protobuf => Self::of_protobuf(body),
        }
    }

    /// The four fields of `docs/im.md`; others are passed over.
    fn of_protobuf(mut body: &[u8]) -> Option<Self> {
        let mut error = Self::default();
        while !body.is_empty() {
            let key = varint(&mut body)?;
            match (key >> 3, key & 7) {
                (1, 0) => error.code = varint(&mut body)?,
                (3, 0) => error.retry_after_ms = varint(&mut body)?,
                (_, 0) => _ = varint(&mut body)?,
                (_, 1) => body = body.get(8..)?,
                (_, 5) => body = body.get(4..)?,
                (field, 2) => {
                    let length = usize::try_from(varint(&mut body)?).ok()?;
                    let (value, rest) = body.split_at_checked(length)?;
                    if field == 2 {
                        error.text = std::str::from_utf8(value).ok()?.to_owned();
                    }
                    body = rest;
                }
                _ => return None,
            }
        }
        Some(error)
    }

    /// The HTTP status that says the same; codes are those of `proto/README.md`.
    pub(super) fn status(&self) -> u16 {
        match self.code {
            1 | 6 => 400,
            2 => 404,
            3 | 4 => 401,
            5 => 403,
            7 => 429,
            8 => 503,
            _ => 502,
        }
    }

    fn text(&self, command: u32, id: Option<&str>) -> Vec<u8> {
        let error = serde_json::json!({
            "status": self.status(), "code": self.code, "message": self.text,
            "retry_after_ms": self.retry_after_ms,
        });
        text_of(Some(command), id, &error)
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What a text message may say of itself when it is refused.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

/// The answer to a text message that cannot be sent.
fn refusal(text: &[u8], problem: &TranscodeProblem) -> Vec<u8> {
    let named: Option<Named<'_>> = serde_json::from_slice(text).ok();
    let id = named.as_ref().and_then(|named| named.id).map(RawValue::get);
    problem_text(None, id, problem)
}

fn problem_text(command: Option<u32>, id: Option<&str>, problem: &TranscodeProblem) -> Vec<u8> {
    let error = serde_json::json!({
        "status": problem.status, "path": problem.path, "message": problem.message,
    });
    text_of(command, id, &error)
}

/// `{"cmd": …, "id": …, "error": {…}}`; `id` is raw JSON.
fn text_of(command: Option<u32>, id: Option<&str>, error: &serde_json::Value) -> Vec<u8> {
    let mut out = String::from("{");
    if let Some(command) = command {
        out.push_str(&format!("\"cmd\":{command},"));
    }
    if let Some(id) = id {
        out.push_str(&format!("\"id\":{id},"));
    }
    out.push_str(&format!("\"error\":{error}}}"));
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameDecoder, Piece};
    use crate::proxy::im::testing::{Double, settings};

    fn decode(translator: &mut Translator, bytes: &[u8]) -> String {
        let format = Arc::clone(&translator.settings.format);
        let Ok(Piece::Frame(frame)) = FrameDecoder::default().next(&format, bytes, usize::MAX) else {
            panic!("no frame")
        };
        String::from_utf8(translator.decode(&frame)).unwrap()
    }

    fn frame(settings: &TlvSettings, command: u32, sequence: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(settings, &mut out, command, sequence, None, body).unwrap();
        out
    }

    #[test]
    fn replies_get_their_messages_id_back_and_pushes_none() {
        let settings = settings();
        let mut own = Translator::fixed(Arc::new(Double), Arc::clone(&settings), Some(17));
        let one = own.encode(br#"{"cmd":769,"id":"a","body":"x"}"#).unwrap();
        let two = own.encode(br#"{"cmd":769,"id":[2],"body":"y"}"#).unwrap();
        let field = |field: Option<crate::frame::FrameField>, bytes: &[u8]| field.unwrap().read(bytes);
        let format = &settings.format;
        assert_eq!((field(format.sequence(), &one), field(format.sequence(), &two)), (1, 2));
        assert_eq!(field(format.user(), &one), 17);
        let push = frame(&settings, 0x0310, 2, b"push");
        assert_eq!(decode(&mut own, &push), r#"{"cmd":784,"body":"push"}"#);
        let reply = frame(&settings, 0x0302, 2, b"r");
        assert_eq!(decode(&mut own, &reply), r#"{"cmd":770,"id":[2],"body":"r"}"#);
        let error = frame(&settings, 0x00FF, 1, b"\x08\x07\x12\x04slow\x18\xe8\x07");
        let text = decode(&mut own, &error);
        assert_eq!(
            text,
            r#"{"cmd":255,"id":"a","error":{"status":429,"code":7,"message":"slow","retry_after_ms":1000}}"#
        );
    }

    #[test]
    fn a_bad_message_is_answered_with_its_id_and_the_place() {
        let mut own = Translator::fixed(Arc::new(Double), settings(), None);
        let answer = own.encode(br#"{"cmd":1,"id":7,"body":5}"#).unwrap_err();
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answer, r#"{"id":7,"error":{"status":400,"path":"body","message":"must be a text"}}"#);
        assert!(own.encode(b"\xff{").is_err());
    }

    #[test]
    fn hostile_error_frames_are_no_error_frames() {
        for body in [&b"\x08"[..], b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b", b"\x12\x01\xff"]
        {
            assert_eq!(ErrorFrame::of_protobuf(body), None, "{body:?}");
        }
    }
}
