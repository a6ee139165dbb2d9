//! Text with variables in it: `"$remote_addr-${arg_x}"`.

use smallvec::SmallVec;

use super::subject::{Stage, Subject};
use super::variable::{Variable, VariableError};

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A variable in it cannot be used.
    #[error("{source} (at character {at}; write \\$ for a dollar sign)")]
    Variable {
        /// Position of the `$`, counted from 1.
        at: usize,
        /// What is wrong with it.
        source: VariableError,
    },
    /// `${` without its `}`.
    #[error("'${{' at character {at} is not closed")]
    Unclosed {
        /// Position of the `$`, counted from 1.
        at: usize,
    },
}

/// Which extra references a template may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captures {
    /// `$1` is no variable.
    None,
    /// `$0` to `$99` stand for what a regular expression captured.
    Allowed,
}

/// Where a piece of a filled-in text is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Written in the template, by the operator.
    Template,
    /// Filled in, perhaps from what a client sent.
    Filled,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Box<[u8]>),
    Variable(Variable),
    Capture(usize),
}

/// Text that is filled in for each subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Box<[Piece]>,
}

impl Template {
    /// Parses `$name` and `${name}`; `\$` is a dollar sign, and so is a `$`
    /// that no name follows.
    ///
    /// # Errors
    /// Names the character at which a variable is wrong.
    pub fn parse(text: &str, stage: Stage, captures: Captures) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(cut) = rest.find(['$', '\\']) {
            literal.extend_from_slice(&rest.as_bytes()[..cut]);
            rest = &rest[cut..];
            if let Some(after) = rest.strip_prefix("\\$") {
                literal.push(b'$');
                rest = after;
                continue;
            }
            let at = text[..text.len() - rest.len()].chars().count() + 1;
            let Some((name, after)) = split_reference(rest, at)? else {
                literal.push(rest.as_bytes()[0]);
                rest = &rest[1..];
                continue;
            };
            let piece = match name.parse::<usize>() {
                Ok(index) if captures == Captures::Allowed && index < 100 => Piece::Capture(index),
                _ => Piece::Variable(
                    Variable::parse(name, stage).map_err(|source| TemplateError::Variable { at, source })?,
                ),
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
            }
            pieces.push(piece);
            rest = after;
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(Self { pieces: pieces.into() })
    }

    /// A template that is this text and nothing else.
    #[must_use]
    pub fn literal(text: &[u8]) -> Self {
        Self { pieces: [Piece::Literal(text.into())].into() }
    }

    /// The whole text, when nothing in it varies.
    #[must_use]
    pub fn as_literal(&self) -> Option<&[u8]> {
        match &*self.pieces {
            [] => Some(b""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether filling it in needs the request's body.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Variable(variable) if variable.needs_body()))
    }

    /// Appends the filled-in text to `out`; absent variables are empty. Returns
    /// how many variables had a value.
    pub fn fill<const N: usize>(&self, subject: &Subject<'_>, out: &mut SmallVec<[u8; N]>) -> usize {
        self.fill_with(subject, |_| None, |_, bytes| out.extend_from_slice(bytes))
    }

    /// Fills the text in, taking `$1` and its like from `capture`, and hands
    /// its pieces to `out`, saying where each is from. Returns how many
    /// references had a value.
    pub fn fill_with<'c>(
        &self,
        subject: &Subject<'_>,
        capture: impl Fn(usize) -> Option<&'c [u8]>,
        mut out: impl FnMut(Origin, &[u8]),
    ) -> usize {
        let mut found = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out(Origin::Template, text),
                Piece::Variable(variable) => {
                    if let Some(value) = variable.read(subject) {
                        found += 1;
                        out(Origin::Filled, &value);
                    }
                }
                Piece::Capture(index) => {
                    if let Some(text) = capture(*index) {
                        found += 1;
                        out(Origin::Filled, text);
                    }
                }
            }
        }
        found
    }
}

/// Splits `$name` or `${name}` off the front of `text`, which begins with a
/// dollar sign or a backslash.
fn split_reference(text: &str, at: usize) -> Result<Option<(&str, &str)>, TemplateError> {
    let Some(text) = text.strip_prefix('$') else { return Ok(None) };
    if let Some(inner) = text.strip_prefix('{') {
        let Some(end) = inner.find('}') else { return Err(TemplateError::Unclosed { at }) };
        return Ok(Some((&inner[..end], &inner[end + 1..])));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    Ok((end > 0).then(|| text.split_at(end)))
}
