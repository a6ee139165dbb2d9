//! The transformations of SecLang, byte for byte as ModSecurity does them.
//!
//! Each one reads a text and appends its result to a buffer. Whether one can
//! change a text at all is known from the bytes the text contains:
//! [`Transform::trigger`].

use md5::Digest;

use super::bytes::ByteSet;
use super::decode;

/// One transformation, as named after `t:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Transform {
    Base64Decode,
    Base64DecodeExt,
    Base64Encode,
    CmdLine,
    CompressWhitespace,
    CssDecode,
    EscapeSeqDecode,
    HexDecode,
    HexEncode,
    HtmlEntityDecode,
    JsDecode,
    Length,
    Lowercase,
    Md5,
    NormalizePath,
    NormalizePathWin,
    RemoveComments,
    RemoveCommentsChar,
    RemoveNulls,
    RemoveWhitespace,
    ReplaceComments,
    ReplaceNulls,
    Sha1,
    SqlHexDecode,
    Trim,
    TrimLeft,
    TrimRight,
    Uppercase,
    UrlDecode,
    UrlDecodeUni,
    UrlEncode,
    Utf8ToUnicode,
}

impl Transform {
    /// The transformation of this name, whatever its capitals.
    pub fn from_name(name: &str) -> Option<Transform> {
        use Transform::*;
        Some(match name.to_ascii_lowercase().as_str() {
            "base64decode" => Base64Decode,
            "base64decodeext" => Base64DecodeExt,
            "base64encode" => Base64Encode,
            "cmdline" => CmdLine,
            "compresswhitespace" => CompressWhitespace,
            "cssdecode" => CssDecode,
            "escapeseqdecode" => EscapeSeqDecode,
            "hexdecode" => HexDecode,
            "hexencode" => HexEncode,
            "htmlentitydecode" => HtmlEntityDecode,
            "jsdecode" => JsDecode,
            "length" => Length,
            "lowercase" => Lowercase,
            "md5" => Md5,
            "normalizepath" | "normalisepath" => NormalizePath,
            "normalizepathwin" | "normalisepathwin" => NormalizePathWin,
            "removecomments" => RemoveComments,
            "removecommentschar" => RemoveCommentsChar,
            "removenulls" => RemoveNulls,
            "removewhitespace" => RemoveWhitespace,
            "replacecomments" => ReplaceComments,
            "replacenulls" => ReplaceNulls,
            "sha1" => Sha1,
            "sqlhexdecode" => SqlHexDecode,
            "trim" => Trim,
            "trimleft" => TrimLeft,
            "trimright" => TrimRight,
            "uppercase" => Uppercase,
            "urldecode" => UrlDecode,
            "urldecodeuni" => UrlDecodeUni,
            "urlencode" => UrlEncode,
            "utf8tounicode" => Utf8ToUnicode,
            _ => return None,
        })
    }

    /// A text with none of these bytes comes through unchanged.
    pub fn trigger(self) -> ByteSet {
        use Transform::*;
        match self {
            Base64Decode | Base64DecodeExt | Base64Encode | HexDecode | HexEncode | Length | Md5 | Sha1 => {
                ByteSet::ALL
            }
            CmdLine => ByteSet::of(b"\"'\\^ ,;\t\r\n").with_range(b'A', b'Z'),
            CompressWhitespace | RemoveWhitespace | Trim | TrimLeft | TrimRight => {
                ByteSet::of(b" \t\n\x0b\x0c\r\xa0")
            }
            CssDecode | EscapeSeqDecode | JsDecode => ByteSet::of(b"\\"),
            HtmlEntityDecode => ByteSet::of(b"&"),
            Lowercase => ByteSet::EMPTY.with_range(b'A', b'Z'),
            NormalizePath => ByteSet::of(b"/."),
            NormalizePathWin => ByteSet::of(b"/.\\"),
            // Each mark of a comment has one of these in it.
            RemoveComments | RemoveCommentsChar => ByteSet::of(b"*-#"),
            RemoveNulls | ReplaceNulls => ByteSet::of(b"\0"),
            ReplaceComments => ByteSet::of(b"*"),
            SqlHexDecode => ByteSet::of(b"xX"),
            Uppercase => ByteSet::EMPTY.with_range(b'a', b'z'),
            UrlDecode | UrlDecodeUni => ByteSet::of(b"%+"),
            UrlEncode => ByteSet::ALL,
            Utf8ToUnicode => ByteSet::EMPTY.with_range(0x80, 0xff),
        }
    }

