//! What a plugin decides.

use serde::Serialize;

/// A header field. The host refuses names and values with characters that are not
/// allowed, and the fields that frame a message (`content-length`,
/// `transfer-encoding`, `connection` and their like): they fail the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// In lower case.
    pub name: String,
    /// The value's bytes.
    pub value: Vec<u8>,
}

impl Field {
    /// A field of this name and value.
    pub fn new(name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        Self { name: name.into(), value: value.as_ref().to_vec() }
    }
}

/// A change to a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Replaces all fields of this name by this one.
    SetField(Field),
    /// Adds a field beside those of the same name.
    AddField(Field),
    /// Takes away all fields of this name.
    RemoveField(String),
    /// Requests alone: another path, with its query.
    SetPath(String),
    /// Requests alone: another authority.
    SetAuthority(String),
    /// Requests alone: another method.
    SetMethod(String),
    /// Responses alone: another status.
    SetStatus(u16),
}

/// Changes to a head, made in order.
///
/// ```
/// use sluice_sdk::{Edits, HeadVerdict};
///
/// let verdict: HeadVerdict = Edits::new().set_field("x-checked", "yes").remove_field("x-debug").into();
/// # let _ = verdict;
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct Edits {
    edits: Vec<Edit>,
}

impl Edits {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all fields of this name by one.
    pub fn set_field(self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.and(Edit::SetField(Field::new(name, value)))
    }

    /// Adds a field beside those of the same name.
    pub fn add_field(self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.and(Edit::AddField(Field::new(name, value)))
    }

    /// Takes away all fields of this name.
    pub fn remove_field(self, name: impl Into<String>) -> Self {
        self.and(Edit::RemoveField(name.into()))
    }

    /// Of a request: another path, with its query.
    pub fn set_path(self, path: impl Into<String>) -> Self {
        self.and(Edit::SetPath(path.into()))
    }

    /// Of a request: another authority.
    pub fn set_authority(self, authority: impl Into<String>) -> Self {
        self.and(Edit::SetAuthority(authority.into()))
    }

    /// Of a request: another method.
    pub fn set_method(self, method: impl Into<String>) -> Self {
        self.and(Edit::SetMethod(method.into()))
    }

    /// Of a response: another status.
    pub fn set_status(self, status: u16) -> Self {
        self.and(Edit::SetStatus(status))
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    fn and(mut self, edit: Edit) -> Self {
        self.edits.push(edit);
        self
    }
}

/// An answer in place of the upstream's.
///
/// ```
/// use sluice_sdk::{Denial, HeadVerdict};
///
/// let verdict: HeadVerdict = Denial::new(403, "no-robots").text("robots are not let in\n").into();
/// # let _ = verdict;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Denial {
    /// From 200 to 599.
    pub status: u16,
    /// What decided, for log and counters: a rule's id, or a short word.
    pub rule: String,
    /// The answer's fields.
    pub headers: Vec<Field>,
    /// The answer's body.
    pub body: Vec<u8>,
}

impl Denial {
    /// An empty answer of this status; `rule` is a rule's id or a short word, for
    /// log and counters.
    pub fn new(status: u16, rule: impl Into<String>) -> Self {
        Self { status, rule: rule.into(), headers: Vec::new(), body: Vec::new() }
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

/// What becomes of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum HeadVerdict {
    /// It goes on, and the body is shown when the plugin asked for bodies.
    Accept,
    /// It goes on, and nothing more of this message is shown.
    Done,
    /// It goes on with these changes, made in order; the body is shown when the
    /// plugin asked for bodies.
    Edit(Vec<Edit>),
    /// The client gets this instead.
    Deny(Denial),
}

impl From<Edits> for HeadVerdict {
    fn from(edits: Edits) -> Self {
        if edits.is_empty() { Self::Accept } else { Self::Edit(edits.edits) }
    }
}

impl From<Denial> for HeadVerdict {
    fn from(denial: Denial) -> Self {
        Self::Deny(denial)
    }
}

/// What becomes of a piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum ChunkVerdict {
    /// What was held and this piece go on.
    Forward,
    /// It waits for a later verdict. The host keeps at most the body limit of the
    /// plugin's interest; the last piece cannot be held.
    Hold,
    /// These bytes go on in place of what was held and this piece.
    Replace(Vec<u8>),
    /// The client gets this instead. Once a response's head has left, its
    /// connection or stream is cut.
    Deny(Denial),
}

impl From<Denial> for ChunkVerdict {
    fn from(denial: Denial) -> Self {
        Self::Deny(denial)
    }
}
