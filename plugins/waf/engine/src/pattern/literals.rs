//! What must stand in a text for a pattern to match it.
//!
//! Everything is said of the text with its capitals made small. Where nothing
//! can be said, nothing is: the conditions are necessary, never sufficient.

use regex_syntax::hir::{Class, Hir, HirKind};

use crate::text::bytes::ByteSet;

/// The most literals one condition may have.
const LITERALS_MAX: usize = 600;
/// The most exact strings that are carried along while a pattern is read.
const EXACT_MAX: usize = 300;
/// Longer literals are cut: more does not tell more.
const LENGTH_MAX: usize = 24;
/// The most byte conditions that are kept of one pattern.
const SETS_MAX: usize = 3;

/// Conditions that all hold for a text that matches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Required {
    /// One of these occurs in it. None: nothing is known.
    pub literals: Option<Vec<Vec<u8>>>,
    /// Of each of these sets a byte occurs in it.
    pub sets: Vec<ByteSet>,
}

/// What must stand in a text that this pattern matches.
pub fn required(hir: &Hir) -> Required {
    let mut found = read(hir);
    found.settle();
    let mut sets = found.sets;
    sets.retain(|set| set.len() <= 200);
    sets.sort_by_key(|set| (set.iter().map(|byte| u32::from(commonness(byte))).sum::<u32>(), set.0));
    sets.dedup();
    sets.truncate(SETS_MAX);
    Required {
        literals: found.literals.filter(|literals| literals.iter().all(|literal| literal.len() >= 2)),
        sets,
    }
}

/// How common a byte is in what clients send, from 1 to 12.
pub fn commonness(byte: u8) -> u8 {
    match byte {
        b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' | b' ' => 12,
        b'h' | b'l' | b'd' | b'c' | b'u' | b'm' | b'p' => 9,
        b'f' | b'g' | b'y' | b'w' | b'b' | b'v' | b'k' | b'.' | b'/' | b'-' | b'0'..=b'3' => 6,
        b'4'..=b'9' | b'x' | b'j' | b'z' | b'q' | b',' | b'_' | b'=' => 4,
        b':' | b';' | b'(' | b')' | b'"' | b'\'' | b'+' | b'%' | b'&' | b'?' => 2,
        _ => 1,
    }
}

/// How often a literal is likely to occur, for comparing.
fn likelihood(literal: &[u8]) -> f64 {
    literal.iter().map(|&byte| f64::from(commonness(byte)) / 160.0).product()
}

fn cost(literals: &[Vec<u8>]) -> f64 {
    literals.iter().map(|literal| likelihood(literal)).sum()
}

/// What is known of a part of a pattern.
#[derive(Debug, Clone, Default)]
struct Info {
    /// It matches exactly these strings, and no others.
    exact: Option<Vec<Vec<u8>>>,
    literals: Option<Vec<Vec<u8>>>,
    sets: Vec<ByteSet>,
}

impl Info {
    fn exact(strings: Vec<Vec<u8>>) -> Info {
        Info { exact: Some(strings), ..Info::default() }
    }

    /// Turns the exact strings into conditions.
    fn settle(&mut self) {
        let Some(exact) = self.exact.take() else { return };
        if exact.iter().any(Vec::is_empty) {
            return;
        }
        let mut sets: Vec<ByteSet> = Vec::new();
        if exact.len() == 1 {
            sets.extend(exact[0].iter().map(|&byte| ByteSet::of(&[byte])));
        } else if !exact.is_empty() {
            // Of each string its rarest byte.
            let mut set = ByteSet::EMPTY;
            for string in &exact {
                if let Some(&byte) = string.iter().min_by_key(|&&byte| commonness(byte)) {
                    set.insert(byte);
                }
            }
            sets.push(set);
        }
        for set in sets {
            self.add_set(set);
        }
        self.better(exact);
    }

    fn add_set(&mut self, set: ByteSet) {
        if !set.is_empty() && !self.sets.contains(&set) {
            self.sets.push(set);
            if self.sets.len() > 12 {
                self.sets.sort_by_key(|set| set.iter().map(|byte| u32::from(commonness(byte))).sum::<u32>());
                self.sets.truncate(8);
            }
        }
    }

    /// Takes these literals if they tell more than those known.
    fn better(&mut self, literals: Vec<Vec<u8>>) {
        if literals.is_empty() || literals.len() > LITERALS_MAX || literals.iter().any(Vec::is_empty) {
            return;
        }
        let literals = trimmed(literals);
        if self.literals.as_ref().is_none_or(|known| cost(&literals) < cost(known)) {
            self.literals = Some(literals);
        }
    }
}

/// Cut to length, without repetitions.
fn trimmed(mut literals: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for literal in &mut literals {
        literal.truncate(LENGTH_MAX);
    }
    literals.sort();
    literals.dedup();
    literals
}

fn read(hir: &Hir) -> Info {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Info::exact(vec![Vec::new()]),
        HirKind::Literal(literal) => Info::exact(vec![literal.0.to_ascii_lowercase()]),
        HirKind::Class(class) => read_class(class),
        HirKind::Capture(capture) => read(&capture.sub),
        HirKind::Repetition(repetition) => read_repetition(repetition.min, repetition.max, &repetition.sub),
        HirKind::Concat(parts) => read_concat(parts),
        HirKind::Alternation(parts) => read_alternation(parts),
    }
}

