//! Texts and what is done to them: sets of bytes, transformations, and the
//! table that keeps each distinct text of a transaction once.

pub mod bytes;
pub mod decode;
pub mod table;
pub mod transform;
