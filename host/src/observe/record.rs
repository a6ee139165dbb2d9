//! What one line of the access log says, as borrowed values.
//!
//! The flows fill a record when an exchange ends; nothing is copied before it is
//! written. Empty texts, `None` and empty lists leave their key out of the line.
//! The schema is in `docs/observability.md`; a key once there keeps its meaning.

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::message::{AddressText, Client, Fields, Name};

use super::json::{self, Object, key};
use super::log_config::LogConfig;

/// An HTTP request that ended, however it did. `kind` is `request`.
///
/// Host and uri are those the client asked for, before filters rewrote them.
#[derive(Debug, Clone, Copy)]
pub struct HttpRecord<'a> {
    /// When it ended.
    pub ended: Instant,
    /// The connection it came by.
    pub client: &'a Client,
    /// The client after trusted hops' headers were believed.
    pub client_ip: IpAddr,
    /// What lines say of the connection's client, kept with the connection.
    pub client_text: Option<&'a ClientText>,
    /// The listener's id.
    pub listener: &'a str,
    /// `HTTP/1.1` and so on; empty when the head never came.
    pub protocol: &'a str,
    /// The method; empty when the head could not be read.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The authority asked for.
    pub host: &'a [u8],
    /// The path asked for.
    pub path: &'a [u8],
    /// The query asked for, without `?`.
    pub query: Option<&'a [u8]>,
    /// The request's header fields, for those the configuration names.
    pub headers: Option<&'a Fields>,
    /// The status sent; 0 when none was (client gone, connection cut).
    pub status: u16,
    /// Bytes received for the request, head and framing included.
    pub bytes_in: u64,
    /// Bytes sent for the response, head and framing included.
    pub bytes_out: u64,
    /// The protocol upgraded to (`websocket`), if it was.
    pub upgrade: &'a str,
    /// Id of the route, empty when none matched.
    pub route: &'a str,
    /// Id of the route's service.
    pub service: &'a str,
    /// What was asked of the upstream.
    pub upstream: UpstreamRecord<'a>,
    /// Times from the request's first byte.
    pub times: Times,
    /// Reason code of what went wrong, empty when nothing did.
    pub reason: &'a str,
    /// What filters decided, those that only let pass left out.
    pub verdicts: &'a [VerdictRecord<'a>],
    /// The request's id.
    pub request_id: &'a str,
    /// The W3C trace id, 32 hex digits.
    pub trace_id: &'a str,
}

/// A connection that carries no HTTP requests and ended: TCP, TLS passed
/// through, TLV; also any connection refused before its first request.
/// `kind` is `connection`.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionRecord<'a> {
    /// The connection.
    pub client: &'a Client,
    /// The listener's id.
    pub listener: &'a str,
    /// `tcp`, `tls`, `tlv`, or `http` for a connection refused.
    pub protocol: &'a str,
    /// Id of the stream route, empty when none matched.
    pub route: &'a str,
    /// What was asked of the upstream.
    pub upstream: UpstreamRecord<'a>,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Frames from the client, 0 where there are none.
    pub frames_in: u64,
    /// Frames to the client.
    pub frames_out: u64,
    /// The user a frame named (role `user`), as text.
    pub user: &'a str,
    /// How long it was open and what reaching the upstream took.
    pub times: Times,
    /// Code of why it ended: `client_closed`, `idle`, `bad_begin`, …
    pub reason: &'a str,
    /// What filters decided, those that only let pass left out.
    pub verdicts: &'a [VerdictRecord<'a>],
    /// Id of the connection.
    pub request_id: &'a str,
}

/// A call inside a connection that a filter or limit did not let through: a TLV
/// frame or a message of a bridge. `kind` is `blocked`.
#[derive(Debug, Clone, Copy)]
pub struct BlockedRecord<'a> {
    /// The connection.
    pub client: &'a Client,
    /// The client after trusted hops' headers were believed.
    pub client_ip: IpAddr,
    /// The listener's id.
    pub listener: &'a str,
    /// `tlv` or `websocket`.
    pub protocol: &'a str,
    /// Id of the route or stream route.
    pub route: &'a str,
    /// The frame's command.
    pub command: Option<u64>,
    /// The frame's sequence number.
    pub sequence: Option<u64>,
    /// The user the frame names.
    pub user: &'a str,
    /// Bytes of the frame.
    pub bytes_in: u64,
    /// The verdict and its rule.
    pub verdict: VerdictRecord<'a>,
    /// Id of the connection.
    pub request_id: &'a str,
}

