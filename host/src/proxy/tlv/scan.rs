//! Looking at what has come: which frames go on, and what becomes of the others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant as Clock;

use tokio::time::Instant;

use super::recovery::Facts;
use super::{CloseReason, Down, End, Flow, Host, Session};
use crate::config::objects::HeartbeatMode;
use crate::filter::{FilterNote, FrameBatch, FrameContext, FrameVerdict, Word};
use crate::frame::{Frame, FrameField, FrameFormat, Piece};
use crate::message::{FrameFields, FrameRole};
use crate::observe::{BlockedRecord, VerdictRecord};
use crate::snapshot::TlvSettings;

/// The number of an error frame that says that this may not be said.
const FORBIDDEN: u32 = 5;

/// What looking at the waiting bytes came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// Bytes are ready to go on, or something was thrown away: look again.
    Progress,
    /// More bytes are needed.
    Wait,
    /// Nothing may be taken now, whatever waits.
    Blocked,
    /// The session ends.
    Close(CloseReason),
}

/// A frame that does not simply pass: in front of what waits once everything
/// before it is written.
#[derive(Debug)]
pub(super) struct Held {
    fate: Fate,
    /// The plugin that decided; empty where the route did.
    plugin: &'static str,
    facts: Facts,
    /// Bytes of it that are here.
    bytes: usize,
    /// It is passed in pieces, of which this is the first.
    is_head: bool,
    /// When it goes on.
    until: Option<Instant>,
    /// What a module said about it.
    note: Option<Box<FilterNote>>,
}

/// What modules have decided about frames that are still to be looked at.
pub(super) type Rulings = VecDeque<(FrameVerdict, Option<Box<FilterNote>>)>;

#[derive(Debug)]
enum Fate {
    Filter(FrameVerdict),
    /// A heartbeat that is answered here.
    Answer,
    Close(CloseReason),
}

/// The header of a frame as filters see it.
pub(in crate::proxy) struct Header<'a> {
    pub(in crate::proxy) format: &'a FrameFormat,
    /// The frame, or its first bytes with the whole header.
    pub(in crate::proxy) head: &'a [u8],
}

impl FrameFields for Header<'_> {
    fn role(&self, role: FrameRole) -> Option<u64> {
        let field = match role {
            FrameRole::Command => self.format.command()?,
            FrameRole::Sequence => self.format.sequence()?,
            FrameRole::User => self.format.user()?,
            FrameRole::Length => self.format.length(),
        };
        Some(field.read(self.head))
    }

    fn field(&self, name: &str) -> Option<u64> {
        self.format.field(name).map(|field| field.read(self.head))
    }
}

pub(super) fn facts(format: &FrameFormat, head: &[u8]) -> Facts {
    let read = |field: Option<FrameField>| field.map_or(0, |field| field.read(head));
    Facts { command: command(format, head), sequence: read(format.sequence()) }
}

/// The command of a frame; wider ones than 32 bits are all counted as the largest.
fn command(format: &FrameFormat, head: &[u8]) -> u32 {
    format.command().map_or(0, |field| u32::try_from(field.read(head)).unwrap_or(u32::MAX))
}

impl<H: Host, D: Down> Session<H, D> {
    /// Frames up to this size are held until they are whole.
    fn hold(&self) -> usize {
        if D::WHOLE || self.recovery.is_some() || self.route.chain.sees_batches() {
            usize::MAX
        } else {
            self.host.buffers().limits().common_bytes
        }
    }

    /// Looks at what waits from the client. Called when all that was ready is written.
    pub(super) fn scan_inward(&mut self) -> Scanned {
        if self.held.is_some() {
            return self.decide_held();
        }
        if self.inward.inlet.is_empty() {
            return Scanned::Wait;
        }
        let filters = self.route.chain.sees_frames();
        let answers =
            self.settings.heartbeat.is_some() && self.settings.heartbeat_mode == HeartbeatMode::Answer;
        if self.begun && !filters && !answers && !self.inward.discards {
            return self.scan_plainly();
        }
        if self.notices_full() {
            return Scanned::Blocked;
        }
        self.scan_one_by_one()
    }

