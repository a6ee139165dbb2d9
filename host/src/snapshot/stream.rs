//! Stream routes with everything they refer to.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::config::objects::{self, HeartbeatMode, OnChange, StreamErrorBody, StreamErrors, StreamReplies};
use crate::filter::Chain;
use crate::frame::{Endian, FieldSpec, FormatSpec, FrameFormat, LengthIncludes, RolesSpec};
use crate::message::RouteLabels;
use crate::observe::StreamRouteMetrics;
use crate::upstream::{Timeouts, Upstream};

/// A stream route with everything it refers to.
#[derive(Debug)]
pub struct StreamRoute {
    /// Its id.
    pub id: Arc<str>,
    /// What is spoken.
    pub flow: StreamFlow,
    /// Where connections go; without one they are closed.
    pub upstream: Option<Arc<Upstream>>,
    /// Time limits towards the node, where the route has its own. Without, the
    /// upstream's hold for connecting and the listener's for the rest.
    pub timeouts: Option<Timeouts>,
    /// What a change of this route does to its sessions.
    pub on_change: OnChange,
    /// Differs whenever a change touches the sessions of the route: what is
    /// spoken, where they go, which of them it takes. Plugins, names and labels
    /// do not count: sessions take those over as they are.
    pub identity: u64,
    /// What looks at its connections and frames.
    pub chain: Arc<Chain>,
    /// Its names, for rules.
    pub labels: Option<Arc<RouteLabels>>,
    /// It is the frame side of an HTTP route of the same id.
    pub is_bridged: bool,
    /// Its counters.
    pub metrics: Arc<StreamRouteMetrics>,
}

/// What is spoken on a stream route.
#[derive(Debug)]
pub enum StreamFlow {
    /// Bytes.
    Tcp,
    /// Frames.
    Tlv(Arc<TlvSettings>),
}

/// A few commands, asked for every frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandSet(SmallVec<[u32; 6]>);

impl CommandSet {
    /// The set of these.
    #[must_use]
    pub fn new(commands: &[u32]) -> Self {
        let mut sorted: SmallVec<[u32; 6]> = commands.into();
        sorted.sort_unstable();
        Self(sorted)
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is one of them.
    #[inline]
    #[must_use]
    pub fn contains(&self, command: u32) -> bool {
        if self.0.len() <= 8 { self.0.contains(&command) } else { self.0.binary_search(&command).is_ok() }
    }
}

/// How frames of a stream route are handled, resolved.
#[derive(Debug)]
pub struct TlvSettings {
    /// The frame format.
    pub format: Arc<FrameFormat>,
    /// Commands whose last frame is sent first to another node.
    pub replay: CommandSet,
    /// Commands that may be sent again when their answer was lost.
    pub safe: CommandSet,
    /// Commands a client may begin with; any when empty.
    pub login: CommandSet,
    /// Commands that get no answer.
    pub one_way: CommandSet,
    /// Commands from the upstream after which its close is meant for the client.
    pub farewell: CommandSet,
    /// How an answer is told from other frames.
    pub replies: StreamReplies,
    /// The command of a heartbeat.
    pub heartbeat: Option<u32>,
    /// What becomes of heartbeats.
    pub heartbeat_mode: HeartbeatMode,
    /// The longest silence of a client; the listener's when none.
    pub idle_timeout: Option<Duration>,
    /// How long the first frame may take.
    pub first_frame_timeout: Duration,
    /// How long replayed frames may take to be answered.
    pub replay_timeout: Duration,
    /// How long a session may look for another node.
    pub move_timeout: Duration,
    /// Over how long sessions are closed by a drain.
    pub drain_spread: Duration,
    /// How long one side may go on once the other has ended.
    pub half_close_timeout: Duration,
    /// Bytes kept for replay, a session; as many again for safe requests.
    pub replay_bytes: usize,
    /// Requests without an answer that are remembered, a session.
    pub pending_max: usize,
    /// The command of error frames and how their bodies are written; none
    /// when faults are told by the close alone.
    pub error: Option<(u32, StreamErrorBody)>,
}

impl TlvSettings {
    /// Resolves what an operator wrote for this frame format.
    ///
    /// # Errors
    /// Names the field that cannot work with the format.
    pub fn new(conf: &objects::TlvConf, format: Arc<FrameFormat>) -> Result<Self, String> {
        let commands = [
            ("replay", conf.replay.as_slice()),
            ("safe", &conf.safe),
            ("login", &conf.login),
            ("one_way", &conf.one_way),
            ("farewell", &conf.farewell),
            ("heartbeat", conf.heartbeat.as_slice()),
        ];
        let largest = format.command().map(|field| field.largest());
        for (name, list) in commands {
            let Some(first) = list.first() else { continue };
            let Some(largest) = largest else {
                return Err(format!("{name}: {first:#x}, but format {:?} has no role command", format.id()));
            };
            if let Some(over) = list.iter().find(|command| u64::from(**command) > largest) {
                return Err(format!("{name}: {over:#x} does not fit the command field of {:?}", format.id()));
            }
        }
        if (!conf.replay.is_empty() || !conf.safe.is_empty()) && format.sequence().is_none() {
            return Err(format!("replay and safe need the role sequence, format {:?} has none", format.id()));
        }
        // A format without commands, or with ones too narrow, has no place for an error frame.
        let fits = largest.is_some_and(|largest| u64::from(conf.error.command) <= largest);
        let error =
            (conf.errors == StreamErrors::Frame && fits).then_some((conf.error.command, conf.error.body));
        Ok(Self {
            format,
            replay: CommandSet::new(&conf.replay),
            safe: CommandSet::new(&conf.safe),
            login: CommandSet::new(&conf.login),
            one_way: CommandSet::new(&conf.one_way),
            farewell: CommandSet::new(&conf.farewell),
            replies: conf.replies,
            heartbeat: conf.heartbeat,
            heartbeat_mode: conf.heartbeat_mode,
            idle_timeout: conf.idle_timeout,
            first_frame_timeout: conf.first_frame_timeout,
            replay_timeout: conf.replay_timeout,
            move_timeout: conf.move_timeout,
            drain_spread: conf.drain_spread,
            half_close_timeout: conf.half_close_timeout,
            replay_bytes: conf.replay_bytes as usize,
            pending_max: conf.pending_max as usize,
            error,
        })
    }

