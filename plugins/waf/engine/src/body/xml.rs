//! XML: the text of the root element in one piece, and each attribute's value.
//!
//! Reads what a parser without schemas reads and never follows an entity the
//! document defines.

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub struct Xml {
    /// All text within the root element.
    pub text: Vec<u8>,
    /// The values of attributes.
    pub attributes: Vec<Vec<u8>>,
    /// What is wrong with the document.
    pub error: Option<&'static str>,
}

/// Reads a document. With an error, what came before it is there.
pub fn read(document: &[u8]) -> Xml {
    let mut xml = Xml::default();
    if let Err(error) = walk(document, &mut xml) {
        xml.error = Some(error);
    }
    xml
}

fn walk(document: &[u8], xml: &mut Xml) -> Result<(), &'static str> {
    let mut open: Vec<&[u8]> = Vec::new();
    let mut seen_root = false;
    let mut at = 0;
    while at < document.len() {
        let rest = &document[at..];
        let Some(start) = rest.iter().position(|&byte| byte == b'<') else {
            text(rest, !open.is_empty(), xml)?;
            break;
        };
        text(&rest[..start], !open.is_empty(), xml)?;
        let tag = &rest[start..];
        at += start;
        if tag.starts_with(b"<!--") {
            at += until(tag, b"-->")?;
        } else if tag.starts_with(b"<![CDATA[") {
            let end = until(tag, b"]]>")?;
            xml.text.extend_from_slice(&tag[9..end - 3]);
            at += end;
        } else if tag.starts_with(b"<?") {
            at += until(tag, b"?>")?;
        } else if tag.starts_with(b"<!") {
            at += declaration(tag)?;
        } else if tag.starts_with(b"</") {
            let end = until(tag, b">")?;
            let name = tag[2..end - 1].trim_ascii_end();
            if open.pop() != Some(name) {
                return Err("an end tag does not fit its start tag");
            }
            at += end;
        } else {
            if open.is_empty() && seen_root {
                return Err("there is more than one root element");
            }
            seen_root = true;
            let (name, empty, length) = start_tag(tag, xml)?;
            if !empty {
                open.push(name);
            }
            at += length;
        }
    }
    match (open.is_empty(), seen_root) {
        (false, _) => Err("an element does not end"),
        (_, false) => Err("there is no root element"),
        _ => Ok(()),
    }
}

/// The length of what ends in `end`, with it.
fn until(text: &[u8], end: &[u8]) -> Result<usize, &'static str> {
    let at = text.windows(end.len()).position(|window| window == end).ok_or("a tag does not end")?;
    Ok(at + end.len())
}

/// The length of `<!DOCTYPE …>` with what stands in its brackets.
fn declaration(tag: &[u8]) -> Result<usize, &'static str> {
    let (mut brackets, mut quote) = (0usize, None);
    for (at, &byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'[') => brackets += 1,
            (None, b']') => brackets = brackets.saturating_sub(1),
            (None, b'>') if brackets == 0 => return Ok(at + 1),
            _ => {}
        }
    }
    Err("a declaration does not end")
}

fn text(raw: &[u8], within_root: bool, xml: &mut Xml) -> Result<(), &'static str> {
    if within_root {
        return entities(raw, &mut xml.text);
    }
    if raw.iter().all(|byte| byte.is_ascii_whitespace()) || raw == b"\xef\xbb\xbf" {
        return Ok(());
    }
    Err("there is text outside of the root element")
}

/// Reads `<name a="b">`: the name, whether it ends at once, its length.
fn start_tag<'a>(tag: &'a [u8], xml: &mut Xml) -> Result<(&'a [u8], bool, usize), &'static str> {
    let is_name = |byte: &u8| !byte.is_ascii_whitespace() && !b"/><='\"".contains(byte);
    let name_length = tag[1..].iter().take_while(|byte| is_name(byte)).count();
    if name_length == 0 {
        return Err("an element has no name");
    }
    let name = &tag[1..1 + name_length];
    let mut at = 1 + name_length;
    loop {
        at += tag[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        match tag.get(at) {
            Some(b'>') => return Ok((name, false, at + 1)),
            Some(b'/') if tag.get(at + 1) == Some(&b'>') => return Ok((name, true, at + 2)),
            Some(byte) if is_name(byte) => {}
            _ => return Err("a start tag does not end"),
        }
        at += tag[at..].iter().take_while(|byte| is_name(byte)).count();
        at += tag[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if tag.get(at) != Some(&b'=') {
            return Err("an attribute has no value");
        }
        at += 1;
        at += tag[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let Some(&quote @ (b'"' | b'\'')) = tag.get(at) else {
            return Err("an attribute's value has no quotes");
        };
        let length = tag[at + 1..]
            .iter()
            .position(|&byte| byte == quote)
            .ok_or("an attribute's value does not end")?;
        let mut value = Vec::new();
        entities(&tag[at + 1..at + 1 + length], &mut value)?;
        xml.attributes.push(value);
        at += length + 2;
    }
}

/// Appends a text with the five entities every document has and with numbers.
fn entities(raw: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut rest = raw;
    while let Some(at) = rest.iter().position(|&byte| byte == b'&') {
        out.extend_from_slice(&rest[..at]);
        let length = rest[at..].iter().position(|&byte| byte == b';').ok_or("an entity does not end")?;
        let name = &rest[at + 1..at + length];
        rest = &rest[at + length + 1..];
        match name {
            b"lt" => out.push(b'<'),
            b"gt" => out.push(b'>'),
            b"amp" => out.push(b'&'),
            b"quot" => out.push(b'"'),
            b"apos" => out.push(b'\''),
            [b'#', number @ ..] => {
                let digits = String::from_utf8_lossy(number);
                let code = match digits.strip_prefix(['x', 'X']) {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => digits.parse(),
                };
                let character = code.ok().and_then(char::from_u32).ok_or("a character's number is none")?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            // One that the document defines: it stands for itself.
            _ => {
                out.push(b'&');
                out.extend_from_slice(name);
                out.push(b';');
            }
        }
    }
    out.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_are_found_with_entities_undone() {
        let document = b"<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY x \"y>\">]>\n<a b='1 &lt; 2'><c d=\"&#x41;\"/>t&amp;<![CDATA[<u>]]><!-- no --></a>\n";
        let xml = read(document);
        assert_eq!(xml.error, None);
        assert_eq!(xml.text, b"t&<u>");
        assert_eq!(xml.attributes, [b"1 < 2".to_vec(), b"A".to_vec()]);
    }

    #[test]
    fn what_is_no_xml_is_an_error() {
        for document in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a b></a>",
            "<a b=c></a>",
            "<a/><b/>",
            "<a>&x</a>",
            "<a",
            "<!-- ",
            "<>",
            "<![CDATA[",
        ] {
            assert!(read(document.as_bytes()).error.is_some(), "{document}");
        }
    }
}
