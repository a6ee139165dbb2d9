//! `request-id`: gives every request an id that is passed on and answered with.

use serde::Deserialize;
use serde_json::Value;
use smallvec::SmallVec;

use super::headers::check_name;
use super::{random_below, random_bytes};
use crate::filter::build::{BuildContext, Built, FieldError, fields, within};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::message::ResponseHead;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Algorithm {
    #[default]
    Uuid,
    Nanoid,
    RangeId,
    Ksuid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeFields {
    #[serde(default = "default_length")]
    length: u32,
    #[serde(default = "default_set")]
    char_set: String,
}

fn default_length() -> u32 {
    16
}

fn default_set() -> String {
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    header_name: Option<String>,
    #[serde(default)]
    include_in_response: Option<bool>,
    #[serde(default)]
    algorithm: Algorithm,
    #[serde(default)]
    range_id: Option<RangeFields>,
}

#[derive(Debug)]
pub(in crate::filter) struct RequestIdPlugin {
    header: Box<str>,
    answers: bool,
    algorithm: Algorithm,
    length: u32,
    char_set: Box<[u8]>,
}

type Id = SmallVec<[u8; 40]>;

impl RequestIdPlugin {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let fields: Fields = fields(config)?;
        let header = fields.header_name.unwrap_or_else(|| "X-Request-Id".to_owned());
        check_name("header_name", &header)?;
        let range = fields
            .range_id
            .unwrap_or_else(|| RangeFields { length: default_length(), char_set: default_set() });
        within("range_id.length", range.length, 6, 128)?;
        let is_fine = range.char_set.bytes().all(|byte| byte.is_ascii_graphic());
        if !(6..=256).contains(&range.char_set.len()) || !is_fine {
            let message = "must have from 6 to 256 visible ASCII characters";
            return Err(FieldError::with("range_id.char_set", range.char_set, message));
        }
        Ok(Self {
            header: header.into(),
            answers: fields.include_in_response.unwrap_or(true),
            algorithm: fields.algorithm,
            length: range.length,
            char_set: range.char_set.into_bytes().into(),
        })
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let name = self.header.as_bytes();
        let given = exchange.request.fields.value_of(name).filter(|value| !value.is_empty());
        let id = match given {
            Some(id) => Id::from_slice(id),
            None => {
                let id = self.make();
                exchange.request.fields.set(name, &id);
                id
            }
        };
        exchange.request_id.set(&id);
        if self.answers {
            exchange.set_response_field(&self.header, &id);
        }
        Step::Next
    }

    pub(super) fn response(&self, exchange: &Exchange, head: &mut ResponseHead) {
        // A request refused before its turn has an id of the gateway's own.
        if self.answers && head.fields.value_of(self.header.as_bytes()).is_none_or(<[u8]>::is_empty) {
            head.fields.set(self.header.as_bytes(), exchange.request_id.get().as_bytes());
        }
    }

    fn make(&self) -> Id {
        match self.algorithm {
            Algorithm::Uuid => uuid(),
            Algorithm::Nanoid => {
                const ALPHABET: &[u8; 64] =
                    b"_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
                let mut bytes = [0; 21];
                random_bytes(&mut bytes);
                bytes.iter().map(|byte| ALPHABET[usize::from(byte & 63)]).collect()
            }
            Algorithm::RangeId => {
                let pick = |_| self.char_set[random_below(self.char_set.len() as u32) as usize];
                (0..self.length).map(pick).collect()
            }
            Algorithm::Ksuid => ksuid(jiff::Timestamp::now().as_second()),
        }
    }
}

/// A random UUID (version 4).
fn uuid() -> Id {
    let mut bytes = [0; 16];
    random_bytes(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut id = Id::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            id.push(b'-');
        }
        id.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
    id
}

/// A KSUID: seconds since 2014-05-13 16:53:20 UTC and 16 random bytes, 27
/// digits of base 62.
fn ksuid(seconds: i64) -> Id {
    const EPOCH: i64 = 1_400_000_000;
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bytes = [0_u8; 20];
    bytes[..4].copy_from_slice(&((seconds - EPOCH) as u32).to_be_bytes());
    random_bytes(&mut bytes[4..]);
    let mut id = Id::from_elem(b'0', 27);
    for place in id.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in &mut bytes {
            let value = rest << 8 | u32::from(*byte);
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        *place = DIGITS[rest as usize];
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_their_algorithm() {
        let text = |id: Id| String::from_utf8(id.to_vec()).unwrap();
        let id = text(uuid());
        assert_eq!(id.len(), 36);
        assert_eq!((&id[14..15], id.matches('-').count()), ("4", 4));
        let early = text(ksuid(1_400_000_000));
        let late = text(ksuid(1_700_000_000));
        assert_eq!((early.len(), late.len()), (27, 27));
        assert!(early < late, "KSUIDs sort by time");
        assert!(early.starts_with("00000"));
        assert_ne!(uuid(), uuid());
    }
}
