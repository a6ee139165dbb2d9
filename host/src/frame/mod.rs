//! Framing of binary protocols: `begin? header body end?`.
//!
//! A [`FrameFormat`] is compiled once from its description; reading a field of
//! a frame is then one load. A [`FrameDecoder`] finds the frames in bytes that
//! come in any pieces and lends them from where they lie; [`encode`](FrameFormat::encode)
//! makes new ones. Reads no socket and no clock; connections own those. Start
//! at [`FrameFormat`] and [`FrameDecoder::scan`].

mod decoder;
mod encoder;
mod error;
mod format;
pub mod fuzz;

pub use decoder::{Frame, FrameDecoder, Piece, Scan};
pub use encoder::{EncodeError, FrameFields};
pub use error::FrameError;
pub use format::{
    BODY_BYTES_LIMIT, Endian, FieldSpec, FormatError, FormatSpec, FrameField, FrameFormat,
    HEADER_BYTES_LIMIT, LengthIncludes, MARKER_BYTES_LIMIT, RolesSpec,
};
