//! Components of modules in pieces, as a store keeps them.
//!
//! A component is compressed (zstd) and cut into pieces that an etcd server
//! takes in one request; each is a record `blobs/sha256-<hex>/<n>`. A piece
//! begins with 16 bytes: `SLB1`, how many there are, which one this is and the
//! CRC-32C of its rest, numbers in big endian. So a piece that is missing,
//! in another's place or of another upload is told as what it is, and the
//! digest of the whole is checked before anyone sees the bytes.
//!
//! Start at [`split`] and [`join`].

use super::Digest;
use super::source::{Area, RecordName};

/// The most bytes of a piece, its head included.
pub const PIECE_BYTES_MAX: usize = 512 * 1024;
/// The most pieces of a component.
pub const PIECES_MAX: usize = 256;
/// The largest component, in bytes.
const COMPONENT_BYTES_MAX: usize = 64 << 20;

const MAGIC: &[u8; 4] = b"SLB1";
const HEAD_BYTES: usize = 16;
/// zstd's level: components shrink to a third, in a tenth of a second a megabyte.
const LEVEL: i32 = 9;

/// Why pieces are not a component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// The component is too large.
    #[error("a component of {0} bytes is over the limit of {COMPONENT_BYTES_MAX}")]
    TooLarge(usize),
    /// There is no piece.
    #[error("the store holds nothing of it")]
    Absent,
    /// Not all pieces are there.
    #[error("piece {missing} of {count} is missing")]
    Missing {
        /// Which.
        missing: u32,
        /// How many there are.
        count: u32,
    },
    /// A piece is not one.
    #[error("piece {0} is damaged: {1}")]
    Damaged(u32, &'static str),
    /// A piece stands in another's place.
    #[error("in the place of piece {place} stands piece {found}")]
    Swapped {
        /// Where it stands.
        place: u32,
        /// Which it is.
        found: u32,
    },
    /// Pieces of two uploads stand beside each other.
    #[error("piece {place} is one of {found}, others are of {count}: two uploads are mixed")]
    Mixed {
        /// Where it stands.
        place: u32,
        /// How many its upload has.
        found: u32,
        /// How many the others have.
        count: u32,
    },
    /// The pieces together are something else.
    #[error("the pieces together are sha256:{0}, something else than what was asked for")]
    OtherDigest(String),
    /// The pieces cannot be unpacked.
    #[error("the pieces together cannot be unpacked: {0}")]
    Packed(String),
}

/// The name of a piece of the component with this digest; none for what is no digest.
#[must_use]
pub fn piece_name(hex: &str, number: u32) -> Option<RecordName> {
    let is_digest = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_digest.then(|| RecordName::new(Area::Blobs, &format!("sha256-{hex}/{number}")).ok())?
}

/// Cuts a component into pieces, which are the same for the same bytes.
///
/// # Errors
/// It is too large.
pub fn split(component: &[u8]) -> Result<Vec<Vec<u8>>, BlobError> {
    if component.len() > COMPONENT_BYTES_MAX {
        return Err(BlobError::TooLarge(component.len()));
    }
    let packed =
        zstd::bulk::compress(component, LEVEL).map_err(|error| BlobError::Packed(error.to_string()))?;
    let bodies: Vec<&[u8]> = packed.chunks(PIECE_BYTES_MAX - HEAD_BYTES).collect();
    if bodies.len() > PIECES_MAX {
        return Err(BlobError::TooLarge(component.len()));
    }
    let count = bodies.len() as u32;
    let piece = |(number, body): (usize, &&[u8])| {
        let mut piece = Vec::with_capacity(HEAD_BYTES + body.len());
        piece.extend_from_slice(MAGIC);
        piece.extend_from_slice(&count.to_be_bytes());
        piece.extend_from_slice(&(number as u32).to_be_bytes());
        piece.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
        piece.extend_from_slice(body);
        piece
    };
    Ok(bodies.iter().enumerate().map(piece).collect())
}

/// A piece, looked into.
struct Piece<'a> {
    count: u32,
    number: u32,
    body: &'a [u8],
}

/// How many pieces there are, by the first of them.
///
/// # Errors
/// The piece is damaged.
pub fn count_of(first: &[u8]) -> Result<u32, BlobError> {
    let piece = look(0, first)?;
    if piece.number != 0 {
        return Err(BlobError::Swapped { place: 0, found: piece.number });
    }
    Ok(piece.count)
}

/// Whether bytes are a whole piece for a place.
///
/// # Errors
/// What is wrong with them.
pub fn check_piece(place: u32, bytes: &[u8]) -> Result<(), BlobError> {
    let piece = look(place, bytes)?;
    if piece.number == place { Ok(()) } else { Err(BlobError::Swapped { place, found: piece.number }) }
}

