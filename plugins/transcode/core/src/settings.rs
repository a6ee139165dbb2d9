//! The plugin's configuration as it is written.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

/// What becomes of fields the definitions do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// The message is refused; the error names the field.
    Reject,
    /// They are left out.
    Ignore,
}

/// The names of fields in the JSON that is written. Both are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldNames {
    /// `sentAtMs`, or what `json_name` says: the default of proto3's JSON.
    #[default]
    Json,
    /// `sent_at_ms`, as the definitions have it.
    Original,
}

/// How enums are written. Both are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnumValues {
    /// By name; numbers without one as numbers.
    #[default]
    Name,
    /// As numbers.
    Number,
}

/// A plugin's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The object of `protos` with the messages of the commands. It may import
    /// the others in `protos`, as `import "<id>.proto"`.
    pub proto_id: Id,
    /// Contents by id, put here by the host: the text of a `.proto` file, or
    /// base64 of a `FileDescriptorSet`. Each at most [`CONTENT_MAX`] bytes.
    #[serde(default)]
    pub protos: BTreeMap<String, String>,
    /// The map of commands; at most [`COMMANDS_MAX`].
    pub commands: Vec<CommandSettings>,
    /// Fields of a client's JSON, and names of its query, that are not in the
    /// definitions. Default `reject`.
    #[serde(default = "reject")]
    pub unknown_fields: Unknown,
    /// Fields of an upstream's bytes that are not in the definitions. Default
    /// `ignore`: a service that is updated before the definitions are must not
    /// fail for every client.
    #[serde(default = "ignore")]
    pub unknown_reply_fields: Unknown,
    /// Names in a query that are left alone, such as a token's.
    #[serde(default)]
    pub query_ignore: Vec<String>,
    /// Whether fields that are zero or empty are written as such. Default no.
    #[serde(default)]
    pub emit_defaults: bool,
    /// The names that are written. Default `json`.
    #[serde(default)]
    pub field_names: FieldNames,
    /// How enums are written. Default `name`.
    #[serde(default)]
    pub enum_values: EnumValues,
    /// The field of every request that is set from the caller's identity; a
    /// command may name its own, or none with `""`.
    #[serde(default)]
    pub user_field: Option<String>,
    /// How deep messages may nest, both ways. 1 to 200, default 100.
    #[serde(default = "depth_max")]
    pub depth_max: usize,
    /// The most bytes of JSON that are made of one frame: bytes of the wire can
    /// be many more as text. 1 KiB to 64 MiB, default 4 MiB.
    #[serde(default = "json_max")]
    pub json_max: usize,
}

/// One entry of the map of commands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    /// The frame's command.
    pub cmd: Number,
    /// The command of the reply; none when none is awaited.
    #[serde(default)]
    pub reply: Option<Number>,
    /// The HTTP method; `POST` where there is a `uri` and nothing is said.
    #[serde(default)]
    pub method: Option<String>,
    /// The path, as in `/im/conversations/{conversation_id}` or with `:name`.
    #[serde(default)]
    pub uri: Option<String>,
    /// The message of the request.
    #[serde(default)]
    pub request: Option<String>,
    /// The message of the reply.
    #[serde(default)]
    pub response: Option<String>,
    /// The message of a frame the upstream sends by itself.
    #[serde(default)]
    pub push: Option<String>,
    /// The message of a frame that says why a request failed, whichever it was.
    #[serde(default)]
    pub error: Option<String>,
    /// The string field of `error` that is shown to the client.
    #[serde(default)]
    pub message_field: Option<String>,
    /// The enum or integer field of `error` that decides on the status.
    #[serde(default)]
    pub code_field: Option<String>,
    /// HTTP statuses by the names or numbers of `code_field`; 502 for others.
    #[serde(default)]
    pub statuses: BTreeMap<String, u16>,
    /// See [`Settings::user_field`].
    #[serde(default)]
    pub user_field: Option<String>,
}

/// The most bytes of one content, as in APISIX.
pub const CONTENT_MAX: usize = 1024 * 1024;
/// The most entries of a map of commands.
pub const COMMANDS_MAX: usize = 4096;

fn reject() -> Unknown {
    Unknown::Reject
}

fn ignore() -> Unknown {
    Unknown::Ignore
}

fn depth_max() -> usize {
    100
}

fn json_max() -> usize {
    4 * 1024 * 1024
}

/// An id: APISIX takes texts and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl Visitor<'_> for Ids {
            type Value = Id;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an id")
            }

            fn visit_str<E>(self, value: &str) -> Result<Id, E> {
                Ok(Id(value.to_owned()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Id, E> {
                Ok(Id(value.to_string()))
            }
        }
        deserializer.deserialize_any(Ids)
    }
}

/// A command: an integer, or a text such as `"0x0301"` or `"769"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub u32);

impl Number {
    /// Reads a command's text.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let number = match digits {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                u32::from_str_radix(digits, 16)
            }
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse(),
            _ => return None,
        };
        number.ok().map(Self)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#06x}", self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl Visitor<'_> for Numbers {
            type Value = Number;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a command of 32 bits such as 769 or \"0x0301\"")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Number, E> {
                u32::try_from(value)
                    .map(Number)
                    .map_err(|_| E::custom(format_args!("command {value} has more than 32 bits")))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Number, E> {
                Number::parse(value).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(value), &self))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

impl Settings {
    /// Reads a configuration. The error names the field and the value.
    pub fn parse(json: &str) -> Result<Self, ConfigFault> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let settings: Self = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let field = error.path().to_string();
            let field = if field == "." { String::new() } else { field };
            ConfigFault { field, message: error.inner().to_string() }
        })?;
        reader.end().map_err(|error| ConfigFault { field: String::new(), message: error.to_string() })?;
        Ok(settings)
    }

    /// What types cannot say.
    pub(crate) fn check(&self) -> Result<(), ConfigFault> {
        if !(1..=200).contains(&self.depth_max) {
            return Err(ConfigFault::new(
                "depth_max",
                format_args!("{} is not within 1 to 200", self.depth_max),
            ));
        }
        if !(1024..=64 * 1024 * 1024).contains(&self.json_max) {
            return Err(ConfigFault::new(
                "json_max",
                format_args!("{} is not within 1024 to 67108864 bytes", self.json_max),
            ));
        }
        if self.commands.is_empty() || self.commands.len() > COMMANDS_MAX {
            return Err(ConfigFault::new(
                "commands",
                format_args!("{} entries; 1 to {COMMANDS_MAX} are allowed", self.commands.len()),
            ));
        }
        Ok(())
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", .field, if .field.is_empty() { "" } else { ": " })]
pub struct ConfigFault {
    /// The field, as in `commands[3].request`; empty for the whole.
    pub field: String,
    /// What is wrong with it, with the value.
    pub message: String,
}

impl ConfigFault {
    pub(crate) fn new(field: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { field: field.into(), message: message.to_string() }
    }
}
