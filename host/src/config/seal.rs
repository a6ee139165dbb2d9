//! Private keys at rest: encrypted where they leave this node.
//!
//! Every text of an object that holds a private key in PEM is written as
//! `sealed:1:<key id>:<base64>`: the 12 bytes of the nonce, the text encrypted
//! with AES-256-GCM, the 16 bytes of the tag. `<kind>/<id>` of the object goes
//! into the tag, so that a sealed key cannot be moved to another object. What
//! is sealed is opened wherever it stands, with whichever key of the list it
//! names; the first of the list seals.
//!
//! Start at [`Sealer`].

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Id, Kind, Problem};

/// What a sealed text begins with.
const MARK: &str = "sealed:1:";
/// What a text that is sealed has in it.
const PRIVATE_KEY: &str = "PRIVATE KEY-----";
/// The most keys of a list.
pub const SEAL_KEYS_MAX: usize = 16;

/// Seals and opens private keys.
pub struct Sealer {
    keys: Vec<(String, RandomizedNonceKey)>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(id, _)| id)).finish()
    }
}

/// Why a list of keys cannot be used. Never holds a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealerError {
    /// The list is empty or too long.
    #[error("1 to {SEAL_KEYS_MAX} keys are needed, not {0}")]
    Count(usize),
    /// An id is not one, or stands twice.
    #[error("{0:?} is not an id of a key, or is there twice")]
    Id(String),
    /// A key is not one.
    #[error("the key {0:?} is not 64 hexadecimal digits (`sluice keygen` makes such)")]
    Key(String),
}

impl Sealer {
    /// Keys by their ids, each 64 hexadecimal digits; the first seals.
    ///
    /// # Errors
    /// Names the id of the key that cannot be used.
    pub fn new(keys: &[(String, Vec<u8>)]) -> Result<Self, SealerError> {
        if !(1..=SEAL_KEYS_MAX).contains(&keys.len()) {
            return Err(SealerError::Count(keys.len()));
        }
        let mut list: Vec<(String, RandomizedNonceKey)> = Vec::new();
        for (id, digits) in keys {
            if Id::new(id).is_err() || list.iter().any(|(other, _)| other == id) {
                return Err(SealerError::Id(id.clone()));
            }
            let bytes = from_hex(digits).ok_or_else(|| SealerError::Key(id.clone()))?;
            let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes);
            list.push((id.clone(), key.map_err(|_| SealerError::Key(id.clone()))?));
        }
        Ok(Self { keys: list })
    }

    /// Seals every private key of an object.
    pub fn seal(&self, kind: Kind, id: &Id, value: &mut Value) {
        each_text(value, "", &mut |_, text| {
            if text.contains(PRIVATE_KEY) && !text.starts_with(MARK) {
                // Nothing is written when it cannot be sealed: the object is
                // refused for want of a key then.
                *text = self.sealed(kind, id, text).unwrap_or_default();
            }
        });
    }

    fn sealed(&self, kind: Kind, id: &Id, text: &str) -> Option<String> {
        let (name, key) = self.keys.first()?;
        let mut bytes = text.as_bytes().to_vec();
        let nonce = key.seal_in_place_append_tag(aad(kind, id), &mut bytes).ok()?;
        let nonce: &[u8; NONCE_LEN] = nonce.as_ref();
        let whole = [nonce.as_slice(), &bytes].concat();
        Some(format!("{MARK}{name}:{}", STANDARD.encode(whole)))
    }

    fn opened(&self, kind: Kind, id: &Id, sealed: &str) -> Result<String, String> {
        let (name, text) = sealed.split_once(':').ok_or("is sealed, but names no key")?;
        let (_, key) = self
            .keys
            .iter()
            .find(|(known, _)| known == name)
            .ok_or_else(|| format!("is sealed with the key {name:?}, which this node does not have"))?;
        let bytes = STANDARD.decode(text).map_err(|_| "is sealed, but not in base64")?;
        let (nonce, rest) = bytes.split_at_checked(NONCE_LEN).ok_or("is sealed, but cut short")?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| "is sealed, but cut short")?;
        let mut rest = rest.to_vec();
        let plain = key.open_in_place(nonce, aad(kind, id), &mut rest).map_err(|_| {
            format!("is sealed for another object, with another key than {name:?}, or damaged")
        })?;
        String::from_utf8(plain.to_vec()).map_err(|_| "is sealed, but no text".to_owned())
    }
}

