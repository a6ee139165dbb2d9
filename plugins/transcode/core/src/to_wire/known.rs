//! Messages with a JSON form of their own.

use super::json::Text;
use super::{Seen, ToWire};
use crate::fault::{Checked, fault, quoted, shown};
use crate::schema::{Kind, Known, MessageId, MessageType};
use crate::time::{parse_duration, parse_timestamp};
use crate::wire::{close, open, put_varint};

/// Tags of fields 1 to 6 as `google.protobuf.Value` and its like have them.
const FIRST_VARINT: u8 = 0x08;
const SECOND_VARINT: u8 = 0x10;
const FIRST_LENGTH: u8 = 0x0A;
const SECOND_LENGTH: u8 = 0x12;
const VALUE_NULL: u8 = 0x08;
const VALUE_NUMBER: u8 = 0x11;
const VALUE_STRING: u8 = 0x1A;
const VALUE_BOOL: u8 = 0x20;
const VALUE_STRUCT: u8 = 0x2A;
const VALUE_LIST: u8 = 0x32;

impl<'s> ToWire<'s, '_, '_> {
    pub(super) fn known(&mut self, message: &'s MessageType, depth: usize) -> Checked {
        match message.known {
            Known::Timestamp | Known::Duration | Known::FieldMask => {
                let text = self.text("a string")?;
                let text = match text {
                    Text::Plain(text) => text,
                    Text::Escaped => &self.scratch,
                };
                known_text(message.known, text, self.out)
            }
            Known::Wrapper => self.wrapper(message),
            Known::Any => self.any(depth),
            Known::Value => self.any_value(message, depth),
            Known::Struct => self.map(&message.fields[0], depth),
            Known::ListValue => self.list(&message.fields[0], depth),
            Known::No => fault(format_args!("{} has no form of its own", message.name)),
        }
    }

    fn wrapper(&mut self, message: &'s MessageType) -> Checked {
        let before = self.out.len();
        let field = &message.fields[0];
        field.tag.put(self.out);
        if self.scalar(field.kind)? {
            self.out.truncate(before);
        }
        Ok(())
    }

    /// `google.protobuf.Value`: whatever stands here.
    fn any_value(&mut self, message: &'s MessageType, depth: usize) -> Checked {
        match self.peek() {
            b'n' => {
                self.word("null")?;
                self.out.extend_from_slice(&[VALUE_NULL, 0]);
            }
            b't' => {
                self.word("true")?;
                self.out.extend_from_slice(&[VALUE_BOOL, 1]);
            }
            b'f' => {
                self.word("false")?;
                self.out.extend_from_slice(&[VALUE_BOOL, 0]);
            }
            b'"' => {
                self.out.push(VALUE_STRING);
                self.scalar(Kind::String)?;
            }
            b'-' | b'0'..=b'9' => {
                self.out.push(VALUE_NUMBER);
                self.scalar(Kind::Double)?;
            }
            b'{' => {
                self.out.push(VALUE_STRUCT);
                self.nested(member(message, 5)?, depth)?;
            }
            b'[' => {
                self.out.push(VALUE_LIST);
                self.nested(member(message, 6)?, depth)?;
            }
            _ => return self.unexpected("a value"),
        }
        Ok(())
    }

    /// `{"@type": …, …}`. The type may come last, so it is looked for first.
    fn any(&mut self, depth: usize) -> Checked {
        let start = self.at;
        let Some(url) = self.type_url(depth)? else {
            return Ok(());
        };
        let after = std::mem::replace(&mut self.at, start);
        let id = match std::str::from_utf8(&url).ok().and_then(|url| self.schema.by_url(url)) {
            Some(id) => id,
            None => {
                let url = shown(&String::from_utf8_lossy(&url));
                return fault(format_args!("the type {url:?} is not in the definitions"))
                    .map_err(|fault| fault.in_field("@type"));
            }
        };
        self.out.push(FIRST_LENGTH);
        put_varint(self.out, url.len() as u64);
        self.out.extend_from_slice(&url);
        let before = self.out.len();
        self.out.push(SECOND_LENGTH);
        let content = open(self.out);
        let message = self.schema.message(id);
        if message.known == Known::No {
            let mut seen = Seen::new(message);
            self.object(message, depth - 1, &mut seen, true)?;
        } else {
            self.any_known(id, depth)?;
        }
        if self.out.len() == content {
            self.out.truncate(before);
        } else {
            close(self.out, content);
        }
        debug_assert_eq!(self.at, after, "both readings end in the same place");
        Ok(())
    }

