//! How calling an edge function fails.

/// Why a function did not answer. One function, [`status`](Self::status), says
/// what the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FunctionError {
    /// It trapped, or answered with an error.
    #[error("function failed")]
    Trap,
    /// It computed for longer than its deadline.
    #[error("function passed its deadline")]
    Deadline,
    /// It answered with what is no response.
    #[error("function answered with what is no response")]
    BadResponse,
    /// As many calls are under way as its module allows.
    #[error("function has as many calls under way as it may")]
    Busy,
    /// The node holds as many instances as it can.
    #[error("no room for another instance")]
    NoRoom,
    /// An instance could not be made.
    #[error("function cannot be started")]
    Start,
}

impl FunctionError {
    /// The status a client gets.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Trap | Self::Start => 500,
            Self::BadResponse => 502,
            Self::Busy | Self::NoRoom => 503,
            Self::Deadline => 504,
        }
    }

    /// A fixed code for logs and counters.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Trap => "module_trap",
            Self::Deadline => "module_deadline",
            Self::BadResponse => "module_bad_response",
            Self::Busy => "module_busy",
            Self::NoRoom => "module_no_room",
            Self::Start => "module_start",
        }
    }
}
