//! Runs a plugin as the gateway would.

use super::{Request, Response};
use crate::{
    ChunkVerdict, Comparison, ConfigError, ConnectionId, Denial, ExchangeId, Frame, FrameFilter,
    FrameVerdict, Frames, HeadVerdict, Interest, OverLimit, Phase, Plugin, RequestFilter, RequestHead,
    ResponseFilter, ResponseHead,
};

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome<M> {
    /// It went on like this. Its body has one piece for each that left.
    Forwarded(M),
    /// The client got this instead.
    Denied(Denial),
}

/// A plugin with its configuration, called by its interest alone.
#[derive(Debug)]
pub struct Tester<P> {
    /// The plugin, to be looked into.
    pub plugin: P,
    /// What it asked for.
    pub interest: Interest,
    exchange: u64,
}

impl<P: Plugin> Tester<P> {
    /// Makes a plugin of the JSON an operator would write.
    ///
    /// # Errors
    ///
    /// The plugin's own, as the operator would see it.
    pub fn new(config: &str) -> Result<Self, ConfigError> {
        let (plugin, interest) = crate::plugin::configure(config)?;
        Ok(Self { plugin, interest, exchange: 0 })
    }

    /// The exchange of the latest request.
    #[must_use]
    pub fn exchange(&self) -> ExchangeId {
        ExchangeId(self.exchange)
    }
}

impl<P: RequestFilter> Tester<P> {
    /// Sends a request through the plugin, as a new exchange.
    ///
    /// # Panics
    ///
    /// When a verdict is one the host would fail the call for.
    pub fn request(&mut self, request: &Request) -> Outcome<Request> {
        self.exchange += 1;
        let exchange = self.exchange();
        if !self.interest.wants(Phase::RequestHead) {
            return Outcome::Forwarded(request.clone());
        }
        let (bytes, spans) = request.pack(&self.interest.request_fields);
        let verdict =
            self.plugin.on_head(exchange, RequestHead::new(&bytes, &spans), request.body.is_empty());
        let (edits, more) = match verdict {
            HeadVerdict::Accept => (Vec::new(), true),
            HeadVerdict::Done => (Vec::new(), false),
            HeadVerdict::Edit(edits) => (edits, true),
            HeadVerdict::Deny(denial) => return Outcome::Denied(denial),
        };
        let mut forwarded = request.clone().edited(&edits);
        if more && !request.body.is_empty() && self.interest.wants(Phase::RequestBody) {
            let limit = Limit::new(self.interest.request_body_max, self.interest.over_limit, 413);
            match body(&request.body, limit, |chunk, end| self.plugin.on_body(exchange, chunk, end)) {
                Ok(pieces) => forwarded.body = pieces,
                Err(denial) => return Outcome::Denied(denial),
            }
        }
        Outcome::Forwarded(forwarded)
    }
}

impl<P: ResponseFilter> Tester<P> {
    /// Sends a response through the plugin, of the latest request's exchange.
    ///
    /// # Panics
    ///
    /// When a verdict is one the host would fail the call for.
    pub fn response(&mut self, response: &Response) -> Outcome<Response> {
        let exchange = self.exchange();
        if !self.interest.wants(Phase::ResponseHead) {
            return Outcome::Forwarded(response.clone());
        }
        let (bytes, spans) = response.pack(&self.interest.response_fields);
        let verdict =
            self.plugin.on_head(exchange, ResponseHead::new(&bytes, &spans), response.body.is_empty());
        let (edits, more) = match verdict {
            HeadVerdict::Accept => (Vec::new(), true),
            HeadVerdict::Done => (Vec::new(), false),
            HeadVerdict::Edit(edits) => (edits, true),
            HeadVerdict::Deny(denial) => return Outcome::Denied(denial),
        };
        let mut forwarded = response.clone().edited(&edits);
        if more && !response.body.is_empty() && self.interest.wants(Phase::ResponseBody) {
            let limit = Limit::new(self.interest.response_body_max, self.interest.over_limit, 502);
            match body(&response.body, limit, |chunk, end| self.plugin.on_body(exchange, chunk, end)) {
                Ok(pieces) => forwarded.body = pieces,
                Err(denial) => return Outcome::Denied(denial),
            }
        }
        Outcome::Forwarded(forwarded)
    }
}

