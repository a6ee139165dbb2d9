//! Paths of requests: templates, and which one a path is.

use std::borrow::Cow;

use smallvec::SmallVec;

/// Indices of fields, from the request's message inwards.
pub(crate) type Binding = SmallVec<[usize; 2]>;

/// Segments a path may have.
const SEGMENTS_MAX: usize = 64;

/// A path with places for values: `/im/{to}/messages`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    // In this order: of two templates that both match, the one with a literal
    // where the other has a value wins.
    Literal(String),
    Value(String),
}

impl Template {
    pub(crate) fn parse(uri: &str) -> Result<Self, String> {
        let Some(path) = uri.strip_prefix('/') else {
            return Err("does not begin with /".to_owned());
        };
        if let Some(mark) = path.chars().find(|mark| matches!(mark, '?' | '#') || mark.is_whitespace()) {
            return Err(format!("{mark:?} cannot stand in a path"));
        }
        let segments = path.split('/').map(Segment::parse).collect::<Result<Vec<_>, _>>()?;
        if segments.len() > SEGMENTS_MAX {
            return Err(format!("more than {SEGMENTS_MAX} segments"));
        }
        Ok(Self { segments })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Value(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Whether both are the same but for the names of values.
    fn is_same(&self, other: &Self) -> bool {
        self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Segment::Value(_), Segment::Value(_)) => true,
                (one, other) => one == other,
            })
    }

    /// The values of a path, still with its escapes, when it is this one.
    fn values<'p>(&self, segments: &[&'p str]) -> Option<SmallVec<[&'p str; 4]>> {
        if segments.len() != self.segments.len() {
            return None;
        }
        let mut values = SmallVec::new();
        for (wanted, segment) in self.segments.iter().zip(segments) {
            match wanted {
                Segment::Value(_) if segment.is_empty() => return None,
                Segment::Value(_) => values.push(*segment),
                Segment::Literal(literal) if literal == segment => {}
                Segment::Literal(_) => return None,
            }
        }
        Some(values)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        let name = match text.strip_prefix(':') {
            Some(name) => Some(name),
            None => match text.strip_prefix('{') {
                Some(rest) => Some(rest.strip_suffix('}').ok_or_else(|| format!("{text:?} is not closed"))?),
                None => None,
            },
        };
        match name {
            Some("") => Err(format!("{text:?} has no name")),
            Some(name) if name.contains(['{', '}', '*']) => Err(format!("{text:?} is no field's name")),
            Some(name) => Ok(Self::Value(name.to_owned())),
            None if text.contains(['{', '}', '*']) => Err(format!("{text:?} is neither a word nor a value")),
            None => Ok(Self::Literal(text.to_owned())),
        }
    }
}

/// All paths of a map of commands.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: Vec<Route>,
}

#[derive(Debug)]
pub(crate) struct Route {
    method: String,
    template: Template,
    /// A binding for each value of the template.
    pub(crate) bindings: Vec<Binding>,
    /// The index of the entry among the requests.
    pub(crate) request: usize,
}

/// What a method and a path are.
pub(crate) enum Match<'r, 'p> {
    Route(&'r Route, SmallVec<[&'p str; 4]>),
    /// The path is there with these methods only.
    OtherMethod(Vec<&'r str>),
    None,
}

impl Routes {
    /// Adds a route; gives back the request of one that is the same.
    pub(crate) fn add(
        &mut self,
        method: &str,
        template: Template,
        bindings: Vec<Binding>,
        request: usize,
    ) -> Option<usize> {
        let same =
            self.routes.iter().find(|route| route.method == method && route.template.is_same(&template));
        if let Some(same) = same {
            return Some(same.request);
        }
        self.routes.push(Route { method: method.to_owned(), template, bindings, request });
        None
    }

    /// Puts what is more exact first.
    pub(crate) fn sort(&mut self) {
        self.routes.sort_by(|one, other| one.template.segments.cmp(&other.template.segments));
    }

    pub(crate) fn find<'p>(&self, method: &str, path: &'p str) -> Match<'_, 'p> {
        let Some(path) = path.strip_prefix('/') else {
            return Match::None;
        };
        let segments: SmallVec<[&str; 8]> = path.split('/').take(SEGMENTS_MAX + 1).collect();
        let mut others = Vec::new();
        for route in &self.routes {
            let Some(values) = route.template.values(&segments) else {
                continue;
            };
            if route.method == method {
                return Match::Route(route, values);
            }
            others.push(route.method.as_str());
        }
        if others.is_empty() { Match::None } else { Match::OtherMethod(others) }
    }
}

/// What percent escapes say; in a query `+` is a space.
pub(crate) fn decode(text: &str, in_query: bool) -> Result<Cow<'_, str>, String> {
    if !(text.contains('%') || in_query && text.contains('+')) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'%' => {
                let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
                let value = digits
                    .and_then(|digits| std::str::from_utf8(digits).ok())
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(value.ok_or("% without two hexadecimal digits")?);
                rest = &after[2..];
            }
            b'+' if in_query => bytes.push(b' '),
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| "not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(uris: &[(&str, &str)]) -> Routes {
        let mut routes = Routes::default();
        for (at, (method, uri)) in uris.iter().enumerate() {
            assert_eq!(routes.add(method, Template::parse(uri).unwrap(), Vec::new(), at), None);
        }
        routes.sort();
        routes
    }

    #[test]
    fn the_more_exact_path_wins() {
        let routes = routes(&[("GET", "/a/{x}"), ("GET", "/a/b"), ("GET", "/{y}/b"), ("POST", "/a/:z/c")]);
        let found = |method: &str, path: &str| match routes.find(method, path) {
            Match::Route(route, values) => Some((route.request, values.join(","))),
            _ => None,
        };
        assert_eq!(found("GET", "/a/b"), Some((1, String::new())));
        assert_eq!(found("GET", "/a/c"), Some((0, "c".to_owned())));
        assert_eq!(found("GET", "/q/b"), Some((2, "q".to_owned())));
        assert_eq!(found("POST", "/a/1/c"), Some((3, "1".to_owned())));
        assert_eq!(found("GET", "/a/"), None);
        assert_eq!(found("GET", "/a/b/"), None);
        assert!(matches!(routes.find("GET", "/a/1/c"), Match::OtherMethod(_)));
        assert!(matches!(routes.find("GET", &"/x".repeat(500)), Match::None));
    }

    #[test]
    fn the_same_path_under_other_names_is_the_same() {
        let mut routes = routes(&[("GET", "/a/{x}/b")]);
        assert_eq!(routes.add("GET", Template::parse("/a/:y/b").unwrap(), Vec::new(), 9), Some(0));
        assert_eq!(routes.add("PUT", Template::parse("/a/:y/b").unwrap(), Vec::new(), 9), None);
    }

    #[test]
    fn bad_templates_are_refused() {
        for uri in ["", "a", "/{", "/{}", "/:", "/a{b}", "/a/*", "/a?b", "/{a", "/a b"] {
            assert!(Template::parse(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(decode("a%20b+c", false).unwrap(), "a b+c");
        assert_eq!(decode("a%20b+c", true).unwrap(), "a b c");
        for text in ["%", "%2", "%zz", "%ff", "%+1"] {
            assert!(decode(text, true).is_err(), "{text}");
        }
    }
}
