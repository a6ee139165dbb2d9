//! Regular expressions as ModSecurity means them, and what must stand in a
//! text for one to match.

pub mod grams;
pub mod literals;
mod rewrite;

use regex_automata::meta;
use regex_automata::util::syntax;
use regex_syntax::hir::Hir;

pub use rewrite::rewrite;

/// The most memory one pattern may take when it is compiled, in bytes.
const SIZE_MAX: usize = 4 << 20;
/// The most memory its lazy automaton may take while it runs, in bytes. Past
/// that it begins anew, and then falls back to a slower machine.
const CACHE_MAX: usize = 256 << 10;
/// How far a pattern with look-around or back-references may go back. A text
/// that needs more does not match; the event says so.
const BACKTRACK_MAX: usize = 20_000;

/// A compiled pattern: dot matches line feeds, `^` and `$` match at lines, and
/// a text is bytes.
#[derive(Debug)]
pub struct Pattern {
    machine: Machine,
}

#[derive(Debug)]
enum Machine {
    Automaton(meta::Regex),
    /// Look-around and back-references; byte `hh` is character U+00hh.
    Backtracker(fancy_regex::Regex),
}

/// Where groups matched; the first is the whole match.
pub type Groups = Vec<Option<(usize, usize)>>;

impl Pattern {
    /// Compiles a pattern in PCRE's syntax. The error says what is wrong.
    pub fn new(source: &[u8]) -> Result<Pattern, String> {
        let text = rewrite(source);
        match parse(&text) {
            Ok(hir) => Ok(Pattern { machine: Machine::Automaton(compile(&hir)?) }),
            Err(error) => match backtracker(&text) {
                Ok(regex) => Ok(Pattern { machine: Machine::Backtracker(regex) }),
                Err(_) => Err(error),
            },
        }
    }

    /// The pattern's structure, for what must stand in a text. None where the
    /// pattern needs going back.
    pub fn structure(source: &[u8]) -> Option<Hir> {
        parse(&rewrite(source)).ok()
    }

    /// Whether a text matches.
    pub fn is_match(&self, text: &[u8]) -> bool {
        match &self.machine {
            Machine::Automaton(regex) => regex.is_match(text),
            Machine::Backtracker(regex) => regex.is_match(&widen(text)).unwrap_or(false),
        }
    }

    /// Where a text matches first, with groups.
    pub fn groups(&self, text: &[u8]) -> Option<Groups> {
        match &self.machine {
            Machine::Automaton(regex) => {
                let mut captures = regex.create_captures();
                regex.captures(text, &mut captures);
                captures
                    .is_match()
                    .then(|| captures.iter().map(|span| span.map(|span| (span.start, span.end))).collect())
            }
            Machine::Backtracker(regex) => {
                let text = widen(text);
                let captures = regex.captures(&text).ok().flatten()?;
                let narrow = |at: usize| text[..at].chars().count();
                Some(
                    captures
                        .iter()
                        .map(|group| group.map(|group| (narrow(group.start()), narrow(group.end()))))
                        .collect(),
                )
            }
        }
    }
}

fn parse(text: &str) -> Result<Hir, String> {
    let config = syntax::Config::new().unicode(false).utf8(false).multi_line(true).dot_matches_new_line(true);
    syntax::parse_with(text, &config).map_err(|error| one_line(&error.to_string()))
}

fn compile(hir: &Hir) -> Result<meta::Regex, String> {
    let config = meta::Config::new()
        .utf8_empty(false)
        .nfa_size_limit(Some(SIZE_MAX))
        .hybrid_cache_capacity(CACHE_MAX)
        .onepass(false)
        .dfa(false);
    meta::Builder::new().configure(config).build_from_hir(hir).map_err(|error| one_line(&error.to_string()))
}

fn backtracker(text: &str) -> Result<fancy_regex::Regex, String> {
    fancy_regex::RegexBuilder::new(&format!("(?sm){text}"))
        .backtrack_limit(BACKTRACK_MAX)
        .build()
        .map_err(|error| one_line(&error.to_string()))
}

fn widen(text: &[u8]) -> String {
    text.iter().map(|&byte| char::from(byte)).collect()
}

/// Errors of the parser draw the pattern and an arrow; the last line says what
/// is wrong.
fn one_line(error: &str) -> String {
    error.lines().next_back().unwrap_or(error).trim().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_pcre_does_with_dot_all_and_multi_line() {
        let cases: &[(&str, &[u8], bool)] = &[
            ("a.b", b"a\nb", true),
            ("^b$", b"a\nb\nc", true),
            ("[\\w-.]+$", b"a-.", true),
            ("\\x{41}\\x5c", b"A\\", true),
            ("\\<script\\>", b"<script>", true),
            ("[[\\]]", b"[", true),
            ("[&&~]", b"~", true),
            ("\\${x}", b"${x}", true),
            ("\\d{2,}{", b"12{", true),
            ("(?i)caf\u{e9}", "CAF\u{e9}".as_bytes(), true),
            ("[^\\x00-\\x7f]", b"\xff", true),
            ("a(?!b)", b"ab", false),
            ("(\\w+) \\1", b"go go", true),
            ("(?<!x)y", b"xy", false),
            ("\\s", b"\x0b", true),
            ("a\\/b\\_c", b"a/b_c", true),
            ("[^!\\\"\\(\\),/:-\\?\\[-\\]\\{\\}]+", b"ok", true),
            ("[\\--9A-Z_a-z]", b"-", true),
        ];
        for (pattern, text, expected) in cases {
            let compiled =
                Pattern::new(pattern.as_bytes()).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(compiled.is_match(text), *expected, "{pattern} on {text:?}");
        }
    }

    #[test]
    fn groups_are_places_in_bytes_for_both_machines() {
        for pattern in ["\\xe9(b+)", "\\xe9(b+)(?=c)"] {
            let groups = Pattern::new(pattern.as_bytes()).unwrap().groups(b"a\xe9bbc").unwrap();
            assert_eq!(groups, vec![Some((1, 4)), Some((2, 4))], "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_is_wrong_says_what_is_wrong() {
        let error = Pattern::new(b"a(b").unwrap_err();
        assert!(error.contains("unclosed group"), "{error}");
    }
}
