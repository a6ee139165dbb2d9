//! JSON's own grammar (RFC 8259), read strictly.

use super::ToWire;
use crate::fault::{Checked, fault};
use crate::text::{plain_length, unescape};

/// A string in the text.
#[derive(Clone, Copy)]
pub(crate) enum Text<'j> {
    /// As it stands there.
    Plain(&'j [u8]),
    /// It is in `scratch`.
    Escaped,
}

impl<'j> ToWire<'_, 'j, '_> {
    #[inline]
    pub(crate) fn peek(&self) -> u8 {
        // NUL is no part of any token, so it stands for the end as well.
        self.input.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    pub(crate) fn skip_space(&mut self) {
        while let b' ' | b'\n' | b'\r' | b'\t' = self.peek() {
            self.at += 1;
        }
    }

    /// A mark such as `:` after space.
    #[inline]
    pub(crate) fn expect(&mut self, mark: u8, wanted: &str) -> Checked {
        self.skip_space();
        if self.peek() != mark {
            return self.unexpected(wanted);
        }
        self.at += 1;
        Ok(())
    }

    /// Begins an object or list. Says whether it is empty, and then over.
    #[inline]
    pub(crate) fn begin(&mut self, open: u8, close: u8, wanted: &str) -> Checked<bool> {
        if self.peek() != open {
            return self.unexpected(wanted);
        }
        self.at += 1;
        self.skip_space();
        if self.peek() == close {
            self.at += 1;
            return Ok(true);
        }
        Ok(false)
    }

    /// After an element: whether another comes. Stands at its first byte then.
    #[inline]
    pub(crate) fn another(&mut self, close: u8) -> Checked<bool> {
        self.skip_space();
        match self.peek() {
            b',' => {
                self.at += 1;
                self.skip_space();
                Ok(true)
            }
            mark if mark == close => {
                self.at += 1;
                Ok(false)
            }
            _ => self.unexpected(if close == b'}' { "',' or '}'" } else { "',' or ']'" }),
        }
    }

    /// A string. What has escapes is in `scratch` afterwards.
    #[inline]
    pub(crate) fn text(&mut self, wanted: &str) -> Checked<Text<'j>> {
        if self.peek() != b'"' {
            return self.unexpected(wanted);
        }
        let rest = &self.input[self.at + 1..];
        let plain = plain_length(rest);
        if rest.get(plain) == Some(&b'"') {
            self.at += plain + 2;
            return Ok(Text::Plain(&rest[..plain]));
        }
        self.scratch.clear();
        self.at += 1 + unescape(rest, &mut self.scratch)?;
        Ok(Text::Escaped)
    }

    #[inline]
    pub(crate) fn bytes<'a>(&'a self, text: Text<'a>) -> &'a [u8] {
        match text {
            Text::Plain(bytes) => bytes,
            Text::Escaped => &self.scratch,
        }
    }

    /// A key of an object and its colon; stands at the value then.
    #[inline]
    pub(crate) fn key(&mut self) -> Checked<Text<'j>> {
        let key = self.text("a field's name in quotes")?;
        if self.peek() == b':' {
            self.at += 1;
        } else {
            self.expect(b':', "':'")?;
        }
        self.skip_space();
        Ok(key)
    }

    pub(crate) fn word(&mut self, word: &str) -> Checked {
        if !self.input[self.at..].starts_with(word.as_bytes()) {
            return self.unexpected("a value");
        }
        self.at += word.len();
        Ok(())
    }

    /// A number as it stands, checked to be one.
    pub(crate) fn number(&mut self) -> Checked<&'j [u8]> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        let whole = self.digits();
        if whole == 0 {
            return self.unexpected("a number");
        }
        if whole > 1 && self.input[self.at - whole] == b'0' {
            return fault("a number with a leading zero");
        }
        if self.peek() == b'.' {
            self.at += 1;
            if self.digits() == 0 {
                return self.unexpected("a digit");
            }
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            if self.digits() == 0 {
                return self.unexpected("a digit");
            }
        }
        Ok(&self.input[start..self.at])
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        self.at - start
    }

    /// Reads the value of a field and leaves it out. It has to be JSON all the
    /// same. Of `depth` levels of messages each may have a list or map around it.
    pub(crate) fn skip(&mut self, depth: usize) -> Checked {
        self.skip_levels(depth * 2 + 2)
    }

    fn skip_levels(&mut self, depth: usize) -> Checked {
        if depth == 0 {
            return self.too_deep();
        }
        match self.peek() {
            b'"' => self.text("a string").map(|_| ()),
            b'{' => {
                if self.begin(b'{', b'}', "an object")? {
                    return Ok(());
                }
                loop {
                    self.key()?;
                    self.skip_levels(depth - 1)?;
                    if !self.another(b'}')? {
                        return Ok(());
                    }
                }
            }
            b'[' => {
                if self.begin(b'[', b']', "a list")? {
                    return Ok(());
                }
                loop {
                    self.skip_levels(depth - 1)?;
                    if !self.another(b']')? {
                        return Ok(());
                    }
                }
            }
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            b'-' | b'0'..=b'9' => self.number().map(|_| ()),
            _ => self.unexpected("a value"),
        }
    }
}
