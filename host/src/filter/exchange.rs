//! The state of one request on its way through the filters.

use std::cell::OnceCell;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::message::{
    Client, Fields, Params, RequestHead, ResponseHead, RouteLabels, Span, Subject, UpstreamView,
};
use crate::plugin::{Shadowing, Visit};
use crate::rate::ConcurrencySlot;
use crate::upstream::Upstream;

use super::consumers::{Consumers, Grant};
use super::module::Seat;

/// The id of a request: 32 hex digits of its own, or what `request-id` says.
#[derive(Debug, Default)]
pub struct RequestId(OnceCell<SmallVec<[u8; 40]>>);

impl RequestId {
    /// The id; the first call makes one.
    pub fn get(&self) -> &str {
        let bytes = self.0.get_or_init(|| {
            let mut random = [0_u8; 16];
            super::plugins::random_bytes(&mut random);
            let mut text = [0_u8; 32];
            for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
                pair.copy_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
            }
            SmallVec::from_slice(&text)
        });
        // Only ASCII gets in.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Gives the request an id from outside. Ids that are empty, longer than
    /// 128 bytes or hold anything but visible ASCII are not taken over.
    pub fn set(&mut self, id: &[u8]) {
        if !id.is_empty() && id.len() <= 128 && id.iter().all(u8::is_ascii_graphic) {
            self.0 = OnceCell::from(SmallVec::from_slice(id));
        }
    }
}

fn hex(digit: u8) -> u8 {
    b"0123456789abcdef"[usize::from(digit & 15)]
}

/// A word of a note: one of the program's own, or one of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Of the program.
    Fixed(&'static str),
    /// Of a module.
    Shared(Arc<str>),
}

impl Word {
    /// The program's own word; empty for one of a module.
    #[must_use]
    pub fn fixed(&self) -> &'static str {
        match self {
            Self::Fixed(text) => text,
            Self::Shared(_) => "",
        }
    }
}

impl std::ops::Deref for Word {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Fixed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl PartialOrd for Word {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Word {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl PartialEq<str> for Word {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Word {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

/// What a filter decided, for the access log. Those that let pass leave none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterNote {
    /// The plugin.
    pub plugin: Word,
    /// The version of a module.
    pub version: Option<Arc<str>>,
    /// `deny`, `respond`, `delay` and the like; `docs/observability.md` has them.
    pub verdict: Word,
    /// Code of the reason.
    pub reason: Word,
    /// The rules that matched.
    pub rules: Box<[Box<str>]>,
    /// A module noted it; it decided nothing by itself.
    pub is_event: bool,
}

impl FilterNote {
    /// What a built-in filter decided.
    #[must_use]
    pub fn of(plugin: &Word, verdict: &'static str, reason: &'static str) -> Self {
        Self {
            plugin: plugin.clone(),
            version: None,
            verdict: Word::Fixed(verdict),
            reason: Word::Fixed(reason),
            rules: Box::default(),
            is_event: false,
        }
    }
}

/// One request on its way, and what filters have decided about it.
///
/// Dropping it gives back the concurrency slots it holds.
pub struct Exchange {
    /// The request as it goes on; filters change it.
    pub request: RequestHead,
    /// The connection it came by.
    pub client: Arc<Client>,
    /// The client after trusted hops' headers were believed.
    pub client_ip: IpAddr,
    /// Port of that client; 0 when unknown.
    pub client_port: u16,
    /// Whether the hop before us is one the listener trusts. Without
    /// `trusted_addresses`, `real-ip` believes only such a hop.
    pub hop_is_trusted: bool,
    /// Names of the route.
    pub labels: Option<Arc<RouteLabels>>,
    /// What the route's path captured.
    pub params: Params,
    /// The upstream to use in place of the route's.
    pub upstream: Option<Arc<Upstream>>,
    /// When the request began.
    pub started: Instant,
    /// Its id.
    pub request_id: RequestId,
    /// Its body, where [`Filters::body_interest`](super::Filters::body_interest) asked for it.
    pub body: Option<Bytes>,
    /// `body` is the beginning of a longer one; the rest follows unseen.
    pub body_is_cut: bool,
    /// A module has put another body in its place.
    pub body_is_changed: bool,
    /// Whether the request has a body, seen or not.
    pub body_follows: bool,
    /// Why a module did not let the response go on.
    pub refused: Option<&'static str>,
    /// The response's body is encoded: gzip and the like.
    pub(super) is_encoded: bool,
    /// What modules with more than one call to come share between them.
    pub(super) visits: SmallVec<[(Seat, Visit); 1]>,
    /// Of what versions in the shadow are shown copies, until their response is there.
    pub(super) shadows: Vec<(Seat, Shadowing)>,
    /// Time from sending the request to the end of the response, once proxied.
    pub upstream_time: Option<Duration>,
    /// What filters decided.
    pub notes: SmallVec<[FilterNote; 1]>,
    /// All consumers, where a chain asks who sends the request.
    pub consumers: Option<Arc<Consumers>>,
    /// Who sends the request, once that is known.
    pub consumer: Option<Grant>,
    /// The route's filters whose place the consumer's take.
    pub(super) replaced: u64,
    pub(super) upstream_host: Option<Span>,
    /// Fields set on whatever response follows.
    pub(super) response_fields: Option<Box<Fields>>,
    /// Time spent in delays.
    pub(super) delayed: Duration,
    /// For each chain, the filters whose `_meta.filter` says no.
    pub(super) skipped: [Option<u64>; 3],
    /// For each chain, the response filters that rewrite the body.
    pub(super) rewriting: [u64; 3],
    pub(super) slots: SmallVec<[ConcurrencySlot; 1]>,
    /// Spans of path and query as received.
    original: (Span, Option<Span>),
    /// Span of the authority as received.
    original_authority: Span,
}

impl Exchange {
    /// A request that has just been read.
    #[inline]
    #[must_use]
    pub fn new(request: RequestHead, client: Arc<Client>, client_ip: IpAddr, started: Instant) -> Self {
        let (original_authority, path, query) = request.spans();
        let client_port = if client.ip() == client_ip { client.address.port() } else { 0 };
        Self {
            request,
            client,
            client_ip,
            client_port,
            hop_is_trusted: false,
            labels: None,
            params: Params::default(),
            upstream: None,
            started,
            request_id: RequestId::default(),
            body: None,
            body_is_cut: false,
            body_is_changed: false,
            body_follows: false,
            refused: None,
            is_encoded: false,
            visits: SmallVec::new(),
            shadows: Vec::new(),
            upstream_time: None,
            notes: SmallVec::new(),
            consumers: None,
            consumer: None,
            replaced: 0,
            upstream_host: None,
            response_fields: None,
            delayed: Duration::ZERO,
            skipped: [None; 3],
            rewriting: [0; 3],
            slots: SmallVec::new(),
            original: (path, query),
            original_authority,
        }
    }

