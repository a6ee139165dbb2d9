//! `multipart/form-data`.
//!
//! Forms are read by many programs in many ways, and what one takes for text
//! another takes for a part. So besides reading, this notes everything that is
//! not as it should be; rule sets deny on that.

/// What was found.
#[derive(Debug, Default)]
pub struct Multipart {
    /// The parts, in order.
    pub parts: Vec<Part>,
    /// What is not as it should be.
    pub flags: Flags,
    /// Why it could not be read.
    pub error: Option<&'static str>,
}

/// One part.
#[derive(Debug, Default)]
pub struct Part {
    /// Of the form field.
    pub name: Vec<u8>,
    /// Of a file.
    pub filename: Option<Vec<u8>>,
    /// Header lines as they came.
    pub headers: Vec<Vec<u8>>,
    /// The content.
    pub content: Vec<u8>,
}

/// Deviations, each by the name of its variable.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct Flags {
    pub boundary_quoted: bool,
    pub boundary_whitespace: bool,
    pub data_before: bool,
    pub data_after: bool,
    pub header_folding: bool,
    pub invalid_header_folding: bool,
    pub invalid_quoting: bool,
    pub invalid_part: bool,
    pub lf_line: bool,
    pub crlf_lf_lines: bool,
    pub missing_semicolon: bool,
    pub unmatched_boundary: bool,
}

impl Flags {
    /// Whether anything is so far off that two programs may read two things.
    pub fn strict_error(&self) -> bool {
        let Flags { lf_line, crlf_lf_lines, .. } = *self;
        self.boundary_quoted
            || self.boundary_whitespace
            || self.data_before
            || self.data_after
            || self.header_folding
            || self.invalid_header_folding
            || self.invalid_quoting
            || self.invalid_part
            || self.missing_semicolon
            || lf_line
            || crlf_lf_lines
    }
}

/// The most parts that are read.
const PARTS_MAX: usize = 10_000;

/// Reads a body with the `content-type` it came with.
pub fn read(content_type: &[u8], body: &[u8]) -> Multipart {
    let mut form = Multipart::default();
    let Some(boundary) = boundary(content_type, &mut form.flags) else {
        form.error = Some("there is no boundary");
        return form;
    };
    if boundary.is_empty() || boundary.len() > 200 {
        form.error = Some("the boundary is empty or too long");
        return form;
    }
    if let Err(error) = parts(body, &boundary, &mut form) {
        form.error = Some(error);
    }
    form
}

fn boundary(content_type: &[u8], flags: &mut Flags) -> Option<Vec<u8>> {
    let lower = content_type.to_ascii_lowercase();
    let start = lower.windows(8).position(|window| window == b"boundary")?;
    let before = content_type[..start].trim_ascii_end();
    if !matches!(before.last(), Some(b';' | b',')) {
        flags.missing_semicolon = true;
    }
    let after = &content_type[start + 8..];
    let equals = after.iter().position(|&byte| byte == b'=')?;
    if !after[..equals].trim_ascii().is_empty() {
        return None;
    }
    let value = &after[equals + 1..];
    if equals > 0 || value.first().is_some_and(u8::is_ascii_whitespace) {
        flags.boundary_whitespace = true;
    }
    let value = value.trim_ascii();
    if let Some(quoted) = value.strip_prefix(b"\"") {
        flags.boundary_quoted = true;
        let end = quoted.iter().position(|&byte| byte == b'"')?;
        return Some(quoted[..end].to_vec());
    }
    let end = value.iter().position(|byte| matches!(byte, b';' | b',')).unwrap_or(value.len());
    let value = value[..end].trim_ascii_end();
    if value.iter().any(u8::is_ascii_whitespace) {
        flags.boundary_whitespace = true;
    }
    Some(value.to_vec())
}

/// Where the reader is.
enum State {
    Before,
    Headers(Part),
    Content(Part),
    After,
}

