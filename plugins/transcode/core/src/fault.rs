//! What is wrong with a message, and where in its JSON.

use std::fmt::{self, Write as _};

/// The longest piece of a client's value, or of a map's key, that a message
/// shows, in bytes.
const SHOWN_MAX: usize = 64;

/// Why something cannot be transcoded. The host turns it into a response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", Place(.path))]
pub struct Problem {
    /// As an HTTP status: 400 bad input, 401 no identity where one is needed,
    /// 404 no such command, 405 another method, 502 the upstream's bytes are not
    /// what the command says. An error reply of the upstream has the status its
    /// configuration gives it.
    pub status: u16,
    /// The place in the JSON, as in `messages[3].sent_at`; empty for the whole.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

struct Place<'a>(&'a str);

impl fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(formatter, "{}: ", self.0) }
    }
}

impl Problem {
    pub(crate) fn new(status: u16, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, path: path.into(), message: message.into() }
    }
}

/// A fault on its way out. Each level it leaves adds its own step in front, so
/// that no path is kept while all is well.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) enum FaultKind {
    Message(String),
    /// Fields in an order that one pass cannot handle: the message is gone
    /// through again, with care.
    Irregular,
    /// An enum's name that is not in the definitions: a client may be newer.
    UnknownName(String),
}

#[derive(Debug)]
enum Step {
    Field(String),
    Index(usize),
    Key(String),
}

pub(crate) type Checked<T = ()> = Result<T, Box<Fault>>;

/// A fault that needs no more than its text.
#[cold]
pub(crate) fn fault<T>(message: impl fmt::Display) -> Checked<T> {
    Err(Box::new(Fault { kind: FaultKind::Message(message.to_string()), steps: Vec::new() }))
}

/// See [`FaultKind::Irregular`].
#[cold]
pub(crate) fn irregular<T>() -> Checked<T> {
    Err(Box::new(Fault { kind: FaultKind::Irregular, steps: Vec::new() }))
}

/// See [`FaultKind::UnknownName`].
#[cold]
pub(crate) fn unknown_name<T>(message: String) -> Checked<T> {
    Err(Box::new(Fault { kind: FaultKind::UnknownName(message), steps: Vec::new() }))
}

impl Fault {
    #[cold]
    pub(crate) fn in_field(mut self: Box<Self>, name: &str) -> Box<Self> {
        self.steps.push(Step::Field(shown(name)));
        self
    }

    #[cold]
    pub(crate) fn at_index(mut self: Box<Self>, index: usize) -> Box<Self> {
        self.steps.push(Step::Index(index));
        self
    }

    #[cold]
    pub(crate) fn at_key(mut self: Box<Self>, key: &str) -> Box<Self> {
        self.steps.push(Step::Key(shown(key)));
        self
    }

    pub(crate) fn path(&self) -> String {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            // Writing to a string cannot fail.
            let _ = match step {
                Step::Field(name) if path.is_empty() => write!(path, "{name}"),
                Step::Field(name) => write!(path, ".{name}"),
                Step::Index(index) => write!(path, "[{index}]"),
                Step::Key(key) => write!(path, "[{key:?}]"),
            };
        }
        path
    }

    /// What the caller is told, with the status of its side.
    #[cold]
    // Faults travel in boxes.
    #[allow(clippy::boxed_local)]
    pub(crate) fn into_problem(self: Box<Self>, status: u16) -> Problem {
        let path = self.path();
        let message = match self.kind {
            FaultKind::Message(message) | FaultKind::UnknownName(message) => message,
            FaultKind::Irregular => "fields in an order that cannot be handled".to_owned(),
        };
        Problem { status, path, message }
    }
}

/// At most [`SHOWN_MAX`] bytes of a text.
pub(crate) fn shown(text: &str) -> String {
    if text.len() <= SHOWN_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(SHOWN_MAX)])
}

/// The same of bytes that may be no text, in quotes.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_MAX + 4)];
    format!("{:?}", shown(&String::from_utf8_lossy(cut)))
}
