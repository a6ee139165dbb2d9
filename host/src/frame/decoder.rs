//! Finding the frames in a stream of bytes.

use super::{FrameError, FrameFormat};

/// A frame, lent from the bytes it was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    head_bytes: usize,
    end_bytes: usize,
    total: usize,
}

impl<'a> Frame<'a> {
    /// Begin marker and header; what [`FrameField::read`](super::FrameField::read) takes.
    #[inline]
    #[must_use]
    pub fn head(&self) -> &'a [u8] {
        &self.bytes[..self.head_bytes]
    }

    /// Every byte of the frame, or only its head when it [is passed in pieces](Self::is_whole).
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The body; empty when the frame is passed in pieces.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        if self.is_whole() { &self.bytes[self.head_bytes..self.total - self.end_bytes] } else { &[] }
    }

    /// Bytes of the whole frame, markers included.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.total
    }

    /// Whether all of it is here, which is so for every frame up to the bound
    /// the decoder was called with.
    #[inline]
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.total
    }
}

/// The next step in a stream of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole frame, or the head of one that is larger than the bound.
    Frame(Frame<'a>),
    /// More of a frame that is passed in pieces.
    Part {
        /// Its bytes, at least one.
        bytes: &'a [u8],
        /// Whether the frame is whole with them; its end marker is checked.
        last: bool,
    },
    /// Nothing can be said before there are `need` bytes, counted from the
    /// first one that has not been taken.
    More {
        /// More than there are.
        need: usize,
    },
}

/// What one pass over a buffer found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Bytes from the start that are good and may go on.
    pub forward: usize,
    /// How many bytes, counted from `forward`, the frame that begins there
    /// needs before more can be said; its header or the whole of it.
    pub need: usize,
    /// What stopped the pass; the bytes from `forward` on are bad.
    pub error: Option<FrameError>,
}

/// Finds frames in bytes that come in any pieces.
///
/// Holds no bytes: the caller keeps what was not taken and calls again with
/// more behind it. Nothing is allocated, whatever a length field claims. A
/// frame up to `hold` bytes comes whole and checked, end marker included; a
/// larger one is passed in pieces, head first, and its end marker is checked
/// before it goes on. After an error the decoder is of no more use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameDecoder {
    stage: Stage,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Head,
    /// Inside a frame that is passed in pieces.
    Body { left: u32 },
}

