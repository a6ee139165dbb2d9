//! The path patterns of routes: exact, prefix, `:param` and `*` segments.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::message::{Params, Span};
use crate::net::path::{Slashes, normalize_text};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    /// Exactly one segment, not empty.
    Param,
}

/// How a path is compared beyond the prefix the tree has already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// The whole path, as written.
    Exact,
    /// Anything may follow.
    Prefix,
    /// Segment by segment; `*` stands for any number of them in its place.
    Segments { before: Box<[Segment]>, rest: Rest },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rest {
    None,
    Any { after: Box<[Segment]> },
}

/// One `uri` of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathPattern {
    text: Box<str>,
    shape: Shape,
    /// Bytes of `text` that lead to its place in the tree.
    fixed: usize,
    names: Option<Arc<[Box<str>]>>,
}

impl PathPattern {
    /// Parses a pattern. The error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') && text != "*" {
            return Err("must begin with '/'".to_owned());
        }
        if text.len() > 4096 {
            return Err("is longer than 4096 bytes".to_owned());
        }
        if text.contains(['?', '#']) {
            return Err("is a path: '?' and '#' never stand in one; use vars for arguments".to_owned());
        }
        // Requests come with their path in normal form: a pattern that is not
        // would never match one.
        let text = match text {
            "*" => text.into(),
            path => normalize_text(path, Slashes::Keep).map_err(|error| format!("is refused: {error}"))?,
        };
        let text = &*text;
        let star = text.find('*');
        if text[1..].split('/').any(|segment| segment.starts_with(':')) {
            return Self::with_segments(text);
        }
        match star {
            None => Ok(Self { text: text.into(), shape: Shape::Exact, fixed: text.len(), names: None }),
            Some(at) if at + 1 == text.len() => Ok(Self {
                text: text.into(),
                shape: Shape::Prefix,
                fixed: at,
                // APISIX names what a bare '*' segment stands for ':ext'.
                names: text.ends_with("/*").then(|| [":ext".into()].into()),
            }),
            Some(_) => Self::with_segments(text),
        }
    }

    fn with_segments(text: &str) -> Result<Self, String> {
        let mut names: Vec<Box<str>> = Vec::new();
        let (mut before, mut after) = (Vec::new(), None::<Vec<Segment>>);
        for segment in text[1..].split('/') {
            let list = after.as_mut().unwrap_or(&mut before);
            if let Some(name) = segment.strip_prefix(':') {
                if name.is_empty() || name.contains('*') {
                    return Err(format!("has a parameter without a proper name: {segment:?}"));
                }
                names.push(name.into());
                list.push(Segment::Param);
            } else if let Some(name) = segment.strip_prefix('*') {
                if after.is_some() {
                    return Err("has more than one '*' segment".to_owned());
                }
                names.push(if name.is_empty() { ":ext".into() } else { name.into() });
                after = Some(Vec::new());
            } else if segment.contains('*') {
                return Err("may have '*' only at its end or as a segment of its own".to_owned());
            } else {
                list.push(Segment::Literal(segment.into()));
            }
        }
        let mut sorted: Vec<_> = names.iter().collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("names {:?} twice", pair[0]));
        }
        let is_marked = |at: &usize| matches!(text.as_bytes()[*at + 1..].first(), Some(b':' | b'*'));
        let fixed =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at).find(is_marked);
        Ok(Self {
            text: text.into(),
            shape: Shape::Segments {
                before: before.into(),
                rest: after.map_or(Rest::None, |after| Rest::Any { after: after.into() }),
            },
            fixed: fixed.map_or(text.len(), |at| at + 1),
            names: Some(names.into()),
        })
    }

    /// The pattern as it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The bytes under which it stands in the tree.
    pub(super) fn key(&self) -> &[u8] {
        &self.text.as_bytes()[..self.fixed]
    }

    /// Whether it stands for one path only.
    pub(super) fn is_exact(&self) -> bool {
        self.shape == Shape::Exact
    }

    /// Compares the whole of `path`, whose key the tree has already found, and
    /// returns what it captured; `start` is where the path begins in its buffer.
    pub(super) fn capture(&self, path: &str, start: u32) -> Option<Params> {
        let mut values = SmallVec::new();
        let mut keep = |from: usize, to: usize| {
            values.push(Span { start: start + from as u32, len: (to - from) as u32 });
        };
        match &self.shape {
            Shape::Exact => {}
            Shape::Prefix if self.names.is_some() => keep(self.fixed, path.len()),
            Shape::Prefix => {}
            Shape::Segments { before, rest } => {
                let mut front = Cursor { path, at: 0 };
                before.iter().try_for_each(|segment| front.take(segment, &mut keep))?;
                match rest {
                    Rest::None if front.at != path.len() => return None,
                    Rest::None => {}
                    Rest::Any { after } => {
                        let rest = front.rest()?;
                        let mut tail = rest;
                        if !after.is_empty() {
                            tail = nth_slash_from_end(path, rest, after.len())?;
                        }
                        keep(rest, if after.is_empty() { path.len() } else { tail });
                        let mut back = Cursor { path, at: tail };
                        after.iter().try_for_each(|segment| back.take(segment, &mut keep))?;
                    }
                }
            }
        }
        Some(Params { names: self.names.clone(), values })
    }
}