impl<P: FrameFilter> Tester<P> {
    /// Sends frames through the plugin, as one read; those whose command it did
    /// not ask for pass unseen.
    ///
    /// # Panics
    ///
    /// When there is not a verdict for each frame.
    pub fn frames(
        &mut self,
        connection: ConnectionId,
        peer: &str,
        frames: &[Frame<'_>],
    ) -> Vec<FrameVerdict> {
        if !self.interest.wants(Phase::Frames) {
            return vec![FrameVerdict::Pass; frames.len()];
        }
        let commands = &self.interest.commands;
        let is_wanted = |frame: &Frame<'_>| {
            commands.is_empty() || commands.iter().any(|&command| u64::from(command) == frame.command)
        };
        let wanted: Vec<Frame<'_>> = frames.iter().copied().filter(is_wanted).collect();
        let count = wanted.len();
        let seen = frames.iter().map(is_wanted).collect::<Vec<_>>();
        let verdicts = self.plugin.on_frames(Frames::new(connection, peer, &wanted));
        assert_eq!(verdicts.len(), count, "a verdict for each frame");
        let mut verdicts = verdicts.into_iter();
        let verdict = |seen| if seen { verdicts.next() } else { None };
        seen.into_iter().map(verdict).map(|verdict| verdict.unwrap_or(FrameVerdict::Pass)).collect()
    }
}

impl<P: Comparison> Tester<P> {
    /// Asks what clients of the configuration `old`, as an operator would write it,
    /// would stumble over.
    ///
    /// # Errors
    ///
    /// Why it cannot be compared, as the operator would see it.
    pub fn breaking(&self, old: &str) -> Result<Vec<String>, ConfigError> {
        self.plugin.breaking(crate::plugin::settings::<P>(old)?)
    }
}

/// How much of a body a plugin sees, and what becomes of a longer one.
#[derive(Clone, Copy)]
struct Limit {
    bytes_max: usize,
    over: OverLimit,
    status: u16,
}

impl Limit {
    fn new(bytes_max: u32, over: OverLimit, status: u16) -> Self {
        Self { bytes_max: bytes_max as usize, over, status }
    }
}

/// Shows a body's pieces; gives those that go on.
fn body(
    pieces: &[Vec<u8>],
    limit: Limit,
    mut show: impl FnMut(Vec<u8>, bool) -> ChunkVerdict,
) -> Result<Vec<Vec<u8>>, Denial> {
    let total: usize = pieces.iter().map(Vec::len).sum();
    if total > limit.bytes_max && limit.over == OverLimit::Deny {
        return Err(Denial::new(limit.status, "body-limit"));
    }
    let mut forwarded = Vec::new();
    let mut held = Vec::new();
    let mut left = limit.bytes_max;
    for (place, piece) in pieces.iter().enumerate() {
        let is_last = place + 1 == pieces.len();
        let is_cut = piece.len() > left || (piece.len() == left && !is_last);
        let (seen, unseen) = piece.split_at(piece.len().min(left));
        left -= seen.len();
        let end = is_last || is_cut;
        match show(seen.to_vec(), end) {
            ChunkVerdict::Forward => {
                held.extend_from_slice(seen);
                forwarded.push(std::mem::take(&mut held));
            }
            ChunkVerdict::Hold => {
                assert!(!end, "the last piece of a body cannot be held");
                held.extend_from_slice(seen);
            }
            ChunkVerdict::Replace(bytes) => {
                held.clear();
                forwarded.push(bytes);
            }
            ChunkVerdict::Deny(denial) => return Err(denial),
        }
        if is_cut {
            forwarded.push(unseen.to_vec());
            forwarded.extend(pieces[place + 1..].iter().cloned());
            break;
        }
    }
    forwarded.retain(|piece| !piece.is_empty());
    Ok(forwarded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUNCATE: Limit = Limit { bytes_max: 4, over: OverLimit::Truncate, status: 413 };

    fn pieces(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_body_over_the_limit_is_refused_or_seen_in_part() {
        let refused = Limit { over: OverLimit::Deny, ..TRUNCATE };
        let denial = body(&pieces(&["abc", "de"]), refused, |_, _| ChunkVerdict::Forward).unwrap_err();
        assert_eq!(denial.status, 413);

        let mut seen = Vec::new();
        let forwarded = body(&pieces(&["abc", "de", "f"]), TRUNCATE, |chunk, end| {
            seen.push((String::from_utf8(chunk).unwrap(), end));
            ChunkVerdict::Forward
        });
        assert_eq!(seen, [("abc".to_owned(), false), ("d".to_owned(), true)]);
        assert_eq!(forwarded.unwrap().concat(), b"abcdef");
    }

    #[test]
    fn what_was_held_goes_on_with_the_piece_after_it_or_is_replaced() {
        let hold_first = |verdict: ChunkVerdict| {
            move |_: Vec<u8>, end: bool| if end { verdict.clone() } else { ChunkVerdict::Hold }
        };
        let whole = Limit { bytes_max: 100, ..TRUNCATE };
        assert_eq!(body(&pieces(&["a", "b"]), whole, hold_first(ChunkVerdict::Forward)).unwrap(), [b"ab"]);
        let replaced = hold_first(ChunkVerdict::Replace(b"x".to_vec()));
        assert_eq!(body(&pieces(&["a", "b"]), whole, replaced).unwrap(), [b"x"]);
    }
}
