//! One version of a module: heads and bodies handed to a guest, and its
//! verdicts carried out.
//!
//! What a guest gives back is checked here before any of it is used: it may
//! name fields that belong to the connection, or hold a line break.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::message::{Method, ResponseHead, Transcode};
use crate::plugin::edge::Function;
use crate::plugin::{
    CallError, ChunkVerdict, Denial, Edit, HeadBuffer, HeadVerdict, Lane, Note, OnFailure, OverLimit, Phases,
    Plugin, ShadowMessage, Transcoder, TrialRecord, Visit, at_once,
};

use super::{Seat, Transformed};
use crate::filter::chain::Step;
use crate::filter::exchange::{Exchange, FilterNote, Word};
use crate::filter::plugins::{check_field, split_target};
use crate::filter::verdict::{BodyAction, LocalResponse, Longer};

/// One version of a module in a chain.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) plugin: Arc<Plugin>,
    pub(super) wants: Wants,
    /// Where what it does is counted, while a version is tried.
    record: Option<(Arc<TrialRecord>, Lane)>,
}

/// The phases a module wants, as plain answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wants {
    pub(super) request_head: bool,
    pub(super) request_body: bool,
    pub(super) response_head: bool,
    pub(super) response_body: bool,
    pub(super) frames: bool,
}

impl Version {
    pub(super) fn new(plugin: Arc<Plugin>, record: Option<(Arc<TrialRecord>, Lane)>) -> Self {
        let phases = plugin.interest().phases;
        let has = |phase: Phases| phases & phase == phase;
        let wants = Wants {
            request_head: has(Phases::REQUEST_HEAD),
            request_body: has(Phases::REQUEST_BODY),
            response_head: has(Phases::RESPONSE_HEAD),
            response_body: has(Phases::RESPONSE_BODY),
            frames: has(Phases::FRAMES),
        };
        Self { plugin, wants, record }
    }

    /// The edge function it is, if it is one.
    pub(super) fn function(&self) -> Option<&Function> {
        self.plugin.function()
    }

    /// The module as a transcoder, if it is one.
    pub(super) fn transcoder(&self) -> Option<Arc<dyn Transcode>> {
        let transcoder = Transcoder::of(Arc::clone(&self.plugin))?;
        Some(Arc::new(transcoder))
    }

