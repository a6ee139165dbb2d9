//! What crosses between host and guest, as `wit/` has it.
//!
//! When a component is loaded its functions are checked against these types, and
//! one that differs is refused by name; the shipped plugins and the guests of the
//! tests, built from `wit/`, show that the two agree.

use wasmtime::component::{ComponentType, Lift, Lower};

/// A head in one piece, lent to the guest.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub struct Head<'a> {
    /// All texts of the head.
    pub bytes: &'a [u8],
    /// Pairs of start and length in `bytes`.
    pub spans: &'a [u32],
}

/// A header field a guest names.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Field {
    /// Its name, unchecked.
    pub name: String,
    /// Its value, unchecked.
    pub value: Vec<u8>,
}

/// A change to a head.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum Edit {
    /// Replaces all fields of this name.
    #[component(name = "set-field")]
    SetField(Field),
    /// Adds a field.
    #[component(name = "add-field")]
    AddField(Field),
    /// Takes away all fields of this name.
    #[component(name = "remove-field")]
    RemoveField(String),
    /// Another path, with its query.
    #[component(name = "set-path")]
    SetPath(String),
    /// Another authority.
    #[component(name = "set-authority")]
    SetAuthority(String),
    /// Another method.
    #[component(name = "set-method")]
    SetMethod(String),
    /// Another status.
    #[component(name = "set-status")]
    SetStatus(u16),
}

/// An answer in place of the upstream's.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Denial {
    /// From 200 to 599, once checked.
    pub status: u16,
    /// What decided.
    pub rule: String,
    /// Its fields.
    pub headers: Vec<Field>,
    /// Its body.
    pub body: Vec<u8>,
}

/// What becomes of a head.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum HeadVerdict {
    /// It goes on, the body is shown.
    #[component(name = "accept")]
    Accept,
    /// It goes on, nothing more is shown.
    #[component(name = "done")]
    Done,
    /// It goes on changed.
    #[component(name = "edit")]
    Edit(Vec<Edit>),
    /// The client gets this instead.
    #[component(name = "deny")]
    Deny(Denial),
}

/// What becomes of a piece of a body.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum ChunkVerdict {
    /// What was held and this piece go on.
    #[component(name = "forward")]
    Forward,
    /// It waits for a later verdict.
    #[component(name = "hold")]
    Hold,
    /// These bytes go on in its place.
    #[component(name = "replace")]
    Replace(Vec<u8>),
    /// The client gets this instead.
    #[component(name = "deny")]
    Deny(Denial),
}

/// One frame in the buffer of a call; offsets are from the buffer's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Frame {
    /// Where it starts, its begin marker included.
    pub start: u32,
    /// Its bytes, markers included.
    pub length: u32,
    /// Where its body starts.
    #[component(name = "body-start")]
    pub body_start: u32,
    /// Bytes of its body.
    #[component(name = "body-length")]
    pub body_length: u32,
    /// Its command; 0 where the format has none.
    pub command: u64,
    /// Its sequence number.
    pub sequence: u64,
    /// Its user.
    pub user: u64,
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum FrameRuling {
    /// It goes on.
    #[component(name = "pass")]
    Pass,
    /// It is left out.
    #[component(name = "drop")]
    Drop(String),
    /// It goes on with this body.
    #[component(name = "rewrite")]
    Rewrite(Vec<u8>),
    /// It is left out, and its client gets these whole frames.
    #[component(name = "reply")]
    Reply(Vec<u8>),
    /// The connection is closed.
    #[component(name = "close")]
    Close(String),
}

pub use phases::Phases;

/// The macro gives no place for docs.
#[allow(missing_docs)]
mod phases {
    wasmtime::component::flags! {
    Phases {
        #[component(name = "request-head")]
        const REQUEST_HEAD;
        #[component(name = "request-body")]
        const REQUEST_BODY;
        #[component(name = "response-head")]
        const RESPONSE_HEAD;
        #[component(name = "response-body")]
        const RESPONSE_BODY;
        #[component(name = "frames")]
        const FRAMES;
    }
    }
}

/// What becomes of a body that is longer than a plugin wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum OverLimit {
    /// 413 for a request, 502 for a response.
    #[component(name = "deny")]
    Deny,
    /// The plugin sees the beginning; the rest follows unseen.
    #[component(name = "truncate")]
    Truncate,
}

/// What a plugin wants to see.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Interest {
    /// The calls it wants.
    pub phases: Phases,
    /// Names in lower case of the fields it wants; empty means all.
    #[component(name = "request-fields")]
    pub request_fields: Vec<String>,
    /// The same for responses.
    #[component(name = "response-fields")]
    pub response_fields: Vec<String>,
    /// The most bytes of a request's body it sees.
    #[component(name = "request-body-max")]
    pub request_body_max: u32,
    /// The same for responses.
    #[component(name = "response-body-max")]
    pub response_body_max: u32,
    /// What becomes of longer ones.
    #[component(name = "over-limit")]
    pub over_limit: OverLimit,
    /// Frame commands it wants; empty means all.
    pub commands: Vec<u32>,
    /// How often its timer runs, in milliseconds; 0 means never.
    #[component(name = "timer-interval")]
    pub timer_interval: u32,
}

impl Interest {
    /// That of a guest which is never called about what passes.
    pub(super) fn none() -> Self {
        Self {
            phases: Phases::empty(),
            request_fields: Vec::new(),
            response_fields: Vec::new(),
            request_body_max: 0,
            response_body_max: 0,
            over_limit: OverLimit::Deny,
            commands: Vec::new(),
            timer_interval: 0,
        }
    }
}

/// A request for the upstream, without its framing.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Outgoing {
    /// Its command.
    pub command: u32,
    /// The command of the reply, where one is awaited.
    pub reply: Option<u32>,
    /// Its body.
    pub body: Vec<u8>,
}

/// A text message of a client.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct TextMessage {
    /// What it becomes.
    pub outgoing: Outgoing,
    /// What the client calls it, raw JSON.
    pub id: Option<String>,
}

/// Why something cannot be transcoded.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct TranscodeProblem {
    /// As an HTTP status.
    pub status: u16,
    /// The place in the JSON.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

// The parameters and results of what guests export.
pub(super) type Configure<'a> = ((&'a str,), (Result<Interest, String>,));
pub(super) type OnHead<'a> = ((u64, Head<'a>, bool), (HeadVerdict,));
pub(super) type OnBody<'a> = ((u64, &'a [u8], bool), (ChunkVerdict,));
pub(super) type OnFrames<'a> = ((u64, &'a str, &'a [u8], &'a [Frame]), (Vec<FrameRuling>,));
pub(super) type Tick = ((), (Result<(), String>,));
pub(super) type Breaking<'a> = ((&'a str,), (Result<Vec<String>, String>,));
pub(super) type EncodeRequest<'a> =
    ((Head<'a>, &'a [u8], Option<u64>), (Result<Outgoing, TranscodeProblem>,));
pub(super) type DecodeReply<'a> = ((u32, u32, &'a [u8]), (Result<Vec<u8>, TranscodeProblem>,));
pub(super) type EncodeMessage<'a> = ((&'a [u8], Option<u64>), (Result<TextMessage, TranscodeProblem>,));
pub(super) type DecodeMessage<'a> = ((u32, Option<&'a str>, &'a [u8]), (Result<Vec<u8>, TranscodeProblem>,));
pub(super) type TextFields<'a> = ((u32, &'a [u8]), (Result<Vec<String>, TranscodeProblem>,));

#[cfg(test)]
mod tests;