fn parts(body: &[u8], boundary: &[u8], form: &mut Multipart) -> Result<(), &'static str> {
    let mut state = State::Before;
    let mut saw_crlf = false;
    let mut finished = false;
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        let (text, ending) = split_ending(line);
        match ending.len() {
            1 if matches!(state, State::Headers(_)) || is_delimiter(text, boundary).is_some() => {
                form.flags.lf_line = true;
                form.flags.crlf_lf_lines |= saw_crlf;
            }
            2 => saw_crlf = true,
            _ => {}
        }
        if let Some(last) = is_delimiter(text, boundary) {
            if let State::Content(part) = std::mem::replace(&mut state, State::After) {
                close(part, form);
            } else if let State::Headers(_) = state {
                form.flags.invalid_part = true;
            }
            finished |= last;
            if !last {
                if form.parts.len() >= PARTS_MAX {
                    return Err("there are too many parts");
                }
                state = State::Headers(Part::default());
            }
            continue;
        }
        if text.starts_with(b"--") && text.get(2..).is_some_and(|rest| looks_like(rest, boundary)) {
            form.flags.unmatched_boundary = true;
        }
        state = match state {
            State::Before => {
                form.flags.data_before |= !text.is_empty();
                State::Before
            }
            State::After => {
                form.flags.data_after |= !text.is_empty();
                State::After
            }
            State::Headers(mut part) => {
                if text.is_empty() {
                    describe(&mut part, &mut form.flags);
                    State::Content(part)
                } else {
                    header_line(&mut part, text, &mut form.flags);
                    State::Headers(part)
                }
            }
            State::Content(mut part) => {
                part.content.extend_from_slice(line);
                State::Content(part)
            }
        };
    }
    match state {
        State::Content(part) => {
            close(part, form);
            Err("the last part does not end")
        }
        State::Headers(_) => {
            form.flags.invalid_part = true;
            Err("a part's headers do not end")
        }
        State::Before => Err("there is no part"),
        State::After if !finished => Err("the last boundary is missing"),
        State::After => Ok(()),
    }
}

fn split_ending(line: &[u8]) -> (&[u8], &[u8]) {
    let end = if line.ends_with(b"\r\n") { 2 } else { usize::from(line.ends_with(b"\n")) };
    line.split_at(line.len() - end)
}

/// Whether a line parts parts, and whether it is the last to do so.
fn is_delimiter(text: &[u8], boundary: &[u8]) -> Option<bool> {
    let rest = text.strip_prefix(b"--")?.strip_prefix(boundary)?;
    match rest.trim_ascii_end() {
        b"" => Some(false),
        b"--" => Some(true),
        _ => None,
    }
}

/// Whether another program might take this line for the boundary.
fn looks_like(rest: &[u8], boundary: &[u8]) -> bool {
    rest.starts_with(boundary)
        || (!rest.is_empty() && boundary.starts_with(rest.trim_ascii_end()) && rest.len() >= 4)
}

fn header_line(part: &mut Part, text: &[u8], flags: &mut Flags) {
    if matches!(text[0], b' ' | b'\t') {
        flags.header_folding = true;
        if text[0] == b'\t' || text.len() > 1 && text[1..].trim_ascii().is_empty() {
            flags.invalid_header_folding = true;
        }
        if let Some(last) = part.headers.last_mut() {
            last.push(b' ');
            last.extend_from_slice(text.trim_ascii());
            return;
        }
    }
    if !text.contains(&b':') {
        flags.invalid_part = true;
    }
    part.headers.push(text.to_vec());
}

/// Reads name and file name from the part's headers.
fn describe(part: &mut Part, flags: &mut Flags) {
    let mut found = false;
    for header in &part.headers {
        let Some(colon) = header.iter().position(|&byte| byte == b':') else { continue };
        if !header[..colon].trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            continue;
        }
        if std::mem::replace(&mut found, true) {
            flags.invalid_part = true;
        }
        let value = header[colon + 1..].trim_ascii();
        let end = value.iter().position(|&byte| byte == b';').unwrap_or(value.len());
        if !value[..end].trim_ascii().eq_ignore_ascii_case(b"form-data") {
            flags.invalid_part = true;
        }
        let mut rest = &value[end..];
        while let Some((name, content, after)) = parameter(rest, flags) {
            match name.as_slice() {
                b"name" => part.name = content,
                b"filename" | b"filename*" => part.filename = Some(content),
                _ => {}
            }
            rest = after;
        }
    }
    if !found {
        flags.invalid_part = true;
    }
}