    /// Whether folding capitals before this transformation or after it comes
    /// to the same text but for its capitals.
    pub fn keeps_folding(self) -> bool {
        use Transform::*;
        matches!(
            self,
            CmdLine
                | CompressWhitespace
                | HtmlEntityDecode
                | Lowercase
                | NormalizePath
                | NormalizePathWin
                | RemoveCommentsChar
                | RemoveNulls
                | RemoveWhitespace
                | ReplaceComments
                | ReplaceNulls
                | Trim
                | TrimLeft
                | TrimRight
                | UrlDecode
                | UrlDecodeUni
        )
    }

    /// Appends the transformed text to `out`.
    pub fn apply(self, input: &[u8], out: &mut Vec<u8>) {
        use Transform::*;
        match self {
            Base64Decode => decode::base64(input, out, decode::Base64::Strict),
            Base64DecodeExt => decode::base64(input, out, decode::Base64::Forgiving),
            Base64Encode => decode::base64_encode(input, out),
            CmdLine => cmd_line(input, out),
            CompressWhitespace => compress_whitespace(input, out),
            CssDecode => decode::css(input, out),
            EscapeSeqDecode => decode::escape_sequences(input, out),
            HexDecode => decode::hex(input, out),
            HexEncode => hex_encode(input, out),
            HtmlEntityDecode => decode::html_entities(input, out),
            JsDecode => decode::javascript(input, out),
            Length => out.extend_from_slice(input.len().to_string().as_bytes()),
            Lowercase => out.extend(input.iter().map(u8::to_ascii_lowercase)),
            Md5 => out.extend_from_slice(&md5::Md5::digest(input)),
            NormalizePath => normalize_path(input, out, Separators::Slash),
            NormalizePathWin => normalize_path(input, out, Separators::SlashAndBackslash),
            RemoveComments => remove_comments(input, out),
            RemoveCommentsChar => remove_comment_marks(input, out),
            RemoveNulls => out.extend(input.iter().copied().filter(|&byte| byte != 0)),
            RemoveWhitespace => {
                out.extend(input.iter().copied().filter(|&byte| !is_space(byte) && byte != 0xa0))
            }
            ReplaceComments => replace_comments(input, out),
            ReplaceNulls => out.extend(input.iter().map(|&byte| if byte == 0 { b' ' } else { byte })),
            Sha1 => out.extend_from_slice(&sha1::Sha1::digest(input)),
            SqlHexDecode => decode::sql_hex(input, out),
            Trim => out.extend_from_slice(trim_start(trim_end(input))),
            TrimLeft => out.extend_from_slice(trim_start(input)),
            TrimRight => out.extend_from_slice(trim_end(input)),
            Uppercase => out.extend(input.iter().map(u8::to_ascii_uppercase)),
            UrlDecode => decode::url(input, out, decode::Url::Plain),
            UrlDecodeUni => decode::url(input, out, decode::Url::WithUnicode),
            UrlEncode => url_encode(input, out),
            Utf8ToUnicode => decode::utf8_to_unicode(input, out),
        }
    }
}

/// White space as C's `isspace` sees it.
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn trim_start(input: &[u8]) -> &[u8] {
    let start = input.iter().position(|&byte| !is_space(byte)).unwrap_or(input.len());
    &input[start..]
}

fn trim_end(input: &[u8]) -> &[u8] {
    let end = input.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1);
    &input[..end]
}