fn look(place: u32, bytes: &[u8]) -> Result<Piece<'_>, BlobError> {
    let damaged = |why| BlobError::Damaged(place, why);
    let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(|| damaged("it is cut short"))?;
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if &head[..4] != MAGIC {
        return Err(damaged("it does not begin with SLB1"));
    }
    let (count, index) = (number(4), number(8));
    if count == 0 || count as usize > PIECES_MAX || index >= count {
        return Err(damaged("its number or the number of pieces cannot be"));
    }
    if number(12) != crc32c::crc32c(body) {
        return Err(damaged("its checksum is another"));
    }
    Ok(Piece { count, number: index, body })
}

/// Puts pieces together, in the order of their places, and checks the whole
/// against a digest in hexadecimal. Allocates no more than `max` bytes for it.
///
/// # Errors
/// What is wrong with which piece.
pub fn join(pieces: &[Vec<u8>], hex: &str, max: usize) -> Result<Vec<u8>, BlobError> {
    let first = pieces.first().ok_or(BlobError::Absent)?;
    let count = count_of(first)?;
    let mut packed = Vec::with_capacity(pieces.iter().map(Vec::len).sum());
    for (place, bytes) in pieces.iter().enumerate() {
        let place = place as u32;
        let piece = look(place, bytes)?;
        if piece.count != count {
            return Err(BlobError::Mixed { place, found: piece.count, count });
        }
        if piece.number != place {
            return Err(BlobError::Swapped { place, found: piece.number });
        }
        packed.extend_from_slice(piece.body);
    }
    let there = pieces.len() as u32;
    if there != count {
        return Err(BlobError::Missing { missing: there.min(count), count });
    }
    let whole = unpack(&packed, max.min(COMPONENT_BYTES_MAX))?;
    let found = Digest::of(&whole).hex();
    if found == hex { Ok(whole) } else { Err(BlobError::OtherDigest(found)) }
}

fn unpack(packed: &[u8], max: usize) -> Result<Vec<u8>, BlobError> {
    use std::io::Read;
    let failed = |error: std::io::Error| BlobError::Packed(error.to_string());
    let mut whole = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(failed)?;
    // One byte more than allowed, to see that there are more.
    decoder.take(max as u64 + 1).read_to_end(&mut whole).map_err(failed)?;
    if whole.len() > max { Err(BlobError::TooLarge(whole.len())) } else { Ok(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that do not compress.
    fn component(length: usize) -> Vec<u8> {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect()
    }

    #[test]
    fn a_component_comes_back_as_it_was() {
        for length in [0, 1, 1000, PIECE_BYTES_MAX - HEAD_BYTES, 3 * PIECE_BYTES_MAX] {
            let bytes = component(length);
            let pieces = split(&bytes).unwrap();
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES_MAX));
            assert_eq!(pieces, split(&bytes).unwrap(), "the same pieces every time");
            assert_eq!(
                join(&pieces, &Digest::of(&bytes).hex(), COMPONENT_BYTES_MAX).unwrap(),
                bytes,
                "{length}"
            );
        }
    }

    #[test]
    fn pieces_that_are_missing_swapped_mixed_or_damaged_are_told_apart() {
        let bytes = component(3 * PIECE_BYTES_MAX);
        let hex = Digest::of(&bytes).hex();
        let pieces = split(&bytes).unwrap();
        let other = split(&component(2 * PIECE_BYTES_MAX)).unwrap();
        let fault = |pieces: &[Vec<u8>]| join(pieces, &hex, COMPONENT_BYTES_MAX).unwrap_err().to_string();
        let count = pieces.len();
        assert_eq!(fault(&[]), "the store holds nothing of it");
        assert_eq!(fault(&pieces[..count - 1]), format!("piece {} of {count} is missing", count - 1));
        let mut swapped = pieces.clone();
        swapped.swap(1, 2);
        assert_eq!(fault(&swapped), "in the place of piece 1 stands piece 2");
        let mut mixed = pieces.clone();
        mixed[1] = other[1].clone();
        assert!(fault(&mixed).ends_with("two uploads are mixed"), "{}", fault(&mixed));
        let mut flipped = pieces.clone();
        flipped[1][100] ^= 1;
        assert_eq!(fault(&flipped), "piece 1 is damaged: its checksum is another");
        let mut short = pieces.clone();
        short[1].truncate(7);
        assert_eq!(fault(&short), "piece 1 is damaged: it is cut short");
        assert!(join(&other, &hex, COMPONENT_BYTES_MAX).unwrap_err().to_string().contains("something else"));
    }

    #[test]
    fn what_unpacks_to_more_than_allowed_is_refused() {
        let bomb = vec![0; 10_000_000];
        let pieces = split(&bomb).unwrap();
        assert!(pieces[0].len() < 10_000);
        let refused = join(&pieces, &Digest::of(&bomb).hex(), 1_000_000);
        assert_eq!(refused, Err(BlobError::TooLarge(1_000_001)));
    }

    #[test]
    fn only_a_digest_names_a_piece() {
        let hex = Digest::of(b"").hex();
        assert_eq!(piece_name(&hex, 7).unwrap().to_string(), format!("blobs/sha256-{hex}/7"));
        for wrong in ["", "../..", &hex[1..], &hex.to_uppercase()] {
            assert!(piece_name(wrong, 0).is_none(), "{wrong}");
        }
    }
}
