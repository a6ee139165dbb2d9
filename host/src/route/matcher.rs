//! What a route asks of a request, and whether a request meets it.

use crate::message::{IpSet, Method, Subject};

use super::pattern::PathPattern;
use super::vars::Expression;

/// A field of a route that cannot be matched on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct MatchError {
    /// The field, as in `uris[1]`.
    pub field: String,
    /// What is wrong, with the value.
    pub message: String,
}

impl MatchError {
    fn new(field: String, message: impl ToString) -> Self {
        Self { field, message: message.to_string() }
    }
}

/// The matching fields of a route as configuration has them.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteFields<'a> {
    /// `host` or `hosts`; empty means any host.
    pub hosts: &'a [String],
    /// `uri` or `uris`; at least one.
    pub uris: &'a [String],
    /// `methods`; empty means any.
    pub methods: &'a [String],
    /// `remote_addr` or `remote_addrs`; empty means any.
    pub remote_addrs: &'a [String],
    /// `vars`.
    pub vars: Option<&'a serde_json::Value>,
    /// `priority`; the higher one is tried first.
    pub priority: i64,
}

/// A set of request methods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MethodSet {
    common: u16,
    other: Box<[Box<str>]>,
}

impl MethodSet {
    /// The set of these methods; empty means any.
    #[must_use]
    pub fn of<S: AsRef<str>>(names: &[S]) -> Self {
        let mut set = Self::default();
        let mut other = Vec::new();
        for name in names {
            match Method::of(name.as_ref()) {
                Method::Other(name) => other.push(name),
                method => set.common |= bit(&method),
            }
        }
        set.other = other.into();
        set
    }

    /// Whether a request with this method may pass.
    #[must_use]
    pub fn allows(&self, method: &Method) -> bool {
        if self.common == 0 && self.other.is_empty() {
            return true;
        }
        match method {
            Method::Other(name) => self.other.contains(name),
            method => self.common & bit(method) != 0,
        }
    }
}

fn bit(method: &Method) -> u16 {
    match method {
        Method::Get => 1,
        Method::Head => 1 << 1,
        Method::Post => 1 << 2,
        Method::Put => 1 << 3,
        Method::Delete => 1 << 4,
        Method::Options => 1 << 5,
        Method::Patch => 1 << 6,
        Method::Connect => 1 << 7,
        Method::Trace => 1 << 8,
        Method::Other(_) => 0,
    }
}

/// A host a route names, reversed and in lower case, as it stands in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPattern {
    pub(super) reversed: Box<[u8]>,
    pub(super) is_wildcard: bool,
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let (is_wildcard, name) = match text.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let is_literal = name.starts_with('[') && name.ends_with(']');
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if name.contains('*') {
            return Err(format!("{text:?} has '*' elsewhere than at its beginning"));
        }
        if !is_literal && name.contains(':') {
            return Err(format!("{text:?} names a port; a route's host has none, use vars with server_port"));
        }
        if text.is_empty() || (!is_literal && !name.bytes().all(is_name)) {
            return Err(format!("{text:?} is not a host name"));
        }
        let reversed =
            name.trim_end_matches('.').bytes().rev().map(|byte| byte.to_ascii_lowercase()).collect();
        Ok(Self { reversed, is_wildcard })
    }
}

/// The matching part of a route, parsed.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    pub(super) hosts: Box<[HostPattern]>,
    pub(super) paths: Box<[PathPattern]>,
    pub(super) priority: i64,
    methods: MethodSet,
    remote_addrs: Option<IpSet>,
    vars: Option<Expression>,
}

impl RouteMatch {
    /// Parses the matching fields of a route.
    ///
    /// # Errors
    /// Names the field, and says what is wrong with which value.
    pub fn parse(fields: &RouteFields<'_>) -> Result<Self, MatchError> {
        if fields.uris.is_empty() {
            return Err(MatchError::new("uri".to_owned(), "is missing: a route needs uri or uris"));
        }
        let mut paths = Vec::with_capacity(fields.uris.len());
        for (index, uri) in fields.uris.iter().enumerate() {
            let path = PathPattern::parse(uri).map_err(|problem| {
                MatchError::new(format!("uris[{index}]"), format_args!("{uri:?} {problem}"))
            })?;
            paths.push(path);
        }
        let mut hosts = Vec::with_capacity(fields.hosts.len());
        for (index, host) in fields.hosts.iter().enumerate() {
            hosts.push(HostPattern::parse(host).map_err(|e| MatchError::new(format!("hosts[{index}]"), e))?);
        }
        for (index, method) in fields.methods.iter().enumerate() {
            if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
                return Err(MatchError::new(
                    format!("methods[{index}]"),
                    format_args!("{method:?} is not a method in upper case"),
                ));
            }
        }
        let remote_addrs = match fields.remote_addrs {
            [] => None,
            list => {
                Some(IpSet::parse(list).map_err(|error| MatchError::new("remote_addrs".to_owned(), error))?)
            }
        };
        let vars = fields
            .vars
            .map(|vars| Expression::parse(vars, crate::message::Stage::Route))
            .transpose()
            .map_err(|error| MatchError::new(format!("vars{}", error.at), error.message))?;
        Ok(Self {
            hosts: hosts.into(),
            paths: paths.into(),
            priority: fields.priority,
            methods: MethodSet::of(fields.methods),
            remote_addrs,
            vars,
        })
    }

    /// Whether a request whose host and path fit meets the rest, all but `vars`.
    pub(super) fn admits(&self, method: &Method, subject: &Subject<'_>) -> bool {
        self.methods.allows(method)
            && self.remote_addrs.as_ref().is_none_or(|set| set.contains(subject.client_ip))
    }

    /// Whether `vars` hold.
    pub(super) fn vars_hold(&self, subject: &Subject<'_>) -> bool {
        self.vars.as_ref().is_none_or(|vars| vars.holds(subject))
    }

    /// Whether there are `vars` to look at.
    pub(super) fn has_vars(&self) -> bool {
        self.vars.is_some()
    }
}
