//! What is wrong with a frame.

/// A stream of bytes that is not what its format says.
///
/// There is no way on after one: the markers may stand in a body, so looking
/// for the next one would be guessing. Frames before it are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The begin marker is not there.
    #[error("frame starts with {found:#04x}, expected {expected:#04x}")]
    BadBegin {
        /// The first byte that differs.
        found: u8,
        /// The marker's byte at that place.
        expected: u8,
    },
    /// The end marker is not where the length says.
    #[error("frame ends with {found:#04x}, expected {expected:#04x}")]
    BadEnd {
        /// The first byte that differs.
        found: u8,
        /// The marker's byte at that place.
        expected: u8,
    },
    /// The length field claims more than the format allows.
    #[error("body of {declared} bytes is over the limit of {limit}")]
    BodyTooLarge {
        /// Body bytes as the length field claims them.
        declared: u64,
        /// The format's `body_max`.
        limit: u32,
    },
    /// The length field counts the header too, and is smaller than that.
    #[error("length field says {declared}, the least possible is {least}")]
    LengthTooSmall {
        /// The value of the length field.
        declared: u64,
        /// What header (and markers) alone come to.
        least: u32,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame")]
    Truncated,
}

impl FrameError {
    /// A stable code for logs and counters.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::BadBegin { .. } => "frame_bad_begin",
            Self::BadEnd { .. } => "frame_bad_end",
            Self::BodyTooLarge { .. } => "frame_body_too_large",
            Self::LengthTooSmall { .. } => "frame_length_too_small",
            Self::Truncated => "frame_truncated",
        }
    }
}
