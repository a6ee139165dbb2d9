//! Users, devices and messages: what every connection shares.
//!
//! Reads no socket. Start at [`Hub::login`] and [`Hub::send`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::frame::{Frame, command};
use crate::im_v1::{
    AckReply, ContentType, Conversation, ConversationsReply, ConversationsRequest, Error, ErrorCode,
    HistoryReply, HistoryRequest, LoginReply, LoginRequest, Message, SendReply, SendRequest,
};

/// Messages kept for a conversation, and waiting for a device.
const MESSAGES_MAX: usize = 1000;
const DEVICES_MAX: usize = 64;
const USERS_MAX: usize = 200_000;
const CONVERSATIONS_MAX: usize = 200_000;
/// Client message ids remembered for each device.
const SENT_MAX: usize = 1000;
/// Frames waiting for a connection that does not read.
const OUTGOING_MAX: usize = 256;

/// The token of a user in the demo.
pub fn token(user_id: u32) -> String {
    format!("demo-{user_id}")
}

/// The conversation of two people.
pub fn conversation_id(one: u32, other: u32) -> u64 {
    u64::from(one.min(other)) << 32 | u64::from(one.max(other))
}

/// What a server has done, as its control port shows it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    /// Logins accepted.
    pub logins: u64,
    /// Logins refused.
    pub logins_refused: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Frames received, by command in hexadecimal.
    pub commands: BTreeMap<String, u64>,
    /// Error frames sent.
    pub errors: u64,
    /// Connections ended for bytes that are no frame.
    pub protocol_errors: u64,
    /// Messages accepted, duplicates not counted.
    pub messages: u64,
    /// Users that have logged in.
    pub users: BTreeMap<u32, UserStats>,
    /// The listening ports by the line's name.
    pub lines: BTreeMap<String, LineStats>,
}

/// What a user's devices got.
#[derive(Debug, Clone, Default, Serialize)]
pub struct UserStats {
    /// Logins accepted.
    pub logins: u64,
    /// Messages pushed, repetitions included.
    pub delivered: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Devices connected now.
    pub connected: u64,
    /// The client's address at the last login.
    pub client: String,
    /// The line of the last login.
    pub line: String,
}

/// A listening port.
#[derive(Debug, Clone, Serialize)]
pub struct LineStats {
    /// Where it listens.
    pub address: String,
    /// `serving`, `hung`, `cut` or `closed`.
    pub mode: &'static str,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
}

#[derive(Default)]
pub(super) struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    users: HashMap<u32, User>,
    conversations: HashMap<u64, VecDeque<Message>>,
    last_message_id: u64,
    last_session_id: u64,
    stats: Stats,
}

#[derive(Default)]
struct User {
    devices: HashMap<String, Device>,
    stats: UserStats,
}

#[derive(Default)]
struct Device {
    pending: VecDeque<Message>,
    session: Option<(u64, mpsc::Sender<Bytes>)>,
    push_sequence: u16,
    sent: VecDeque<SendReply>,
}

/// A login that was accepted.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) user: u32,
    pub(super) device: String,
    pub(super) reply: LoginReply,
    /// Frames to send behind the reply.
    pub(super) pending: Vec<Bytes>,
    /// Frames pushed from now on; ends when the session is replaced.
    pub(super) outgoing: mpsc::Receiver<Bytes>,
}

/// How a user that logs in is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// By the token of the demo, which is looked at here.
    ByToken,
    /// By a session of `qr-login`, which was found to be good.
    BySession,
}

/// A request that is answered with an error frame.
pub(super) fn refuse(code: ErrorCode, text: impl Into<String>) -> Error {
    Error { code: code.into(), text: text.into(), ..Error::default() }
}

pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done by a panic here: every step is complete
        // in itself.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> Stats {
        let inner = self.lock();
        let mut stats = inner.stats.clone();
        for (id, user) in &inner.users {
            let mut of_user = user.stats.clone();
            of_user.connected =
                user.devices.values().filter(|device| device.session.is_some()).count() as u64;
            stats.users.insert(*id, of_user);
        }
        stats
    }

    pub(super) fn count_frame(&self, command: u16) {
        let mut inner = self.lock();
        inner.stats.frames_in += 1;
        // Unknown commands share one entry, so that nobody can fill the table.
        let known = matches!(command, 0x0001 | 0x0101 | 0x0130 | 0x0301 | 0x0311 | 0x0320 | 0x0330);
        let name = if known { format!("{command:#06x}") } else { "other".to_owned() };
        *inner.stats.commands.entry(name).or_default() += 1;
    }

    pub(super) fn count_error(&self) {
        self.lock().stats.errors += 1;
    }

    pub(super) fn count_protocol_error(&self) {
        self.lock().stats.protocol_errors += 1;
    }

    /// Begins a session of a device. A token is looked at unless `known` says that
    /// it has been.
    pub(super) fn login(
        &self,
        request: LoginRequest,
        known: Known,
        client: SocketAddr,
        line: &str,
    ) -> Result<Session, Error> {
        let mut inner = self.lock();
        let is_own = known == Known::BySession || request.token == token(request.user_id);
        if request.user_id == 0 || !is_own {
            inner.stats.logins_refused += 1;
            return Err(refuse(ErrorCode::BadCredentials, "unknown user or wrong token"));
        }
        if request.device.len() > 64 {
            return Err(refuse(ErrorCode::Invalid, "device: longer than 64 bytes"));
        }
        let full = inner.users.len() >= USERS_MAX && !inner.users.contains_key(&request.user_id);
        let user = inner.users.get(&request.user_id);
        let crowded = user.is_some_and(|user| {
            user.devices.len() >= DEVICES_MAX && !user.devices.contains_key(&request.device)
        });
        if full || crowded {
            return Err(refuse(ErrorCode::Unavailable, "too many users or devices"));
        }
        inner.stats.logins += 1;
        inner.last_session_id += 1;
        let id = inner.last_session_id;
        let user = inner.users.entry(request.user_id).or_default();
        user.stats.logins += 1;
        user.stats.client = client.to_string();
        user.stats.line = line.to_owned();
        let device = user.devices.entry(request.device.clone()).or_default();
        let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
        // An earlier session of the device ends here: its receiver runs dry.
        device.session = Some((id, sender));
        device.push_sequence = 0;
        let waiting = std::mem::take(&mut device.pending);
        let pending: Vec<Bytes> = waiting.iter().map(|message| push_frame(device, message)).collect();
        device.pending = waiting;
        user.stats.delivered += pending.len() as u64;
        let reply = LoginReply {
            user_id: request.user_id,
            session_id: id,
            server_time_ms: now_ms(),
            client_ip: client.ip().to_string(),
            client_port: client.port().into(),
            line: line.to_owned(),
            pending: pending.len() as u32,
        };
        Ok(Session { id, user: request.user_id, device: request.device, reply, pending, outgoing })
    }

    /// The session's connection is gone.
    pub(super) fn leave(&self, session: &Session) {
        let mut inner = self.lock();
        let device =
            inner.users.get_mut(&session.user).and_then(|user| user.devices.get_mut(&session.device));
        if let Some(device) = device
            && device.session.as_ref().is_some_and(|(id, _)| *id == session.id)
        {
            device.session = None;
        }
    }

    pub(super) fn send(&self, session: &Session, request: SendRequest) -> Result<SendReply, Error> {
        if request.to == 0 {
            return Err(refuse(ErrorCode::Invalid, "to: must be a user id"));
        }
        let mut inner = self.lock();
        let tracked = request.client_message_id != 0;
        if tracked
            && let Some(device) = inner.device(session)
            && let Some(earlier) =
                device.sent.iter().find(|reply| reply.client_message_id == request.client_message_id)
        {
            return Ok(SendReply { duplicate: true, pushed: 0, ..*earlier });
        }
        let message = Message {
            message_id: inner.next_message_id(),
            conversation_id: conversation_id(session.user, request.to),
            from: session.user,
            to: request.to,
            r#type: request.r#type,
            text: request.text,
            data: request.data,
            sent_at_ms: now_ms(),
        };
        let mut reply = SendReply {
            message_id: message.message_id,
            conversation_id: message.conversation_id,
            sent_at_ms: message.sent_at_ms,
            client_message_id: request.client_message_id,
            duplicate: false,
            pushed: 0,
        };
        inner.store(&message)?;
        reply.pushed = inner.deliver(message);
        if tracked && let Some(device) = inner.device(session) {
            keep(&mut device.sent, reply, SENT_MAX);
        }
        Ok(reply)
    }

    pub(super) fn notify(&self, to: u32, text: &str) -> u64 {
        let mut inner = self.lock();
        let message = Message {
            message_id: inner.next_message_id(),
            conversation_id: conversation_id(0, to),
            from: 0,
            to,
            r#type: ContentType::Text.into(),
            text: text.to_owned(),
            data: Vec::new(),
            sent_at_ms: now_ms(),
        };
        let id = message.message_id;
        inner.deliver(message);
        id
    }

    pub(super) fn acknowledge(&self, session: &Session, message_id: u64) -> AckReply {
        let mut inner = self.lock();
        let Some(user) = inner.users.get_mut(&session.user) else { return AckReply::default() };
        let Some(device) = user.devices.get_mut(&session.device) else { return AckReply::default() };
        let before = device.pending.len();
        device.pending.retain(|message| message.message_id > message_id);
        user.stats.acknowledged += (before - device.pending.len()) as u64;
        AckReply { message_id, pending: device.pending.len() as u32 }
    }

    pub(super) fn conversations(
        &self,
        session: &Session,
        request: ConversationsRequest,
    ) -> Result<ConversationsReply, Error> {
        if request.limit > 100 {
            return Err(refuse(ErrorCode::Invalid, format!("limit: {} is over 100", request.limit)));
        }
        let limit = if request.limit == 0 { 20 } else { request.limit as usize };
        let inner = self.lock();
        let own = inner.conversations.iter().filter_map(|(&id, messages)| {
            let (low, high) = ((id >> 32) as u32, id as u32);
            let peer = match session.user {
                user if user == low => high,
                user if user == high => low,
                _ => return None,
            };
            Some((peer, id, messages.back()?))
        });
        let mut own: Vec<_> = own.collect();
        own.sort_by_key(|(_, _, last)| std::cmp::Reverse(last.message_id));
        // A frame holds 64 KiB: the list ends early rather than not fit.
        let mut bytes = 0;
        let mut reply = ConversationsReply::default();
        for (peer, conversation_id, last) in own.into_iter().take(limit) {
            bytes += prost::Message::encoded_len(last) + 32;
            if bytes > 60_000 && !reply.conversations.is_empty() {
                break;
            }
            reply.conversations.push(Conversation { conversation_id, peer, last: Some(last.clone()) });
        }
        Ok(reply)
    }

    pub(super) fn history(&self, session: &Session, request: HistoryRequest) -> Result<HistoryReply, Error> {
        let id = request.conversation_id;
        if session.user != (id >> 32) as u32 && session.user != id as u32 {
            return Err(refuse(ErrorCode::Forbidden, format!("conversation_id: {id} is not yours")));
        }
        if request.limit > 100 {
            return Err(refuse(ErrorCode::Invalid, format!("limit: {} is over 100", request.limit)));
        }
        let limit = if request.limit == 0 { 20 } else { request.limit as usize };
        let before = if request.before_message_id == 0 { u64::MAX } else { request.before_message_id };
        let inner = self.lock();
        let mut reply = HistoryReply { conversation_id: id, ..HistoryReply::default() };
        let Some(messages) = inner.conversations.get(&id) else { return Ok(reply) };
        // A frame holds 64 KiB: a page ends early rather than not fit.
        let mut bytes = 0;
        for message in messages.iter().rev().filter(|message| message.message_id < before) {
            bytes += prost::Message::encoded_len(message) + 8;
            if reply.messages.len() == limit || (bytes > 60_000 && !reply.messages.is_empty()) {
                reply.more = true;
                break;
            }
            reply.messages.push(message.clone());
        }
        reply.messages.reverse();
        Ok(reply)
    }
}

