//! Frame formats: how a description becomes offsets.

use smallvec::SmallVec;

use super::FrameError;

/// The most bytes a header may have.
pub const HEADER_BYTES_LIMIT: u32 = 1024;
/// The most bytes a begin or end marker may have.
pub const MARKER_BYTES_LIMIT: usize = 8;
/// The most `body_max` may be set to.
pub const BODY_BYTES_LIMIT: u32 = 16 * 1024 * 1024;
const FIELDS_LIMIT: usize = 64;

/// The description of a frame format, as an operator writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatSpec {
    /// The object's id.
    pub id: String,
    /// Bytes every frame begins with; empty for none.
    pub begin: Vec<u8>,
    /// Bytes every frame ends with; empty for none.
    pub end: Vec<u8>,
    /// The fields of the header, in any order.
    pub header: Vec<FieldSpec>,
    /// Bytes of the header; without it, up to the end of the last field.
    pub header_bytes: Option<u32>,
    /// What the fields mean to us.
    pub roles: RolesSpec,
    /// What the length field counts.
    pub length_includes: LengthIncludes,
    /// The most bytes a body may have.
    pub body_max: u32,
}

/// One field of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldSpec {
    /// Its name, as roles and `frame_<name>` variables use it.
    pub name: String,
    /// Offset of its first byte in the header; the begin marker is not counted.
    pub at: u32,
    /// Its width: 1, 2, 4 or 8 bytes. Fields are unsigned.
    pub bytes: u32,
    /// The order of its bytes.
    pub endian: Endian,
}

/// Byte order of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Endian {
    /// Most significant byte first.
    #[default]
    Big,
    /// Least significant byte first.
    Little,
}

/// What a length field counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LengthIncludes {
    /// The body alone.
    #[default]
    Body,
    /// Header and body, without markers.
    Header,
    /// The whole frame, markers included.
    Frame,
}

/// Names of the fields that mean something to the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RolesSpec {
    /// The field with the length; every format needs one.
    pub length: String,
    /// What kind of message a frame is.
    pub command: Option<String>,
    /// The number that ties a reply to its request.
    pub sequence: Option<String>,
    /// The user a frame comes from.
    pub user: Option<String>,
}

/// A description that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FormatError {
    /// The path of the field, as in `header[3].bytes`.
    pub field: String,
    /// What is wrong, with the value.
    pub reason: String,
}

/// A field of a format, compiled: reading it is one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameField {
    /// Offset from the frame's first byte, the begin marker counted.
    offset: u16,
    bytes: u8,
    little: bool,
}

impl FrameField {
    /// Reads the field of a frame, or of the first bytes of one, header whole.
    /// A slice that is too short reads as zero: decoding has seen to that.
    #[inline]
    #[must_use]
    pub fn read(self, frame: &[u8]) -> u64 {
        let at = self.offset as usize;
        macro_rules! load {
            ($type:ty, $bytes:literal) => {
                match frame.get(at..at + $bytes).and_then(|found| <[u8; $bytes]>::try_from(found).ok()) {
                    Some(found) if self.little => <$type>::from_le_bytes(found) as u64,
                    Some(found) => <$type>::from_be_bytes(found) as u64,
                    None => 0,
                }
            };
        }
        match self.bytes {
            1 => frame.get(at).copied().unwrap_or(0) as u64,
            2 => load!(u16, 2),
            4 => load!(u32, 4),
            _ => load!(u64, 8),
        }
    }

    /// Writes the field into a frame; says whether the value fits.
    pub fn write(self, frame: &mut [u8], value: u64) -> bool {
        let (at, bytes) = (self.offset as usize, self.bytes as usize);
        if value > self.largest() {
            return false;
        }
        let Some(place) = frame.get_mut(at..at + bytes) else { return false };
        if self.little {
            place.copy_from_slice(&value.to_le_bytes()[..bytes]);
        } else {
            place.copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
        }
        true
    }

    /// The largest value that fits.
    #[must_use]
    pub fn largest(self) -> u64 {
        u64::MAX >> (64 - 8 * u32::from(self.bytes))
    }
}

