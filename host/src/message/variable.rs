//! Variables: what APISIX and nginx call `$uri`, `arg_x`, `http_host`, …
//!
//! A name is parsed once, when configuration is read, into a [`Variable`];
//! reading its value from a [`Subject`] then looks nothing up by name but what
//! the client itself named (headers, arguments, cookies). A name nobody knows,
//! or one that has no value at the stage that asks, is an error right there.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;

use super::fields::{Fields, Name, Span};
use super::head::{RequestHead, Scheme};
use super::subject::{FrameRole, Stage, Subject, Value};

/// Why a variable cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// Nobody knows this name.
    #[error("unknown variable {name:?}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The name is known, but has no value at this stage.
    #[error("variable {name:?} has no value here: {reason}")]
    Stage {
        /// The name.
        name: String,
        /// When it would have one.
        reason: &'static str,
    },
    /// The name is APISIX's, and not offered here.
    #[error("variable {name:?} is not supported: {reason}")]
    Unsupported {
        /// The name.
        name: String,
        /// Why.
        reason: &'static str,
    },
}

/// A header name as a variable spells it: lower case, `_` for `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderKey {
    known: Name,
    name: Box<[u8]>,
}

impl HeaderKey {
    fn of(name: &str) -> Self {
        let name = name.to_ascii_lowercase().replace('_', "-").into_bytes().into_boxed_slice();
        Self { known: Name::of(&name), name }
    }

    /// All values of this header; several are joined by `, ` (cookies by `; `),
    /// so that a second field of a name cannot hide from a rule.
    fn read<'a>(&self, fields: &'a Fields) -> Option<Value<'a>> {
        let is_own = |field: &super::Field| {
            if self.known == Name::Other || field.known == Name::Other {
                self.known == field.known && same_header(fields.get(field.name), &self.name)
            } else {
                self.known == field.known
            }
        };
        let mut own =
            fields.table().iter().filter(|field| is_own(field)).map(|field| fields.get(field.value));
        let first = own.next()?;
        let Some(second) = own.next() else { return Some(Value::Lent(first)) };
        let separator: &[u8] = if self.known == Name::Cookie { b"; " } else { b", " };
        let mut joined = SmallVec::from_slice(first);
        for value in std::iter::once(second).chain(own) {
            joined.extend_from_slice(separator);
            joined.extend_from_slice(value);
        }
        Some(Value::Made(joined))
    }
}

fn same_header(name: &[u8], wanted: &[u8]) -> bool {
    name.len() == wanted.len()
        && name.iter().zip(wanted).all(|(a, b)| a.to_ascii_lowercase() == *b || (*a == b'_' && *b == b'-'))
}

/// Which part of the TLS handshake a variable reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TlsPart {
    ServerName,
    Protocol,
    Cipher,
    Alpn,
    SessionReused,
    ClientVerify,
    ClientSubject,
    ClientIssuer,
    ClientSerial,
    ClientFingerprint,
}

/// A field of a frame's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FramePart {
    /// By what it means.
    Role(FrameRole),
    /// By its name in the frame format.
    Field(Box<str>),
}

/// Something a rule can name, ready to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Variable {
    Uri,
    RequestUri,
    Args,
    IsArgs,
    Arg(Box<str>),
    Http(HeaderKey),
    Cookie(Box<str>),
    Host,
    HttpHost,
    RemoteAddr,
    RemotePort,
    PeerAddr,
    PeerPort,
    ServerAddr,
    ServerPort,
    Scheme,
    Https,
    RequestMethod,
    ServerProtocol,
    RequestId,
    UriParam(Box<str>),
    RouteId,
    RouteName,
    ServiceId,
    ServiceName,
    ConsumerName,
    PostArg(Box<str>),
    Tls(TlsPart),
    Frame(FramePart),
    Status,
    SentHttp(HeaderKey),
    RequestTime,
    UpstreamAddr,
    UpstreamStatus,
    UpstreamHost,
    UpstreamScheme,
    UpstreamLine,
    UpstreamResponseTime,
}

impl Variable {
    /// Parses a name without its `$` for use at a stage.
    ///
    /// # Errors
    /// Unknown names, names APISIX has and Sluice has not, and names that have
    /// no value at this stage.
    pub fn parse(name: &str, stage: Stage) -> Result<Self, VariableError> {
        let variable = Self::of_name(name)?;
        variable.check(name, stage)?;
        Ok(variable)
    }

