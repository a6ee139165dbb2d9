//! Which calls a plugin wants, and how much of a message it sees.

use std::time::Duration;

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// [`RequestFilter::on_head`](crate::RequestFilter::on_head).
    RequestHead,
    /// [`RequestFilter::on_body`](crate::RequestFilter::on_body).
    RequestBody,
    /// [`ResponseFilter::on_head`](crate::ResponseFilter::on_head).
    ResponseHead,
    /// [`ResponseFilter::on_body`](crate::ResponseFilter::on_body).
    ResponseBody,
    /// [`FrameFilter::on_frames`](crate::FrameFilter::on_frames).
    Frames,
}

/// What becomes of a body that is longer than the plugin wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OverLimit {
    /// 413 for a request, 502 for a response.
    #[default]
    Deny,
    /// The plugin sees the first bytes up to its limit, marked as the end, and
    /// the rest follows unseen. The node's log says so.
    Truncate,
}

/// Which calls a plugin wants. What is not asked for is never called and costs
/// nothing; the less of a message is asked for, the less is copied.
///
/// ```
/// use sluice_sdk::Interest;
///
/// let interest = Interest::new()
///     .request_head()
///     .request_fields(["user-agent", "cookie"])
///     .request_body(64 * 1024);
/// assert_eq!(interest.request_body_max, 64 * 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Interest {
    /// The calls.
    pub phases: Vec<Phase>,
    /// Names in lower case of the request's header fields; empty means all.
    pub request_fields: Vec<String>,
    /// Names in lower case of the response's header fields; empty means all.
    pub response_fields: Vec<String>,
    /// The most bytes of a request's body that are seen, and held back.
    pub request_body_max: u32,
    /// The most bytes of a response's body that are seen, and held back.
    pub response_body_max: u32,
    /// What becomes of longer bodies.
    pub over_limit: OverLimit,
    /// Frame commands; empty means all.
    pub commands: Vec<u32>,
    /// How often the timer runs; zero means never.
    pub timer_interval: Duration,
}

impl Interest {
    /// Nothing at all: edge functions, transcoders.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Heads of requests.
    #[must_use]
    pub fn request_head(self) -> Self {
        self.phase(Phase::RequestHead)
    }

    /// Bodies of requests, with their heads, at most `bytes_max` bytes of each.
    #[must_use]
    pub fn request_body(mut self, bytes_max: u32) -> Self {
        self.request_body_max = bytes_max;
        self.phase(Phase::RequestHead).phase(Phase::RequestBody)
    }

    /// Heads of responses.
    #[must_use]
    pub fn response_head(self) -> Self {
        self.phase(Phase::ResponseHead)
    }

    /// Bodies of responses, with their heads, at most `bytes_max` bytes of each.
    #[must_use]
    pub fn response_body(mut self, bytes_max: u32) -> Self {
        self.response_body_max = bytes_max;
        self.phase(Phase::ResponseHead).phase(Phase::ResponseBody)
    }

    /// Of requests' fields only those with these names, in lower case.
    #[must_use]
    pub fn request_fields<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.request_fields = names.into_iter().map(Into::into).collect();
        self
    }

    /// Of responses' fields only those with these names, in lower case.
    #[must_use]
    pub fn response_fields<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.response_fields = names.into_iter().map(Into::into).collect();
        self
    }

    /// What becomes of bodies over the limit; [`OverLimit::Deny`] when not said.
    #[must_use]
    pub fn over_limit(mut self, over_limit: OverLimit) -> Self {
        self.over_limit = over_limit;
        self
    }

    /// All frames.
    #[must_use]
    pub fn frames(self) -> Self {
        self.phase(Phase::Frames)
    }

    /// Frames with these commands alone.
    #[must_use]
    pub fn frames_with(mut self, commands: impl IntoIterator<Item = u32>) -> Self {
        self.commands = commands.into_iter().collect();
        self.phase(Phase::Frames)
    }

    /// The timer, so often. The host runs none more often than every 100 ms.
    #[must_use]
    pub fn timer(mut self, interval: Duration) -> Self {
        self.timer_interval = interval;
        self
    }

    /// Whether calls of this kind are wanted.
    #[must_use]
    pub fn wants(&self, phase: Phase) -> bool {
        self.phases.contains(&phase)
    }

    fn phase(mut self, phase: Phase) -> Self {
        if !self.wants(phase) {
            self.phases.push(phase);
        }
        self
    }
}