/// A frame format, checked and compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameFormat {
    id: Box<str>,
    pub(super) begin: SmallVec<[u8; MARKER_BYTES_LIMIT]>,
    pub(super) end: SmallVec<[u8; MARKER_BYTES_LIMIT]>,
    /// Begin marker and header.
    pub(super) head_bytes: u32,
    pub(super) body_max: u32,
    /// What the length field says of a frame without a body.
    pub(super) length_base: u32,
    length: FrameField,
    command: Option<FrameField>,
    sequence: Option<FrameField>,
    user: Option<FrameField>,
    fields: Vec<(Box<str>, FrameField)>,
}

impl FrameFormat {
    /// Checks and compiles a description.
    ///
    /// # Errors
    /// Names the first field that makes no sense, with its value.
    pub fn new(spec: &FormatSpec) -> Result<Self, FormatError> {
        check_marker("begin", &spec.begin)?;
        check_marker("end", &spec.end)?;
        let header_bytes = header_bytes(spec)?;
        check_fields(&spec.header, header_bytes)?;
        if spec.body_max > BODY_BYTES_LIMIT {
            return Err(wrong(
                "body_max",
                format!("{} is over the limit of {BODY_BYTES_LIMIT}", spec.body_max),
            ));
        }
        let begin = spec.begin.len() as u32;
        let fields: Vec<_> =
            spec.header.iter().map(|field| (field.name.as_str().into(), compile(field, begin))).collect();
        let find = |role: &str, name: &str| {
            let found = fields.iter().find(|(known, _): &&(Box<str>, FrameField)| **known == *name);
            found
                .map(|(_, field)| *field)
                .ok_or_else(|| wrong(&format!("roles.{role}"), format!("no field {name:?} in the header")))
        };
        let optional =
            |role: &str, name: &Option<String>| name.as_deref().map(|name| find(role, name)).transpose();
        if spec.roles.length.is_empty() {
            return Err(wrong("roles.length", "needed: the field that holds the length".to_owned()));
        }
        let length = find("length", &spec.roles.length)?;
        let length_base = match spec.length_includes {
            LengthIncludes::Body => 0,
            LengthIncludes::Header => header_bytes,
            LengthIncludes::Frame => begin + header_bytes + spec.end.len() as u32,
        };
        if u64::from(length_base) > length.largest() {
            let reason = format!("{:?} is too narrow for a length that counts the header", spec.roles.length);
            return Err(wrong("roles.length", reason));
        }
        Ok(Self {
            id: spec.id.as_str().into(),
            begin: spec.begin.iter().copied().collect(),
            end: spec.end.iter().copied().collect(),
            head_bytes: begin + header_bytes,
            body_max: spec.body_max,
            length_base,
            length,
            command: optional("command", &spec.roles.command)?,
            sequence: optional("sequence", &spec.roles.sequence)?,
            user: optional("user", &spec.roles.user)?,
            fields,
        })
    }

    /// The built-in format `im20`: markers 0x09 and 0x0A, a header of 20
    /// bytes, a length that counts the body.
    #[must_use]
    pub fn im20() -> Self {
        Self::new(&FormatSpec::im20()).expect("the built-in format is checked by a test")
    }

    /// The object's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Begin marker and header together, in bytes.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        self.head_bytes as usize
    }

    /// Begin marker, header and end marker together, in bytes.
    #[must_use]
    pub fn overhead_bytes(&self) -> usize {
        self.head_bytes as usize + self.end.len()
    }

    /// The most bytes a body may have.
    #[must_use]
    pub fn body_max(&self) -> usize {
        self.body_max as usize
    }

    /// The most bytes a whole frame may have.
    #[must_use]
    pub fn frame_max(&self) -> usize {
        self.overhead_bytes() + self.body_max()
    }

    /// A field by its name; looked up when configuration is built, never on the way.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<FrameField> {
        self.fields.iter().find(|(known, _)| **known == *name).map(|(_, field)| *field)
    }

    /// Names of the fields, as described.
    pub fn field_names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| &**name)
    }

    /// The field with the length.
    #[must_use]
    pub fn length(&self) -> FrameField {
        self.length
    }

    /// The field that says what kind of message a frame is.
    #[must_use]
    pub fn command(&self) -> Option<FrameField> {
        self.command
    }

    /// The field that ties a reply to its request.
    #[must_use]
    pub fn sequence(&self) -> Option<FrameField> {
        self.sequence
    }

    /// The field with the user a frame comes from.
    #[must_use]
    pub fn user(&self) -> Option<FrameField> {
        self.user
    }

    /// Bytes of the body of the frame that begins with `head`, whose header is whole.
    #[inline]
    pub(super) fn body_bytes(&self, head: &[u8]) -> Result<u32, FrameError> {
        let declared = self.length.read(head);
        let base = u64::from(self.length_base);
        if declared < base {
            return Err(FrameError::LengthTooSmall { declared, least: self.length_base });
        }
        let body = declared - base;
        if body > u64::from(self.body_max) {
            return Err(FrameError::BodyTooLarge { declared: body, limit: self.body_max });
        }
        Ok(body as u32)
    }
}

