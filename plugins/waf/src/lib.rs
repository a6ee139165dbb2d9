//! The plugin `waf`: a web application firewall.
//!
//! The engine, `sluice-waf`, reads rules and judges; this crate hands it what
//! the gateway shows and makes verdicts of what it says. Its configuration is
//! in [`config`].

mod config;

use std::borrow::Cow;

use serde::Serialize;
use sluice_sdk::prelude::*;
use sluice_sdk::{events, log, metrics};
use sluice_waf::{Engine, Transaction, Verdict};

use config::{Config, Mode};

/// Exchanges whose bodies or responses one instance waits for. Each takes some
/// ten kilobytes and its body.
const EXCHANGES_MAX: usize = 256;
/// Exchanges whose responses get the header for tests and nothing else.
const MARKED_MAX: usize = 4096;
/// Transactions that are kept for later requests, with their buffers.
const SPARE_MAX: usize = 8;
/// What the log gets of one match, in characters.
const DETAIL_MAX: usize = 300;

struct Waf {
    config: Config,
    engine: Engine,
    open: Exchanges<Open>,
    /// For the header for tests: the rules that matched.
    marked: Exchanges<String>,
    #[allow(clippy::vec_box, reason = "they stay in their boxes on their way to an exchange and back")]
    spare: Vec<Box<Transaction>>,
}

/// An exchange that goes on.
struct Open {
    /// In a box, since it is large and goes from hand to hand.
    transaction: Box<Transaction>,
    /// The pieces of the body under way.
    body: Vec<u8>,
    /// The matches that were noted.
    noted: usize,
    /// For a denial after the head; none before.
    request_id: Option<String>,
}

#[derive(Serialize)]
struct Refusal<'a> {
    error_msg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl Plugin for Waf {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let engine = config.engine()?;
        for warning in engine.warnings() {
            log::write(log::Level::Warn, warning);
        }
        log::write(log::Level::Info, &format!("{} rules depend on the request", engine.rules()));
        Ok(Self {
            config,
            engine,
            open: Exchanges::new(EXCHANGES_MAX),
            marked: Exchanges::new(MARKED_MAX),
            spare: Vec::new(),
        })
    }

    fn interest(&self) -> Interest {
        let mut interest = Interest::new().request_head().over_limit(self.config.body_over_limit.into());
        if self.reads_request_bodies() {
            interest = interest.request_body(self.config.request_body_max);
        }
        if self.reads_response_bodies() {
            interest = interest.response_head().response_body(self.config.response_body_max);
        } else if self.wants_responses() {
            interest = interest.response_head();
        }
        interest
    }
}

impl Waf {
    fn reads_request_bodies(&self) -> bool {
        self.config.inspect_request_body && self.engine.reads_request_bodies()
    }

    fn reads_response_bodies(&self) -> bool {
        self.config.inspect_response && self.engine.reads_response_bodies()
    }

    /// Whether anything is left to do when the response comes.
    fn wants_responses(&self) -> bool {
        self.config.inspect_response || self.config.debug_header.is_some()
    }

    /// Notes what has matched since the last time.
    fn note(&self, exchange: ExchangeId, open: &mut Open) {
        let matches = open.transaction.matches();
        for found in &matches[open.noted..] {
            let blocks = found.blocks && self.config.mode == Mode::Block;
            let action = if blocks { "block" } else { "detect" };
            let detail = match found.data.as_str() {
                "" => Cow::Borrowed(found.message.as_str()),
                data => Cow::Owned(format!("{}: {data}", found.message)),
            };
            let detail: String = detail.chars().take(DETAIL_MAX).collect();
            events::note(exchange, &found.rule.to_string(), action, &detail);
            metrics::add(if blocks { "blocks" } else { "detections" }, 1);
        }
        open.noted = matches.len();
    }