/// What was asked of an upstream, as far as it came.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpstreamRecord<'a> {
    /// Id of the upstream.
    pub id: &'a str,
    /// Name of the line tried last.
    pub line: &'a str,
    /// Address of the node tried last.
    pub node: Option<SocketAddr>,
    /// How many nodes were tried.
    pub attempts: u32,
}

/// Times of an exchange, all from its beginning unless said otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// From the first byte to the end.
    pub total: Duration,
    /// What the last connect took; `None` when a pooled connection was used.
    pub connect: Option<Duration>,
    /// From sending the request to the first byte of the response's head.
    pub header: Option<Duration>,
    /// From choosing a node to the response's last byte.
    pub upstream: Option<Duration>,
}

/// What one filter decided.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerdictRecord<'a> {
    /// The plugin's or module's name.
    pub plugin: &'a str,
    /// The module's version; empty for built-in plugins.
    pub version: &'a str,
    /// `deny`, `respond`, `delay`, `drop`, `reply`, `close`, `rewrite`.
    pub verdict: &'a str,
    /// Ids of the rules that matched.
    pub rules: &'a [&'a str],
    /// Code of why: `rate`, `blocked_ip`, …
    pub reason: &'a str,
}

/// What the lines of one connection say of its client, written once.
#[derive(Debug, Default)]
pub struct ClientText(OnceCell<Box<[u8]>>);

impl ClientText {
    fn get(&self, client: &Client, listener: &str, config: &LogConfig) -> &[u8] {
        self.0.get_or_init(|| {
            json::fields(config.value_max, |line| write_client(line, client, client.ip(), listener))
        })
    }
}

impl HttpRecord<'_> {
    /// Whether sampling may leave it out.
    pub(super) fn is_ordinary(&self) -> bool {
        (100..400).contains(&self.status) && self.reason.is_empty() && self.verdicts.is_empty()
    }

    /// Writes the fields behind those every line has.
    pub(super) fn write(&self, line: &mut Object<'_>, config: &LogConfig) {
        line.text_unless_empty(key!("request_id"), self.request_id.as_bytes());
        line.text_unless_empty(key!("trace_id"), self.trace_id.as_bytes());
        match self.client_text.filter(|_| self.client_ip == self.client.ip()) {
            Some(text) => line.raw(text.get(self.client, self.listener, config)),
            None => write_client(line, self.client, self.client_ip, self.listener),
        }
        // Of our own making, or a token: nothing to escape.
        line.plain_unless_empty(key!("protocol"), self.protocol.as_bytes());
        line.plain_unless_empty(key!("method"), self.method.as_bytes());
        line.plain_unless_empty(key!("scheme"), self.scheme.as_bytes());
        line.text_unless_empty(key!("host"), self.host);
        if !self.path.is_empty() {
            match self.query.filter(|_| config.query) {
                Some(query) => line.joined(key!("uri"), self.path, b"?", query),
                None => line.text(key!("uri"), self.path),
            }
        }
        line.number(key!("status"), self.status.into());
        line.number(key!("bytes_in"), self.bytes_in);
        line.number(key!("bytes_out"), self.bytes_out);
        line.text_unless_empty(key!("upgrade"), self.upgrade.as_bytes());
        line.text_unless_empty(key!("route"), self.route.as_bytes());
        line.text_unless_empty(key!("service"), self.service.as_bytes());
        self.upstream.write(line);
        self.times.write(line);
        line.text_unless_empty(key!("reason"), self.reason.as_bytes());
        write_verdicts(line, self.verdicts);
        if let Some(headers) = self.headers {
            write_headers(line, headers, &config.headers);
        }
    }
}

impl ConnectionRecord<'_> {
    pub(super) fn write(&self, line: &mut Object<'_>) {
        line.text_unless_empty(key!("request_id"), self.request_id.as_bytes());
        write_client(line, self.client, self.client.ip(), self.listener);
        line.text_unless_empty(key!("protocol"), self.protocol.as_bytes());
        line.number(key!("bytes_in"), self.bytes_in);
        line.number(key!("bytes_out"), self.bytes_out);
        if self.frames_in + self.frames_out > 0 {
            line.number(key!("frames_in"), self.frames_in);
            line.number(key!("frames_out"), self.frames_out);
        }
        line.text_unless_empty(key!("user"), self.user.as_bytes());
        line.text_unless_empty(key!("route"), self.route.as_bytes());
        self.upstream.write(line);
        self.times.write(line);
        line.text_unless_empty(key!("reason"), self.reason.as_bytes());
        write_verdicts(line, self.verdicts);
    }
}

