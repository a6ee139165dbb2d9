//! Stream routes: which connections go where.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::route::validate_positive;
use super::{
    Labels, Object, OnChange, Plugins, Reference, Status, Timeout, Upstream, is_host_pattern, object_basics,
    plugins, units, validate_description,
};
use crate::config::{Id, Kind, Problems};

/// The most commands of `replay` and of `safe`.
pub const STREAM_COMMANDS_MAX: usize = 256;
/// How long the first frame of a client may take.
pub const STREAM_FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long replayed frames may take to be answered on another line.
pub const STREAM_REPLAY_TIMEOUT: Duration = Duration::from_secs(5);
/// How many bytes of frames are kept for replay, a session.
pub const STREAM_REPLAY_BYTES: u32 = 16 * 1024;
/// How many requests without an answer are remembered, a session.
pub const STREAM_PENDING_MAX: u32 = 64;
/// How long a session may look for another node before it is given up.
pub const STREAM_MOVE_TIMEOUT: Duration = Duration::from_secs(15);
/// Over how long sessions are closed when a listener or the process drains.
pub const STREAM_DRAIN_SPREAD: Duration = Duration::from_secs(10);
/// How long one side may go on once the other has ended.
pub const STREAM_HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The command of an error frame.
pub const STREAM_ERROR_COMMAND: u32 = 0x00FF;

/// Which connections go where, and what happens to them on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRoute {
    /// The id.
    #[serde(default)]
    pub id: Id,
    /// Ours: the listener the connection came in by. Any when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Id>,
    /// The client's address or block. Any when not said.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::net_option")]
    pub remote_addr: Option<IpNet>,
    /// The address or block the client connected to. Any when not said.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::net_option")]
    pub server_addr: Option<IpNet>,
    /// The port the client connected to. Any when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_port: Option<u16>,
    /// The server name of the client's hello, exact or with a leading `*`. Any when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// What is spoken. The listener's protocol when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<StreamProtocol>,
    /// The plugins.
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
    pub plugins: Plugins,
    /// The upstream, written here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Box<Upstream>>,
    /// The upstream by id; wins over `upstream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_id: Option<Id>,
    /// The service this route belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_id: Option<Id>,
    /// Ours: times for the upstream; replaces the upstream's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Ours: 0 takes the route out. Default 1.
    #[serde(default)]
    pub status: Status,
    /// Ours: what a change of this route does to its sessions. Default `keep`.
    #[serde(default)]
    pub on_change: OnChange,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Labels, for people and for filtering lists.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamProtocol {
    /// The protocol.
    pub name: StreamProtocolName,
    /// How it is handled.
    #[serde(default)]
    pub conf: TlvConf,
    /// APISIX's xRPC; refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superior_id: Option<Value>,
    /// APISIX's xRPC; refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logger: Option<Value>,
}

/// A protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamProtocolName {
    /// Frames.
    Tlv,
    /// Bytes.
    Tcp,
}

