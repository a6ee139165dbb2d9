//! What a session must remember to go on over another node.
//!
//! Pure bookkeeping, there only where the route asks for it: the last frame of
//! each command to be replayed, and the requests that have left whole and were
//! not answered. Both are bounded; what does not fit is counted as forgotten.

use crate::snapshot::TlvSettings;

/// A frame as bookkeeping sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) command: u32,
    pub(super) sequence: u64,
}

/// A request that has no answer yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) facts: Facts,
    /// Its bytes, when it may be sent again.
    pub(super) again: Option<Box<[u8]>>,
}

#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// The frames to be replayed, in the order of their first appearance.
    remembered: Vec<(Facts, Box<[u8]>)>,
    remembered_bytes: usize,
    pending: Vec<Pending>,
    pending_bytes: usize,
    /// A frame to be replayed did not fit: the session cannot be moved.
    overflown: bool,
}

impl Recovery {
    /// A frame has left for the upstream, whole.
    pub(super) fn sent(&mut self, settings: &TlvSettings, facts: Facts, frame: &[u8]) {
        if settings.replay.contains(facts.command) {
            self.remember(settings, facts, frame);
        }
        if settings.one_way.contains(facts.command) || settings.pending_max == 0 {
            return;
        }
        if self.pending.len() >= settings.pending_max {
            let oldest = self.pending.remove(0);
            self.pending_bytes -= oldest.again.map_or(0, |bytes| bytes.len());
        }
        let fits = self.pending_bytes + frame.len() <= settings.replay_bytes;
        // What is replayed anyway is not sent a second time.
        let is_again =
            settings.safe.contains(facts.command) && !settings.replay.contains(facts.command) && fits;
        let again = is_again.then(|| Box::<[u8]>::from(frame));
        self.pending_bytes += again.as_ref().map_or(0, |bytes| bytes.len());
        self.pending.push(Pending { facts, again });
    }

    fn remember(&mut self, settings: &TlvSettings, facts: Facts, frame: &[u8]) {
        let place = self.remembered.iter().position(|(known, _)| known.command == facts.command);
        let before = place.map_or(0, |place| self.remembered[place].1.len());
        let after = self.remembered_bytes - before + frame.len();
        if after > settings.replay_bytes {
            // The frame remembered so far is no longer the last one: replaying
            // it would bring back what the client has replaced.
            if let Some(place) = place {
                self.remembered.remove(place);
                self.remembered_bytes -= before;
            }
            self.overflown = true;
            return;
        }
        self.remembered_bytes = after;
        match place {
            Some(place) => self.remembered[place] = (facts, frame.into()),
            None => self.remembered.push((facts, frame.into())),
        }
    }

    /// A frame has come from the upstream; says whether it answers a request.
    pub(super) fn received(&mut self, settings: &TlvSettings, facts: Facts) -> bool {
        let place = self.pending.iter().position(|pending| {
            pending.facts.sequence == facts.sequence
                && settings.is_reply(pending.facts.command, facts.command)
        });
        let Some(place) = place else { return false };
        let answered = self.pending.remove(place);
        self.pending_bytes -= answered.again.map_or(0, |bytes| bytes.len());
        true
    }

    /// Whether the session can be moved at all.
    pub(super) fn is_movable(&self) -> bool {
        !self.overflown
    }

    /// Whether any request waits for its answer.
    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The frames to be replayed. The flag says whether the client still waits
    /// for the answer, which must then reach it.
    pub(super) fn replay(&self) -> impl Iterator<Item = (Facts, &[u8], bool)> {
        self.remembered.iter().map(|(facts, bytes)| {
            let is_open = self.pending.iter().any(|pending| pending.facts == *facts);
            (*facts, &**bytes, is_open)
        })
    }

    /// The requests that may be sent again and have no answer, as their bytes.
    pub(super) fn again(&self) -> impl Iterator<Item = &[u8]> {
        self.pending.iter().filter_map(|pending| pending.again.as_deref())
    }

    /// The requests whose answers went with the old connection and that the
    /// client must be told of: all without an answer, but for those that are
    /// sent again and those that are replayed, which the new node answers.
    pub(super) fn take_lost(&mut self, settings: &TlvSettings) -> Vec<Facts> {
        let remembered = &self.remembered;
        let is_kept = |pending: &Pending| {
            let is_replayed = settings.replay.contains(pending.facts.command)
                && remembered.iter().any(|(facts, _)| *facts == pending.facts);
            pending.again.is_some() || is_replayed
        };
        let lost = self.pending.iter().filter(|pending| !is_kept(pending)).map(|pending| pending.facts);
        let lost: Vec<Facts> = lost.collect();
        self.pending.retain(|pending| is_kept(pending));
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::objects::TlvConf;
    use crate::frame::FrameFormat;
    use std::sync::Arc;

    fn settings(replay_bytes: u32, pending_max: u32) -> TlvSettings {
        let conf = TlvConf {
            replay: vec![1],
            safe: vec![3],
            one_way: vec![9],
            replay_bytes,
            pending_max,
            ..TlvConf::default()
        };
        TlvSettings::new(&conf, Arc::new(FrameFormat::im20())).unwrap()
    }

    fn facts(command: u32, sequence: u64) -> Facts {
        Facts { command, sequence }
    }

    #[test]
    fn safe_requests_are_sent_again_and_others_told() {
        let settings = settings(1000, 10);
        let mut recovery = Recovery::default();
        recovery.sent(&settings, facts(1, 1), b"login");
        assert!(recovery.received(&settings, facts(2, 1)));
        for (command, sequence, bytes) in
            [(3, 2, &b"safe"[..]), (5, 3, b"send"), (9, 4, b"oneway"), (5, 5, b"x")]
        {
            recovery.sent(&settings, facts(command, sequence), bytes);
        }
        assert!(recovery.received(&settings, facts(6, 5)));
        assert!(!recovery.received(&settings, facts(0x310, 3)), "a push is no answer");
        assert_eq!(recovery.again().collect::<Vec<_>>(), [b"safe"]);
        assert_eq!(recovery.take_lost(&settings), [facts(5, 3)]);
        assert!(recovery.received(&settings, facts(4, 2)), "the answer to what was sent again still counts");
        assert!(!recovery.is_waiting());
    }

    #[test]
    fn a_login_without_an_answer_is_left_to_the_replay() {
        let settings = settings(1000, 10);
        let mut recovery = Recovery::default();
        recovery.sent(&settings, facts(1, 1), b"login");
        let replay: Vec<_> = recovery.replay().collect();
        assert_eq!(replay, [(facts(1, 1), &b"login"[..], true)]);
        assert_eq!((recovery.again().count(), recovery.take_lost(&settings)), (0, vec![]));
        assert!(recovery.received(&settings, facts(2, 1)));
    }

    #[test]
    fn the_last_login_counts_and_what_is_kept_is_bounded() {
        let settings = settings(8, 2);
        let mut recovery = Recovery::default();
        recovery.sent(&settings, facts(1, 1), b"first");
        recovery.sent(&settings, facts(1, 2), b"second");
        assert_eq!(recovery.replay().next().unwrap().1, b"second");
        for sequence in 3..100 {
            recovery.sent(&settings, facts(3, sequence), b"12345");
        }
        assert_eq!((recovery.pending.len(), recovery.pending_bytes), (2, 5));
        recovery.sent(&settings, facts(1, 200), b"too long to keep");
        assert!(!recovery.is_movable() && recovery.replay().count() == 0);
    }
}
