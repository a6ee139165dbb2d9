//! Between protobuf bytes and JSON text, by a map of commands.
//!
//! A [`Plan`] is made of a configuration once: the definitions become tables, the
//! commands and paths are checked against them. A [`Transcoder`] then turns JSON
//! into the bodies of frames and back in one pass each, with no tree in between.
//! It does no I/O and holds no clock; the guest around it, and tests, own those.
//!
//! Start at [`Transcoder`]; [`breaking`] tells what a new configuration would do
//! to clients of an old one.

mod bind;
mod compare;
mod compile;
mod fault;
mod plan;
mod routes;
mod schema;
mod settings;
mod text;
mod text_fields;
mod time;
mod to_json;
mod to_wire;
mod transcoder;
mod wire;

pub use compare::{Breaking, breaking};
pub use fault::Problem;
pub use plan::Plan;
pub use settings::{
    COMMANDS_MAX, CONTENT_MAX, CommandSettings, ConfigFault, EnumValues, FieldNames, Id, Number, Settings,
    Unknown,
};
pub use transcoder::{MessageHead, RequestHead, Transcoder};