    /// Whether a session survives the loss of its node.
    #[must_use]
    pub fn is_movable(&self) -> bool {
        !self.replay.is_empty() || !self.safe.is_empty()
    }

    /// Whether clients speak first, so that a node is chosen when they do.
    #[must_use]
    pub fn is_client_first(&self) -> bool {
        !self.replay.is_empty() || !self.login.is_empty()
    }

    /// The command an answer to `command` has by the rule; `None` when the
    /// sequence number alone decides.
    #[must_use]
    pub fn reply_command(&self, command: u32) -> Option<u32> {
        match self.replies {
            StreamReplies::Next => Some(command.wrapping_add(1)),
            StreamReplies::Same => Some(command),
            StreamReplies::Sequence => None,
        }
    }

    /// Whether a frame with command `found` answers a request with `asked` of
    /// the same sequence number.
    #[must_use]
    pub fn is_reply(&self, asked: u32, found: u32) -> bool {
        let expected = self.reply_command(asked);
        expected.is_none_or(|expected| expected == found)
            || self.error.is_some_and(|(error, _)| error == found)
    }
}

/// What of a stream route touches its sessions when it changes.
#[must_use]
pub fn stream_identity(route: &objects::StreamRoute) -> u64 {
    let mut plain = route.clone();
    plain.plugins = Default::default();
    plain.labels = Default::default();
    (plain.name, plain.desc, plain.create_time, plain.update_time) = (None, None, None, None);
    // `Hash` is not derived for floats and maps inside; the JSON form is canonical enough.
    let text = serde_json::to_string(&plain).unwrap_or_default();
    let mut hasher = std::hash::DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl From<&objects::FrameFormat> for FormatSpec {
    fn from(object: &objects::FrameFormat) -> Self {
        let field = |field: &objects::HeaderField| FieldSpec {
            name: field.name.clone(),
            at: field.at,
            bytes: field.bytes,
            endian: match field.endian {
                objects::Endian::Big => Endian::Big,
                objects::Endian::Little => Endian::Little,
            },
        };
        Self {
            id: object.id.as_str().to_owned(),
            begin: object.begin.into_iter().collect(),
            end: object.end.into_iter().collect(),
            header: object.header.iter().map(field).collect(),
            header_bytes: object.header_bytes,
            roles: RolesSpec {
                length: object.roles.length.clone(),
                command: object.roles.command.clone(),
                sequence: object.roles.sequence.clone(),
                user: object.roles.user.clone(),
            },
            length_includes: match object.length_counts {
                objects::LengthCounts::Body => LengthIncludes::Body,
                objects::LengthCounts::HeaderAndBody => LengthIncludes::Header,
                objects::LengthCounts::Frame => LengthIncludes::Frame,
            },
            body_max: object.body_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::objects::{FrameFormat as FormatObject, TlvConf};

    #[test]
    fn the_built_in_format_survives_being_an_object() {
        assert_eq!(FormatSpec::from(&FormatObject::built_in()), FormatSpec::im20());
    }

    #[test]
    fn what_a_format_cannot_do_is_refused_by_name() {
        let mut spec = FormatSpec::im20();
        spec.roles.sequence = None;
        let without_sequence = Arc::new(FrameFormat::new(&spec).unwrap());
        spec.roles.command = None;
        let without_command = Arc::new(FrameFormat::new(&spec).unwrap());
        let im20 = Arc::new(FrameFormat::im20());
        let table: [(TlvConf, &Arc<FrameFormat>, &str); 3] = [
            (TlvConf { replay: vec![1], ..TlvConf::default() }, &without_sequence, "replay and safe need"),
            (TlvConf { heartbeat: Some(1), ..TlvConf::default() }, &without_command, "heartbeat: 0x1, but"),
            (TlvConf { safe: vec![0x1_0000], ..TlvConf::default() }, &im20, "safe: 0x10000 does not fit"),
        ];
        for (conf, format, expected) in table {
            let error = TlvSettings::new(&conf, Arc::clone(format)).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn replies_are_told_by_the_rule_or_the_error_command() {
        let settings = |replies| {
            let conf = TlvConf { replies, ..TlvConf::default() };
            TlvSettings::new(&conf, Arc::new(FrameFormat::im20())).unwrap()
        };
        let next = settings(StreamReplies::Next);
        assert!(
            next.is_reply(0x0101, 0x0102) && next.is_reply(0x0101, 0x00FF) && !next.is_reply(0x0101, 0x0310)
        );
        let same = settings(StreamReplies::Same);
        assert!(same.is_reply(5, 5) && !same.is_reply(5, 6));
        assert!(settings(StreamReplies::Sequence).is_reply(5, 77));
    }
}