impl Inner {
    fn device(&mut self, session: &Session) -> Option<&mut Device> {
        self.users.get_mut(&session.user)?.devices.get_mut(&session.device)
    }

    /// Rises, and is always over 2^53: an id that went through a double shows.
    fn next_message_id(&mut self) -> u64 {
        self.last_message_id = ((now_ms() as u64) << 20).max(self.last_message_id + 1);
        self.last_message_id
    }

    fn store(&mut self, message: &Message) -> Result<(), Error> {
        let id = message.conversation_id;
        if self.conversations.len() >= CONVERSATIONS_MAX && !self.conversations.contains_key(&id) {
            return Err(refuse(ErrorCode::Unavailable, "too many conversations"));
        }
        keep(self.conversations.entry(id).or_default(), message.clone(), MESSAGES_MAX);
        self.stats.messages += 1;
        Ok(())
    }

    /// Queues the message for every device of its receiver and pushes it to
    /// those that are connected. Returns their number.
    fn deliver(&mut self, message: Message) -> u32 {
        let Some(user) = self.users.get_mut(&message.to) else { return 0 };
        let mut pushed = 0;
        for device in user.devices.values_mut() {
            keep(&mut device.pending, message.clone(), MESSAGES_MAX);
            let frame = push_frame(device, &message);
            let Some((_, sender)) = &device.session else { continue };
            if sender.try_send(frame).is_ok() {
                pushed += 1;
            } else {
                // It does not read: the connection ends and the messages wait.
                device.session = None;
            }
        }
        user.stats.delivered += u64::from(pushed);
        pushed
    }
}

fn push_frame(device: &mut Device, message: &Message) -> Bytes {
    device.push_sequence = device.push_sequence.wrapping_add(1);
    Frame::new(command::PUSH, device.push_sequence, message).between(message.from, message.to).to_bytes()
}