    /// Whether reading it needs the request's body.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        matches!(self, Self::PostArg(_))
    }

    fn of_name(name: &str) -> Result<Self, VariableError> {
        if let Some(variable) = Self::of_fixed(name) {
            return Ok(variable);
        }
        let unsupported = |reason| Err(VariableError::Unsupported { name: name.to_owned(), reason });
        let Some((prefix, rest)) = split_prefix(name) else {
            return Err(VariableError::Unknown { name: name.to_owned() });
        };
        Ok(match prefix {
            "arg_" => Self::Arg(rest.into()),
            "http_" => Self::Http(HeaderKey::of(rest)),
            "cookie_" => Self::Cookie(rest.into()),
            "uri_param_" => Self::UriParam(rest.into()),
            "post_arg_" => Self::PostArg(rest.into()),
            "sent_http_" => Self::SentHttp(HeaderKey::of(rest)),
            "frame_" => Self::Frame(match rest {
                "cmd" | "command" => FramePart::Role(FrameRole::Command),
                "seq" | "sequence" => FramePart::Role(FrameRole::Sequence),
                "from" | "user" => FramePart::Role(FrameRole::User),
                "len" | "length" => FramePart::Role(FrameRole::Length),
                field => FramePart::Field(field.into()),
            }),
            "post_arg." => return unsupported("only form fields can be read, as post_arg_<name>"),
            _ => return unsupported("GraphQL bodies are not parsed"),
        })
    }

    fn of_fixed(name: &str) -> Option<Self> {
        use TlsPart as Tls;
        Some(match name {
            "uri" | "document_uri" => Self::Uri,
            "request_uri" => Self::RequestUri,
            "args" | "query_string" => Self::Args,
            "is_args" => Self::IsArgs,
            "host" => Self::Host,
            "http_host" => Self::HttpHost,
            "remote_addr" => Self::RemoteAddr,
            "remote_port" => Self::RemotePort,
            "realip_remote_addr" => Self::PeerAddr,
            "realip_remote_port" => Self::PeerPort,
            "server_addr" => Self::ServerAddr,
            "server_port" => Self::ServerPort,
            "scheme" => Self::Scheme,
            "https" => Self::Https,
            "request_method" => Self::RequestMethod,
            "server_protocol" => Self::ServerProtocol,
            "request_id" | "apisix_request_id" => Self::RequestId,
            "content_type" => Self::Http(HeaderKey::of("content_type")),
            "content_length" => Self::Http(HeaderKey::of("content_length")),
            "route_id" => Self::RouteId,
            "route_name" => Self::RouteName,
            "service_id" => Self::ServiceId,
            "service_name" => Self::ServiceName,
            "consumer_name" => Self::ConsumerName,
            "status" => Self::Status,
            "request_time" => Self::RequestTime,
            "upstream_addr" => Self::UpstreamAddr,
            "upstream_status" => Self::UpstreamStatus,
            "upstream_host" => Self::UpstreamHost,
            "upstream_scheme" => Self::UpstreamScheme,
            "upstream_line" => Self::UpstreamLine,
            "upstream_response_time" => Self::UpstreamResponseTime,
            "ssl_server_name" | "ssl_preread_server_name" => Self::Tls(Tls::ServerName),
            "ssl_protocol" => Self::Tls(Tls::Protocol),
            "ssl_cipher" => Self::Tls(Tls::Cipher),
            "ssl_alpn_protocol" => Self::Tls(Tls::Alpn),
            "ssl_session_reused" => Self::Tls(Tls::SessionReused),
            "ssl_client_verify" => Self::Tls(Tls::ClientVerify),
            "ssl_client_s_dn" => Self::Tls(Tls::ClientSubject),
            "ssl_client_i_dn" => Self::Tls(Tls::ClientIssuer),
            "ssl_client_serial" => Self::Tls(Tls::ClientSerial),
            "ssl_client_fingerprint" => Self::Tls(Tls::ClientFingerprint),
            _ => return None,
        })
    }

    fn check(&self, name: &str, stage: Stage) -> Result<(), VariableError> {
        let is_http = matches!(stage, Stage::Route | Stage::Request | Stage::Response);
        let reason = match self {
            Self::RemoteAddr
            | Self::RemotePort
            | Self::PeerAddr
            | Self::PeerPort
            | Self::ServerAddr
            | Self::ServerPort
            | Self::Tls(_) => return Ok(()),
            Self::RouteId | Self::RouteName | Self::ServiceId | Self::ServiceName | Self::ConsumerName => {
                (stage == Stage::Route).then_some("it is known only once a route has matched")
            }
            Self::RequestId => (!is_http || stage == Stage::Route)
                .then_some("it is known only once a request has matched its route"),
            Self::PostArg(_) if stage == Stage::Route => {
                Some("the request's body is not read before a route has matched")
            }
            Self::PostArg(_) => (stage != Stage::Request).then_some("it can be read only before proxying"),
            Self::Frame(_) => {
                (stage != Stage::Frame).then_some("it is known only for the frames of a stream route")
            }
            Self::Status
            | Self::SentHttp(_)
            | Self::RequestTime
            | Self::UpstreamAddr
            | Self::UpstreamStatus
            | Self::UpstreamHost
            | Self::UpstreamScheme
            | Self::UpstreamLine
            | Self::UpstreamResponseTime => {
                (stage != Stage::Response).then_some("it is known only once the response has come")
            }
            _ => (!is_http).then_some("it is known only for HTTP requests"),
        };
        match reason {
            None => Ok(()),
            Some(reason) => Err(VariableError::Stage { name: name.to_owned(), reason }),
        }
    }

    /// The value, if the subject has one. Allocates only for values longer than
    /// 48 bytes that do not stand in the subject as such.
    #[must_use]
    pub fn read<'a>(&'a self, subject: &Subject<'a>) -> Option<Value<'a>> {
        let request = subject.request;
        match self {
            Self::Uri => request.map(|head| head.path().into()),
            Self::RequestUri => request.map(|head| request_uri(head, subject.original)),
            Self::Args => request.and_then(RequestHead::query).map(Value::from),
            Self::IsArgs => request.map(|head| if head.query().is_some() { "?".into() } else { "".into() }),
            Self::Arg(name) => find_arg(request?.query()?.as_bytes(), name.as_bytes()),
            Self::Http(key) => key.read(&request?.fields),
            Self::Cookie(name) => find_cookie(&request?.fields, name.as_bytes()),
            Self::Host => request.map(|head| lower(head.host())),
            Self::HttpHost => {
                request.map(RequestHead::authority).filter(|host| !host.is_empty()).map(Value::from)
            }
            Self::RemoteAddr => Some(address(subject.client_ip)),
            Self::RemotePort => Some(number(u64::from(subject.client_port))),
            Self::PeerAddr => Some(address(subject.client.peer.ip())),
            Self::PeerPort => Some(number(u64::from(subject.client.peer.port()))),
            Self::ServerAddr => Some(address(subject.client.local.ip())),
            Self::ServerPort => Some(number(u64::from(subject.client.local.port()))),
            Self::Scheme => request.map(|head| head.scheme.as_str().into()),
            Self::Https => {
                request.map(|head| if head.scheme == Scheme::Https { "on".into() } else { "".into() })
            }
            Self::RequestMethod => request.map(|head| head.method.as_str().into()),
            Self::ServerProtocol => request.map(|head| head.version.as_str().into()),
            Self::RequestId => filled(subject.request_id),
            Self::UriParam(name) => subject.params?.get(name, &request?.fields).map(Value::from),
            Self::RouteId => filled(&subject.labels?.route_id),
            Self::RouteName => filled(&subject.labels?.route_name),
            Self::ServiceId => filled(&subject.labels?.service_id),
            Self::ServiceName => filled(&subject.labels?.service_name),
            Self::ConsumerName => subject.consumer.and_then(filled),
            Self::PostArg(name) => find_post_arg(request?, subject.body?, name.as_bytes()),
            Self::Tls(part) => read_tls(*part, subject),
            Self::Frame(FramePart::Role(role)) => subject.frame?.role(*role).map(number),
            Self::Frame(FramePart::Field(name)) => subject.frame?.field(name).map(number),
            _ => self.read_response(subject),
        }
    }

    fn read_response<'a>(&'a self, subject: &Subject<'a>) -> Option<Value<'a>> {
        let upstream = subject.upstream;
        match self {
            Self::Status => subject.response.map(|head| number(u64::from(head.status))),
            Self::SentHttp(key) => key.read(&subject.response?.fields),
            Self::RequestTime => subject.elapsed.map(seconds),
            Self::UpstreamAddr => filled(upstream?.address),
            Self::UpstreamStatus => upstream?.status.map(|status| number(u64::from(status))),
            Self::UpstreamHost => filled(upstream?.host),
            Self::UpstreamScheme => filled(upstream?.scheme),
            Self::UpstreamLine => filled(upstream?.line),
            Self::UpstreamResponseTime => upstream?.response_time.map(seconds),
            _ => None,
        }
    }
}