impl FrameDecoder {
    /// Whether the stream stands between two frames, as far as bytes were taken.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.stage == Stage::Head
    }

    /// Bytes of the body still to come of a frame passed in pieces.
    #[must_use]
    pub fn passing(&self) -> Option<u32> {
        match self.stage {
            Stage::Head => None,
            Stage::Body { left } => Some(left),
        }
    }

    /// The next step in `bytes`, which begin where the last piece ended.
    ///
    /// # Errors
    /// When the bytes are not a frame of this format.
    #[inline]
    pub fn next<'a>(
        &mut self,
        format: &FrameFormat,
        bytes: &'a [u8],
        hold: usize,
    ) -> Result<Piece<'a>, FrameError> {
        match self.stage {
            Stage::Head => self.next_frame(format, bytes, hold),
            Stage::Body { left } => self.next_part(format, bytes, left),
        }
    }

    #[inline]
    fn next_frame<'a>(
        &mut self,
        format: &FrameFormat,
        bytes: &'a [u8],
        hold: usize,
    ) -> Result<Piece<'a>, FrameError> {
        if let Some((found, expected)) = difference(bytes, &format.begin) {
            return Err(FrameError::BadBegin { found, expected });
        }
        let head_bytes = format.head_bytes();
        if bytes.len() < head_bytes {
            return Ok(Piece::More { need: head_bytes });
        }
        let body = format.body_bytes(bytes)?;
        let end_bytes = format.end.len();
        let total = head_bytes + body as usize + end_bytes;
        let frame = |bytes| Piece::Frame(Frame { bytes, head_bytes, end_bytes, total });
        if total > hold && total > head_bytes {
            self.stage = Stage::Body { left: body };
            return Ok(frame(&bytes[..head_bytes]));
        }
        // A wrong end is told as soon as its first byte is here.
        let known = bytes.len().min(total);
        if let Some((found, expected)) =
            bytes[..known].get(total - end_bytes..).and_then(|end| difference(end, &format.end))
        {
            return Err(FrameError::BadEnd { found, expected });
        }
        if bytes.len() < total {
            return Ok(Piece::More { need: total });
        }
        Ok(frame(&bytes[..total]))
    }

    fn next_part<'a>(
        &mut self,
        format: &FrameFormat,
        bytes: &'a [u8],
        left: u32,
    ) -> Result<Piece<'a>, FrameError> {
        let end_bytes = format.end.len();
        let body = bytes.len().min(left as usize);
        let end = &bytes[body..];
        if let Some((found, expected)) = difference(end, &format.end) {
            return Err(FrameError::BadEnd { found, expected });
        }
        let left = left - body as u32;
        if left == 0 && end.len() >= end_bytes {
            self.stage = Stage::Head;
            return Ok(Piece::Part { bytes: &bytes[..body + end_bytes], last: true });
        }
        self.stage = Stage::Body { left };
        // The end marker goes on only when it is whole and right, so a frame
        // with a wrong one never looks finished to the other side.
        if body == 0 {
            let need = if left == 0 { end_bytes } else { 1 };
            return Ok(Piece::More { need });
        }
        Ok(Piece::Part { bytes: &bytes[..body], last: false })
    }

    /// Takes all of `bytes` that can go on, in one pass, and shows every frame
    /// that begins there: whole up to `hold` bytes, else its head alone.
    #[inline]
    pub fn scan<'a>(
        &mut self,
        format: &FrameFormat,
        bytes: &'a [u8],
        hold: usize,
        mut frame: impl FnMut(Frame<'a>),
    ) -> Scan {
        let mut forward = 0;
        loop {
            match self.next(format, &bytes[forward..], hold) {
                Ok(Piece::Frame(found)) => {
                    forward += found.bytes.len();
                    frame(found);
                }
                Ok(Piece::Part { bytes, .. }) => forward += bytes.len(),
                Ok(Piece::More { need }) => return Scan { forward, need, error: None },
                Err(error) => return Scan { forward, need: 0, error: Some(error) },
            }
        }
    }
}