    /// The value of `@type`; none in an empty object, which is an empty `Any`.
    fn type_url(&mut self, depth: usize) -> Checked<Option<Vec<u8>>> {
        if self.begin(b'{', b'}', "an object")? {
            return Ok(None);
        }
        let mut url = None;
        loop {
            let key = self.key()?;
            if self.bytes(key) == b"@type" {
                if url.is_some() {
                    return fault("is set twice").map_err(|fault| fault.in_field("@type"));
                }
                let text = self.text("a type's URL").map_err(|fault| fault.in_field("@type"))?;
                url = Some(self.bytes(text).to_vec());
            } else {
                self.skip(depth)?;
            }
            if !self.another(b'}')? {
                break;
            }
        }
        if url.is_none() {
            return fault("an Any without \"@type\"");
        }
        Ok(url)
    }

    /// `{"@type": …, "value": …}` for a type with a form of its own.
    fn any_known(&mut self, id: MessageId, depth: usize) -> Checked {
        self.begin(b'{', b'}', "an object")?;
        let mut has_value = false;
        loop {
            let key = self.key()?;
            match self.bytes(key) {
                b"@type" => self.skip(depth)?,
                b"value" if has_value => {
                    return fault("is set twice").map_err(|fault| fault.in_field("value"));
                }
                b"value" => {
                    has_value = true;
                    self.message(id, depth - 1).map_err(|fault| fault.in_field("value"))?;
                }
                name => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    if self.options.unknown == crate::settings::Unknown::Ignore {
                        self.skip(depth)?;
                    } else {
                        return fault("is not \"value\"").map_err(|fault| fault.in_field(&name));
                    }
                }
            }
            if !self.another(b'}')? {
                break;
            }
        }
        if has_value { Ok(()) } else { fault("an Any of this type has its content in \"value\"") }
    }
}

/// The type of one of the members of `google.protobuf.Value`.
fn member(message: &MessageType, number: u32) -> Checked<MessageId> {
    match message.index_of(number).map(|index| message.fields[index].kind) {
        Some(Kind::Message(id)) => Ok(id),
        _ => fault(format_args!("{} is not as it should be", message.name)),
    }
}

/// Known messages whose JSON is a string, from that string: also in paths and
/// queries.
pub(crate) fn known_text(known: Known, text: &[u8], out: &mut Vec<u8>) -> Checked {
    let Ok(text) = std::str::from_utf8(text) else {
        return fault(format_args!("{} is not UTF-8", quoted(text)));
    };
    match known {
        Known::Timestamp => put_seconds(parse_timestamp(text)?, out),
        Known::Duration => put_seconds(parse_duration(text)?, out),
        _ => return field_mask(text, out),
    }
    Ok(())
}

fn put_seconds((seconds, nanos): (i64, i32), out: &mut Vec<u8>) {
    if seconds != 0 {
        out.push(FIRST_VARINT);
        put_varint(out, seconds as u64);
    }
    if nanos != 0 {
        out.push(SECOND_VARINT);
        put_varint(out, i64::from(nanos) as u64);
    }
}

fn field_mask(text: &str, out: &mut Vec<u8>) -> Checked {
    if text.is_empty() {
        return Ok(());
    }
    for path in text.split(',') {
        out.push(FIRST_LENGTH);
        let start = open(out);
        for byte in path.bytes() {
            match byte {
                b'A'..=b'Z' => out.extend_from_slice(&[b'_', byte.to_ascii_lowercase()]),
                b'_' => return fault(format_args!("{:?} is no path of a field mask", shown(path))),
                _ => out.push(byte),
            }
        }
        close(out, start);
    }
    Ok(())
}
