//! The fuzz entry of the decoder, and the plain parser it is held against.
//!
//! Kept in the library so that the tests beside the decoder, the long fuzz run
//! and a fuzzer from outside all hold it against the same thing.

use super::{
    Endian, FieldSpec, FormatSpec, FrameDecoder, FrameError, FrameFormat, LengthIncludes, RolesSpec,
};

/// What [`naive`] made of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Bytes of whole, good frames at the front.
    pub good: usize,
    /// How many frames they are.
    pub frames: usize,
    /// What is wrong behind them, if anything is.
    pub error: Option<FrameError>,
}

/// Parses a whole stream the obvious way: slow, simple, bytes by index.
#[must_use]
pub fn naive(format: &FrameFormat, stream: &[u8]) -> Expected {
    let (mut good, mut frames) = (0, 0);
    let stop = |good, frames, error| Expected { good, frames, error };
    loop {
        let rest = &stream[good..];
        for (index, expected) in format.begin.iter().enumerate() {
            match rest.get(index) {
                None => return stop(good, frames, None),
                Some(found) if found != expected => {
                    let error = FrameError::BadBegin { found: *found, expected: *expected };
                    return stop(good, frames, Some(error));
                }
                Some(_) => {}
            }
        }
        if rest.len() < format.head_bytes() {
            return stop(good, frames, None);
        }
        let body = match format.body_bytes(rest) {
            Ok(body) => body as usize,
            Err(error) => return stop(good, frames, Some(error)),
        };
        let end = format.head_bytes() + body;
        for (index, expected) in format.end.iter().enumerate() {
            match rest.get(end + index) {
                None => return stop(good, frames, None),
                Some(found) if found != expected => {
                    let error = FrameError::BadEnd { found: *found, expected: *expected };
                    return stop(good, frames, Some(error));
                }
                Some(_) => {}
            }
        }
        if rest.len() < end {
            return stop(good, frames, None);
        }
        good += end + format.end.len();
        frames += 1;
    }
}

/// Takes any bytes: the first few choose format, splits and bound, the rest is
/// the stream.
///
/// # Panics
/// When the decoder differs from [`naive`], which is what a fuzzer looks for.
pub fn frame_decoder(data: &[u8]) {
    let Some((seed, stream)) = data.split_at_checked(4) else { return };
    let mut random = Random::new(u64::from(u32::from_le_bytes([seed[0], seed[1], seed[2], seed[3]])) + 1);
    let format = if seed[0] & 1 == 0 { FrameFormat::im20() } else { random.format() };
    let expected = naive(&format, stream);
    for hold in [usize::MAX, random.below(64)] {
        let (mut decoder, mut kept, mut passed, mut begun) = (FrameDecoder::default(), Vec::new(), 0, 0);
        let mut error = None;
        for piece in random.split(stream) {
            kept.extend_from_slice(piece);
            let scan = decoder.scan(&format, &kept, hold, |_| begun += 1);
            kept.drain(..scan.forward);
            passed += scan.forward;
            error = scan.error;
            if error.is_some() {
                break;
            }
        }
        assert_eq!(error, expected.error, "hold {hold}");
        if hold == usize::MAX {
            assert_eq!((passed, begun), (expected.good, expected.frames));
        } else {
            assert!(passed >= expected.good && begun >= expected.frames);
        }
    }
}

/// A small generator with a known seed, so that a failure can be run again.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`, zero for a bound of zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound.max(1)
    }

    /// A format with markers, a gap and fields as it comes.
    pub fn format(&mut self) -> FrameFormat {
        let endian = if self.below(2) == 0 { Endian::Big } else { Endian::Little };
        let bytes = [1, 2, 4, 8][self.below(4)];
        let at = self.below(6) as u32;
        let spec = FormatSpec {
            id: "random".to_owned(),
            begin: (0..self.below(4)).map(|byte| 0x40 + byte as u8).collect(),
            end: (0..self.below(4)).map(|byte| 0x50 + byte as u8).collect(),
            header: vec![FieldSpec { name: "length".to_owned(), at, bytes, endian }],
            header_bytes: (self.below(2) == 0).then_some(at + bytes + self.below(5) as u32),
            roles: RolesSpec { length: "length".to_owned(), ..RolesSpec::default() },
            length_includes: [LengthIncludes::Body, LengthIncludes::Header, LengthIncludes::Frame]
                [self.below(3)],
            body_max: self.below(200) as u32,
        };
        FrameFormat::new(&spec).expect("every format made here is valid")
    }

    /// A few good frames of `format`, the last perhaps cut.
    pub fn stream(&mut self, format: &FrameFormat) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..self.below(6) {
            let length = self.below(format.body_max().min(100) + 1);
            let body: Vec<u8> = (0..length).map(|_| 0x40 + self.below(32) as u8).collect();
            // A length field of one byte may not hold it: then there is no frame.
            let _ = format.encode(&mut out, &[], &body);
        }
        if self.below(3) == 0 {
            out.truncate(self.below(out.len() + 1));
        }
        out
    }

    /// `stream` cut at random places, empty pieces among them.
    pub fn split<'a>(&mut self, mut stream: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !stream.is_empty() {
            let longest = if self.below(2) == 0 { 3 } else { 80 };
            let (piece, rest) = stream.split_at(self.below(longest).min(stream.len()));
            pieces.push(piece);
            stream = rest;
        }
        pieces
    }
}
