//! What filters decide.

use std::time::Duration;

use bytes::Bytes;

use crate::message::ResponseHead;

/// What a request's filters decided.
#[derive(Debug)]
pub enum Verdict {
    /// The request goes on.
    Continue,
    /// It is answered here and now; the response filters still see the answer.
    Respond(Box<LocalResponse>),
}

/// An answer of the gateway itself.
#[derive(Debug, Clone)]
pub struct LocalResponse {
    /// Status and fields; no framing fields.
    pub head: ResponseHead,
    /// The body.
    pub body: Bytes,
    /// Code of the reason, for log and counters; empty for an answer that is
    /// no refusal.
    pub reason: &'static str,
}

impl LocalResponse {
    /// An answer with a status and nothing else.
    #[must_use]
    pub fn new(status: u16, reason: &'static str) -> Self {
        Self { head: ResponseHead::new(status), body: Bytes::new(), reason }
    }

    /// An error as clients meet it: `{"error_msg": …, "request_id": …}`.
    #[must_use]
    pub fn error(status: u16, reason: &'static str, message: &str, request_id: &str) -> Self {
        let body = serde_json::json!({ "error_msg": message, "request_id": request_id });
        Self::json(status, reason, &body)
    }

    /// A JSON body.
    #[must_use]
    pub fn json(status: u16, reason: &'static str, body: &serde_json::Value) -> Self {
        let head = ResponseHead::new(status).with("Content-Type", "application/json");
        let mut text = body.to_string();
        text.push('\n');
        Self { head, body: text.into(), reason }
    }

    /// The same, saying when the client may come again: `Retry-After`, in whole
    /// seconds rounded up, one at least.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_nanos().div_ceil(1_000_000_000).max(1);
        self.head.fields.set(b"Retry-After", itoa::Buffer::new().format(seconds).as_bytes());
        self
    }
}

/// What a connection's filters decided, before anything is read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionVerdict {
    /// It goes on.
    Continue,
    /// It goes on after a wait.
    Delay(Duration),
    /// It is closed; the code is for log and counters.
    Close(&'static str),
}

/// What a frame's filters decided. The code is for log and counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameVerdict {
    /// It goes on.
    Pass,
    /// It goes on after a wait, during which its client is not read.
    Delay(Duration),
    /// It is left out.
    Drop(&'static str),
    /// It is left out, and its client gets an error frame as the route says.
    Reject {
        /// The code.
        code: &'static str,
        /// When it makes sense to try again, where that is known.
        retry_after: Option<Duration>,
    },
    /// It is left out, and its client gets these bytes: whole frames.
    Reply(Bytes),
    /// It goes on as this: a whole frame.
    Rewrite(Bytes),
    /// Its connection is closed.
    Close(&'static str),
}

impl FrameVerdict {
    /// What it is called in the log, with its code; nothing for one that lets pass.
    #[must_use]
    pub fn word(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Pass => None,
            Self::Delay(_) => Some(("delay", "")),
            Self::Rewrite(_) => Some(("rewrite", "")),
            Self::Reply(_) => Some(("reply", "")),
            Self::Drop(code) => Some(("drop", code)),
            Self::Reject { code, .. } => Some(("deny", code)),
            Self::Close(code) => Some(("close", code)),
        }
    }
}

/// How much of a request's body filters want to see before they decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyInterest {
    /// Nothing of it: it is streamed.
    #[default]
    None,
    /// All of it, held back until then.
    Buffered {
        /// The most bytes.
        max: usize,
        /// What becomes of a longer one.
        longer: Longer,
    },
}

impl BodyInterest {
    /// What suits the filters of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, one) | (one, Self::None) => one,
            (Self::Buffered { max, longer }, Self::Buffered { max: other_max, longer: other }) => {
                let (max, longer) = Longer::together((max, longer), (other_max, other));
                Self::Buffered { max, longer }
            }
        }
    }
}

/// What becomes of a body that is longer than filters want to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Longer {
    /// It passes unchanged and unseen.
    Pass,
    /// The filters see its beginning, the rest follows.
    Begin,
    /// 413 for a request, 502 for a response.
    #[default]
    Refuse,
}

impl Longer {
    /// The limit for two filters that have one each. A body that one of them
    /// refuses need not be held for the other; of any other each is shown as much
    /// as it wants to see.
    pub(super) fn together(one: (usize, Self), other: (usize, Self)) -> (usize, Self) {
        match (one.1, other.1) {
            (Self::Refuse, Self::Refuse) => (one.0.min(other.0), Self::Refuse),
            (Self::Refuse, _) => one,
            (_, Self::Refuse) => other,
            (longer, also) => (one.0.max(other.0), longer.max(also)),
        }
    }
}

/// A body that filters have rewritten.
#[derive(Debug)]
pub enum Rewritten {
    /// It goes on so.
    Body(Bytes),
    /// The client gets this instead.
    Refused(Box<LocalResponse>),
}

/// What becomes of a response's body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BodyAction {
    /// It is streamed as it comes.
    #[default]
    Pass,
    /// It is read and thrown away, and this is sent in its place.
    Replace(Bytes),
    /// The same, and no other filter sees the response: a module refused it.
    Refuse(Bytes),
    /// It is held back whole and handed to
    /// [`Filters::transform_body`](crate::filter::Filters::transform_body).
    Transform {
        /// The most bytes.
        max: usize,
        /// What becomes of a longer one.
        longer: Longer,
        /// Whether one that is content-encoded is shown too; else it passes.
        encoded: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_limits_the_one_counts_that_serves_both_filters() {
        use Longer::{Begin, Pass, Refuse};
        for (one, other, both) in [
            ((10, Refuse), (20, Refuse), (10, Refuse)),
            ((10, Refuse), (20, Begin), (10, Refuse)),
            ((20, Refuse), (10, Begin), (20, Refuse)),
            ((10, Begin), (20, Begin), (20, Begin)),
            ((10, Pass), (20, Begin), (20, Begin)),
            ((20, Pass), (10, Begin), (20, Begin)),
            ((10, Pass), (20, Pass), (20, Pass)),
            ((10, Pass), (20, Refuse), (20, Refuse)),
        ] {
            assert_eq!(Longer::together(one, other), both, "{one:?} {other:?}");
            assert_eq!(Longer::together(other, one), both, "{other:?} {one:?}");
        }
        let held = BodyInterest::Buffered { max: 10, longer: Begin };
        assert_eq!((held.and(BodyInterest::None), BodyInterest::None.and(held)), (held, held));
    }
}