    /// Whether it can be shown the texts of messages.
    pub(super) fn can_inspect(&self) -> Result<(), &'static str> {
        if !self.sees_requests() {
            return Err("cannot inspect messages: the module does not look at requests");
        }
        if self.plugin.waits() {
            return Err("cannot inspect messages: the module may wait in a call");
        }
        Ok(())
    }

    /// Counts an exchange that begins, while a version is tried; gives the
    /// moment for [`end`](Self::end).
    pub(super) fn begin(&self) -> Option<Instant> {
        let (record, lane) = self.record.as_ref()?;
        record.begin(*lane);
        Some(Instant::now())
    }

    /// The moment for [`end`](Self::end) of an exchange that was counted before.
    pub(super) fn clock(&self) -> Option<Instant> {
        self.record.as_ref().map(|_| Instant::now())
    }

    /// Counts the time since then as that of an exchange.
    pub(super) fn end(&self, began: Option<Instant>) {
        if let (Some((record, lane)), Some(began)) = (&self.record, began) {
            record.spent(*lane, began.elapsed());
        }
    }

    /// Counts an exchange and the time of a call for it.
    pub(super) async fn timed<T>(&self, call: impl Future<Output = T>) -> T {
        let began = self.begin();
        let outcome = call.await;
        self.end(began);
        outcome
    }

    /// The most of a request's body it sees, and what becomes of a longer one.
    pub(super) fn request_body(&self) -> Option<(usize, Longer)> {
        let interest = self.plugin.interest();
        self.wants.request_body.then(|| (interest.request_body_max as usize, longer(interest.over_limit)))
    }

    /// Whether its calls may take longer than one poll.
    pub(super) fn waits(&self) -> bool {
        self.plugin.waits()
    }

    /// Shows it the request.
    pub(super) async fn request(&self, seat: Seat, exchange: &mut Exchange) -> Step {
        let max = self.plugin.interest().request_body_max;
        let length = exchange.body.as_ref().map_or(0, Bytes::len);
        if self.wants.request_body && self.refuses_length(length, max, exchange.body_is_cut) {
            let message = format!("request body is over the limit of {max} bytes");
            return Step::Respond(Box::new(self.too_long(413, "body_too_large", &message, exchange)));
        }
        let mut visit = Visit::default();
        let step = match self.look_at_request(&mut visit, exchange).await {
            Ok(None) => Step::Next,
            Ok(Some(denial)) => match self.denied(denial, exchange) {
                Ok(response) => Step::Respond(Box::new(response)),
                Err(error) => self.garbage(error, exchange),
            },
            Err(error) => self.failed(&error, exchange),
        };
        if self.sees_responses() {
            exchange.visits.push((seat, visit));
        }
        step
    }

    async fn look_at_request(
        &self,
        visit: &mut Visit,
        exchange: &mut Exchange,
    ) -> Result<Option<Denial>, CallError> {
        let has_body = match &exchange.body {
            Some(body) => !body.is_empty(),
            None => exchange.body_follows,
        };
        if self.wants.request_head {
            let mut buffer = HeadBuffer::take();
            let wanted = &self.plugin.interest().request_fields;
            buffer.request(&exchange.request, exchange.client_ip, wanted);
            let (verdict, notes) = self.plugin.request_head(visit, buffer.head(), !has_body).await;
            buffer.give_back();
            self.note(notes, exchange);
            match verdict? {
                HeadVerdict::Accept => {}
                HeadVerdict::Done => return Ok(None),
                HeadVerdict::Edit(edits) => {
                    for edit in edits {
                        edit_request(exchange, edit).map_err(|what| self.refuse(what))?;
                    }
                }
                HeadVerdict::Deny(denial) => return Ok(Some(denial)),
            }
        }
        let Some(body) = exchange.body.clone().filter(|body| self.wants.request_body && !body.is_empty())
        else {
            return Ok(None);
        };
        let max = self.plugin.interest().request_body_max as usize;
        let seen = body.slice(..body.len().min(max));
        let (verdict, notes) = self.plugin.request_body(visit, &seen, true).await;
        self.note(notes, exchange);
        match verdict? {
            ChunkVerdict::Forward => {}
            ChunkVerdict::Hold => return Err(self.refuse("hold for the last piece of a body".to_owned())),
            ChunkVerdict::Replace(new) => {
                exchange.body = Some(joined(new, &body[seen.len()..]));
                exchange.body_is_changed = true;
            }
            ChunkVerdict::Deny(denial) => return Ok(Some(denial)),
        }
        Ok(None)
    }

    /// Shows it the head of the response, and says whether it wants the body.
    pub(super) fn response(
        &self,
        seat: Seat,
        exchange: &mut Exchange,
        head: &mut ResponseHead,
    ) -> BodyAction {
        let mut visit = exchange.take_visit(seat);
        let outcome = self.look_at_response(&mut visit, exchange, head);
        exchange.visits.push((seat, visit));
        let refusal = match outcome {
            Ok(action) => return action,
            Err(Refusal::Denial(denial)) => match self.denied(denial, exchange) {
                Ok(response) => response,
                Err(error) => match self.garbage(error, exchange) {
                    Step::Respond(response) => *response,
                    _ => return BodyAction::Pass,
                },
            },
            Err(Refusal::Failure(error)) => match self.failed(&error, exchange) {
                Step::Respond(response) => *response,
                _ => return BodyAction::Pass,
            },
        };
        exchange.refused = Some(refusal.reason);
        *head = refusal.head;
        BodyAction::Refuse(refusal.body)
    }

    fn look_at_response(
        &self,
        visit: &mut Visit,
        exchange: &mut Exchange,
        head: &mut ResponseHead,
    ) -> Result<BodyAction, Refusal> {
        let interest = self.plugin.interest();
        let is_bodyless =
            exchange.request.method == Method::Head || matches!(head.status, 204 | 304 | 100..=199);
        if self.wants.response_head {
            let mut buffer = HeadBuffer::take();
            buffer.response(head, &interest.response_fields);
            let (verdict, notes) = at_once(self.plugin.response_head(visit, buffer.head(), is_bodyless));
            buffer.give_back();
            self.note(notes, exchange);
            match verdict? {
                HeadVerdict::Accept => {}
                HeadVerdict::Done => return Ok(BodyAction::Pass),
                HeadVerdict::Edit(edits) => {
                    for edit in edits {
                        edit_response(head, edit).map_err(|what| self.refuse(what))?;
                    }
                }
                HeadVerdict::Deny(denial) => return Err(Refusal::Denial(denial)),
            }
        }
        if !self.wants.response_body || is_bodyless {
            return Ok(BodyAction::Pass);
        }
        let max = interest.response_body_max as usize;
        Ok(BodyAction::Transform { max, longer: longer(interest.over_limit), encoded: true })
    }

    /// Shows it the body of the response, or the beginning of it.
    pub(super) fn transform(
        &self,
        seat: Seat,
        exchange: &mut Exchange,
        body: Bytes,
        is_whole: bool,
    ) -> Transformed {
        let max = self.plugin.interest().response_body_max;
        if self.refuses_length(body.len(), max, !is_whole) {
            let response = self.too_long(502, "response_over_filter_limit", "upstream failed", exchange);
            exchange.refused = Some(response.reason);
            return Transformed::Deny(Box::new(response));
        }
        let max = max as usize;
        let seen = body.slice(..body.len().min(max));
        let mut visit = exchange.take_visit(seat);
        let (verdict, notes) = at_once(self.plugin.response_body(&mut visit, &seen, true));
        exchange.visits.push((seat, visit));
        self.note(notes, exchange);
        let step = match verdict {
            Ok(ChunkVerdict::Forward) => return Transformed::Body(body),
            Ok(ChunkVerdict::Replace(new)) => return Transformed::Body(joined(new, &body[seen.len()..])),
            Ok(ChunkVerdict::Hold) => self.garbage("hold for the last piece of a body".to_owned(), exchange),
            Ok(ChunkVerdict::Deny(denial)) => match self.denied(denial, exchange) {
                Ok(response) => Step::Respond(Box::new(response)),
                Err(error) => self.garbage(error, exchange),
            },
            Err(error) => self.failed(&error, exchange),
        };
        match step {
            Step::Respond(response) => {
                exchange.refused = Some(response.reason);
                Transformed::Deny(response)
            }
            _ => Transformed::Body(body),
        }
    }

    /// Whether a body is one that it refuses for its length. Others in its chain
    /// may have had more held than it wants to see.
    fn refuses_length(&self, length: usize, max: u32, is_cut: bool) -> bool {
        (is_cut || length > max as usize) && self.plugin.interest().over_limit == OverLimit::Deny
    }

    /// The answer to that, with a note of it.
    fn too_long(
        &self,
        status: u16,
        reason: &'static str,
        message: &str,
        exchange: &mut Exchange,
    ) -> LocalResponse {
        self.count_refusal();
        exchange.notes.push(FilterNote {
            plugin: Word::Shared(Arc::clone(self.plugin.name())),
            version: Some(Arc::clone(self.plugin.version())),
            ..FilterNote::of(&Word::Fixed(""), "deny", reason)
        });
        LocalResponse::error(status, reason, message, exchange.request_id.get())
    }

    /// The answer a denial asks for, with a note of it.
    fn denied(&self, denial: Denial, exchange: &mut Exchange) -> Result<LocalResponse, String> {
        if !(200..=599).contains(&denial.status) {
            return Err(format!("a denial with status {}", denial.status));
        }
        let reason = if denial.status >= 400 { "module_deny" } else { "" };
        if denial.status >= 400 {
            self.count_refusal();
        }
        let mut response = LocalResponse::new(denial.status, reason);
        for field in denial.headers {
            check_field(&field.name, &field.value)?;
            response.head.fields.append(field.name.as_bytes(), &field.value);
        }
        response.body = denial.body.into();
        let verdict = if denial.status >= 400 { "deny" } else { "respond" };
        exchange.notes.push(FilterNote {
            plugin: Word::Shared(Arc::clone(self.plugin.name())),
            version: Some(Arc::clone(self.plugin.version())),
            verdict: Word::Fixed(verdict),
            reason: Word::Fixed(reason),
            rules: shortened(&denial.rule).into_iter().collect(),
            is_event: false,
        });
        Ok(response)
    }

    /// Counts a refusal for the trial that is under way.
    pub(super) fn count_refusal(&self) {
        if let Some((record, lane)) = &self.record {
            record.refused(*lane);
        }
    }

    /// Counts a failure for the trial that is under way.
    pub(super) fn count_failure(&self, error: &CallError) {
        if let Some((record, lane)) = &self.record {
            record.failed(*lane, error);
        }
    }

    /// Whether it looks at requests.
    pub(super) fn sees_requests(&self) -> bool {
        self.wants.request_head || self.wants.request_body
    }

    /// Whether it looks at responses.
    pub(super) fn sees_responses(&self) -> bool {
        self.wants.response_head || self.wants.response_body
    }

    /// A copy of a response's head as this version would see it.
    pub(super) fn copy_of_response(&self, head: &ResponseHead) -> ShadowMessage {
        let mut buffer = HeadBuffer::take();
        buffer.response(head, &self.plugin.interest().response_fields);
        let copied = buffer.head();
        let (bytes, spans) = (copied.bytes.to_vec(), copied.spans.to_vec());
        buffer.give_back();
        ShadowMessage { bytes, spans, body: None, sees_head: self.wants.response_head, answered: None }
    }

    /// As much of a response's body as it would see.
    pub(super) fn part_of_response(&self, body: &Bytes) -> Option<Bytes> {
        let max = self.plugin.interest().response_body_max as usize;
        self.wants.response_body.then(|| body.slice(..body.len().min(max)))
    }

    /// A copy of a request as this version would see it, to be filled in with
    /// what became of the request.
    pub(super) fn copy(&self, exchange: &Exchange) -> ShadowMessage {
        let mut buffer = HeadBuffer::take();
        let interest = self.plugin.interest();
        buffer.request(&exchange.request, exchange.client_ip, &interest.request_fields);
        let head = buffer.head();
        let (bytes, spans) = (head.bytes.to_vec(), head.spans.to_vec());
        buffer.give_back();
        let max = interest.request_body_max as usize;
        let body = exchange.body.as_ref().filter(|body| self.wants.request_body && !body.is_empty());
        let body = body.map(|body| body.slice(..body.len().min(max)));
        ShadowMessage { bytes, spans, body, sees_head: self.wants.request_head, answered: None }
    }

    pub(super) fn refuse(&self, what: String) -> CallError {
        self.plugin.note_garbage();
        CallError::Garbage(what)
    }

    fn garbage(&self, what: String, exchange: &mut Exchange) -> Step {
        let error = self.refuse(what);
        self.failed(&error, exchange)
    }

    /// What a failure does to the exchange.
    fn failed(&self, error: &CallError, exchange: &mut Exchange) -> Step {
        exchange.notes.push(FilterNote {
            plugin: Word::Shared(Arc::clone(self.plugin.name())),
            version: Some(Arc::clone(self.plugin.version())),
            verdict: Word::Fixed("error"),
            reason: Word::Fixed(error.code()),
            rules: Box::default(),
            is_event: false,
        });
        tracing::debug!(module = %self.plugin.name(), %error, "a module failed");
        self.count_failure(error);
        match self.plugin.on_failure() {
            OnFailure::Open => Step::Next,
            OnFailure::Closed => {
                let id = exchange.request_id.get();
                let message = "a filter of this route failed";
                Step::Respond(Box::new(LocalResponse::error(503, error.code(), message, id)))
            }
        }
    }

    fn note(&self, notes: Vec<Note>, exchange: &mut Exchange) {
        for note in notes {
            exchange.notes.push(FilterNote {
                plugin: Word::Shared(Arc::clone(self.plugin.name())),
                version: Some(Arc::clone(self.plugin.version())),
                verdict: Word::Shared(note.action.into()),
                reason: Word::Shared(note.detail.into()),
                rules: [note.rule].into(),
                is_event: true,
            });
        }
    }
}

