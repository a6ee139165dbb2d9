//! Frames of our own for the client: error frames, heartbeat answers, a
//! filter's reply.

use std::time::Duration;

use super::recovery::Facts;
use super::{Down, Host, Session};
use crate::config::objects::StreamErrorBody;
use crate::frame::FrameFormat;

/// Bytes that may wait before the client's frames are no longer looked at.
pub(super) const NOTICES_FULL: usize = 8 * 1024;

/// Whole frames that wait for a place between two of the upstream's.
#[derive(Debug, Default)]
pub(super) struct Notices {
    bytes: Vec<u8>,
    written: usize,
}

impl Notices {
    /// What is still to be written.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Whether one of them is on its way, so that nothing may come between.
    pub(super) fn is_begun(&self) -> bool {
        self.written > 0
    }

    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count;
    }

    pub(super) fn push(&mut self, frames: &[u8]) {
        self.bytes.extend_from_slice(frames);
    }
}

impl<H: Host, D: Down> Session<H, D> {
    pub(super) fn notices_full(&self) -> bool {
        self.notices.as_ref().is_some_and(|notices| notices.rest().len() >= NOTICES_FULL)
    }

    /// Queues an error frame, where the route has them. `about` is the frame it
    /// answers. Returns whether the client will be told.
    pub(super) fn notice_error(&mut self, number: u32, code: &str, about: Option<Facts>) -> bool {
        let Some((command, body)) = self.settings.error else { return false };
        let text = error_body(body, number, code, about.map(|facts| facts.command), None);
        self.notice(command, about.map_or(0, |facts| facts.sequence), &text)
    }

    /// The same for a frame a filter refused, with the time after which it may
    /// come again, where that is known.
    pub(super) fn notice_refusal(
        &mut self,
        number: u32,
        code: &str,
        about: Facts,
        retry_after: Option<Duration>,
    ) -> bool {
        let Some((command, body)) = self.settings.error else { return false };
        let text = error_body(body, number, code, Some(about.command), retry_after);
        self.notice(command, about.sequence, &text)
    }

    /// Queues a frame of the gateway's own.
    pub(super) fn notice(&mut self, command: u32, sequence: u64, body: &[u8]) -> bool {
        let format: &FrameFormat = &self.settings.format;
        let Some(field) = format.command() else { return false };
        let mut frame = Vec::new();
        let with_sequence = format.sequence().map(|place| [(field, u64::from(command)), (place, sequence)]);
        let encoded = match &with_sequence {
            Some(fields) => format.encode(&mut frame, fields, body),
            None => format.encode(&mut frame, &[(field, u64::from(command))], body),
        };
        // A value that does not fit its field cannot be told in this format.
        if encoded.is_err() {
            return false;
        }
        self.notices.get_or_insert_default().push(&frame);
        true
    }
}

fn error_body(
    body: StreamErrorBody,
    number: u32,
    code: &str,
    command: Option<u32>,
    retry_after: Option<Duration>,
) -> Vec<u8> {
    // Rounded up: who comes again after it is not refused for it.
    let wait = retry_after.map(|time| time.as_micros().div_ceil(1000).clamp(1, u32::MAX.into()) as u32);
    match body {
        StreamErrorBody::Empty => Vec::new(),
        StreamErrorBody::Text => code.as_bytes().to_vec(),
        StreamErrorBody::Json => {
            let mut error = serde_json::json!({ "error_msg": code, "code": number, "command": command });
            if let Some(wait) = wait {
                error["retry_after_ms"] = wait.into();
            }
            error.to_string().into_bytes()
        }
        StreamErrorBody::Protobuf => {
            let mut out = Vec::with_capacity(16 + code.len());
            varint_field(&mut out, 1, number.into());
            out.push(2 << 3 | 2);
            varint(&mut out, code.len() as u64);
            out.extend_from_slice(code.as_bytes());
            if let Some(wait) = wait {
                varint_field(&mut out, 3, wait.into());
            }
            if let Some(command) = command {
                varint_field(&mut out, 4, command.into());
            }
            out
        }
    }
}

fn varint_field(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_body_is_written_as_the_route_says() {
        let body = |body| error_body(body, 8, "request_lost", Some(0x0301), None);
        let protobuf = b"\x08\x08\x12\x0crequest_lost\x20\x81\x06";
        assert_eq!(body(StreamErrorBody::Protobuf), protobuf);
        assert_eq!(body(StreamErrorBody::Text), b"request_lost");
        assert_eq!(body(StreamErrorBody::Json), br#"{"error_msg":"request_lost","code":8,"command":769}"#);
        assert!(body(StreamErrorBody::Empty).is_empty());
        let limited = |body| error_body(body, 7, "rate", Some(1), Some(Duration::from_micros(2100)));
        assert_eq!(limited(StreamErrorBody::Protobuf), b"\x08\x07\x12\x04rate\x18\x03\x20\x01");
        let json = limited(StreamErrorBody::Json);
        assert_eq!(json, br#"{"error_msg":"rate","code":7,"command":1,"retry_after_ms":3}"#);
    }
}
