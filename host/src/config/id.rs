//! Object ids, under APISIX's rule.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Kind;

/// The longest id, in characters.
pub const ID_LENGTH_MAX: usize = 64;

/// The id of an object: 1 to [`ID_LENGTH_MAX`] of `a-zA-Z0-9-_.`, or a
/// positive integer, which is the same as its decimal text.
///
/// The default is the empty id, which only an object written inside another
/// one (an inline upstream) has.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Arc<str>);

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 characters of a-z, A-Z, 0-9, '-', '_' and '.', or a positive integer")]
pub struct IdError;

impl Id {
    /// Checks a text against the id rule. `.` and `..` are refused as well,
    /// as they cannot name a file.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let fits = (1..=ID_LENGTH_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && text != "."
            && text != "..";
        if fits { Ok(Self(text.into())) } else { Err(IdError) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Id {
    fn default() -> Self {
        Self("".into())
    }
}

impl Deref for Id {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

/// An id as APISIX shows it: a credential's without its consumer, a secret's
/// with its manager as `manager/id`.
pub fn shown_id(kind: Kind, id: &Id) -> String {
    match (kind, id.split_once('.')) {
        (Kind::Credentials, Some((_, own))) => own.to_owned(),
        (Kind::Secrets, Some((manager, own))) => format!("{manager}/{own}"),
        _ => id.as_str().to_owned(),
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id: 1 to 64 characters of a-zA-Z0-9-_. or a positive integer")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
        Id::new(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
        if number == 0 {
            return Err(E::custom(IdError));
        }
        Ok(Id(number.to_string().into()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Id, E> {
        u64::try_from(number).map_err(|_| E::custom(IdError)).and_then(|number| self.visit_u64(number))
    }
}