    /// Ends the exchange with a denial.
    fn deny(&mut self, exchange: ExchangeId, mut open: Open, verdict: sluice_waf::Denial) -> Denial {
        open.transaction.finish();
        self.note(exchange, &mut open);
        if verdict.rule == 0 {
            events::note(exchange, "limit", "block", &verdict.reason);
        }
        let rule = if verdict.rule == 0 { "limit".to_owned() } else { verdict.rule.to_string() };
        let error_msg = if verdict.status == 413 {
            "the request has too many arguments"
        } else {
            "denied by the firewall"
        };
        let mut denial = Denial::new(verdict.status.clamp(200, 599), rule)
            .json(&Refusal { error_msg, request_id: open.request_id.as_deref() });
        if let Some(location) =
            verdict.location.filter(|location| location.iter().all(|byte| (32..127).contains(byte)))
        {
            denial = denial.header("location", location);
        }
        if let Some(name) = &self.config.debug_header {
            denial = denial.header(name, ids(&open.transaction));
        }
        self.keep(open.transaction);
        denial
    }

    /// Keeps a transaction for a later request.
    fn keep(&mut self, mut transaction: Box<Transaction>) {
        if self.spare.len() < SPARE_MAX {
            transaction.reset();
            self.spare.push(transaction);
        }
    }

    /// After the request: what is left to do comes with the response.
    fn after_request(&mut self, exchange: ExchangeId, mut open: Open) {
        if self.config.inspect_response {
            self.note(exchange, &mut open);
            self.open.insert(exchange, open);
            return;
        }
        let ids = ids(&open.transaction);
        if self.config.debug_header.is_some() && !ids.is_empty() {
            self.marked.insert(exchange, ids);
        }
        self.end(exchange, open);
    }

    /// The header for tests, where it is asked for and has something to tell.
    fn mark(&self, ids: String) -> Edits {
        match &self.config.debug_header {
            Some(name) if !ids.is_empty() => Edits::new().set_field(name, ids),
            _ => Edits::new(),
        }
    }

    fn end(&mut self, exchange: ExchangeId, mut open: Open) {
        open.transaction.finish();
        self.note(exchange, &mut open);
        self.keep(open.transaction);
    }

    fn request_head(&mut self, exchange: ExchangeId, head: RequestHead<'_>, end: bool) -> (Open, Verdict) {
        let mut transaction = self.spare.pop().unwrap_or_else(|| Box::new(self.engine.transaction()));
        let authority = head.authority();
        let mut headers: Vec<(&[u8], &[u8])> =
            head.fields().map(|(name, value)| (name.as_bytes(), value)).collect();
        // The gateway has taken the host out of the fields; rules look for it.
        let has = |headers: &[(&[u8], &[u8])], wanted: &[u8]| headers.iter().any(|(name, _)| *name == wanted);
        if !authority.is_empty() && !has(&headers, b"host") {
            headers.insert(0, (b"host", authority.as_bytes()));
        }
        // Which version it came by is not shown. A body that nothing frames is
        // possible in HTTP/2 alone.
        let framed = has(&headers, b"content-length") || has(&headers, b"transfer-encoding");
        let verdict = transaction.request_head(&sluice_waf::RequestHead {
            method: head.method().as_bytes(),
            uri: head.target(),
            protocol: if end || framed { b"HTTP/1.1" } else { b"HTTP/2.0" },
            headers: &headers,
            client: head.peer(),
            unique_id: &exchange.0.to_string(),
        });
        (Open { transaction, body: Vec::new(), noted: 0, request_id: None }, verdict)
    }
}

/// For an exchange that newer ones have pushed out: what was not judged does not
/// go on.
fn busy() -> Denial {
    Denial::new(503, "limit").json(&Refusal { error_msg: "the firewall is busy", request_id: None })
}

fn request_id(head: RequestHead<'_>) -> Option<String> {
    head.field("x-request-id").map(|id| String::from_utf8_lossy(id).chars().take(128).collect())
}

/// The ids of the rules that matched, as the header for tests has them.
fn ids(transaction: &Transaction) -> String {
    let ids: Vec<String> = transaction.matches().iter().map(|found| found.rule.to_string()).collect();
    ids.join(",")
}

