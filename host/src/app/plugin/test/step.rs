//! One case: the calls it makes, and what they come to.

use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::cases::{
    self, Expected, ExpectedFrame, ExpectedTick, Frame, Octets, Request, Response, Step, Verdict,
};
use super::function::{self, request_head};
use super::transcoder;
use crate::message::{Fields, Method, ResponseHead, Scheme};
use crate::plugin::{
    self, ChunkVerdict, Denial, Edit, FrameRuling, HeadBuffer, HeadVerdict, Phases, Plugin, Visit, wait,
};

/// Runs a case; an error says what differs.
pub(super) fn run(plugin: &Arc<Plugin>, step: &Step) -> Result<()> {
    match step {
        Step::Request(request, expected) => compare(&request_outcome(plugin, request)?, expected),
        Step::Response(response, expected) => compare(&response_outcome(plugin, response)?, expected),
        Step::Frames(frames, expected) => compare_frames(&rulings(plugin, frames)?, expected),
        Step::Tick(expected) => tick(plugin, expected),
        Step::Encode(head, encode, expected) => transcoder::encode(plugin, head, encode, expected),
        Step::Decode(decode, expected) => transcoder::decode(plugin, decode, expected),
    }
}

/// What became of a message.
pub(super) struct Outcome {
    /// None of an edge function's answer.
    verdict: Option<Verdict>,
    status: Option<u16>,
    rule: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Outcome {
    /// What an edge function answered.
    pub(super) fn answered(status: u16, headers: Vec<(String, Vec<u8>)>, body: Vec<u8>) -> Self {
        Self { verdict: None, status: Some(status), rule: None, headers, body }
    }
}

impl From<Denial> for Outcome {
    fn from(denial: Denial) -> Self {
        Self {
            verdict: Some(Verdict::Deny),
            status: Some(denial.status),
            rule: Some(denial.rule),
            headers: denial.headers.into_iter().map(|field| (field.name, field.value)).collect(),
            body: denial.body,
        }
    }
}

fn request_outcome(plugin: &Plugin, request: &Request) -> Result<Outcome> {
    let fields = fields(&request.headers);
    let scheme = match request.scheme {
        cases::Scheme::Http => Scheme::Http,
        cases::Scheme::Https => Scheme::Https,
    };
    let method = Method::of(&request.method);
    let head = request_head(method, scheme, &request.authority, &request.path, &fields);
    let pieces = request.body.pieces();
    if let Some(function) = plugin.function() {
        return function::call(function, &head, &pieces);
    }
    let interest = plugin.interest();
    let (sees_head, sees_body) = wants(plugin, Phases::REQUEST_HEAD, Phases::REQUEST_BODY, "requests")?;
    let mut visit = Visit::default();
    let verdict = if sees_head {
        let mut buffer = HeadBuffer::take();
        buffer.request(&head, request.peer, &interest.request_fields);
        let told = wait(plugin.request_head(&mut visit, buffer.head(), pieces.is_empty()));
        buffer.give_back();
        told.0?
    } else {
        HeadVerdict::Accept
    };
    let max = sees_body.then_some(interest.request_body_max);
    finish(verdict, None, fields, &pieces, max, |chunk, end| {
        Ok(wait(plugin.request_body(&mut visit, chunk, end)).0?)
    })
}

fn response_outcome(plugin: &Plugin, response: &Response) -> Result<Outcome> {
    let fields = fields(&response.headers);
    let mut head = ResponseHead { status: response.status, fields: Fields::default() };
    for (name, value) in &fields {
        head.fields.append(name.as_bytes(), value);
    }
    let pieces = response.body.pieces();
    let interest = plugin.interest();
    let (sees_head, sees_body) = wants(plugin, Phases::RESPONSE_HEAD, Phases::RESPONSE_BODY, "responses")?;
    let mut visit = Visit::default();
    let verdict = if sees_head {
        let mut buffer = HeadBuffer::take();
        buffer.response(&head, &interest.response_fields);
        let told = wait(plugin.response_head(&mut visit, buffer.head(), pieces.is_empty()));
        buffer.give_back();
        told.0?
    } else {
        HeadVerdict::Accept
    };
    let max = sees_body.then_some(interest.response_body_max);
    finish(verdict, Some(response.status), fields, &pieces, max, |chunk, end| {
        Ok(wait(plugin.response_body(&mut visit, chunk, end)).0?)
    })
}

/// Which of a message the plugin asked for; an error where it is nothing.
fn wants(plugin: &Plugin, head: Phases, body: Phases, what: &str) -> Result<(bool, bool)> {
    let phases = plugin.interest().phases;
    let (sees_head, sees_body) = (phases & head == head, phases & body == body);
    if !sees_head && !sees_body {
        bail!("the plugin does not ask for {what}");
    }
    Ok((sees_head, sees_body))
}

/// Applies a head's verdict and shows the body, if it is wanted.
fn finish(
    verdict: HeadVerdict,
    mut status: Option<u16>,
    mut headers: Vec<(String, Vec<u8>)>,
    pieces: &[&[u8]],
    body_max: Option<u32>,
    mut show: impl FnMut(&[u8], bool) -> Result<ChunkVerdict>,
) -> Result<Outcome> {
    let (word, more) = match verdict {
        HeadVerdict::Accept => (Verdict::Accept, true),
        HeadVerdict::Done => (Verdict::Done, false),
        HeadVerdict::Deny(denial) => return Ok(denial.into()),
        HeadVerdict::Edit(edits) => {
            edits.into_iter().for_each(|edit| apply(edit, &mut status, &mut headers));
            (Verdict::Edit, true)
        }
    };
    let body = match body_max {
        Some(max) if more => {
            let length: usize = pieces.iter().map(|piece| piece.len()).sum();
            if length > max as usize {
                bail!("a body of {length} bytes is over the plugin's limit of {max}");
            }
            let mut body = Vec::new();
            let mut held = Vec::new();
            for (place, piece) in pieces.iter().enumerate() {
                held.extend_from_slice(piece);
                match show(piece, place + 1 == pieces.len())? {
                    ChunkVerdict::Forward => body.append(&mut held),
                    ChunkVerdict::Hold => {}
                    ChunkVerdict::Replace(bytes) => {
                        held.clear();
                        body.extend(bytes);
                    }
                    ChunkVerdict::Deny(denial) => return Ok(denial.into()),
                }
            }
            if !held.is_empty() {
                bail!("the last piece of the body is held");
            }
            body
        }
        _ => pieces.concat(),
    };
    Ok(Outcome { verdict: Some(word), status, rule: None, headers, body })
}

fn apply(edit: Edit, status: &mut Option<u16>, headers: &mut Vec<(String, Vec<u8>)>) {
    // The parts of a request's head can be looked at under the names HTTP/2 has.
    let mut set = |name: &str, value: Vec<u8>| {
        headers.retain(|(known, _)| known != name);
        headers.push((name.to_owned(), value));
    };
    match edit {
        Edit::SetField(field) => set(&field.name, field.value),
        Edit::AddField(field) => headers.push((field.name, field.value)),
        Edit::RemoveField(name) => headers.retain(|(known, _)| *known != name),
        Edit::SetPath(path) => set(":path", path.into()),
        Edit::SetAuthority(authority) => set(":authority", authority.into()),
        Edit::SetMethod(method) => set(":method", method.into()),
        Edit::SetStatus(new) => *status = Some(new),
    }
}

fn compare(outcome: &Outcome, expected: &Expected) -> Result<()> {
    if let Some(wanted) = expected.verdict
        && Some(wanted) != outcome.verdict
    {
        let found = outcome.verdict.map_or_else(|| "an answer".to_owned(), |verdict| verdict.to_string());
        bail!("verdict: {found}, expected {wanted}");
    }
    if let Some(wanted) = expected.status
        && Some(wanted) != outcome.status
    {
        bail!("status: {}, expected {wanted}", outcome.status.map_or("none".to_owned(), |s| s.to_string()));
    }
    if let Some(wanted) = &expected.rule
        && Some(wanted) != outcome.rule.as_ref()
    {
        bail!("rule: {:?}, expected {wanted:?}", outcome.rule.as_deref().unwrap_or("none"));
    }
    for (name, value) in &expected.headers {
        let name = name.to_ascii_lowercase();
        let found = outcome.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value);
        if found.unwrap_or_default() != value.as_bytes() {
            let found = found.map_or("none".to_owned(), |found| format!("\"{}\"", found.escape_ascii()));
            bail!("headers.{name}: {found}, expected {value:?}");
        }
    }
    match &expected.body {
        Some(body) if body.as_bytes() != outcome.body => {
            bail!("body: {:?}, expected {body:?}", String::from_utf8_lossy(&outcome.body))
        }
        _ => Ok(()),
    }
}

