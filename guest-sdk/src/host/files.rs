//! Files the configuration names, while an instance is made.
//!
//! A path that stands in the configuration as a string may be read, and the files
//! beside it, during [`Plugin::new`](crate::Plugin::new) and at no other time.

use super::backend;

/// The whole file.
///
/// # Errors
///
/// The host's reason: not named in the configuration, not there, too long.
pub fn read(path: &str) -> Result<Vec<u8>, String> {
    backend::file_read(path)
}

/// The whole file as text.
///
/// # Errors
///
/// As [`read`], and when the file is not UTF-8.
pub fn read_to_string(path: &str) -> Result<String, String> {
    String::from_utf8(read(path)?).map_err(|error| format!("{path} is not UTF-8: {error}"))
}
