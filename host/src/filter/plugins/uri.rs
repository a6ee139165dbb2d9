//! Making request targets out of templates.

use std::borrow::Cow;
use std::fmt::Write as _;

use regex::bytes::Regex;

use crate::filter::build::{Built, FieldError};
use crate::message::{Captures, Origin, Stage, Subject, Template};
use crate::net::path::{PathError, Slashes, normalize_text};
use crate::route::vars::compile_regex;

/// A regular expression and what a path that matches becomes.
#[derive(Debug)]
pub(super) struct Rewrite {
    pub(super) regex: Regex,
    pub(super) template: Template,
}

/// What groups of a regular expression matched.
pub(super) type Groups<'t> = regex::bytes::Captures<'t>;

impl Rewrite {
    /// Parses one pair of `regex_uri`.
    pub(super) fn parse(field: &str, regex: &str, template: &str) -> Built<Self> {
        let regex = compile_regex(regex, false).map_err(|error| FieldError::new(field, error))?;
        let template = Template::parse(template, Stage::Request, Captures::Allowed)
            .map_err(|error| FieldError::with(field, template, error))?;
        Ok(Self { regex, template })
    }

    /// The path with what the expression matches replaced; none if it does not.
    pub(super) fn apply<'t>(&self, path: &'t str, subject: &Subject<'_>) -> Option<(String, Groups<'t>)> {
        let groups = self.regex.captures(path.as_bytes())?;
        let whole = groups.get(0)?;
        let mut out = String::with_capacity(path.len() + 32);
        push_path(&mut out, &path.as_bytes()[..whole.start()]);
        fill(&mut out, &self.template, subject, |index| groups.get(index).map(|group| group.as_bytes()));
        push_path(&mut out, &path.as_bytes()[whole.end()..]);
        Some((out, groups))
    }
}

/// Appends a filled-in template, in which only the template's own `?` begins
/// the query and all that cannot stand in a target is percent-encoded.
pub(super) fn fill<'c>(
    out: &mut String,
    template: &Template,
    subject: &Subject<'_>,
    capture: impl Fn(usize) -> Option<&'c [u8]>,
) {
    template.fill_with(subject, capture, |origin, bytes| match origin {
        Origin::Filled if !out.contains('?') => push_path(out, bytes),
        _ => push_target(out, bytes),
    });
}

fn push_path(out: &mut String, bytes: &[u8]) {
    push_encoded(out, bytes, |byte| !matches!(byte, b'?' | b'#'));
}

fn push_target(out: &mut String, bytes: &[u8]) {
    push_encoded(out, bytes, |byte| byte != b'#');
}

/// What may stand in a target stays, an escape that is one already stays too.
pub(super) fn push_encoded(out: &mut String, bytes: &[u8], allows: impl Fn(u8) -> bool) {
    for (at, byte) in bytes.iter().copied().enumerate() {
        let is_escape = byte == b'%'
            && matches!(bytes.get(at + 1..at + 3), Some(digits) if digits.iter().all(u8::is_ascii_hexdigit));
        let is_plain = byte.is_ascii_graphic()
            && !matches!(byte, b'%' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
            && allows(byte);
        if is_plain || is_escape {
            out.push(char::from(byte));
        } else {
            // Writing into memory does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Splits a target into path and query and brings the path in the one form that
/// rules, filters and the origin see. What a client's text was put into may be
/// no path at all, or climb out of its place.
pub(in crate::filter) fn split_target(target: &str) -> Result<(Cow<'_, str>, Option<&str>), PathError> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    Ok((normalize_text(path, Slashes::Keep)?, query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_encoded_and_cannot_climb() {
        let encode = |text: &str| {
            let mut out = String::new();
            push_path(&mut out, text.as_bytes());
            out
        };
        assert_eq!(encode("/a b/ü?x#y%zz%20\r\n"), "/a%20b/%C3%BC%3Fx%23y%25zz%20%0D%0A");
        for (target, path, query) in [
            ("/a/../b", "/b", None),
            ("/a/./b/", "/a/b/", None),
            ("/a/%2e%2E/b?q=/../", "/b", Some("q=/../")),
            ("/...", "/...", None),
            ("/?x", "/", Some("x")),
        ] {
            assert_eq!(split_target(target), Ok((path.into(), query)), "{target}");
        }
        assert_eq!(split_target("/../x"), Err(PathError::Climbs));
        assert_eq!(split_target("/a%5Cb"), Err(PathError::Forbidden));
        assert_eq!(split_target("a"), Err(PathError::NotAbsolute));
    }
}