impl RequestFilter for Waf {
    fn on_head(&mut self, exchange: ExchangeId, head: RequestHead<'_>, end: bool) -> HeadVerdict {
        let (mut open, mut verdict) = self.request_head(exchange, head, end);
        let waits = !end && self.reads_request_bodies() && open.transaction.wants_request_body();
        if verdict == Verdict::Pass && !waits {
            verdict = open.transaction.request_body(&[], false);
            if verdict == Verdict::Pass {
                self.after_request(exchange, open);
                return HeadVerdict::Done;
            }
        }
        open.request_id = request_id(head);
        match verdict {
            Verdict::Deny(denial) => self.deny(exchange, open, denial).into(),
            Verdict::Pass => {
                self.open.insert(exchange, open);
                HeadVerdict::Accept
            }
        }
    }

    fn on_body(&mut self, exchange: ExchangeId, chunk: Vec<u8>, end: bool) -> ChunkVerdict {
        let Some(mut open) = self.open.remove(exchange) else { return busy().into() };
        gather(&mut open.body, chunk);
        if !end {
            self.open.insert(exchange, open);
            return ChunkVerdict::Hold;
        }
        let body = std::mem::take(&mut open.body);
        let truncated = self.config.body_over_limit == config::BodyOverLimit::Truncate
            && body.len() >= self.config.request_body_max as usize;
        match open.transaction.request_body(&body, truncated) {
            Verdict::Deny(denial) => self.deny(exchange, open, denial).into(),
            Verdict::Pass => {
                self.after_request(exchange, open);
                ChunkVerdict::Forward
            }
        }
    }
}

impl ResponseFilter for Waf {
    fn on_head(&mut self, exchange: ExchangeId, head: ResponseHead<'_>, end: bool) -> HeadVerdict {
        let Some(mut open) = self.open.remove(exchange) else {
            let ids = self.marked.remove(exchange).unwrap_or_default();
            let edits = self.mark(ids);
            return if edits.is_empty() { HeadVerdict::Done } else { edits.into() };
        };
        let headers: Vec<(&[u8], &[u8])> =
            head.fields().map(|(name, value)| (name.as_bytes(), value)).collect();
        let response =
            sluice_waf::ResponseHead { status: head.status(), protocol: b"HTTP/1.1", headers: &headers };
        if let Verdict::Deny(denial) = open.transaction.response_head(&response) {
            return self.deny(exchange, open, denial).into();
        }
        let edits = self.mark(ids(&open.transaction));
        if !end && self.reads_response_bodies() && is_text(&head) {
            self.note(exchange, &mut open);
            self.open.insert(exchange, open);
            return edits.into();
        }
        self.end(exchange, open);
        if edits.is_empty() { HeadVerdict::Done } else { edits.into() }
    }

    fn on_body(&mut self, exchange: ExchangeId, chunk: Vec<u8>, end: bool) -> ChunkVerdict {
        let Some(mut open) = self.open.remove(exchange) else { return busy().into() };
        gather(&mut open.body, chunk);
        if !end {
            self.open.insert(exchange, open);
            return ChunkVerdict::Hold;
        }
        let body = std::mem::take(&mut open.body);
        match open.transaction.response_body(&body) {
            Verdict::Deny(denial) => self.deny(exchange, open, denial).into(),
            Verdict::Pass => {
                self.end(exchange, open);
                ChunkVerdict::Forward
            }
        }
    }
}

/// Adds a piece; the first one is not copied.
fn gather(body: &mut Vec<u8>, chunk: Vec<u8>) {
    if body.is_empty() {
        *body = chunk;
    } else {
        body.extend_from_slice(&chunk);
    }
}

/// Whether rules can read a response: text that is not compressed.
fn is_text(head: &ResponseHead<'_>) -> bool {
    let plain =
        head.field("content-encoding").is_none_or(|encoding| encoding.eq_ignore_ascii_case(b"identity"));
    let kind = String::from_utf8_lossy(head.field("content-type").unwrap_or_default()).to_ascii_lowercase();
    plain
        && (kind.starts_with("text/")
            || kind.contains("json")
            || kind.contains("xml")
            || kind.contains("javascript"))
}

sluice_sdk::export!(Waf: RequestFilter, ResponseFilter);

#[cfg(test)]
mod tests;