/// Why a response does not go on.
enum Refusal {
    Denial(Denial),
    Failure(CallError),
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Self::Failure(error)
    }
}

fn longer(over_limit: OverLimit) -> Longer {
    match over_limit {
        OverLimit::Deny => Longer::Refuse,
        OverLimit::Truncate => Longer::Begin,
    }
}

/// A rule's name, fit for a log line.
pub(super) fn shortened(rule: &str) -> Option<Box<str>> {
    let text: String = rule.chars().filter(|c| !c.is_control()).take(256).collect();
    (!text.is_empty()).then(|| text.into())
}

/// What replaces the part a guest saw, and the part it did not see.
fn joined(mut new: Vec<u8>, rest: &[u8]) -> Bytes {
    new.extend_from_slice(rest);
    new.into()
}

fn edit_request(exchange: &mut Exchange, edit: Edit) -> Result<(), String> {
    match edit {
        Edit::SetField(field) => {
            check_field(&field.name, &field.value)?;
            exchange.request.fields.set(field.name.as_bytes(), &field.value);
        }
        Edit::AddField(field) => {
            check_field(&field.name, &field.value)?;
            exchange.request.fields.append(field.name.as_bytes(), &field.value);
        }
        Edit::RemoveField(name) => {
            check_field(&name, b"")?;
            exchange.request.fields.remove(name.as_bytes());
        }
        Edit::SetPath(path) => {
            let (path, query) = split_target(&path).map_err(|error| format!("a path that {error}"))?;
            exchange.request.set_path(&path);
            exchange.request.set_query(query);
        }
        Edit::SetAuthority(authority) => {
            if !crate::net::path::is_authority(authority.as_bytes()) || authority.is_empty() {
                return Err("an authority that is none".to_owned());
            }
            exchange.upstream_host = Some(exchange.request.fields.store(authority.as_bytes()));
        }
        Edit::SetMethod(method) => {
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if method.is_empty() || method.len() > 32 || !method.bytes().all(is_token) || method == "CONNECT"
            {
                return Err("a method that is none".to_owned());
            }
            exchange.request.method = Method::of(&method);
        }
        Edit::SetStatus(_) => return Err("a status for a request".to_owned()),
    }
    Ok(())
}

fn edit_response(head: &mut ResponseHead, edit: Edit) -> Result<(), String> {
    match edit {
        Edit::SetField(field) => {
            check_field(&field.name, &field.value)?;
            head.fields.set(field.name.as_bytes(), &field.value);
        }
        Edit::AddField(field) => {
            check_field(&field.name, &field.value)?;
            head.fields.append(field.name.as_bytes(), &field.value);
        }
        Edit::RemoveField(name) => {
            check_field(&name, b"")?;
            head.fields.remove(name.as_bytes());
        }
        Edit::SetStatus(status) => {
            if !(200..=599).contains(&status) {
                return Err(format!("status {status} for a response"));
            }
            head.status = status;
        }
        Edit::SetPath(_) | Edit::SetAuthority(_) | Edit::SetMethod(_) => {
            return Err("an edit of requests for a response".to_owned());
        }
    }
    Ok(())
}
