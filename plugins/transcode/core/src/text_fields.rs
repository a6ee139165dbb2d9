//! The texts of a message, for filters that look at text.

use crate::fault::{Checked, fault, quoted};
use crate::schema::{Kind, Known, MessageId, Schema};
use crate::wire::{LENGTH, Reader};

/// All values of string fields, also those within messages, lists, maps and
/// `Any`, in the order of the wire. Fields the definitions do not have are left
/// out: nobody knows whether they are texts.
pub(crate) fn text_fields(
    schema: &Schema,
    depth_max: usize,
    id: MessageId,
    body: &[u8],
) -> Checked<Vec<String>> {
    let mut texts = Vec::new();
    let mut collector = Collector { schema, depth_max, texts: &mut texts };
    collector.message(id, body, depth_max)?;
    Ok(texts)
}

struct Collector<'s, 't> {
    schema: &'s Schema,
    depth_max: usize,
    texts: &'t mut Vec<String>,
}

impl Collector<'_, '_> {
    fn message(&mut self, id: MessageId, bytes: &[u8], depth: usize) -> Checked {
        if depth == 0 {
            return fault(format_args!("nested deeper than {}", self.depth_max));
        }
        let message = self.schema.message(id);
        if message.known == Known::Any {
            return self.any(bytes, depth);
        }
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            let Some(index) = message.index_of(number).filter(|_| wire == LENGTH) else {
                continue;
            };
            let field = &message.fields[index];
            match field.kind {
                Kind::String => self.text(raw.bytes),
                Kind::Message(id) => self.message(id, raw.bytes, depth - 1),
                _ => Ok(()),
            }
            .map_err(|fault| fault.in_field(&field.name))?;
        }
        Ok(())
    }

    fn text(&mut self, bytes: &[u8]) -> Checked {
        match simdutf8::basic::from_utf8(bytes) {
            Ok("") => Ok(()),
            Ok(text) => {
                self.texts.push(text.to_owned());
                Ok(())
            }
            Err(_) => fault(format_args!("{} is not UTF-8", quoted(bytes))),
        }
    }

    fn any(&mut self, bytes: &[u8], depth: usize) -> Checked {
        let (mut url, mut value): (&[u8], &[u8]) = (&[], &[]);
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            match (number, wire) {
                (1, LENGTH) => url = raw.bytes,
                (2, LENGTH) => value = raw.bytes,
                _ => {}
            }
        }
        match std::str::from_utf8(url).ok().and_then(|url| self.schema.by_url(url)) {
            Some(id) => self.message(id, value, depth - 1),
            None => Ok(()),
        }
    }
}
