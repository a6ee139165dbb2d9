//! JSON, as arguments: `{"a": {"b": [1]}}` is `json.a.b.array_0` = `1`.
//!
//! Reads without recursion, keeps every value of a repeated key, and takes
//! numbers as they are written.

use super::Sink;
use crate::text::decode::hex_digit;

/// How deep values may be nested.
const DEPTH_MAX: usize = 128;

/// Hands on names and values. The error says what is wrong and where; what
/// came before it was handed on.
pub fn read(text: &[u8], sink: &mut Sink<'_>) -> Result<(), String> {
    let mut reader = Reader { text, at: 0, path: b"json".to_vec(), open: Vec::new(), value: Vec::new() };
    reader.document(sink).map_err(|what| format!("{what} at byte {}", reader.at))
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    path: Vec<u8>,
    open: Vec<Open>,
    value: Vec<u8>,
}

/// An object or array that is not closed yet.
struct Open {
    /// The next index of an array; none of an object.
    index: Option<usize>,
    /// How long the path was before it.
    path: usize,
}

enum Next {
    Value,
    /// After a value: a comma or the end of what is open.
    End,
    Done,
    /// The sink is full.
    Full,
}

impl Reader<'_> {
    fn document(&mut self, sink: &mut Sink<'_>) -> Result<(), &'static str> {
        let mut next = Next::Value;
        loop {
            next = match next {
                Next::Value => self.value(sink)?,
                Next::End => self.end()?,
                Next::Full => return Ok(()),
                Next::Done => {
                    self.space();
                    return if self.at == self.text.len() { Ok(()) } else { Err("text after the value") };
                }
            };
        }
    }

    fn space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, sink: &mut Sink<'_>) -> Result<Next, &'static str> {
        self.space();
        let Some(&first) = self.text.get(self.at) else { return Err("the text ends where a value belongs") };
        match first {
            b'{' | b'[' => return self.enter(first),
            b'"' => {
                self.value.clear();
                let mut value = std::mem::take(&mut self.value);
                self.string(&mut value)?;
                self.value = value;
            }
            _ => self.bare()?,
        }
        let more = sink(&self.path, &self.value);
        Ok(if more { self.after_value() } else { Next::Full })
    }

    fn after_value(&self) -> Next {
        if self.open.is_empty() { Next::Done } else { Next::End }
    }

    fn enter(&mut self, bracket: u8) -> Result<Next, &'static str> {
        if self.open.len() == DEPTH_MAX {
            return Err("values are nested too deep");
        }
        self.at += 1;
        let array = bracket == b'[';
        self.open.push(Open { index: array.then_some(0), path: self.path.len() });
        self.space();
        let close = if array { b']' } else { b'}' };
        if self.text.get(self.at) == Some(&close) {
            self.at += 1;
            return Ok(self.leave());
        }
        self.item()?;
        Ok(Next::Value)
    }

    fn leave(&mut self) -> Next {
        if let Some(open) = self.open.pop() {
            self.path.truncate(open.path);
        }
        self.after_value()
    }

    /// Writes the path of the next item of what is open.
    fn item(&mut self) -> Result<(), &'static str> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        self.path.truncate(open.path);
        if let Some(index) = &mut open.index {
            self.path.extend_from_slice(format!(".array_{index}").as_bytes());
            *index += 1;
            return Ok(());
        }
        self.space();
        if self.text.get(self.at) != Some(&b'"') {
            return Err("a name belongs here");
        }
        self.path.push(b'.');
        let mut path = std::mem::take(&mut self.path);
        let read = self.string(&mut path);
        self.path = path;
        read?;
        self.space();
        if self.text.get(self.at) != Some(&b':') {
            return Err("a colon belongs here");
        }
        self.at += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<Next, &'static str> {
        self.space();
        let is_array = self.open.last().is_some_and(|open| open.index.is_some());
        match self.text.get(self.at) {
            Some(b',') => {
                self.at += 1;
                self.item()?;
                Ok(Next::Value)
            }
            Some(b']') if is_array => {
                self.at += 1;
                Ok(self.leave())
            }
            Some(b'}') if !is_array => {
                self.at += 1;
                Ok(self.leave())
            }
            _ => Err("a comma or bracket belongs here"),
        }
    }

    /// A number, `true`, `false` or `null`, which is empty.
    fn bare(&mut self) -> Result<(), &'static str> {
        let rest = &self.text[self.at..];
        let length =
            rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        let word = &rest[..length];
        let is_number = matches!(word.first(), Some(b'-' | b'0'..=b'9'))
            && word.iter().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte));
        if !is_number && !matches!(word, b"true" | b"false" | b"null") {
            return Err("this is no value");
        }
        self.value.clear();
        if word != b"null" {
            self.value.extend_from_slice(word);
        }
        self.at += length;
        Ok(())
    }

    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        self.at += 1;
        loop {
            let rest = &self.text[self.at..];
            let plain =
                rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).ok_or("a string does not end")?;
            out.extend_from_slice(&rest[..plain]);
            self.at += plain + 1;
            if rest[plain] == b'"' {
                return Ok(());
            }
            let escape = *self.text.get(self.at).ok_or("a string does not end")?;
            self.at += 1;
            match escape {
                b'"' | b'\\' | b'/' => out.push(escape),
                b'b' => out.push(8),
                b'f' => out.push(12),
                b'n' => out.push(b'\n'),
                b'r' => out.push(b'\r'),
                b't' => out.push(b'\t'),
                b'u' => self.unicode(out)?,
                _ => return Err("no escape of this name is known"),
            }
        }
    }

    fn unicode(&mut self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let mut code = self.four_digits()?;
        if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            let low = self.four_digits()?;
            if (0xdc00..0xe000).contains(&low) {
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            } else {
                self.at = before;
            }
        }
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn four_digits(&mut self) -> Result<u32, &'static str> {
        let digits = self.text.get(self.at..self.at + 4).ok_or("an escape does not end")?;
        let code =
            digits.iter().try_fold(0u32, |code, &digit| Some(code << 4 | u32::from(hex_digit(digit)?)));
        self.at += 4;
        code.ok_or("an escape has a digit that is none")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> (Vec<(String, String)>, Option<String>) {
        let mut found = Vec::new();
        let result = read(text.as_bytes(), &mut |name, value| {
            found.push((
                String::from_utf8_lossy(name).into_owned(),
                String::from_utf8_lossy(value).into_owned(),
            ));
            true
        });
        (found, result.err())
    }

    #[test]
    fn values_have_the_names_of_their_places() {
        let text = r#" {"a":{"b":"x\u0041\n","b":2.50},"l":[1,{"k":null},[true]],"e":{},"f":[] } "#;
        let (found, error) = pairs(text);
        assert_eq!(error, None);
        let expected = [
            ("json.a.b", "xA\n"),
            ("json.a.b", "2.50"),
            ("json.l.array_0", "1"),
            ("json.l.array_1.k", ""),
            ("json.l.array_2.array_0", "true"),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(pairs("\"\\ud83d\\ude00\"").0[0].1, "\u{1f600}");
    }

    #[test]
    fn what_is_no_json_is_an_error_and_what_came_before_is_kept() {
        let deep = "[".repeat(200);
        for text in [
            "",
            "{",
            "[1",
            "{\"a\":1,}",
            "{a:1}",
            "[1] x",
            "\"a",
            "nul",
            "{\"a\":\"\\x\"}",
            "[1}",
            deep.as_str(),
        ] {
            assert!(pairs(text).1.is_some(), "{text}");
        }
        assert_eq!(pairs("{\"a\":\"kept\", oops").0.len(), 1);
    }
}