fn keep<T>(queue: &mut VecDeque<T>, item: T, limit: usize) {
    if queue.len() == limit {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(hub: &Hub, user: u32, device: &str) -> Session {
        let request = LoginRequest {
            user_id: user,
            token: token(user),
            device: device.to_owned(),
            ..LoginRequest::default()
        };
        hub.login(request, Known::ByToken, "192.0.2.1:9".parse().unwrap(), "leased").unwrap()
    }

    fn text(to: u32, client_message_id: u64) -> SendRequest {
        SendRequest { to, client_message_id, text: "hi".into(), ..SendRequest::default() }
    }

    #[test]
    fn a_message_waits_until_it_is_acknowledged() {
        let hub = Hub::default();
        let alice = login(&hub, 1, "a");
        let bob = login(&hub, 2, "phone");
        let first = hub.send(&alice, text(2, 1)).unwrap();
        assert_eq!(first.pushed, 1);
        hub.leave(&bob);
        let second = hub.send(&alice, text(2, 2)).unwrap();
        assert_eq!(second.pushed, 0);
        assert!(second.message_id > first.message_id && first.message_id > 1 << 53);

        let bob = login(&hub, 2, "phone");
        assert_eq!(bob.reply.pending, 2);
        assert_eq!(hub.acknowledge(&bob, first.message_id).pending, 1);
        hub.leave(&bob);
        assert_eq!(login(&hub, 2, "phone").reply.pending, 1);
    }

    #[test]
    fn a_repeated_send_is_one_message() {
        let hub = Hub::default();
        let alice = login(&hub, 1, "a");
        let first = hub.send(&alice, text(2, 5)).unwrap();
        let again = hub.send(&alice, text(2, 5)).unwrap();
        assert!(again.duplicate && again.message_id == first.message_id);
        assert_eq!(hub.stats().messages, 1);
    }

    #[test]
    fn history_comes_in_pages_and_only_to_its_owners() {
        let hub = Hub::default();
        let alice = login(&hub, 1, "a");
        let ids: Vec<u64> = (0..5).map(|_| hub.send(&alice, text(2, 0)).unwrap().message_id).collect();
        let ask = |session: &Session, before_message_id| {
            let conversation_id = conversation_id(2, 1);
            hub.history(session, HistoryRequest { conversation_id, before_message_id, limit: 3 })
        };
        let ids_of = |reply: &HistoryReply| -> Vec<u64> {
            reply.messages.iter().map(|message| message.message_id).collect()
        };
        let newest = ask(&alice, 0).unwrap();
        assert!(newest.more);
        assert_eq!(ids_of(&newest), &ids[2..]);
        let older = ask(&alice, ids[2]).unwrap();
        assert!(!older.more);
        assert_eq!(ids_of(&older), &ids[..2]);
        let carol = login(&hub, 3, "a");
        assert_eq!(ask(&carol, 0).unwrap_err().code(), ErrorCode::Forbidden);
    }

    #[test]
    fn conversations_are_listed_to_their_owners_newest_first() {
        let hub = Hub::default();
        let alice = login(&hub, 1, "a");
        let bob = login(&hub, 2, "a");
        hub.send(&alice, text(2, 1)).unwrap();
        hub.send(&alice, text(3, 2)).unwrap();
        let newest = hub.send(&bob, text(1, 1)).unwrap();
        let list = |session: &Session, limit| {
            let reply = hub.conversations(session, ConversationsRequest { limit }).unwrap();
            reply.conversations.iter().map(|one| one.peer).collect::<Vec<_>>()
        };
        assert_eq!(list(&alice, 0), [2, 3]);
        assert_eq!(list(&alice, 1), [2]);
        assert_eq!(list(&bob, 0), [1]);
        assert_eq!(list(&login(&hub, 4, "a"), 0), [] as [u32; 0]);
        let reply = hub.conversations(&alice, ConversationsRequest::default()).unwrap();
        let last = reply.conversations[0].last.as_ref().unwrap();
        assert_eq!(last.message_id, newest.message_id);
        let error = hub.conversations(&alice, ConversationsRequest { limit: 101 }).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Invalid);
    }

    #[test]
    fn a_new_login_of_a_device_ends_the_earlier_session() {
        let hub = Hub::default();
        let mut old = login(&hub, 1, "a");
        let new = login(&hub, 1, "a");
        assert!(matches!(old.outgoing.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        hub.leave(&old);
        hub.notify(1, "still there");
        assert_eq!(new.outgoing.len(), 1);
    }

    #[test]
    fn a_wrong_token_is_refused() {
        let hub = Hub::default();
        let request = LoginRequest { user_id: 1, token: token(2), ..LoginRequest::default() };
        let client = "192.0.2.1:9".parse().unwrap();
        let refused = hub.login(request, Known::ByToken, client, "leased").err().unwrap();
        assert_eq!(refused.code(), ErrorCode::BadCredentials);
        assert_eq!(hub.stats().logins_refused, 1);
    }
}