/// Undoes what shells and `cmd.exe` let people write in between.
fn cmd_line(input: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let mut after_space = false;
    for &byte in input {
        match byte {
            b'"' | b'\'' | b'\\' | b'^' => {}
            b' ' | b',' | b';' | b'\t' | b'\r' | b'\n' => {
                if !after_space {
                    out.push(b' ');
                    after_space = true;
                }
            }
            b'/' | b'(' => {
                if after_space && out.len() > start {
                    out.pop();
                }
                after_space = false;
                out.push(byte);
            }
            _ => {
                after_space = false;
                out.push(byte.to_ascii_lowercase());
            }
        }
    }
}

fn compress_whitespace(input: &[u8], out: &mut Vec<u8>) {
    let mut in_space = false;
    for &byte in input {
        if is_space(byte) || byte == 0xa0 {
            if !in_space {
                out.push(b' ');
            }
            in_space = true;
        } else {
            in_space = false;
            out.push(byte);
        }
    }
}

fn hex_encode(input: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for &byte in input {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn url_encode(input: &[u8], out: &mut Vec<u8>) {
    for &byte in input {
        match byte {
            b' ' => out.push(b'+'),
            b'*' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => out.push(byte),
            _ => {
                out.push(b'%');
                hex_encode(&[byte], out);
            }
        }
    }
}

fn replace_comments(input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        if input[at..].starts_with(b"/*") {
            out.push(b' ');
            at = find(input, at + 2, b"*/").map_or(input.len(), |end| end + 2);
        } else {
            out.push(input[at]);
            at += 1;
        }
    }
}

fn remove_comments(input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        let rest = &input[at..];
        if rest.starts_with(b"/*") {
            at = find(input, at + 2, b"*/").map_or(input.len(), |end| end + 2);
        } else if rest.starts_with(b"<!--") {
            at = find(input, at + 4, b"-->").map_or(input.len(), |end| end + 3);
        } else if rest.starts_with(b"--") || rest[0] == b'#' {
            return;
        } else {
            out.push(input[at]);
            at += 1;
        }
    }
}

fn remove_comment_marks(input: &[u8], out: &mut Vec<u8>) {
    const MARKS: [&[u8]; 6] = [b"<!--", b"-->", b"/*", b"*/", b"--", b"#"];
    let mut at = 0;
    while at < input.len() {
        match MARKS.iter().find(|mark| input[at..].starts_with(mark)) {
            Some(mark) => at += mark.len(),
            None => {
                out.push(input[at]);
                at += 1;
            }
        }
    }
}

fn find(input: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    let from = from.min(input.len());
    input[from..].windows(needle.len()).position(|window| window == needle).map(|at| from + at)
}

#[derive(Clone, Copy, PartialEq)]
enum Separators {
    Slash,
    SlashAndBackslash,
}