    /// The `Host` to send when the upstream's `pass_host` is `pass`: what
    /// `proxy-rewrite` set, else the authority asked for.
    #[must_use]
    pub fn upstream_host(&self) -> &str {
        match self.upstream_host {
            Some(span) => std::str::from_utf8(self.request.fields.get(span)).unwrap_or_default(),
            None => self.request.authority(),
        }
    }

    /// Authority, path and query as received.
    #[must_use]
    pub fn original(&self) -> (&[u8], &[u8], Option<&[u8]>) {
        let text = |span| self.request.fields.get(span);
        (text(self.original_authority), text(self.original.0), self.original.1.map(text))
    }

    /// What rules may look at before the request is proxied.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            client_port: self.client_port,
            original: Some(self.original),
            params: Some(&self.params),
            labels: self.labels.as_deref(),
            request_id: self.request_id.get(),
            consumer: self.consumer.as_ref().map(|grant| &*grant.consumer.name),
            body: self.body.as_deref(),
            ..Subject::of_request(&self.client, self.client_ip, &self.request)
        }
    }

    /// What rules may look at once a response has come.
    #[must_use]
    pub fn response_subject<'a>(
        &'a self,
        head: &'a ResponseHead,
        upstream: Option<UpstreamView<'a>>,
    ) -> Subject<'a> {
        Subject { response: Some(head), upstream, elapsed: Some(self.started.elapsed()), ..self.subject() }
    }

    /// Sets a field on whatever response follows.
    pub fn set_response_field(&mut self, name: &str, value: &[u8]) {
        self.response_fields.get_or_insert_default().set(name.as_bytes(), value);
    }

    pub(super) fn note(&mut self, plugin: &Word, verdict: &'static str, reason: &'static str) {
        self.notes.push(FilterNote::of(plugin, verdict, reason));
    }

    /// Whether a module has been called for it at this place.
    pub(super) fn has_visit(&self, seat: Seat) -> bool {
        self.visits.iter().any(|(own, _)| *own == seat)
    }

    /// What a module's earlier calls left.
    pub(super) fn take_visit(&mut self, seat: Seat) -> Visit {
        match self.visits.iter().position(|(own, _)| *own == seat) {
            Some(at) => self.visits.swap_remove(at).1,
            None => Visit::default(),
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("method", &self.request.method)
            .field("path", &self.request.path())
            .field("client_ip", &self.client_ip)
            .finish_non_exhaustive()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.slots.is_empty() {
            return;
        }
        let own = || self.started.elapsed().saturating_sub(self.delayed);
        let latency = self.upstream_time.unwrap_or_else(own);
        for slot in self.slots.drain(..) {
            slot.leave(Some(latency));
        }
    }
}

/// What a connection holds while it lives: dropping it gives back its slots.
#[derive(Debug, Default)]
pub struct ConnectionScope {
    pub(super) slots: SmallVec<[ConcurrencySlot; 1]>,
    notes: SmallVec<[FilterNote; 1]>,
}

/// Different notes of one connection; further ones are left out of its line.
const CONNECTION_NOTES_MAX: usize = 8;

impl ConnectionScope {
    /// What filters decided about the connection and its frames, each once.
    #[must_use]
    pub fn notes(&self) -> &[FilterNote] {
        &self.notes
    }

    /// Notes a decision, unless the like of it was noted before.
    pub fn note(&mut self, note: FilterNote) {
        if self.notes.len() < CONNECTION_NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}