/// A place in a path, before a `/` or at its end.
struct Cursor<'a> {
    path: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn take(&mut self, segment: &Segment, keep: &mut impl FnMut(usize, usize)) -> Option<()> {
        let rest = self.path.get(self.at..)?.strip_prefix('/')?;
        let end = memchr::memchr(b'/', rest.as_bytes()).unwrap_or(rest.len());
        let from = self.at + 1;
        match segment {
            Segment::Literal(text) if **text != rest[..end] => return None,
            Segment::Literal(_) => {}
            Segment::Param if end == 0 => return None,
            Segment::Param => keep(from, from + end),
        }
        self.at = from + end;
        Some(())
    }

    /// Where the segments begin that a `*` stands for.
    fn rest(&self) -> Option<usize> {
        self.path[self.at..].starts_with('/').then_some(self.at + 1)
    }
}

/// The place of the slash that `count` segments at the end of the path follow,
/// not before `from`.
fn nth_slash_from_end(path: &str, from: usize, count: usize) -> Option<usize> {
    memchr::memrchr_iter(b'/', path.as_bytes().get(from..)?).nth(count - 1).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(pattern: &str, path: &str) -> Option<Vec<String>> {
        let pattern = PathPattern::parse(pattern).unwrap();
        if !path.as_bytes().starts_with(pattern.key()) || (pattern.is_exact() && path != pattern.text()) {
            return None;
        }
        let params = pattern.capture(path, 0)?;
        let names = params.names.unwrap_or_else(|| [].into());
        let values =
            params.values.iter().map(|span| &path[span.start as usize..(span.start + span.len) as usize]);
        Some(names.iter().zip(values).map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn patterns_match_whole_paths_and_capture_their_parts() {
        let table: &[(&str, &str, Option<&[&str]>)] = &[
            ("/foo", "/foo", Some(&[])),
            ("/foo", "/foo/", None),
            ("/foo*", "/foo", Some(&[])),
            ("/foo*", "/foobar/x", Some(&[])),
            ("/foo/*", "/foo/", Some(&[":ext="])),
            ("/foo/*", "/foo", None),
            ("/foo/*", "/foo/a/b", Some(&[":ext=a/b"])),
            ("/*", "/", Some(&[":ext="])),
            ("/u/:id", "/u/5", Some(&["id=5"])),
            ("/u/:id", "/u/", None),
            ("/u/:id", "/u/5/", None),
            ("/u/:id/", "/u/5/", Some(&["id=5"])),
            ("/u/:id/p/:page", "/u/5/p/7", Some(&["id=5", "page=7"])),
            ("/u/:id/p/:page", "/u/5/q/7", None),
            ("/u/:id/*", "/u/5/a/b", Some(&["id=5", ":ext=a/b"])),
            ("/u/:id/*", "/u/5", None),
            ("/u/*file", "/u/a/b.txt", Some(&["file=a/b.txt"])),
            ("/u/*/edit", "/u/a/b/edit", Some(&[":ext=a/b"])),
            ("/u/*/edit", "/u/edit", None),
            ("/u/*/edit", "/u//edit", Some(&[":ext="])),
            ("/u/*mid/:last", "/u/a/b/c", Some(&["mid=a/b", "last=c"])),
            ("/a:b", "/a:b", Some(&[])),
            ("/%7Eü/./x", "/~%C3%BC/x", Some(&[])),
        ];
        for (pattern, path, expected) in table {
            let expected =
                expected.map(|list| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
            assert_eq!(captured(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn bad_patterns_say_what_is_wrong() {
        for (pattern, message) in [
            ("foo", "must begin with '/'"),
            ("", "must begin with '/'"),
            ("/a*b", "may have '*' only at its end or as a segment of its own"),
            ("/*/x/*", "has more than one '*' segment"),
            ("/:", "has a parameter without a proper name: \":\""),
            ("/:a/:a", "names \"a\" twice"),
            ("/../a", "is refused: path climbs above its root"),
            ("/a?b=1", "is a path: '?' and '#' never stand in one; use vars for arguments"),
        ] {
            assert_eq!(PathPattern::parse(pattern).map(|_| ()), Err(message.to_owned()), "{pattern}");
        }
    }
}
