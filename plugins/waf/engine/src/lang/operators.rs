//! What rules look for, as written.

use super::macros::{self, Macro};
use crate::names::Names;

/// An operator and its argument.
#[derive(Debug, Clone)]
pub struct OperatorText {
    /// `!`: the rule matches where the operator does not.
    pub negated: bool,
    /// Its name in small letters, `rx` where none is written.
    pub name: String,
    /// The argument as written.
    pub argument: String,
    /// The argument with its marks.
    pub value: Macro,
}

/// Reads `!@rx pattern`.
pub fn parse(text: &str, names: &mut Names) -> Result<OperatorText, String> {
    let trimmed = text.trim_start();
    let (negated, rest) = match trimmed.strip_prefix('!') {
        Some(rest) if rest.trim_start().starts_with('@') => (true, rest.trim_start()),
        Some(rest) => (true, rest),
        None => (false, trimmed),
    };
    let (name, argument) = match rest.strip_prefix('@') {
        Some(rest) => {
            let end = rest.find(|character: char| character.is_ascii_whitespace()).unwrap_or(rest.len());
            (rest[..end].to_ascii_lowercase(), rest[end..].trim_start())
        }
        None => ("rx".to_owned(), rest),
    };
    // A trailing space belongs to a pattern; elsewhere it is none of the value.
    let argument = if name == "rx" { argument } else { argument.trim_end() };
    Ok(OperatorText { negated, name, argument: argument.to_owned(), value: macros::parse(argument, names) })
}
