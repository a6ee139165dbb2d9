//! Filters of frames.

use crate::Plugin;

/// Names a client's connection on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One frame. Nothing is copied: its bytes lie in the buffer the host filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The whole frame with its markers.
    pub bytes: &'a [u8],
    /// The body within it.
    pub body: &'a [u8],
    /// The header field with the role `command`; 0 where the format has none.
    pub command: u64,
    /// The header field with the role `sequence`; 0 where the format has none.
    pub sequence: u64,
    /// The header field with the role `user`; 0 where the format has none.
    pub user: u64,
}

/// All frames of one read, in order.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    frames: &'a [Frame<'a>],
    connection: ConnectionId,
    peer: &'a str,
}

impl<'a> Frames<'a> {
    /// Frames of this connection, whose client has the address `peer`.
    #[must_use]
    pub fn new(connection: ConnectionId, peer: &'a str, frames: &'a [Frame<'a>]) -> Self {
        Self { frames, connection, peer }
    }

    /// The client's connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// The client's address as text.
    #[must_use]
    pub fn peer(&self) -> &'a str {
        self.peer
    }

    /// The frames, in order.
    pub fn iter(&self) -> std::slice::Iter<'a, Frame<'a>> {
        self.frames.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

impl<'a> IntoIterator for Frames<'a> {
    type Item = &'a Frame<'a>;
    type IntoIter = std::slice::Iter<'a, Frame<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.frames.iter()
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum FrameVerdict {
    /// It goes on.
    Pass,
    /// It is left out; the word is for log and counters.
    Drop(String),
    /// This body goes on in place of its own; the host mends the length.
    Rewrite(Vec<u8>),
    /// It is left out, and its client gets these bytes: whole frames.
    Reply(Vec<u8>),
    /// The connection is closed; the word is for log and counters.
    Close(String),
}

/// Looks at frames on their way to the upstream.
///
/// ```
/// use sluice_sdk::prelude::*;
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     /// The command of a chat message.
///     command: u32,
///     /// What no message may say.
///     word: String,
/// }
///
/// /// Leaves out messages with a certain word.
/// struct Censor {
///     config: Config,
/// }
///
/// impl Plugin for Censor {
///     type Config = Config;
///
///     fn new(config: Config) -> Result<Self, ConfigError> {
///         Ok(Self { config })
///     }
///
///     fn interest(&self) -> Interest {
///         Interest::new().frames_with([self.config.command])
///     }
/// }
///
/// impl FrameFilter for Censor {
///     fn on_frame(&mut self, _: ConnectionId, frame: &Frame<'_>) -> FrameVerdict {
///         let word = self.config.word.as_bytes();
///         if frame.body.windows(word.len()).any(|window| window == word) {
///             FrameVerdict::Drop("word".to_owned())
///         } else {
///             FrameVerdict::Pass
///         }
///     }
/// }
///
/// sluice_sdk::export!(Censor: FrameFilter);
/// # fn main() {}
/// ```
pub trait FrameFilter: Plugin {
    /// Decides about all frames of one read, in order, with a verdict for each.
    /// Asks [`FrameFilter::on_frame`] about one after the other when not written
    /// otherwise.
    fn on_frames(&mut self, frames: Frames<'_>) -> Vec<FrameVerdict> {
        let connection = frames.connection();
        frames.iter().map(|frame| self.on_frame(connection, frame)).collect()
    }

    /// Decides about one frame.
    fn on_frame(&mut self, connection: ConnectionId, frame: &Frame<'_>) -> FrameVerdict {
        let _ = (connection, frame);
        FrameVerdict::Pass
    }
}