/// Takes out empty segments, `.` and what `..` leads back from.
fn normalize_path(input: &[u8], out: &mut Vec<u8>, separators: Separators) {
    let is_separator =
        |byte: u8| byte == b'/' || (byte == b'\\' && separators == Separators::SlashAndBackslash);
    let Some(&first) = input.first() else { return };
    let base = out.len();
    let absolute = is_separator(first);
    if absolute {
        out.push(b'/');
    }
    let root = out.len();
    // How many bytes of the result `..` must not lead back from: the leading
    // `../` of a relative path.
    let mut floor = root;
    let mut segments = input.split(|&byte| is_separator(byte)).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"" | b"." => {}
            b".." if out.len() > floor => {
                let kept = out[floor..out.len() - 1]
                    .iter()
                    .rposition(|&byte| byte == b'/')
                    .map_or(floor, |at| floor + at + 1);
                out.truncate(kept);
            }
            b".." if absolute => {}
            b".." => {
                out.extend_from_slice(if last { b".." } else { b"../" });
                floor = out.len();
            }
            _ => {
                out.extend_from_slice(segment);
                if !last {
                    out.push(b'/');
                }
            }
        }
    }
    debug_assert!(out.len() >= base, "the result never loses what stood before it");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Transform::from_name(name).unwrap().apply(input, &mut out);
        out
    }

    #[test]
    fn transformations_do_as_the_manual_says() {
        let cases: &[(&str, &[u8], &[u8])] = &[
            ("urlDecodeUni", b"a%20b+c%u0041%zz%u", b"a b cA%zz%u"),
            ("urlDecodeUni", b"%uff1cscript%uFF1e", b"<script>"),
            ("urlDecode", b"%3Cx%3e+%", b"<x> %"),
            ("htmlEntityDecode", b"&lt;&#x41;&#66&quot;&AMP;&nbsp;&foo;", b"<AB\"&\xa0&foo;"),
            ("jsDecode", b"\\u0061\\x62\\143\\n\\q", b"abc\nq"),
            ("cssDecode", b"j\\61 vascr\\000069pt\\x", b"javascriptx"),
            ("escapeSeqDecode", b"\\x41\\102\\n\\\\\\q", b"AB\n\\\\q"),
            ("cmdLine", b"C^o\"mm'a\\nd  /c ;, (X", b"command/c(x"),
            ("compressWhitespace", b"a \t\n b", b"a b"),
            ("removeWhitespace", b"a \t\nb\xa0", b"ab"),
            ("replaceComments", b"SEL/* x */ECT/*", b"SEL ECT "),
            ("removeCommentsChar", b"a/*b*/c--d#e", b"abcde"),
            ("normalizePath", b"/a/./b/../c//d/", b"/a/c/d/"),
            ("normalizePath", b"../../etc/./passwd", b"../../etc/passwd"),
            ("normalizePathWin", b"c:\\x\\..\\y", b"c:/y"),
            ("base64Decode", b"aGVsbG8=", b"hello"),
            ("base64DecodeExt", b"aG-VsbG8", b"hello"),
            ("hexEncode", b"\x00\xff", b"00ff"),
            ("hexDecode", b"414243", b"ABC"),
            ("sqlHexDecode", b"0x41424300 x", b"ABC\0 x"),
            ("utf8toUnicode", "a\u{e9}\u{20ac}".as_bytes(), b"a%u00e9%u20ac"),
            ("length", b"12345", b"5"),
            ("removeNulls", b"a\0b", b"ab"),
            ("trim", b" x ", b"x"),
        ];
        for (name, input, expected) in cases {
            let found = run(name, input);
            assert_eq!(
                &found,
                expected,
                "{name} of {:?} is {:?}",
                String::from_utf8_lossy(input),
                String::from_utf8_lossy(&found)
            );
        }
        assert_eq!(run("hexEncode", &run("sha1", b"")), b"da39a3ee5e6b4b0d3255bfef95601890afd80709");
    }

    #[test]
    fn a_text_without_the_trigger_bytes_is_unchanged() {
        let texts: &[&[u8]] =
            &[b"plain", b"two words", b"a/b.c", b"%41+\\x41&lt;", b"\xc3\xa9", b"x--y#", b"CAPS", b""];
        for transform in (0..=31).map(|number: u8| ALL[usize::from(number)]) {
            for text in texts {
                let present = ByteSet::present_in(text);
                let mut out = Vec::new();
                transform.apply(text, &mut out);
                assert!(
                    &out == text || present.intersects(&transform.trigger()) || text.is_empty(),
                    "{transform:?} changed {text:?}"
                );
            }
        }
    }

    const ALL: [Transform; 32] = {
        use Transform::*;
        [
            Base64Decode,
            Base64DecodeExt,
            Base64Encode,
            CmdLine,
            CompressWhitespace,
            CssDecode,
            EscapeSeqDecode,
            HexDecode,
            HexEncode,
            HtmlEntityDecode,
            JsDecode,
            Length,
            Lowercase,
            Md5,
            NormalizePath,
            NormalizePathWin,
            RemoveComments,
            RemoveCommentsChar,
            RemoveNulls,
            RemoveWhitespace,
            ReplaceComments,
            ReplaceNulls,
            Sha1,
            SqlHexDecode,
            Trim,
            TrimLeft,
            TrimRight,
            Uppercase,
            UrlDecode,
            UrlDecodeUni,
            UrlEncode,
            Utf8ToUnicode,
        ]
    };
}
