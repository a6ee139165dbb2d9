//! Records: bytes that a store keeps beside its objects and does not tell of.
//!
//! An etcd store has them at `<prefix>/<area>/<name>`, a directory in
//! `DIR/.sluice/<area>/<name>`.

use std::fmt;

/// The largest record, in bytes: what an etcd server takes in one request
/// (1.5 MiB by default) with room for what goes with it.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;
/// The most names of one listing.
pub const RECORDS_LISTED_MAX: usize = 100_000;
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// What records are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Area {
    /// Components of modules in pieces, by digest.
    Blobs,
    /// What was changed, when and by whom.
    History,
    /// The nodes that live now.
    Nodes,
}

/// Every area.
pub(super) const AREAS: [Area; 3] = [Area::Blobs, Area::History, Area::Nodes];

impl Area {
    /// The name in keys and paths.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::History => "history",
            Self::Nodes => "nodes",
        }
    }
}

/// The name of a record: an area and one or more parts divided by `/`, each of
/// `a-zA-Z0-9-_.` and none beginning with a dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordName {
    area: Area,
    name: String,
}

/// A text that does not name a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name a record: parts of a-z, A-Z, 0-9, '-', '_' and '.', divided by '/'")]
pub struct RecordNameError(String);

impl RecordName {
    /// Checks a text against the rule for names.
    ///
    /// # Errors
    /// The text does not follow it.
    pub fn new(area: Area, name: &str) -> Result<Self, RecordNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed);
        if name.len() > NAME_BYTES_MAX || !name.split('/').all(is_part) {
            return Err(RecordNameError(name.chars().take(NAME_BYTES_MAX).collect()));
        }
        Ok(Self { area, name: name.to_owned() })
    }

    /// The area.
    pub fn area(&self) -> Area {
        self.area
    }

    /// The name in its area.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.area.name(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_climb_or_hide() {
        for name in ["sha256-00/0", "2026-01-01T00.00.00Z-7", "a/b/c"] {
            assert_eq!(RecordName::new(Area::Blobs, name).unwrap().name(), name);
        }
        for name in ["", "/", "a/", "/a", "..", "a/../b", ".a", "a//b", "a b", "a\0", &"a".repeat(257)] {
            assert!(RecordName::new(Area::Blobs, name).is_err(), "{name:?}");
        }
    }
}