/// How frames are handled. `conf` of a `tcp` protocol must be empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlvConf {
    /// The frame format; the listener's, else `im20`, when not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_format: Option<Id>,
    /// Commands whose last frame is sent first to another line: the login above all.
    #[serde(deserialize_with = "units::code::list", skip_serializing_if = "Vec::is_empty")]
    pub replay: Vec<u32>,
    /// Commands that may be sent again when their answer was lost.
    #[serde(deserialize_with = "units::code::list", skip_serializing_if = "Vec::is_empty")]
    pub safe: Vec<u32>,
    /// Commands a client may begin with; any when empty.
    #[serde(deserialize_with = "units::code::list", skip_serializing_if = "Vec::is_empty")]
    pub login: Vec<u32>,
    /// Commands that get no answer, so that none is waited for.
    #[serde(deserialize_with = "units::code::list", skip_serializing_if = "Vec::is_empty")]
    pub one_way: Vec<u32>,
    /// Commands from the upstream after which its close is meant for the
    /// client: the session is not moved to another node then.
    #[serde(deserialize_with = "units::code::list", skip_serializing_if = "Vec::is_empty")]
    pub farewell: Vec<u32>,
    /// Modules among the route's plugins that are shown the texts of each message
    /// a client sends, as the body of a request. Needs the plugin `transcode`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inspect: Vec<String>,
    /// How an answer is told from other frames. Default `next`.
    pub replies: StreamReplies,
    /// The command of a heartbeat. None is known when not said.
    #[serde(deserialize_with = "units::code::option", skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<u32>,
    /// What becomes of a client's heartbeats. Default `forward`.
    pub heartbeat_mode: HeartbeatMode,
    /// The longest silence of a client; heartbeats count as sound. The
    /// listener's `limits.idle_timeout` when not said.
    #[serde(skip_serializing_if = "Option::is_none", with = "units::duration_option")]
    pub idle_timeout: Option<Duration>,
    /// How long the first frame may take. Default [`STREAM_FIRST_FRAME_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub first_frame_timeout: Duration,
    /// How long replayed frames may take to be answered. Default [`STREAM_REPLAY_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub replay_timeout: Duration,
    /// How long a session may look for another node. Default [`STREAM_MOVE_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub move_timeout: Duration,
    /// Over how long sessions are closed when their listener or the process
    /// drains, so that they do not all come back at once. Default [`STREAM_DRAIN_SPREAD`].
    #[serde(with = "units::duration")]
    pub drain_spread: Duration,
    /// How long one side may go on once the other has ended. Default [`STREAM_HALF_CLOSE_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub half_close_timeout: Duration,
    /// How many bytes are kept for replay, a session. Default [`STREAM_REPLAY_BYTES`].
    #[serde(with = "units::bytes")]
    pub replay_bytes: u32,
    /// How many requests without an answer are remembered, a session. Default [`STREAM_PENDING_MAX`].
    pub pending_max: u32,
    /// What a client is told of a fault. Default `frame`.
    pub errors: StreamErrors,
    /// The error frame, where `errors` is `frame`.
    pub error: StreamErrorFrame,
}

/// An error frame. It carries the sequence number of the frame it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamErrorFrame {
    /// Its command. Default [`STREAM_ERROR_COMMAND`].
    #[serde(deserialize_with = "units::code::one")]
    pub command: u32,
    /// How its body is written. Default `protobuf`.
    pub body: StreamErrorBody,
}

impl Default for StreamErrorFrame {
    fn default() -> Self {
        Self { command: STREAM_ERROR_COMMAND, body: StreamErrorBody::default() }
    }
}

/// How the body of an error frame is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamErrorBody {
    /// A protobuf message: 1 code, 2 text, 3 retry_after_ms, 4 command.
    #[default]
    Protobuf,
    /// `{"error_msg": …, "code": …, "command": …}`.
    Json,
    /// The reason's code.
    Text,
    /// Nothing.
    Empty,
}

/// How an answer is told from other frames of the upstream. It always carries
/// the sequence number of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamReplies {
    /// Its command is the request's plus one, or that of the error frame.
    #[default]
    Next,
    /// Its command is the request's, or that of the error frame.
    Same,
    /// The sequence number is enough.
    Sequence,
}

/// What becomes of a client's heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeartbeatMode {
    /// They go to the upstream, whose answer goes to the client.
    #[default]
    Forward,
    /// They are answered here with an empty body, as `replies` says, and do not
    /// go to the upstream.
    Answer,
}

impl Default for TlvConf {
    fn default() -> Self {
        Self {
            frame_format: None,
            replay: Vec::new(),
            safe: Vec::new(),
            login: Vec::new(),
            one_way: Vec::new(),
            farewell: Vec::new(),
            inspect: Vec::new(),
            replies: StreamReplies::default(),
            heartbeat: None,
            heartbeat_mode: HeartbeatMode::default(),
            idle_timeout: None,
            first_frame_timeout: STREAM_FIRST_FRAME_TIMEOUT,
            replay_timeout: STREAM_REPLAY_TIMEOUT,
            move_timeout: STREAM_MOVE_TIMEOUT,
            drain_spread: STREAM_DRAIN_SPREAD,
            half_close_timeout: STREAM_HALF_CLOSE_TIMEOUT,
            replay_bytes: STREAM_REPLAY_BYTES,
            pending_max: STREAM_PENDING_MAX,
            errors: StreamErrors::default(),
            error: StreamErrorFrame::default(),
        }
    }
}

