//! Where a chunked body's chunks, and the body, end.
//!
//! The decoder is asked what the next bytes are and told nothing else: it holds
//! a few numbers, never bytes. Sizes are hex digits and nothing more, line ends
//! are CR LF, extensions are bounded and dropped, trailers bounded and filtered.
//! What leaves the gateway is encoded anew, so a laxer reader behind it never
//! sees what a stricter one in front let pass.

use crate::message::{Fields, Name};

use super::grammar;

/// Bytes of chunk extensions a whole body may carry.
const EXTENSION_BYTES_MAX: u32 = 8 << 10;
/// Bytes of a trailer section.
const TRAILER_BYTES_MAX: usize = 8 << 10;
/// Fields of a trailer section.
const TRAILER_FIELDS_MAX: usize = 64;
/// Hex digits of a chunk size: 64 bits, leading zeros counted.
const SIZE_DIGITS_MAX: u8 = 16;

/// What the next bytes of the input are.
#[derive(Debug)]
pub enum Step {
    /// Framing, done with: drop so many bytes (possibly none) and read more.
    More(usize),
    /// After `skip` bytes of framing come `data` bytes of the body, at least
    /// one. Report them with [`Decoder::consumed`] as they are used up.
    Data {
        /// Bytes of framing before the data.
        skip: usize,
        /// Bytes of the body that are in the input.
        data: usize,
    },
    /// The body ended with the first so many bytes of the input.
    End(usize, Option<Fields>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { digits: u8 },
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    Trailers,
    End,
}

/// The state between two reads: 16 bytes.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    extension_bytes: u32,
    /// Of the current chunk: the size while it is read, then the bytes to come.
    left: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size { digits: 0 }, extension_bytes: 0, left: 0 }
    }
}

impl Decoder {
    /// Whether the body has ended.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.state == State::End
    }

    /// Bytes of the current chunk were used up.
    pub fn consumed(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count as u64);
        if self.left == 0 && self.state == State::Data {
            self.state = State::DataReturn;
        }
    }

    /// What `input`, which begins where the last step left off, holds.
    ///
    /// # Errors
    /// A reason code; the message is broken from then on.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, &'static str> {
        let mut at = 0;
        while at < input.len() {
            let byte = input[at];
            match self.state {
                State::Size { digits } => self.size_byte(byte, digits)?,
                State::Extension => self.extension_byte(byte)?,
                State::SizeLineFeed => self.size_line_end(byte)?,
                State::Data => {
                    let data = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - at);
                    return Ok(Step::Data { skip: at, data });
                }
                State::DataReturn => self.expect(byte, b'\r', State::DataLineFeed)?,
                State::DataLineFeed => self.expect(byte, b'\n', State::Size { digits: 0 })?,
                State::Trailers => return self.trailers(at, &input[at..]),
                State::End => return Ok(Step::End(at, None)),
            }
            at += 1;
        }
        Ok(if self.state == State::End { Step::End(at, None) } else { Step::More(at) })
    }

    fn size_byte(&mut self, byte: u8, digits: u8) -> Result<(), &'static str> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b';' if digits > 0 => {
                self.state = State::Extension;
                return Ok(());
            }
            b'\r' if digits > 0 => {
                self.state = State::SizeLineFeed;
                return Ok(());
            }
            _ => return Err("bad_chunk_size"),
        };
        if digits == SIZE_DIGITS_MAX {
            return Err("chunk_size_overflow");
        }
        // The first digit of a size starts it afresh: `left` is zero between chunks.
        self.left = self.left << 4 | u64::from(digit);
        self.state = State::Size { digits: digits + 1 };
        Ok(())
    }

    fn extension_byte(&mut self, byte: u8) -> Result<(), &'static str> {
        match byte {
            b'\r' => self.state = State::SizeLineFeed,
            b'\t' | b' '..=0x7e | 0x80.. => {
                self.extension_bytes += 1;
                if self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err("chunk_extensions_too_large");
                }
            }
            _ => return Err("bad_chunk_extension"),
        }
        Ok(())
    }

    fn size_line_end(&mut self, byte: u8) -> Result<(), &'static str> {
        let next = if self.left == 0 { State::Trailers } else { State::Data };
        // A size near 2^64 is no body anyone sends; it overflows sums elsewhere.
        if self.left > i64::MAX as u64 {
            return Err("chunk_size_overflow");
        }
        self.expect(byte, b'\n', next)
    }

    fn expect(&mut self, byte: u8, wanted: u8, next: State) -> Result<(), &'static str> {
        if byte != wanted {
            return Err("bad_chunk_end");
        }
        self.state = next;
        Ok(())
    }

    /// Trailers are read in one piece, once their end is in the input.
    fn trailers(&mut self, at: usize, input: &[u8]) -> Result<Step, &'static str> {
        if input.starts_with(b"\r\n") {
            self.state = State::End;
            return Ok(Step::End(at + 2, None));
        }
        let window = &input[..input.len().min(TRAILER_BYTES_MAX)];
        let Some(end) = memchr::memmem::find(window, b"\r\n\r\n") else {
            if input.len() >= TRAILER_BYTES_MAX {
                return Err("trailers_too_large");
            }
            let bare = memchr::memchr_iter(b'\n', input).any(|at| at == 0 || input[at - 1] != b'\r');
            return if bare { Err("bad_line_end") } else { Ok(Step::More(at)) };
        };
        let section = &input[..end + 4];
        self.state = State::End;
        Ok(Step::End(at + section.len(), parse_trailers(section)?))
    }
}

fn parse_trailers(section: &[u8]) -> Result<Option<Fields>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
    let (length, headers) = match httparse::parse_headers(section, &mut headers) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) => return Err("bad_trailers"),
        Err(httparse::Error::TooManyHeaders) => return Err("too_many_trailers"),
        Err(_) => return Err("bad_trailers"),
    };
    // A shorter section than the bytes up to the empty line means that a bare
    // line feed ended it early.
    if length != section.len() {
        return Err("bad_line_end");
    }
    let mut fields = Fields::default();
    for header in headers {
        let name = header.name.as_bytes();
        let start = grammar::offset(section, name).start as usize;
        if start >= 2 && &section[start - 2..start] != b"\r\n" {
            return Err("bad_line_end");
        }
        if may_trail(name) {
            fields.append(name, grammar::trim(header.value));
        }
    }
    Ok((!fields.is_empty()).then_some(fields))
}

/// Whether a field may stand in a trailer: never one that frames, routes,
/// authenticates or describes the content (RFC 9110 §6.5.1).
#[must_use]
pub fn may_trail(name: &[u8]) -> bool {
    let known = Name::of(name);
    let described = name.len() > 8 && name[..8].eq_ignore_ascii_case(b"content-");
    let others: [&[u8]; 12] = [
        b"cache-control",
        b"max-forwards",
        b"set-cookie",
        b"www-authenticate",
        b"age",
        b"expires",
        b"range",
        b"if-match",
        b"if-none-match",
        b"pragma",
        b"vary",
        b"retry-after",
    ];
    !described
        && !others.iter().any(|other| name.eq_ignore_ascii_case(other))
        && matches!(known, Name::Other | Name::Server | Name::Accept | Name::Referer | Name::UserAgent)
}