    /// The common case: every frame passes, all of them in one go.
    fn scan_plainly(&mut self) -> Scanned {
        let hold = self.hold();
        let (format, metrics) = (&*self.settings.format, self.host.metrics());
        let (route, flow) = (&*self.route.metrics, &mut self.inward);
        let mut frames = 0;
        let scan = flow.decoder.scan(format, flow.inlet.front(), hold, |frame| {
            frames += 1;
            route.frame_in(metrics, command(format, frame.head()));
        });
        flow.scanned(scan.forward, scan.need, frames, self.now);
        match scan.error {
            _ if scan.forward > 0 => Scanned::Progress,
            Some(error) => Scanned::Close(CloseReason::ClientFrame(error)),
            None => Scanned::Wait,
        }
    }

    /// The same where a frame may meet another fate than to pass.
    fn scan_one_by_one(&mut self) -> Scanned {
        let hold = self.hold();
        let settings = Arc::clone(&self.settings);
        loop {
            let (ready, before) = (self.inward.ready, self.inward.decoder);
            let mut decoder = before;
            if self.route.chain.sees_batches()
                && self.rulings.as_ref().is_none_or(|rulings| rulings.is_empty())
            {
                self.ask_modules(ready);
            }
            let mut rulings = self.rulings.take();
            let waiting = &self.inward.inlet.front()[ready..];
            let piece = match decoder.next(&settings.format, waiting, hold) {
                Ok(piece) => piece,
                Err(_) if ready > 0 => return Scanned::Progress,
                Err(error) => return Scanned::Close(CloseReason::ClientFrame(error)),
            };
            // Thrown away only in front, so that what is ready stays in one run.
            if matches!(piece, Piece::Part { .. }) && self.inward.discards && ready > 0 {
                return Scanned::Progress;
            }
            let (bytes, verdict) = match piece {
                Piece::More { need } => {
                    self.inward.decoder = decoder;
                    self.inward.scanned(ready, need, 0, self.now);
                    return if ready > 0 { Scanned::Progress } else { Scanned::Wait };
                }
                Piece::Part { bytes, last } => (bytes.len(), Err(last)),
                Piece::Frame(frame) => {
                    let facts = facts(&settings.format, frame.head());
                    let ruling = rulings.as_mut().and_then(|rulings| rulings.pop_front());
                    let (ruled, note) = ruling.unwrap_or((FrameVerdict::Pass, None));
                    let (fate, plugin) = decide(self, &frame, facts, ruled).unzip();
                    let user = settings.format.user().map(|field| field.read(frame.head()));
                    (frame.bytes().len(), Ok((facts, fate.zip(plugin), user, !frame.is_whole(), note)))
                }
            };
            self.rulings = rulings.filter(|rulings| !rulings.is_empty());
            self.inward.decoder = decoder;
            match verdict {
                Err(last) if self.inward.discards => {
                    self.inward.inlet.consume(bytes);
                    self.inward.discards = !last;
                }
                Err(_) => self.inward.ready += bytes,
                Ok((facts, fate, user, is_head, note)) => {
                    self.saw_frame(facts, user);
                    let Some((fate, plugin)) = fate else {
                        self.inward.ready += bytes;
                        continue;
                    };
                    self.held =
                        Some(Box::new(Held { fate, plugin, facts, bytes, is_head, until: None, note }));
                    return if ready > 0 { Scanned::Progress } else { self.decide_held() };
                }
            }
        }
    }

    /// Has the chain's modules look at the whole frames from `ready` on, all of
    /// them in one call.
    fn ask_modules(&mut self, ready: usize) {
        let settings = Arc::clone(&self.settings);
        let waiting = &self.inward.inlet.front()[ready..];
        let (connection, decoder) = (self.connection, self.inward.decoder);
        let mut batch = FrameBatch::of(connection, &self.client, &settings.format, decoder, waiting);
        if !batch.frames.is_empty() {
            self.rulings = Some(Box::new(self.route.chain.on_batch(&mut batch).into()));
        }
    }

    fn saw_frame(&mut self, facts: Facts, user: Option<u64>) {
        let logs_in = self.settings.login.is_empty() || self.settings.login.contains(facts.command);
        if !self.begun && logs_in {
            self.begun = true;
            self.user = user;
        }
        self.inward.frames += 1;
        self.inward.partial_since = None;
        self.route.metrics.frame_in(self.host.metrics(), facts.command);
    }

