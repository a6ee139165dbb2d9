//! Frame formats: how a framed protocol looks on the wire.

use serde::{Deserialize, Serialize};

use super::{Labels, Object, object_basics, units, validate_description};
use crate::config::{Id, Kind, Problems};
use crate::frame::{self, FormatSpec};

/// The id of the format that is always there.
pub const FRAME_FORMAT_BUILT_IN: &str = "im20";
/// The longest body of a frame, unless said: 64 KiB.
pub const FRAME_BODY_MAX: u32 = 64 * 1024;
/// The most a format can allow as the body of a frame: 16 MiB.
pub const FRAME_BODY_MAX_LIMIT: u32 = 16 * 1024 * 1024;
/// The longest header of a frame, in bytes.
pub const FRAME_HEADER_MAX: u32 = 256;
/// The most fields of a header.
pub const FRAME_FIELDS_MAX: usize = 32;

/// A protocol of the form `begin? header body end?`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameFormat {
    /// The id.
    #[serde(default)]
    pub id: Id,
    /// The byte before the header. None when not said.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::code::byte_option")]
    pub begin: Option<u8>,
    /// The byte after the body. None when not said.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::code::byte_option")]
    pub end: Option<u8>,
    /// The fields of the header; together they may leave gaps, not overlap.
    pub header: Vec<HeaderField>,
    /// The length of the header in bytes; up to the end of the last field when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<u32>,
    /// Which field means what.
    pub roles: FrameRoles,
    /// What the length counts. Default `body`.
    #[serde(default)]
    pub length_counts: LengthCounts,
    /// The longest body, in bytes. Default [`FRAME_BODY_MAX`].
    #[serde(default = "body_max", with = "units::bytes")]
    pub body_max: u32,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Labels, for people and for filtering lists.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
}

fn body_max() -> u32 {
    FRAME_BODY_MAX
}

/// A field of the header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderField {
    /// The name, unique in the header.
    pub name: String,
    /// Where it begins, in bytes from the start of the header.
    pub at: u32,
    /// How long it is: 1, 2, 4 or 8 bytes.
    pub bytes: u32,
    /// The order of its bytes. Default `big`.
    #[serde(default)]
    pub endian: Endian,
}

/// The order of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endian {
    /// The most significant first.
    #[default]
    Big,
    /// The least significant first.
    Little,
}

/// Which field means what, each by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameRoles {
    /// The length.
    pub length: String,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The number that an answer repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// Who sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// What the length of a frame counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthCounts {
    /// The body alone.
    #[default]
    Body,
    /// The header and the body.
    HeaderAndBody,
    /// All bytes, markers included.
    Frame,
}

impl FrameFormat {
    /// The length of the header in bytes.
    pub fn header_length(&self) -> u32 {
        let fields = self.header.iter().map(|field| field.at.saturating_add(field.bytes)).max();
        self.header_bytes.unwrap_or(fields.unwrap_or(0))
    }

    /// The format that is there without being written, `im20`.
    pub fn built_in() -> Self {
        let spec = FormatSpec::im20();
        let field = |field: frame::FieldSpec| HeaderField {
            name: field.name,
            at: field.at,
            bytes: field.bytes,
            endian: match field.endian {
                frame::Endian::Big => Endian::Big,
                frame::Endian::Little => Endian::Little,
            },
        };
        Self {
            id: Id::new(&spec.id).unwrap_or_default(),
            begin: spec.begin.first().copied(),
            end: spec.end.first().copied(),
            header: spec.header.into_iter().map(field).collect(),
            header_bytes: spec.header_bytes,
            roles: FrameRoles {
                length: spec.roles.length,
                command: spec.roles.command,
                sequence: spec.roles.sequence,
                user: spec.roles.user,
            },
            length_counts: match spec.length_includes {
                frame::LengthIncludes::Body => LengthCounts::Body,
                frame::LengthIncludes::Header => LengthCounts::HeaderAndBody,
                frame::LengthIncludes::Frame => LengthCounts::Frame,
            },
            body_max: spec.body_max,
            name: None,
            desc: None,
            labels: Labels::new(),
            create_time: None,
            update_time: None,
        }
    }
}

impl Object for FrameFormat {
    object_basics!(Kind::FrameFormats);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        if self.header.is_empty() || self.header.len() > FRAME_FIELDS_MAX {
            problems.add("header", self.header.len(), "must hold 1 to 32 fields");
        }
        for (index, field) in self.header.iter().enumerate() {
            problems.within(&format!("header[{index}]"), |problems| {
                self.validate_field(index, field, problems);
            });
        }
        if let Some(bytes) = self.header_bytes {
            let fields = self.header.iter().map(|field| field.at.saturating_add(field.bytes)).max();
            if bytes > FRAME_HEADER_MAX || bytes < fields.unwrap_or(0) {
                problems.add("header_bytes", bytes, "must hold all fields and be at most 256");
            }
        }
        let roles = [
            ("length", Some(&self.roles.length)),
            ("command", self.roles.command.as_ref()),
            ("sequence", self.roles.sequence.as_ref()),
            ("user", self.roles.user.as_ref()),
        ];
        for (role, name) in roles {
            let Some(name) = name else { continue };
            let place = format!("roles.{role}");
            match self.header.iter().find(|field| field.name == *name) {
                None => problems.add(&place, name.as_str(), "is not a field of the header"),
                Some(field) if field.bytes > 4 && role != "user" => {
                    problems.add(&place, name.as_str(), "must be a field of at most 4 bytes");
                }
                Some(_) => {}
            }
        }
        if self.body_max == 0 || self.body_max > FRAME_BODY_MAX_LIMIT {
            problems.add("body_max", self.body_max, "must be 1 byte to 16MiB");
        }
    }
}

impl FrameFormat {
    fn validate_field(&self, index: usize, field: &HeaderField, problems: &mut Problems) {
        let name_fits = field.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if field.name.is_empty() || field.name.len() > 32 || !name_fits {
            problems.add("name", field.name.as_str(), "must be 1 to 32 characters of a-z, 0-9 and '_'");
        }
        if !matches!(field.bytes, 1 | 2 | 4 | 8) {
            problems.add("bytes", field.bytes, "must be 1, 2, 4 or 8");
        }
        let end = field.at.saturating_add(field.bytes);
        if end > FRAME_HEADER_MAX {
            problems.add("at", field.at, "ends after byte 256, the longest header");
        }
        for earlier in &self.header[..index] {
            if earlier.name == field.name {
                problems.add("name", field.name.as_str(), "is the name of two fields");
            }
            if field.at < earlier.at.saturating_add(earlier.bytes) && earlier.at < end {
                problems.add("at", field.at, format!("overlaps the field {:?}", earlier.name));
            }
        }
    }
}
