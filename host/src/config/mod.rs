//! What operators write: documents, and the typed objects made of them.
//!
//! Parsing is strict and tells every fault with its object, field and value.
//! Knows nothing of live state: what is built of an object is built elsewhere.
//! Start at [`objects`].

mod id;
mod kind;
pub mod objects;
mod problem;

pub use id::{ID_LENGTH_MAX, Id, IdError};
pub use kind::{KINDS, Kind, KindError};
pub use problem::{ObjectError, Problem, Problems};