/// The frames in one buffer, bodies alone: their framing is not the plugin's.
fn rulings(plugin: &Plugin, frames: &[Frame]) -> Result<Vec<FrameRuling>> {
    let interest = plugin.interest();
    if interest.phases & Phases::FRAMES != Phases::FRAMES {
        bail!("the plugin does not ask for frames");
    }
    let mut buffer = Vec::new();
    let mut shown = Vec::new();
    let mut is_shown = Vec::new();
    for frame in frames {
        let start = u32::try_from(buffer.len())?;
        let length = u32::try_from(frame.body.0.len())?;
        buffer.extend_from_slice(&frame.body.0);
        let commands = &interest.commands;
        let is_wanted = commands.is_empty() || commands.iter().any(|own| u64::from(*own) == frame.command);
        is_shown.push(is_wanted);
        if is_wanted {
            shown.push(plugin::Frame {
                start,
                length,
                body_start: start,
                body_length: length,
                command: frame.command,
                sequence: frame.sequence,
                user: frame.user,
            });
        }
    }
    let told = wait(plugin.frames(&mut Visit::default(), 1, "127.0.0.1", &buffer, &shown));
    let mut rulings = told.0?.into_iter();
    let ruling = |is_shown| if is_shown { rulings.next() } else { None };
    Ok(is_shown.into_iter().map(ruling).map(|ruling| ruling.unwrap_or(FrameRuling::Pass)).collect())
}