    /// Does with the frame in front what was decided.
    fn decide_held(&mut self) -> Scanned {
        let Some(mut held) = self.held.take() else { return Scanned::Progress };
        let verdict = match held.fate {
            Fate::Close(reason) => return Scanned::Close(reason),
            Fate::Answer => {
                let command = self.settings.reply_command(held.facts.command).unwrap_or(held.facts.command);
                self.notice(command, held.facts.sequence, b"");
                self.throw_away(&held);
                return Scanned::Progress;
            }
            Fate::Filter(ref verdict) => verdict.clone(),
        };
        match verdict {
            FrameVerdict::Pass => self.inward.ready = held.bytes,
            FrameVerdict::Delay(time) => {
                let until = *held.until.get_or_insert(self.now + time);
                if until > self.now {
                    self.note_verdict(FilterNote::of(&Word::Fixed(held.plugin), "delay", ""));
                    self.held = Some(held);
                    return Scanned::Blocked;
                }
                self.inward.ready = held.bytes;
            }
            FrameVerdict::Rewrite(bytes) => {
                self.log_blocked(&held, "rewrite", "");
                self.inward.ready = bytes.len();
                self.inward.inlet.replace_front(held.bytes, bytes.to_vec());
            }
            FrameVerdict::Drop(code) => {
                self.log_blocked(&held, "drop", code);
                self.throw_away(&held);
            }
            FrameVerdict::Reject { code, retry_after } => {
                self.log_blocked(&held, "reply", code);
                let number = match code {
                    "module_deny" => FORBIDDEN,
                    _ => CloseReason::Filter(code).number(),
                };
                self.notice_refusal(number, code, held.facts, retry_after);
                self.throw_away(&held);
            }
            FrameVerdict::Reply(frames) => {
                self.log_blocked(&held, "reply", "");
                self.notices.get_or_insert_default().push(&frames);
                self.throw_away(&held);
            }
            FrameVerdict::Close(code) => {
                self.log_blocked(&held, "close", code);
                return Scanned::Close(CloseReason::Filter(code));
            }
        }
        Scanned::Progress
    }

    /// When the frame that is held back goes on.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held.as_ref().and_then(|held| held.until)
    }

    fn throw_away(&mut self, held: &Held) {
        self.inward.inlet.consume(held.bytes);
        self.inward.discards = held.is_head;
    }

    /// Notes a decision for the session's line and counts it.
    fn note_verdict(&mut self, note: FilterNote) {
        self.host.metrics().verdict(&note.plugin, &note.verdict);
        self.scope.get_or_insert_default().note(note);
    }

    fn log_blocked(&mut self, held: &Held, verdict: &'static str, code: &'static str) {
        let own = FilterNote::of(&Word::Fixed(held.plugin), verdict, code);
        let note = match &held.note {
            Some(note) if note.reason.is_empty() => FilterNote { reason: own.reason, ..(**note).clone() },
            Some(note) => (**note).clone(),
            None => own,
        };
        self.note_verdict(note.clone());
        let rules: Vec<&str> = note.rules.iter().map(|rule| &**rule).collect();
        self.host.log_blocked(&BlockedRecord {
            client: &self.client,
            client_ip: self.client.ip(),
            listener: self.listener.id.as_str(),
            protocol: self.down.protocol(),
            route: &self.route.id,
            command: Some(held.facts.command.into()),
            sequence: Some(held.facts.sequence),
            user: "",
            bytes_in: held.bytes as u64,
            verdict: VerdictRecord {
                plugin: &note.plugin,
                version: note.version.as_deref().unwrap_or_default(),
                verdict,
                rules: &rules,
                reason: &note.reason,
            },
            request_id: "",
        });
    }

    /// Looks at what waits from the upstream. Called when all that was ready is written.
    pub(super) fn scan_outward(&mut self) -> Scanned {
        if self.outward.inlet.is_empty() {
            return Scanned::Wait;
        }
        let hold = self.hold();
        let (settings, metrics) = (&*self.settings, self.host.metrics());
        let (route, flow) = (&*self.route.metrics, &mut self.outward);
        let (recovery, farewell) = (&mut self.recovery, &mut self.farewell);
        let mut frames = 0;
        let scan = flow.decoder.scan(&settings.format, flow.inlet.front(), hold, |frame| {
            frames += 1;
            let command = command(&settings.format, frame.head());
            route.frame_out(metrics, command);
            *farewell |= !settings.farewell.is_empty() && settings.farewell.contains(command);
            if let Some(recovery) = recovery {
                recovery.received(settings, facts(&settings.format, frame.head()));
            }
        });
        flow.scanned(scan.forward, scan.need, frames, self.now);
        match scan.error {
            _ if scan.forward > 0 => Scanned::Progress,
            Some(error) => Scanned::Close(CloseReason::UpstreamFrame(error)),
            None => Scanned::Wait,
        }
    }

    /// Tells the bookkeeping which frames have left whole, as far as bytes were written.
    pub(super) fn account(&mut self) {
        let Some(recovery) = &mut self.recovery else { return };
        account(recovery, &self.settings, &mut self.inward);
    }
}

