//! Why a session ends.

use crate::frame::FrameError;

/// Why a session ended. [`code`](Self::code) is what counters and the access
/// log show; `docs/im.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client ended the connection between two frames.
    ClientClosed,
    /// The client's connection broke.
    ClientReset,
    /// The client sent something that is no frame.
    ClientFrame(FrameError),
    /// The first frame did not come in time.
    FirstFrameTimeout,
    /// A frame's first byte came and its last did not in time.
    FrameTimeout,
    /// The first frame is not one of the route's `login` commands.
    LoginRequired,
    /// Nothing came from the client for the idle time.
    IdleTimeout,
    /// The same, where clients are to send heartbeats.
    HeartbeatMissed,
    /// The client took nothing of what waits for it.
    ClientStalled,
    /// It lasted for the whole time its route gives it.
    SessionTimeout,
    /// One side ended, the other went on for too long.
    HalfCloseTimeout,
    /// The route has no upstream, or none of its nodes could be reached.
    NoUpstream,
    /// The upstream ended the connection.
    UpstreamClosed,
    /// The upstream's connection broke.
    UpstreamReset,
    /// The upstream sent something that is no frame.
    UpstreamFrame(FrameError),
    /// The upstream took nothing of what waits for it.
    UpstreamStalled,
    /// The connection to the upstream was lost and no other node took the
    /// session over in time.
    MoveFailed,
    /// The frames to be replayed are more than is kept.
    ReplayTooLarge,
    /// The upstream lost a request the client must hear about, and the route
    /// tells faults by closing.
    RequestLost,
    /// The client broke a rule of what carries its frames, or left it idle;
    /// the code says which.
    Client(&'static str),
    /// A filter closed it, for this reason.
    Filter(&'static str),
    /// A change of its route ended it.
    RouteChanged,
    /// The listener or the process drains.
    Drained,
    /// The process ended first.
    Aborted,
}

impl CloseReason {
    /// A stable code for counters and the access log.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientReset => "client_reset",
            Self::ClientFrame(error) => error.code(),
            Self::FirstFrameTimeout => "first_frame_timeout",
            Self::FrameTimeout => "frame_timeout",
            Self::LoginRequired => "login_required",
            Self::IdleTimeout => "idle_timeout",
            Self::HeartbeatMissed => "heartbeat_missed",
            Self::ClientStalled => "client_stalled",
            Self::SessionTimeout => "session_timeout",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::NoUpstream => "no_upstream",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamFrame(error) => match error {
                FrameError::BadBegin { .. } => "upstream_frame_bad_begin",
                FrameError::BadEnd { .. } => "upstream_frame_bad_end",
                FrameError::BodyTooLarge { .. } => "upstream_frame_body_too_large",
                FrameError::LengthTooSmall { .. } => "upstream_frame_length_too_small",
                FrameError::Truncated => "upstream_frame_truncated",
            },
            Self::UpstreamStalled => "upstream_stalled",
            Self::MoveFailed => "move_failed",
            Self::ReplayTooLarge => "replay_too_large",
            Self::RequestLost => "request_lost",
            Self::Client(code) | Self::Filter(code) => code,
            Self::RouteChanged => "route_changed",
            Self::Drained => "drained",
            Self::Aborted => "aborted",
        }
    }

    /// The number of an error frame's `code` field; `proto/README.md` names them.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::ClientFrame(_) | Self::Client(_) => 1,
            Self::LoginRequired | Self::FirstFrameTimeout => 3,
            Self::Filter(_) => 7,
            _ => 8,
        }
    }

    /// Whether the client is told by an error frame before the close: where it
    /// did something wrong or lost something, not where it left by itself.
    pub(super) fn is_told(self) -> bool {
        !matches!(
            self,
            Self::ClientClosed
                | Self::ClientReset
                | Self::Client(_)
                | Self::ClientStalled
                | Self::HalfCloseTimeout
                | Self::UpstreamClosed
                | Self::Aborted
                | Self::Drained
        )
    }
}