const PREFIXES: [&str; 9] =
    ["sent_http_", "uri_param_", "post_arg_", "post_arg.", "graphql_", "cookie_", "frame_", "http_", "arg_"];

fn split_prefix(name: &str) -> Option<(&'static str, &str)> {
    PREFIXES.iter().find_map(|prefix| {
        let rest = name.strip_prefix(prefix)?;
        (!rest.is_empty()).then_some((*prefix, rest))
    })
}

fn filled(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then(|| text.into())
}

fn lower(text: &str) -> Value<'_> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Value::Made(text.bytes().map(|byte| byte.to_ascii_lowercase()).collect())
    } else {
        text.into()
    }
}

fn address(ip: IpAddr) -> Value<'static> {
    let mut text = Text(SmallVec::new());
    // Writing into memory does not fail.
    let _ = write!(text, "{}", ip.to_canonical());
    Value::Made(text.0)
}

fn number(value: u64) -> Value<'static> {
    Value::Made(SmallVec::from_slice(itoa::Buffer::new().format(value).as_bytes()))
}

fn seconds(time: Duration) -> Value<'static> {
    let mut text = Text(SmallVec::new());
    let _ = write!(text, "{}.{:03}", time.as_secs(), time.subsec_millis());
    Value::Made(text.0)
}