/// What a client is told of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamErrors {
    /// An error frame in answer to the request.
    #[default]
    Frame,
    /// Nothing but the close.
    Close,
}

impl Object for StreamRoute {
    object_basics!(Kind::StreamRoutes);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        if self.server_port == Some(0) {
            problems.add("server_port", 0, "must be 1 to 65535");
        }
        if let Some(sni) = &self.sni
            && !is_host_pattern(sni)
        {
            problems.add("sni", sni.as_str(), "must be a server name, with at most one '*' in front");
        }
        if let Some(protocol) = &self.protocol {
            problems.within("protocol", |problems| protocol.validate(problems));
        }
        plugins::validate(&self.plugins, problems);
        if let Some(timeout) = &self.timeout {
            problems.within("timeout", |problems| timeout.validate(problems));
        }
        if let Some(upstream) = &self.upstream {
            problems.within("upstream", |problems| upstream.validate(problems));
        }
        if self.upstream.is_none() && self.upstream_id.is_none() && self.service_id.is_none() {
            problems.add_plain("", "needs one of upstream, upstream_id, service_id");
        }
    }

    fn references(&self) -> Vec<Reference> {
        let format = self.protocol.as_ref().and_then(|protocol| protocol.conf.frame_format.as_ref());
        let named = [
            ("listener", Kind::Listeners, self.listener.as_ref()),
            ("upstream_id", Kind::Upstreams, self.upstream_id.as_ref()),
            ("service_id", Kind::Services, self.service_id.as_ref()),
            ("protocol.conf.frame_format", Kind::FrameFormats, format),
        ];
        let mut all: Vec<Reference> = named
            .into_iter()
            .filter_map(|(field, kind, id)| {
                id.map(|id| Reference { field: field.into(), kind, id: id.clone() })
            })
            .collect();
        if let Some(upstream) = &self.upstream {
            all.extend(upstream.references_under("upstream"));
        }
        all.extend(plugins::references(&self.plugins));
        all.extend(super::proto::proto_references(&self.plugins));
        all
    }
}

impl StreamProtocol {
    fn validate(&self, problems: &mut Problems) {
        for (field, value) in [("superior_id", &self.superior_id), ("logger", &self.logger)] {
            if value.is_some() {
                problems.add_plain(field, "is not supported: xRPC does not run here");
            }
        }
        if self.name == StreamProtocolName::Tcp && self.conf != TlvConf::default() {
            problems.add_plain("conf", "must be empty with name: tcp");
        }
        problems.within("conf", |problems| self.conf.validate(problems));
    }
}

impl TlvConf {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let lists = [
            ("replay", &self.replay),
            ("safe", &self.safe),
            ("login", &self.login),
            ("one_way", &self.one_way),
            ("farewell", &self.farewell),
        ];
        for (field, commands) in lists {
            if commands.len() > STREAM_COMMANDS_MAX {
                problems.add(field, commands.len(), "must be at most 256 commands");
            } else {
                super::validate_unique(field, commands, problems);
            }
        }
        if self.inspect.len() > super::PLUGINS_MAX {
            problems.add("inspect", self.inspect.len(), "must be at most 64 modules");
        } else {
            super::validate_unique("inspect", &self.inspect, problems);
        }
        if let Some(time) = self.idle_timeout {
            validate_positive("idle_timeout", time, problems);
        }
        validate_positive("first_frame_timeout", self.first_frame_timeout, problems);
        validate_positive("replay_timeout", self.replay_timeout, problems);
        validate_positive("move_timeout", self.move_timeout, problems);
        validate_positive("half_close_timeout", self.half_close_timeout, problems);
        if self.replay_bytes > 1024 * 1024 {
            problems.add("replay_bytes", self.replay_bytes, "must be at most 1MiB");
        }
        if self.pending_max > 65_536 {
            problems.add("pending_max", self.pending_max, "must be at most 65536");
        }
    }
}