fn read_class(class: &Class) -> Info {
    let set = class_set(class).folded();
    if set.is_empty() {
        return Info::exact(Vec::new());
    }
    if set.len() <= 8 {
        return Info::exact(set.iter().map(|byte| vec![byte]).collect());
    }
    Info { sets: vec![set], ..Info::default() }
}

fn class_set(class: &Class) -> ByteSet {
    match class {
        Class::Bytes(class) => {
            class.iter().fold(ByteSet::EMPTY, |set, range| set.with_range(range.start(), range.end()))
        }
        Class::Unicode(class) => class.iter().fold(ByteSet::EMPTY, |set, range| {
            let low = u32::from(range.start()).min(0x7f) as u8;
            let set = set.with_range(low, u32::from(range.end()).min(0x7f) as u8);
            if u32::from(range.end()) > 0x7f { set.with_range(0x80, 0xff) } else { set }
        }),
    }
}

fn read_repetition(min: u32, max: Option<u32>, sub: &Hir) -> Info {
    if min == 0 {
        let mut info = read(sub);
        // Optional parts keep strings exact where there are few.
        return match (max, info.exact.take()) {
            (Some(1), Some(mut exact)) if exact.len() < 8 => {
                exact.push(Vec::new());
                Info::exact(exact)
            }
            _ => Info::default(),
        };
    }
    let mut info = read(sub);
    if (min, max) == (1, Some(1)) {
        return info;
    }
    if let (true, Some(exact)) = (max == Some(min) && min <= 8, &info.exact)
        && exact.len() == 1
    {
        return Info::exact(vec![exact[0].repeat(min as usize)]);
    }
    info.settle();
    info
}

fn read_concat(parts: &[Hir]) -> Info {
    let mut whole = Info::default();
    // Strings one of which ends where the next part begins; `complete` as long
    // as they also begin where the whole begins.
    let mut run = vec![Vec::new()];
    let mut complete = true;
    for part in parts {
        let mut info = read(part);
        match info.exact.take() {
            Some(exact) if run.len().saturating_mul(exact.len()) <= EXACT_MAX => {
                run = run
                    .iter()
                    .flat_map(|left| exact.iter().map(move |right| [left.as_slice(), right].concat()))
                    .collect();
            }
            exact => {
                let mut done = Info::exact(std::mem::take(&mut run));
                done.settle();
                absorb(&mut whole, done);
                run = match exact {
                    Some(exact) if exact.len() <= EXACT_MAX => exact,
                    other => {
                        info.exact = other;
                        info.settle();
                        vec![Vec::new()]
                    }
                };
                complete = false;
                absorb(&mut whole, info);
            }
        }
    }
    if complete {
        return Info { exact: Some(run), ..whole };
    }
    let mut last = Info::exact(run);
    last.settle();
    absorb(&mut whole, last);
    whole
}

/// Both hold.
fn absorb(whole: &mut Info, part: Info) {
    for set in part.sets {
        whole.add_set(set);
    }
    if let Some(literals) = part.literals {
        whole.better(literals);
    }
}

fn read_alternation(parts: &[Hir]) -> Info {
    let mut infos: Vec<Info> = parts.iter().map(read).collect();
    let strings: usize =
        infos.iter().map(|info| info.exact.as_ref().map_or(LITERALS_MAX + 1, Vec::len)).sum();
    if strings <= LITERALS_MAX {
        return Info::exact(infos.into_iter().flat_map(|info| info.exact.unwrap_or_default()).collect());
    }
    let mut literals = Some(Vec::new());
    let mut set = Some(ByteSet::EMPTY);
    for info in &mut infos {
        info.settle();
        literals = match (literals, info.literals.take()) {
            (Some(mut all), Some(more)) if all.len() + more.len() <= LITERALS_MAX => {
                all.extend(more);
                Some(all)
            }
            _ => None,
        };
        let rarest = info
            .sets
            .iter()
            .min_by_key(|set| set.iter().map(|byte| u32::from(commonness(byte))).sum::<u32>());
        set = match (set, rarest) {
            (Some(all), Some(more)) => Some(all.union(more)),
            _ => None,
        };
    }
    Info { exact: None, literals: literals.map(trimmed), sets: set.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;

    fn literals(pattern: &str) -> Option<Vec<String>> {
        let found = required(&Pattern::structure(pattern.as_bytes()).unwrap()).literals?;
        Some(found.into_iter().map(|literal| String::from_utf8(literal).unwrap()).collect())
    }

    #[test]
    fn the_rarest_required_strings_are_found() {
        assert_eq!(literals("(?i)\\bEVAL\\s*\\("), Some(vec!["eval".into()]));
        assert_eq!(literals("(?:system|exec)\\s*\\("), Some(vec!["exec".into(), "system".into()]));
        assert_eq!(literals("ab?c"), Some(vec!["abc".into(), "ac".into()]));
        assert_eq!(literals("x(?:php|zip)://"), Some(vec!["xphp://".into(), "xzip://".into()]));
        assert_eq!(literals("a*b*"), None);
        assert_eq!(literals("(?:a|b*)"), None);
        assert_eq!(literals("[a-z]+=[0-9]+"), None);
    }

    #[test]
    fn byte_conditions_hold_beside_literals() {
        let found = required(&Pattern::structure(b"eval\\s*\\([^)]*\\)").unwrap());
        let text = ByteSet::present_in(b"eval (x)");
        assert!(found.sets.iter().all(|set| set.intersects(&text)));
        assert!(!found.sets.iter().all(|set| set.intersects(&ByteSet::present_in(b"evaluation"))));
    }
}