struct Text(SmallVec<[u8; 48]>);

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn request_uri(head: &RequestHead, original: Option<(Span, Option<Span>)>) -> Value<'_> {
    let (_, path, query) = head.spans();
    let (path, query) = original.unwrap_or((path, query));
    let text = |span| head.fields.get(span);
    let Some(query) = query else { return text(path).into() };
    let path_end = path.start + path.len;
    // As received, the two stand in the buffer side by side.
    if path_end + 1 == query.start && head.fields.text().get(path_end as usize) == Some(&b'?') {
        return text(Span { start: path.start, len: path.len + 1 + query.len }).into();
    }
    let mut made = SmallVec::from_slice(text(path));
    made.push(b'?');
    made.extend_from_slice(text(query));
    Value::Made(made)
}

/// The first argument of this name, decoded; empty when it has no `=`.
fn find_arg<'a>(query: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
    query.split(|byte| *byte == b'&').find_map(|pair| {
        let cut = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        let found = &*decode(&pair[..cut]) == name;
        found.then(|| decode(pair.get(cut + 1..).unwrap_or_default()))
    })
}

/// Undoes form encoding: `+` and `%xx`. What is no valid escape stays as it is.
fn decode(bytes: &[u8]) -> Value<'_> {
    if memchr::memchr2(b'%', b'+', bytes).is_none() {
        return Value::Lent(bytes);
    }
    let digit =
        |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16)).map(|digit| digit as u8);
    let mut made = SmallVec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, digit(bytes.get(at)), digit(bytes.get(at + 1))) {
            (b'%', Some(high), Some(low)) => {
                made.push(high << 4 | low);
                at += 2;
            }
            (b'+', ..) => made.push(b' '),
            _ => made.push(byte),
        }
    }
    Value::Made(made)
}

fn find_cookie<'a>(fields: &'a Fields, name: &[u8]) -> Option<Value<'a>> {
    fields.values(Name::Cookie).flat_map(|value| value.split(|byte| *byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let cut = memchr::memchr(b'=', pair)?;
        (pair[..cut] == *name).then(|| Value::Lent(&pair[cut + 1..]))
    })
}

fn find_post_arg<'a>(head: &RequestHead, body: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
    const FORM: &[u8] = b"application/x-www-form-urlencoded";
    let kind = head.fields.value(Name::ContentType)?;
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(FORM).then(|| find_arg(body, name)).flatten()
}

fn read_tls<'a>(part: TlsPart, subject: &Subject<'a>) -> Option<Value<'a>> {
    if let (TlsPart::ServerName, Some(sni)) = (part, subject.sni) {
        return Some(sni.into());
    }
    let tls = subject.client.tls.as_deref()?;
    let certificate = tls.certificate.as_ref();
    match part {
        TlsPart::ServerName => tls.sni.as_deref().map(Value::from),
        TlsPart::Protocol => Some(tls.version.into()),
        TlsPart::Cipher => Some(tls.cipher.into()),
        TlsPart::Alpn => tls.alpn.as_deref().map(Value::from),
        TlsPart::SessionReused => Some(if tls.resumed { "r" } else { "." }.into()),
        TlsPart::ClientVerify => Some(if certificate.is_some() { "SUCCESS" } else { "NONE" }.into()),
        TlsPart::ClientSubject => certificate.map(|own| (&*own.subject).into()),
        TlsPart::ClientIssuer => certificate.map(|own| (&*own.issuer).into()),
        TlsPart::ClientSerial => certificate.map(|own| (&*own.serial).into()),
        TlsPart::ClientFingerprint => certificate.map(|own| (&*own.fingerprint).into()),
    }
}

#[cfg(test)]
mod tests;
