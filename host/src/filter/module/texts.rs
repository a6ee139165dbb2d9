//! The texts of messages, shown to a module as the body of a request.
//!
//! A firewall knows requests and not what stands in a frame. Where a route asks
//! for it (`inspect`), each message a client sends, whichever way it came, is
//! shown to the module as `POST /frames/<command>` with the message's texts as a
//! JSON list. A denial leaves the message out; edits have no place to go.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::FrameBatch;
use super::version::Version as ModuleVersion;
use crate::filter::exchange::{FilterNote, Word};
use crate::filter::verdict::FrameVerdict;
use crate::message::{Fields, Method, RequestHead, Scheme, Transcode, TranscodeProblem, Version};
use crate::plugin::{
    CallError, ChunkVerdict, Denial, HeadBuffer, HeadVerdict, OnFailure, OverLimit, Visit, at_once,
};

use super::frames::Decided;

impl ModuleVersion {
    /// Shows it the texts of the frames that have not met another fate yet.
    pub(super) fn texts(&self, transcoder: &dyn Transcode, batch: &FrameBatch<'_>, verdicts: &mut [Decided]) {
        for (frame, verdict) in batch.frames.iter().zip(verdicts) {
            if !matches!(verdict.0, FrameVerdict::Pass | FrameVerdict::Rewrite(_)) {
                continue;
            }
            let body = &batch.buffer[frame.body_start as usize..][..frame.body_length as usize];
            let command = u32::try_from(frame.command).unwrap_or(u32::MAX);
            let texts = match transcoder.text_fields(command, body) {
                Ok(texts) if texts.is_empty() => continue,
                Ok(texts) => texts,
                // A command that is not in the map has no texts known here.
                Err(TranscodeProblem { status: 404, .. }) => continue,
                Err(_) if self.plugin.on_failure() == OnFailure::Open => continue,
                Err(_) => {
                    *verdict = self.refused("text_unreadable", "error", "");
                    continue;
                }
            };
            let began = self.begin();
            let looked = self.look_at_texts(command, &texts, batch.client.ip());
            self.end(began);
            match looked {
                Ok(None) => {}
                Ok(Some(denial)) => {
                    self.count_refusal();
                    *verdict = self.refused("module_deny", "deny", &denial.rule);
                }
                Err(error) => {
                    tracing::debug!(module = %self.plugin.name(), %error, "a module failed on texts");
                    self.count_failure(&error);
                    if self.plugin.on_failure() == OnFailure::Closed {
                        *verdict = self.refused(error.code(), "error", "");
                    }
                }
            }
        }
    }

    fn refused(&self, code: &'static str, verdict: &'static str, rule: &str) -> Decided {
        let note = FilterNote { reason: Word::Fixed(code), ..self.frame_note(verdict, code, rule) };
        (FrameVerdict::Reject { code, retry_after: None }, Some(Box::new(note)))
    }

    fn look_at_texts(
        &self,
        command: u32,
        texts: &[String],
        client: IpAddr,
    ) -> Result<Option<Denial>, CallError> {
        let body = serde_json::to_vec(texts).unwrap_or_default();
        let interest = self.plugin.interest();
        let max = interest.request_body_max as usize;
        if self.wants.request_body && body.len() > max && interest.over_limit == OverLimit::Deny {
            let rule = "body_too_large".to_owned();
            return Ok(Some(Denial { status: 413, rule, headers: Vec::new(), body: Vec::new() }));
        }
        let mut visit = Visit::default();
        if self.wants.request_head {
            let mut buffer = HeadBuffer::take();
            buffer.request(&head(command, body.len()), client, &interest.request_fields);
            let (verdict, _) = at_once(self.plugin.request_head(&mut visit, buffer.head(), false));
            buffer.give_back();
            match verdict? {
                HeadVerdict::Deny(denial) => return Ok(Some(denial)),
                HeadVerdict::Done => return Ok(None),
                HeadVerdict::Accept | HeadVerdict::Edit(_) => {}
            }
        }
        if !self.wants.request_body {
            return Ok(None);
        }
        let seen = &body[..body.len().min(max)];
        match at_once(self.plugin.request_body(&mut visit, seen, true)).0? {
            ChunkVerdict::Deny(denial) => Ok(Some(denial)),
            ChunkVerdict::Forward => Ok(None),
            ChunkVerdict::Hold | ChunkVerdict::Replace(_) => {
                Err(self.refuse("a verdict that texts of messages cannot have".to_owned()))
            }
        }
    }
}

/// The head under which the texts of a message are shown.
fn head(command: u32, length: usize) -> RequestHead {
    let mut fields = Fields::default();
    fields.append(b"host", b"frames");
    fields.append(b"content-type", b"application/json");
    fields.append(b"content-length", itoa::Buffer::new().format(length).as_bytes());
    let mut target = String::new();
    // Writing to a string does not fail.
    let _ = write!(target, "/frames/{command:#06x}");
    let (authority, path) = (fields.store(b"frames"), fields.store(target.as_bytes()));
    RequestHead::new(Method::Post, Version::Http11, Scheme::Http, authority, path, None, fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shown_as_the_body_of_a_request() {
        let head = head(0x0301, 7);
        assert_eq!((head.path(), head.authority()), ("/frames/0x0301", "frames"));
        assert_eq!(head.fields.values_of(b"content-length").next(), Some(&b"7"[..]));
    }
}