/// Opens everything in an object that is sealed.
///
/// # Errors
/// What cannot be opened, without its value.
pub fn open(sealer: Option<&Sealer>, kind: Kind, id: &Id, value: &mut Value) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    each_text(value, "", &mut |field, text| {
        let Some(sealed) = text.strip_prefix(MARK) else { return };
        let opened = match sealer {
            Some(sealer) => sealer.opened(kind, id, sealed),
            None => Err("is sealed, and this node has no keys (store.encryption)".to_owned()),
        };
        match opened {
            Ok(plain) => *text = plain,
            Err(message) => problems.push(Problem { field: field.to_owned(), message, value: None }),
        }
    });
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn aad(kind: Kind, id: &Id) -> Aad<Vec<u8>> {
    Aad::from(format!("{kind}/{id}").into_bytes())
}

/// Calls with every text of a value and the path it stands at.
fn each_text(value: &mut Value, path: &str, action: &mut dyn FnMut(&str, &mut String)) {
    match value {
        Value::String(text) => action(path, text),
        Value::Array(list) => {
            for (index, value) in list.iter_mut().enumerate() {
                each_text(value, &format!("{path}[{index}]"), action);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                // Most fields are numbers and short texts: a path is made only
                // where something may be found.
                if matches!(value, Value::String(_) | Value::Array(_) | Value::Object(_)) {
                    let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    each_text(value, &below, action);
                }
            }
        }
        _ => {}
    }
}

fn from_hex(digits: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n";

    fn sealer(keys: &[(&str, u8)]) -> Sealer {
        let hex = |byte: u8| format!("{byte:02x}").repeat(32).into_bytes();
        let keys: Vec<_> = keys.iter().map(|(id, byte)| ((*id).to_owned(), hex(*byte))).collect();
        Sealer::new(&keys).unwrap()
    }

    fn id(name: &str) -> Id {
        Id::new(name).unwrap()
    }

    fn object() -> Value {
        json!({"cert": "-----BEGIN CERTIFICATE-----", "key": PEM, "keys": [PEM], "snis": ["a.example"]})
    }

    #[test]
    fn private_keys_are_sealed_and_open_again_after_a_rotation() {
        let mut value = object();
        sealer(&[("old", 1)]).seal(Kind::Ssls, &id("a"), &mut value);
        let text = value.to_string();
        assert!(
            !text.contains("MIGH") && text.contains("sealed:1:old:") && text.contains("a.example"),
            "{text}"
        );
        assert_ne!(value["key"], value["keys"][0], "every sealing has a nonce of its own");
        let rotated = sealer(&[("new", 2), ("old", 1)]);
        let mut opened = value.clone();
        open(Some(&rotated), Kind::Ssls, &id("a"), &mut opened).unwrap();
        assert_eq!(opened, object());
        rotated.seal(Kind::Ssls, &id("a"), &mut opened);
        assert!(opened.to_string().contains("sealed:1:new:"));
    }

    #[test]
    fn what_cannot_be_opened_is_told_by_field_without_its_value() {
        let mut value = object();
        sealer(&[("k", 1)]).seal(Kind::Ssls, &id("a"), &mut value);
        let told = |sealer: Option<&Sealer>, name: &str, value: &Value| {
            let problems = open(sealer, Kind::Ssls, &id(name), &mut value.clone()).unwrap_err();
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert!(told(None, "a", &value).starts_with("key: is sealed, and this node has no keys"));
        let other = sealer(&[("other", 1)]);
        assert!(told(Some(&other), "a", &value).contains("keys[0]: is sealed with the key \"k\""));
        assert!(told(Some(&sealer(&[("k", 2)])), "a", &value).contains("another key"));
        assert!(told(Some(&sealer(&[("k", 1)])), "b", &value).contains("another object"));
        for damaged in [
            "sealed:1:",
            "sealed:1:k:",
            "sealed:1:k:AAAA",
            "sealed:1:k:*",
            "sealed:1:k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            let text = told(Some(&sealer(&[("k", 1)])), "a", &json!({"key": damaged}));
            assert!(text.starts_with("key: is sealed"), "{damaged}: {text}");
        }
    }

    #[test]
    fn a_list_of_keys_is_checked_and_never_shown() {
        let key = |id: &str, digits: &str| (id.to_owned(), digits.as_bytes().to_vec());
        let good = "ab".repeat(32);
        assert_eq!(Sealer::new(&[]).unwrap_err(), SealerError::Count(0));
        assert_eq!(Sealer::new(&[key("a b", &good)]).unwrap_err(), SealerError::Id("a b".into()));
        assert_eq!(
            Sealer::new(&[key("a", &good), key("a", &good)]).unwrap_err(),
            SealerError::Id("a".into())
        );
        assert_eq!(Sealer::new(&[key("a", "abcd")]).unwrap_err(), SealerError::Key("a".into()));
        assert_eq!(Sealer::new(&[key("a", &"zz".repeat(32))]).unwrap_err(), SealerError::Key("a".into()));
        assert_eq!(format!("{:?}", Sealer::new(&[key("a", &good)]).unwrap()), "[\"a\"]");
    }
}
