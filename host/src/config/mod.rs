//! What operators write: documents, and the typed objects made of them.
//!
//! Parsing is strict and tells every fault with its object, field and value.
//! Knows nothing of live state: what is built of an object is built elsewhere.
//! A [`source`] reads documents and says what changed; the [`Store`] makes
//! objects of them and decides which are in force. Start at [`objects`] for
//! the fields, at [`Store::apply`] for the rules.

pub mod blob;
pub mod cache;
mod check;
mod digest;
mod document;
mod id;
mod kept_blobs;
mod kind;
mod object;
pub mod objects;
mod problem;
pub mod seal;
mod secrets;
pub mod signature;
pub mod source;
mod store;

pub use check::{CheckScope, Finding, Report, check, documents};
pub use digest::{Blobs, COMPONENT_BYTES_MAX, Digest};
pub use document::{
    ALIASES_MAX, DEPTH_MAX, Document, DocumentError, FILE_BYTES_MAX, Format, NODES_MAX, Origin, Position,
    SyntaxError, parse_document, parse_object, parse_standalone, parse_value, to_yaml,
};
pub use id::{ID_LENGTH_MAX, Id, IdError, shown_id};
pub use kept_blobs::{KEPT_BYTES_MAX, KeptBlobs};
pub use kind::{KINDS, Kind, KindError};
pub use object::Object;
pub use problem::{ObjectError, Problem, Problems};
pub use secrets::redact;
pub use store::{Change, Check, DocumentChange, Indexes, Key, Quarantine, Store, Trial};
