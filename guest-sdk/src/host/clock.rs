//! Time and chance.

use std::time::Duration;

use super::backend;

/// Time since 1970, UTC, in whole milliseconds.
#[must_use]
pub fn now() -> Duration {
    Duration::from_millis(backend::clock_now())
}

/// The time of a clock that never goes back, in nanoseconds.
#[must_use]
pub fn monotonic() -> Duration {
    Duration::from_nanos(backend::clock_monotonic())
}

/// The most bytes one call of the host gives.
const RANDOM_MAX: usize = 1024;

/// Bytes nobody can guess.
#[must_use]
pub fn random(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let wanted = (length - bytes.len()).min(RANDOM_MAX);
        let piece = backend::random(u32::try_from(wanted).unwrap_or(1));
        // Too few bytes of chance are worse than none: a token made of them
        // could be guessed.
        assert_eq!(piece.len(), wanted, "the host gave other than {wanted} random bytes");
        bytes.extend_from_slice(&piece);
    }
    bytes
}
