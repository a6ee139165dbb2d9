//! Making frames: heartbeats, error frames, probes.

use super::{FrameField, FrameFormat};

/// The values of a new frame's header; a field not named is zero.
pub type FrameFields<'a> = &'a [(FrameField, u64)];

/// A frame that cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The body is over the format's limit, or its length does not fit the length field.
    #[error("body of {bytes} bytes is over the limit of {limit}")]
    BodyTooLarge {
        /// Bytes of the body.
        bytes: usize,
        /// What the format allows.
        limit: u64,
    },
    /// A value does not fit its field.
    #[error("value {value:#x} does not fit its field, the largest is {largest:#x}")]
    ValueTooLarge {
        /// The value.
        value: u64,
        /// What the field can hold.
        largest: u64,
    },
}

impl FrameFormat {
    /// Appends a frame with these fields and this body; nothing on an error.
    ///
    /// # Errors
    /// When the body or a value does not fit.
    pub fn encode(&self, out: &mut Vec<u8>, fields: FrameFields<'_>, body: &[u8]) -> Result<(), EncodeError> {
        let room = self.length().largest() - u64::from(self.length_base);
        let limit = u64::from(self.body_max).min(room);
        if body.len() as u64 > limit {
            return Err(EncodeError::BodyTooLarge { bytes: body.len(), limit });
        }
        if let Some((field, value)) = fields.iter().find(|(field, value)| *value > field.largest()) {
            return Err(EncodeError::ValueTooLarge { value: *value, largest: field.largest() });
        }
        let start = out.len();
        out.reserve(self.overhead_bytes() + body.len());
        out.extend_from_slice(&self.begin);
        out.resize(start + self.head_bytes(), 0);
        for (field, value) in fields {
            field.write(&mut out[start..], *value);
        }
        self.length().write(&mut out[start..], u64::from(self.length_base) + body.len() as u64);
        out.extend_from_slice(body);
        out.extend_from_slice(&self.end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FormatSpec, FrameDecoder, LengthIncludes};

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        for includes in [LengthIncludes::Body, LengthIncludes::Header, LengthIncludes::Frame] {
            let format =
                FrameFormat::new(&FormatSpec { length_includes: includes, ..FormatSpec::im20() }).unwrap();
            let (command, sequence) = (format.command().unwrap(), format.sequence().unwrap());
            let mut bytes = Vec::new();
            format.encode(&mut bytes, &[(command, 0x0101), (sequence, 7)], b"hello").unwrap();
            let mut seen = Vec::new();
            let scan = FrameDecoder::default().scan(&format, &bytes, usize::MAX, |frame| {
                seen.push((command.read(frame.head()), sequence.read(frame.head()), frame.body().to_vec()));
            });
            assert_eq!((scan.forward, scan.error), (bytes.len(), None));
            assert_eq!(seen, [(0x0101, 7, b"hello".to_vec())]);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_nothing() {
        let format = FrameFormat::im20();
        let mut out = b"before".to_vec();
        let command = format.command().unwrap();
        assert_eq!(
            format.encode(&mut out, &[(command, 0x1_0000)], b"").unwrap_err().to_string(),
            "value 0x10000 does not fit its field, the largest is 0xffff"
        );
        assert_eq!(
            format.encode(&mut out, &[], &vec![0; 65_537]).unwrap_err().to_string(),
            "body of 65537 bytes is over the limit of 65536"
        );
        assert_eq!(out, b"before");
    }
}
