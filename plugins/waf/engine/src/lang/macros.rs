//! Texts with `%{…}` in them.

use super::variables::{self, Selector, Target, Variable};
use crate::names::Names;

/// A text whose marks are filled in when a rule has matched.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Macro {
    /// Its parts, in order.
    pub parts: Vec<Part>,
}

/// A part of such a text.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Stands as it is.
    Text(Vec<u8>),
    /// The first value of this target.
    Value(Target),
}

impl Macro {
    /// The text, if there are no marks in it.
    pub fn constant(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [] => Some(b""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text that stands before the first mark.
    pub fn beginning(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => b"",
        }
    }
}

/// Reads a text. A mark that names no variable stands as it is.
pub fn parse(text: &str, names: &mut Names) -> Macro {
    let mut parts = Vec::new();
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("%{") {
        let Some(length) = rest[start..].find('}') else { break };
        let inner = &rest[start + 2..start + length];
        plain.extend_from_slice(&rest.as_bytes()[..start]);
        match value(inner, names) {
            Some(target) => {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Value(target));
            }
            None => plain.extend_from_slice(&rest.as_bytes()[start..=start + length]),
        }
        rest = &rest[start + length + 1..];
    }
    plain.extend_from_slice(rest.as_bytes());
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Macro { parts }
}

fn value(inner: &str, names: &mut Names) -> Option<Target> {
    let target = variables::parse_one(inner, false, names).ok()?;
    let sensible = target.variable.is_collection() == !matches!(target.selector, Selector::All);
    (sensible || target.variable == Variable::MatchedVars).then_some(target)
}

/// The text with its marks left out, by which rules are chosen.
pub fn written(text: &Macro) -> Vec<u8> {
    let plain = text.parts.iter().map(|part| match part {
        Part::Text(text) => text.as_slice(),
        Part::Value(_) => b"",
    });
    plain.collect::<Vec<_>>().concat()
}
