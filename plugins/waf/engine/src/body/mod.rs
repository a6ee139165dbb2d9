//! Readers of bodies. Each hands on what it finds, piece by piece, and says
//! where a body is not what it claims to be.

pub mod json;
pub mod multipart;
pub mod urlencoded;
pub mod xml;

/// Takes a name and a value; says whether there is room for more.
pub type Sink<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;