/// Reads `; name="value"`.
fn parameter<'a>(text: &'a [u8], flags: &mut Flags) -> Option<(Vec<u8>, Vec<u8>, &'a [u8])> {
    let text = text.trim_ascii_start();
    if text.is_empty() {
        return None;
    }
    let text = match text.strip_prefix(b";") {
        Some(rest) => rest.trim_ascii_start(),
        None => {
            flags.missing_semicolon = true;
            text
        }
    };
    let equals = text.iter().position(|&byte| byte == b'=')?;
    let name = text[..equals].trim_ascii().to_ascii_lowercase();
    let value = text[equals + 1..].trim_ascii_start();
    if let Some(quote @ (b'"' | b'\'')) = value.first().copied() {
        if quote == b'\'' {
            flags.invalid_quoting = true;
        }
        let mut content = Vec::new();
        let mut at = 1;
        while at < value.len() {
            match value[at] {
                byte if byte == quote => return Some((name, content, &value[at + 1..])),
                b'\\' if matches!(value.get(at + 1), Some(b'"' | b'\\')) => {
                    content.push(value[at + 1]);
                    at += 2;
                }
                byte => {
                    content.push(byte);
                    at += 1;
                }
            }
        }
        flags.invalid_quoting = true;
        return Some((name, content, &[]));
    }
    let end = value.iter().position(|&byte| byte == b';').unwrap_or(value.len());
    let content = value[..end].trim_ascii_end();
    if content.iter().any(|byte| matches!(byte, b'"' | b'\'')) {
        flags.invalid_quoting = true;
    }
    Some((name, content.to_vec(), &value[end..]))
}

fn close(mut part: Part, form: &mut Multipart) {
    // The line ending before a boundary belongs to the boundary.
    if part.content.ends_with(b"\n") {
        part.content.pop();
        if part.content.ends_with(b"\r") {
            part.content.pop();
        }
    }
    form.parts.push(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &[u8] = b"multipart/form-data; boundary=XyZ";

    #[test]
    fn fields_and_files_are_read() {
        let body = b"--XyZ\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\ntwo\r\n--XyZ\r\n\
            content-disposition: form-data; name=\"f\"; filename=\"x.php\"\r\nContent-Type: text/plain\r\n\r\n<?php\r\n--XyZ--\r\n";
        let form = read(TYPE, body);
        assert_eq!(form.error, None);
        assert_eq!(form.flags, Flags::default());
        assert_eq!(form.parts.len(), 2);
        assert_eq!(
            (form.parts[0].name.as_slice(), form.parts[0].content.as_slice()),
            (&b"a"[..], &b"one\r\ntwo"[..])
        );
        assert_eq!(form.parts[1].filename.as_deref(), Some(&b"x.php"[..]));
        assert_eq!(form.parts[1].headers.len(), 2);
    }

    #[test]
    fn deviations_are_noted() {
        type Check = fn(&Flags) -> bool;
        let good = "--XyZ\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--XyZ--\r\n";
        let cases: [(String, Check); 7] = [
            (format!("junk\r\n{good}"), |flags| flags.data_before),
            (format!("{good}more\r\n"), |flags| flags.data_after),
            (good.replace("\r\n", "\n"), |flags| flags.lf_line),
            (good.replace("\"a\"", "'a'"), |flags| flags.invalid_quoting),
            (good.replace("form-data; n", "form-data n"), |flags| {
                flags.invalid_part || flags.missing_semicolon
            }),
            (good.replace("form-data;", "form-data;\r\n"), |flags| flags.header_folding),
            (good.replace("1\r\n", "--XyZq\r\n"), |flags| flags.unmatched_boundary),
        ];
        for (body, check) in cases {
            let form = read(TYPE, body.as_bytes());
            assert!(check(&form.flags), "{body}: {:?}", form.flags);
        }
        assert!(read(b"multipart/form-data; boundary=\"XyZ\"", good.as_bytes()).flags.boundary_quoted);
        assert!(read(b"multipart/form-data", good.as_bytes()).error.is_some());
        assert!(read(TYPE, &good.as_bytes()[..good.len() - 9]).error.is_some());
    }
}