fn compare_frames(rulings: &[FrameRuling], expected: &[ExpectedFrame]) -> Result<()> {
    for (place, (ruling, expected)) in rulings.iter().zip(expected).enumerate() {
        let (verdict, word, body) = match ruling {
            FrameRuling::Pass => ("pass", None, None),
            FrameRuling::Drop(word) => ("drop", Some(word), None),
            FrameRuling::Rewrite(body) => ("rewrite", None, Some(body)),
            FrameRuling::Reply(bytes) => ("reply", None, Some(bytes)),
            FrameRuling::Close(word) => ("close", Some(word), None),
        };
        if verdict != expected.verdict {
            bail!("frames[{place}].verdict: {verdict}, expected {}", expected.verdict);
        }
        if expected.word.is_some() && expected.word.as_ref() != word {
            bail!("frames[{place}].word: {word:?}, expected {:?}", expected.word);
        }
        if let Some(Octets(wanted)) = &expected.body
            && Some(wanted) != body
        {
            let found = body.map(|body| body.escape_ascii().to_string()).unwrap_or_default();
            bail!("frames[{place}].body: {found}, expected {}", wanted.escape_ascii());
        }
    }
    Ok(())
}

fn tick(plugin: &Plugin, expected: &ExpectedTick) -> Result<()> {
    match (wait(plugin.tick(&mut Visit::default())).0?, &expected.error) {
        (Ok(()), None) => Ok(()),
        (Err(error), Some(beginning)) if error.starts_with(beginning) => Ok(()),
        (Ok(()), Some(wanted)) => bail!("error: none, expected {wanted:?}"),
        (Err(error), None) => bail!("error: {error:?}, expected none"),
        (Err(error), Some(wanted)) => bail!("error: {error:?}, expected {wanted:?}"),
    }
}

/// Header fields of a case; a number is its text.
fn fields(headers: &Map<String, Value>) -> Vec<(String, Vec<u8>)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned).into_bytes();
    headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), text(value))).collect()
}