fn account(recovery: &mut super::Recovery, settings: &TlvSettings, flow: &mut Flow) {
    let front = flow.inlet.front();
    let written = &front[..flow.written.min(front.len())];
    // Where sessions can be moved only whole frames are ever ready, so this
    // walks from frame to frame; a decoder of its own keeps no state between.
    let mut decoder = crate::frame::FrameDecoder::default();
    while let Ok(Piece::Frame(frame)) = decoder.next(&settings.format, &written[flow.accounted..], usize::MAX)
    {
        recovery.sent(settings, facts(&settings.format, frame.head()), frame.bytes());
        flow.accounted += frame.bytes().len();
    }
}

/// What becomes of a frame, where it is not to pass.
fn decide<H: Host, D: Down>(
    session: &Session<H, D>,
    frame: &Frame<'_>,
    facts: Facts,
    ruled: FrameVerdict,
) -> Option<(Fate, &'static str)> {
    let settings = &*session.settings;
    let is_heartbeat = settings.heartbeat == Some(facts.command);
    if is_heartbeat && settings.heartbeat_mode == HeartbeatMode::Answer {
        return Some((Fate::Answer, ""));
    }
    if !session.begun
        && !settings.login.is_empty()
        && !is_heartbeat
        && !settings.login.contains(facts.command)
    {
        return Some((Fate::Close(CloseReason::LoginRequired), ""));
    }
    if !matches!(ruled, FrameVerdict::Pass | FrameVerdict::Rewrite(_)) {
        return Some((Fate::Filter(ruled), ""));
    }
    let chain = &session.route.chain;
    if !chain.sees_frames() {
        return None;
    }
    let header = Header { format: &settings.format, head: frame.head() };
    let context = FrameContext {
        client: &session.client,
        labels: session.route.labels.as_deref(),
        frame: &header,
        now: Clock::now(),
    };
    match (chain.judge_frame(&context), ruled) {
        ((FrameVerdict::Pass, _), FrameVerdict::Pass) => None,
        // What is rewritten must not go on as it came, so it does not wait.
        ((FrameVerdict::Pass | FrameVerdict::Delay(_), _), rewrite @ FrameVerdict::Rewrite(_)) => {
            Some((Fate::Filter(rewrite), ""))
        }
        ((verdict, plugin), _) => Some((Fate::Filter(verdict), plugin)),
    }
}

impl Flow {
    /// Takes note of a look at what waits.
    fn scanned(&mut self, ready: usize, need: usize, frames: u64, now: Instant) {
        self.ready = ready;
        self.need = need;
        self.frames += frames;
        let is_partial = self.inlet.front().len() > ready || self.decoder.passing().is_some();
        if !is_partial {
            self.partial_since = None;
        } else if frames > 0 || self.partial_since.is_none() {
            self.partial_since = Some(now);
        }
    }

    /// Whether everything that came has gone on and ends with a whole frame.
    pub(super) fn is_at_rest(&self) -> bool {
        self.inlet.is_empty() && self.decoder.is_between_frames()
    }

    pub(super) fn is_ended(&self) -> Option<End> {
        self.end
    }
}
