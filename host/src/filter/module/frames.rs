//! Frames of one read, handed to a guest in one call.

use std::sync::Arc;

use bytes::Bytes;

use super::version::Version;
use crate::filter::exchange::{FilterNote, Word};
use crate::filter::verdict::FrameVerdict;
use crate::frame::{FrameDecoder, FrameField, FrameFormat, Piece};
use crate::message::{AddressText, Client};
use crate::plugin::{CallError, Frame, FrameRuling, OnFailure, Visit, at_once};

/// Frames that wait, as modules see them.
#[derive(Debug)]
pub struct FrameBatch<'a> {
    /// The number of the connection, unique on the node.
    pub connection: u64,
    /// The connection.
    pub client: &'a Client,
    /// The frame format.
    pub format: &'a FrameFormat,
    /// What the frames lie in; grows by those that are rewritten.
    pub buffer: Vec<u8>,
    /// The frames.
    pub frames: Vec<Frame>,
}

/// Frames of one call, at most.
const FRAMES_MAX: usize = 256;

impl<'a> FrameBatch<'a> {
    /// The whole frames at the beginning of `waiting`, as far as `decoder` finds
    /// them.
    #[must_use]
    pub fn of(
        connection: u64,
        client: &'a Client,
        format: &'a FrameFormat,
        mut decoder: FrameDecoder,
        waiting: &[u8],
    ) -> Self {
        let read = |place: Option<FrameField>, head: &[u8]| place.map_or(0, |field| field.read(head));
        let mut frames = Vec::new();
        let mut at = 0;
        while frames.len() < FRAMES_MAX
            && let Ok(Piece::Frame(frame)) = decoder.next(format, &waiting[at..], usize::MAX)
            && frame.is_whole()
        {
            let head = frame.head();
            frames.push(Frame {
                start: at as u32,
                length: frame.bytes().len() as u32,
                body_start: (at + head.len()) as u32,
                body_length: frame.body().len() as u32,
                command: read(format.command(), head),
                sequence: read(format.sequence(), head),
                user: read(format.user(), head),
            });
            at += frame.bytes().len();
        }
        Self { connection, client, format, buffer: waiting[..at].to_vec(), frames }
    }

    /// Puts a frame with another body in the place of one; gives its bytes.
    fn rewrite(&mut self, at: usize, body: &[u8]) -> Result<Bytes, String> {
        let old = self.frames[at];
        let start = self.buffer.len();
        // The header as it was, with the length of the new body.
        let head = self.buffer[old.start as usize..old.body_start as usize].to_vec();
        self.format.encode(&mut self.buffer, &[], body).map_err(|error| error.to_string())?;
        let length = self.format.length();
        let mended = length.read(&self.buffer[start..]);
        self.buffer[start..start + head.len()].copy_from_slice(&head);
        length.write(&mut self.buffer[start..], mended);
        self.frames[at] = Frame {
            start: start as u32,
            length: (self.buffer.len() - start) as u32,
            body_start: (start + head.len()) as u32,
            body_length: body.len() as u32,
            ..old
        };
        Ok(Bytes::copy_from_slice(&self.buffer[start..]))
    }
}

pub(super) type Decided = (FrameVerdict, Option<Box<FilterNote>>);

impl Version {
    /// Shows it the frames that have not met another fate yet.
    pub(super) fn frames(&self, batch: &mut FrameBatch<'_>, verdicts: &mut [Decided]) {
        let wanted = &self.plugin.interest().commands;
        let goes_on = |at: &usize| matches!(verdicts[*at].0, FrameVerdict::Pass | FrameVerdict::Rewrite(_));
        // Of one that is withdrawn nobody knows what it would want now.
        let wants_all = wanted.is_empty() || self.plugin.is_withdrawn();
        let is_wanted = |at: &usize| {
            let command = batch.frames[*at].command;
            wants_all || wanted.iter().any(|own| u64::from(*own) == command)
        };
        let places: Vec<usize> = (0..batch.frames.len()).filter(goes_on).filter(is_wanted).collect();
        if places.is_empty() || !self.wants.frames {
            return;
        }
        let frames: Vec<Frame> = places.iter().map(|at| batch.frames[*at]).collect();
        let peer = AddressText::of(batch.client.ip());
        let peer = std::str::from_utf8(&peer).unwrap_or_default();
        let mut visit = Visit::default();
        let began = self.begin();
        let call = self.plugin.frames(&mut visit, batch.connection, peer, &batch.buffer, &frames);
        let rulings = match at_once(call).0 {
            Ok(rulings) => rulings,
            Err(error) => {
                self.end(began);
                return self.frames_failed(&error, &places, verdicts);
            }
        };
        if rulings.iter().any(|ruling| matches!(ruling, FrameRuling::Drop(_) | FrameRuling::Close(_))) {
            self.count_refusal();
        }
        self.end(began);
        for (at, ruling) in places.into_iter().zip(rulings) {
            match self.carry_out(batch, at, ruling) {
                Ok(None) => {}
                Ok(Some(decided)) => verdicts[at] = decided,
                Err(what) => {
                    let error = self.refuse(what);
                    self.frames_failed(&error, &[at], verdicts);
                }
            }
        }
    }