impl FormatSpec {
    /// The description of the built-in `im20`.
    #[must_use]
    pub fn im20() -> Self {
        let field =
            |name: &str, at, bytes| FieldSpec { name: name.to_owned(), at, bytes, endian: Endian::Big };
        Self {
            id: "im20".to_owned(),
            begin: vec![0x09],
            end: vec![0x0A],
            header: vec![
                field("flag", 0, 1),
                field("version", 1, 1),
                field("crypt", 2, 1),
                field("terminal", 3, 1),
                field("cmd", 4, 2),
                field("seq", 6, 2),
                field("from", 8, 4),
                field("to", 12, 4),
                field("length", 16, 4),
            ],
            header_bytes: None,
            roles: RolesSpec {
                length: "length".to_owned(),
                command: Some("cmd".to_owned()),
                sequence: Some("seq".to_owned()),
                user: Some("from".to_owned()),
            },
            length_includes: LengthIncludes::Body,
            body_max: 64 * 1024,
        }
    }
}

fn wrong(field: &str, reason: String) -> FormatError {
    FormatError { field: field.to_owned(), reason }
}

fn compile(field: &FieldSpec, begin: u32) -> FrameField {
    FrameField {
        offset: (begin + field.at) as u16,
        bytes: field.bytes as u8,
        little: field.endian == Endian::Little,
    }
}

fn check_marker(name: &str, marker: &[u8]) -> Result<(), FormatError> {
    if marker.len() > MARKER_BYTES_LIMIT {
        return Err(wrong(name, format!("{} bytes, at most {MARKER_BYTES_LIMIT}", marker.len())));
    }
    Ok(())
}

fn header_bytes(spec: &FormatSpec) -> Result<u32, FormatError> {
    if spec.header.is_empty() {
        return Err(wrong("header", "no fields; at least the length is needed".to_owned()));
    }
    if spec.header.len() > FIELDS_LIMIT {
        return Err(wrong("header", format!("{} fields, at most {FIELDS_LIMIT}", spec.header.len())));
    }
    let end = spec.header.iter().map(|field| field.at.saturating_add(field.bytes)).max().unwrap_or(0);
    let bytes = spec.header_bytes.unwrap_or(end);
    if bytes > HEADER_BYTES_LIMIT {
        let name = if spec.header_bytes.is_some() { "header_bytes" } else { "header" };
        return Err(wrong(name, format!("header of {bytes} bytes, at most {HEADER_BYTES_LIMIT}")));
    }
    Ok(bytes)
}