/// The first byte of `bytes` that is not the marker's, with what it should be.
#[inline]
fn difference(bytes: &[u8], marker: &[u8]) -> Option<(u8, u8)> {
    bytes
        .iter()
        .zip(marker)
        .find(|(found, expected)| found != expected)
        .map(|(found, expected)| (*found, *expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FormatSpec;
    use crate::frame::fuzz::{Random, naive};

    fn im20(command: u64, body: &[u8]) -> Vec<u8> {
        let format = FrameFormat::im20();
        let mut out = Vec::new();
        format.encode(&mut out, &[(format.command().unwrap(), command)], body).unwrap();
        out
    }

    /// Feeds pieces as a connection would, keeping what is not taken.
    fn feed(format: &FrameFormat, pieces: &[&[u8]], hold: usize) -> (Vec<u8>, usize, Option<FrameError>) {
        let (mut decoder, mut kept, mut out, mut frames) =
            (FrameDecoder::default(), Vec::new(), Vec::new(), 0);
        for piece in pieces {
            kept.extend_from_slice(piece);
            let scan = decoder.scan(format, &kept, hold, |_| frames += 1);
            assert!(scan.error.is_some() || scan.need > kept.len() - scan.forward);
            out.extend(kept.drain(..scan.forward));
            if scan.error.is_some() {
                return (out, frames, scan.error);
            }
        }
        (out, frames, None)
    }

    #[test]
    fn a_frame_survives_every_split() {
        let format = FrameFormat::im20();
        let bytes = [im20(1, b"hello\x0A\x09"), im20(2, b""), im20(3, &[0x09; 100])].concat();
        for hold in [0, 30, usize::MAX] {
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    let got = feed(&format, &pieces, hold);
                    assert_eq!(got, (bytes.clone(), 3, None), "cut at {first} and {second}, hold {hold}");
                }
            }
        }
    }

    #[test]
    fn random_streams_decode_as_the_naive_parser_says() {
        let mut random = Random::new(0x51_1CE);
        for round in 0..3000 {
            let format = random.format();
            let mut stream = random.stream(&format);
            if round % 3 == 0 && !stream.is_empty() {
                let at = random.below(stream.len());
                stream[at] ^= 1 << random.below(8);
            }
            let expected = naive(&format, &stream);
            let pieces = random.split(&stream);
            let (out, frames, error) = feed(&format, &pieces, usize::MAX);
            assert_eq!(
                (out.len(), frames, error),
                (expected.good, expected.frames, expected.error),
                "round {round}"
            );
            assert_eq!(out, stream[..out.len()]);
        }
    }

    #[test]
    fn bad_input_is_told_with_its_reason() {
        let format = FrameFormat::im20();
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = im20(1, b"body");
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            frame
        };
        let too_large = |declared| FrameError::BodyTooLarge { declared, limit: 65_536 };
        let table: &[(&str, Vec<u8>, FrameError)] = &[
            ("wrong begin", with(0, &[0x08]), FrameError::BadBegin { found: 8, expected: 9 }),
            (
                "other protocol",
                b"GET / HTTP/1.1\r\n".to_vec(),
                FrameError::BadBegin { found: b'G', expected: 9 },
            ),
            ("TLS hello", b"\x16\x03\x01".to_vec(), FrameError::BadBegin { found: 0x16, expected: 9 }),
            ("wrong end", with(25, &[0x0B]), FrameError::BadEnd { found: 0x0B, expected: 0x0A }),
            ("length one short", with(17, &[0, 0, 0, 3]), FrameError::BadEnd { found: b'y', expected: 0x0A }),
            (
                "length 0 of a body",
                with(17, &[0, 0, 0, 0]),
                FrameError::BadEnd { found: b'b', expected: 0x0A },
            ),
            ("max + 1", with(17, &[0, 1, 0, 1]), too_large(65_537)),
            ("2^31", with(17, &[0x80, 0, 0, 0]), too_large(1 << 31)),
            ("2^32-1", with(17, &[0xFF; 4]), too_large(u64::from(u32::MAX))),
            ("little endian", with(17, &[4, 0, 0, 0]), too_large(4 << 24)),
        ];
        for (name, bytes, expected) in table {
            let good = im20(7, b"good");
            let stream = [good.clone(), bytes.clone(), im20(8, b"after")].concat();
            assert_eq!(feed(&format, &[&stream], usize::MAX), (good, 1, Some(*expected)), "{name}");
        }
    }

    #[test]
    fn a_length_of_max_is_taken_and_nothing_is_held_for_a_claim() {
        let format = FrameFormat::im20();
        let frame = im20(1, &vec![0x0A; 65_536]);
        let mut decoder = FrameDecoder::default();
        let scan = decoder.scan(&format, &frame[..21], 16_384, |frame| {
            assert_eq!((frame.is_whole(), frame.total_bytes(), frame.body()), (false, 65_558, &[][..]));
        });
        assert_eq!((scan.forward, decoder.passing()), (21, Some(65_536)));
        assert_eq!(
            feed(&format, &[&frame[..21], &frame[21..30_000], &frame[30_000..]], 16_384),
            (frame, 1, None)
        );
    }

    #[test]
    fn the_end_of_a_large_frame_waits_until_it_is_right() {
        let format = FrameFormat::im20();
        let mut frame = im20(1, &[1; 100]);
        let last = frame.len() - 1;
        frame[last] = 0;
        let (out, frames, error) = feed(&format, &[&frame[..50], &frame[50..]], 40);
        assert_eq!((frames, error), (1, Some(FrameError::BadEnd { found: 0, expected: 0x0A })));
        assert!(out.len() < last, "the bad end was not passed on");
    }

    #[test]
    fn a_length_that_counts_the_header_cannot_be_smaller_than_it() {
        let spec = FormatSpec { length_includes: crate::frame::LengthIncludes::Frame, ..FormatSpec::im20() };
        let format = FrameFormat::new(&spec).unwrap();
        let mut frame = Vec::new();
        format.encode(&mut frame, &[], b"").unwrap();
        assert_eq!(format.length().read(&frame), 22);
        format.length().write(&mut frame, 21);
        let (_, _, error) = feed(&format, &[&frame], usize::MAX);
        assert_eq!(error, Some(FrameError::LengthTooSmall { declared: 21, least: 22 }));
    }

    #[test]
    fn the_fuzz_entry_takes_anything() {
        let mut random = Random::new(42);
        for _ in 0..2000 {
            let length = random.below(300);
            let bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
            crate::frame::fuzz::frame_decoder(&bytes);
        }
    }
}