    fn carry_out(
        &self,
        batch: &mut FrameBatch<'_>,
        at: usize,
        ruling: FrameRuling,
    ) -> Result<Option<Decided>, String> {
        let (verdict, word, rule) = match ruling {
            FrameRuling::Pass => return Ok(None),
            FrameRuling::Drop(rule) => (FrameVerdict::Drop("module_drop"), "drop", rule),
            FrameRuling::Close(rule) => (FrameVerdict::Close("module_close"), "close", rule),
            FrameRuling::Rewrite(body) => {
                (FrameVerdict::Rewrite(batch.rewrite(at, &body)?), "rewrite", String::new())
            }
            FrameRuling::Reply(bytes) => {
                if !is_whole_frames(batch.format, &bytes) {
                    return Err("a reply that is not whole frames".to_owned());
                }
                (FrameVerdict::Reply(bytes.into()), "reply", String::new())
            }
        };
        Ok(Some((verdict, Some(Box::new(self.frame_note(word, "", &rule))))))
    }

    fn frames_failed(&self, error: &CallError, places: &[usize], verdicts: &mut [Decided]) {
        tracing::debug!(module = %self.plugin.name(), %error, "a module failed on frames");
        self.count_failure(error);
        // A frame that goes on without the module is no line of the log: there
        // may be thousands. The counters have it.
        if self.plugin.on_failure() == OnFailure::Open {
            return;
        }
        for at in places {
            let note = self.frame_note("error", error.code(), "");
            verdicts[*at] =
                (FrameVerdict::Reject { code: error.code(), retry_after: None }, Some(Box::new(note)));
        }
    }

    pub(super) fn frame_note(&self, verdict: &'static str, reason: &'static str, rule: &str) -> FilterNote {
        FilterNote {
            plugin: Word::Shared(Arc::clone(self.plugin.name())),
            version: Some(Arc::clone(self.plugin.version())),
            verdict: Word::Fixed(verdict),
            reason: Word::Fixed(reason),
            rules: super::version::shortened(rule).into_iter().collect(),
            is_event: false,
        }
    }
}

/// Whether bytes are frames of this format and nothing else.
fn is_whole_frames(format: &FrameFormat, bytes: &[u8]) -> bool {
    let scan = FrameDecoder::default().scan(format, bytes, usize::MAX, |_| {});
    scan.error.is_none() && scan.forward == bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewritten_frame_keeps_its_header_and_has_its_new_length() {
        let format = FrameFormat::im20();
        let fields = [(format.command().unwrap(), 0x0301), (format.sequence().unwrap(), 7)];
        let mut bytes = Vec::new();
        format.encode(&mut bytes, &fields, b"hello").unwrap();
        format.encode(&mut bytes, &fields, b"world").unwrap();
        bytes.extend_from_slice(&[0x09, 1, 2]);
        let address = "192.0.2.1:1".parse().unwrap();
        let client = Client { peer: address, address, local: address, tls: None, path: None };
        let mut batch = FrameBatch::of(1, &client, &format, FrameDecoder::default(), &bytes);
        assert_eq!(batch.frames.len(), 2, "half a frame is none");
        let rewritten = batch.rewrite(0, b"something else").unwrap();
        let mut expected = Vec::new();
        format.encode(&mut expected, &fields, b"something else").unwrap();
        assert_eq!(rewritten, expected);
        let frame = batch.frames[0];
        let body = &batch.buffer[frame.body_start as usize..][..frame.body_length as usize];
        assert_eq!((body, frame.command, frame.sequence), (&b"something else"[..], 0x0301, 7));
        assert!(is_whole_frames(&format, &rewritten));
        assert!(!is_whole_frames(&format, &rewritten[1..]));
    }
}