impl BlockedRecord<'_> {
    pub(super) fn write(&self, line: &mut Object<'_>) {
        line.text_unless_empty(key!("request_id"), self.request_id.as_bytes());
        write_client(line, self.client, self.client_ip, self.listener);
        line.text_unless_empty(key!("protocol"), self.protocol.as_bytes());
        line.text_unless_empty(key!("route"), self.route.as_bytes());
        if let Some(command) = self.command {
            line.number(key!("command"), command);
        }
        if let Some(sequence) = self.sequence {
            line.number(key!("sequence"), sequence);
        }
        line.text_unless_empty(key!("user"), self.user.as_bytes());
        line.number(key!("bytes_in"), self.bytes_in);
        line.text_unless_empty(key!("reason"), self.verdict.reason.as_bytes());
        write_verdicts(line, std::slice::from_ref(&self.verdict));
    }
}

impl UpstreamRecord<'_> {
    fn write(&self, line: &mut Object<'_>) {
        line.text_unless_empty(key!("upstream"), self.id.as_bytes());
        line.text_unless_empty(key!("line"), self.line.as_bytes());
        if let Some(node) = self.node {
            line.plain(key!("node"), &AddressText::of_socket(node));
        }
        if self.attempts > 0 {
            line.number(key!("attempts"), self.attempts.into());
        }
    }
}

impl Times {
    fn write(&self, line: &mut Object<'_>) {
        line.milliseconds(key!("duration_ms"), self.total);
        let parts = [
            (key!("connect_ms"), self.connect),
            (key!("header_ms"), self.header),
            (key!("upstream_ms"), self.upstream),
        ];
        for (key, value) in parts {
            if let Some(value) = value {
                line.milliseconds(key, value);
            }
        }
    }
}

fn write_client(line: &mut Object<'_>, client: &Client, ip: IpAddr, listener: &str) {
    line.plain(key!("client_ip"), &AddressText::of(ip));
    // Behind a hop that only names an address the port is unknown.
    if ip == client.address.ip() {
        line.number(key!("client_port"), client.address.port().into());
    }
    line.plain(key!("peer"), &AddressText::of_socket(client.peer));
    line.text_unless_empty(key!("listener"), listener.as_bytes());
    let Some(tls) = &client.tls else { return };
    line.object(key!("tls"), |line| {
        line.text_unless_empty(key!("version"), tls.version.as_bytes());
        line.text_unless_empty(key!("cipher"), tls.cipher.as_bytes());
        line.text_unless_empty(key!("sni"), tls.sni.as_deref().unwrap_or_default().as_bytes());
        line.text_unless_empty(key!("alpn"), tls.alpn.as_deref().unwrap_or_default().as_bytes());
        line.flag(key!("resumed"), tls.resumed);
        if let Some(certificate) = &tls.certificate {
            line.text(key!("client_subject"), certificate.subject.as_bytes());
            line.text(key!("client_fingerprint"), certificate.fingerprint.as_bytes());
        }
    });
}

fn write_verdicts(line: &mut Object<'_>, verdicts: &[VerdictRecord<'_>]) {
    if verdicts.is_empty() {
        return;
    }
    line.objects(key!("verdicts"), verdicts, |verdict, line| {
        line.text(key!("plugin"), verdict.plugin.as_bytes());
        line.text_unless_empty(key!("version"), verdict.version.as_bytes());
        line.text(key!("verdict"), verdict.verdict.as_bytes());
        if !verdict.rules.is_empty() {
            line.texts(key!("rules"), verdict.rules);
        }
        line.text_unless_empty(key!("reason"), verdict.reason.as_bytes());
    });
}

/// The two headers everybody wants have keys of their own; others lie under `headers`.
fn write_headers(line: &mut Object<'_>, headers: &Fields, names: &[String]) {
    let mut others = false;
    for name in names {
        match name.as_str() {
            "user-agent" => {
                line.text_unless_empty(
                    key!("user_agent"),
                    headers.value(Name::UserAgent).unwrap_or_default(),
                );
            }
            "referer" => {
                line.text_unless_empty(key!("referer"), headers.value(Name::Referer).unwrap_or_default())
            }
            name => others |= headers.value_of(name.as_bytes()).is_some(),
        }
    }
    if !others {
        return;
    }
    line.object(key!("headers"), |line| {
        for name in names.iter().filter(|name| *name != "user-agent" && *name != "referer") {
            if let Some(value) = headers.value_of(name.as_bytes()) {
                line.text_named(name, value);
            }
        }
    });
}