fn check_fields(fields: &[FieldSpec], header_bytes: u32) -> Result<(), FormatError> {
    for (index, field) in fields.iter().enumerate() {
        let path = |part: &str| format!("header[{index}].{part}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if field.name.is_empty() || field.name.len() > 32 || !field.name.chars().all(plain) {
            let reason = format!("{:?} is not 1 to 32 of a-z, 0-9 and _", field.name);
            return Err(wrong(&path("name"), reason));
        }
        if !matches!(field.bytes, 1 | 2 | 4 | 8) {
            return Err(wrong(&path("bytes"), format!("{} is not 1, 2, 4 or 8", field.bytes)));
        }
        let end = field.at.saturating_add(field.bytes);
        if end > header_bytes {
            let reason = format!("{:?} ends at {end}, the header has {header_bytes} bytes", field.name);
            return Err(wrong(&path("at"), reason));
        }
        for earlier in &fields[..index] {
            if earlier.name == field.name {
                return Err(wrong(&path("name"), format!("{:?} is there twice", field.name)));
            }
            if field.at < earlier.at + earlier.bytes && earlier.at < end {
                let reason = format!("{:?} overlaps {:?}", field.name, earlier.name);
                return Err(wrong(&path("at"), reason));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn im20_is_twenty_bytes_between_its_markers() {
        let format = FrameFormat::im20();
        assert_eq!((format.head_bytes(), format.overhead_bytes()), (21, 22));
        assert_eq!(format.frame_max(), 65_536 + 22);
        assert!(format.command().is_some() && format.sequence().is_some() && format.user().is_some());
    }

    #[test]
    fn a_description_that_makes_no_sense_names_the_field() {
        type Change = fn(&mut FormatSpec);
        let table: &[(Change, &str)] = &[
            (|s| s.header.clear(), "header: no fields; at least the length is needed"),
            (|s| s.header[0].name = String::new(), "header[0].name: \"\" is not 1 to 32 of a-z, 0-9 and _"),
            (|s| s.header[0].name = "A-B".into(), "header[0].name: \"A-B\" is not 1 to 32 of a-z, 0-9 and _"),
            (|s| s.header[1].name = "flag".into(), "header[1].name: \"flag\" is there twice"),
            (|s| s.header[4].bytes = 3, "header[4].bytes: 3 is not 1, 2, 4 or 8"),
            (|s| s.header[4].bytes = 0, "header[4].bytes: 0 is not 1, 2, 4 or 8"),
            (|s| s.header[5].at = 5, "header[5].at: \"seq\" overlaps \"cmd\""),
            (|s| s.header_bytes = Some(19), "header[8].at: \"length\" ends at 20, the header has 19 bytes"),
            (|s| s.header[8].at = u32::MAX, "header: header of 4294967295 bytes, at most 1024"),
            (|s| s.header_bytes = Some(2000), "header_bytes: header of 2000 bytes, at most 1024"),
            (|s| s.roles.length = String::new(), "roles.length: needed: the field that holds the length"),
            (|s| s.roles.length = "size".into(), "roles.length: no field \"size\" in the header"),
            (|s| s.roles.command = Some("kind".into()), "roles.command: no field \"kind\" in the header"),
            (|s| s.begin = vec![0; 9], "begin: 9 bytes, at most 8"),
            (|s| s.end = vec![0; 9], "end: 9 bytes, at most 8"),
            (|s| s.body_max = 1 << 25, "body_max: 33554432 is over the limit of 16777216"),
            (
                |s| {
                    s.header_bytes = Some(400);
                    s.roles.length = "flag".into();
                    s.length_includes = LengthIncludes::Header;
                },
                "roles.length: \"flag\" is too narrow for a length that counts the header",
            ),
        ];
        for (change, expected) in table {
            let mut spec = FormatSpec::im20();
            change(&mut spec);
            assert_eq!(FrameFormat::new(&spec).unwrap_err().to_string(), *expected);
        }
    }

    #[test]
    fn fields_are_read_and_written_in_both_orders_and_all_widths() {
        for (bytes, value) in [(1, 0xA1), (2, 0xA1B2), (4, 0xA1B2_C3D4), (8, 0xA1B2_C3D4_E5F6_0718)] {
            for endian in [Endian::Big, Endian::Little] {
                let field = compile(&FieldSpec { name: "x".into(), at: 3, bytes, endian }, 1);
                let mut frame = [0xFF; 16];
                assert!(field.write(&mut frame, value));
                assert_eq!(field.read(&frame), value);
                let first = if endian == Endian::Big { 0xA1 } else { value as u8 };
                assert_eq!((frame[3], frame[4], frame[4 + bytes as usize]), (0xFF, first, 0xFF));
                assert!(field.write(&mut frame, field.largest()));
                assert!(bytes == 8 || !field.write(&mut frame, field.largest() + 1));
                assert_eq!(field.read(&frame[..4]), 0, "too short reads as zero");
            }
        }
    }
}
