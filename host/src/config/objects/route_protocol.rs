//! What a route says of frames, where its upstream speaks them.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::route::validate_positive;
use super::{TlvConf, units};
use crate::config::Problems;

/// Connections of one worker to one node that requests share, for each identity.
pub const REQUESTS_CONNECTIONS_MAX: u32 = 2;
/// Requests on one such connection that have no answer yet.
pub const REQUESTS_OUTSTANDING_MAX: u32 = 256;
/// Requests of one worker to one route's upstream that have no answer yet.
pub const REQUESTS_PENDING_MAX: u32 = 4096;
/// How long a sequence number without an answer is not used again.
pub const REQUESTS_QUARANTINE: Duration = Duration::from_secs(60);
/// How long a shared connection without a request is kept.
pub const REQUESTS_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest body of a request that is made a frame of.
pub const REQUESTS_BODY_MAX: u32 = 256 * 1024;
/// The longest message a WebSocket client may send.
pub const WEBSOCKET_MESSAGE_MAX: u32 = 256 * 1024;
/// How long a WebSocket client may be silent before it is sent a ping.
pub const WEBSOCKET_PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to answer one.
pub const WEBSOCKET_PONG_TIMEOUT: Duration = Duration::from_secs(20);
/// Sessions of one worker that clients come back to.
pub const SESSIONS_MAX: u32 = 10_000;
/// Messages kept for a client to fetch.
pub const SESSIONS_HISTORY_MESSAGES: u32 = 1000;
/// Bytes of them.
pub const SESSIONS_HISTORY_BYTES: u32 = 1024 * 1024;
/// How long one is kept.
pub const SESSIONS_HISTORY_TIME: Duration = Duration::from_secs(600);
/// How long a session lives without its client.
pub const SESSIONS_IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest wait of a poll.
pub const SESSIONS_WAIT_MAX: Duration = Duration::from_secs(60);

/// How requests, WebSocket messages and polling become frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteProtocol {
    /// The protocol of the upstream.
    pub name: RouteProtocolName,
    /// How frames are handled, as on a stream route.
    #[serde(default)]
    pub conf: TlvConf,
    /// Who the caller is: a variable such as `$http_x_user_id` whose value is a
    /// number. It goes into the header's user field. None: frames of requests
    /// name nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who may name the user in a header, cookie or argument. The listener's
    /// `trusted` when empty; what others say there is no user.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "units::nets")]
    pub user_from: Vec<IpNet>,
    /// Requests that become frames.
    #[serde(default)]
    pub requests: RequestsConf,
    /// WebSocket clients.
    #[serde(default)]
    pub websocket: WebSocketConf,
    /// Sessions clients come back to.
    #[serde(default)]
    pub sessions: SessionsConf,
}

/// A protocol of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteProtocolName {
    /// Frames.
    Tlv,
}

impl Default for RouteProtocol {
    fn default() -> Self {
        Self {
            name: RouteProtocolName::Tlv,
            conf: TlvConf::default(),
            user: None,
            user_from: Vec::new(),
            requests: RequestsConf::default(),
            websocket: WebSocketConf::default(),
            sessions: SessionsConf::default(),
        }
    }
}

/// Requests that become frames on connections they share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestsConf {
    /// A message every connection begins with, as the transcoder takes it:
    /// `{"cmd": 257, "body": {…}}`, with variables. `$im_user` is the caller.
    /// Connections are shared by requests that make the same text of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// Connections to a node, for each worker and login. Default [`REQUESTS_CONNECTIONS_MAX`].
    pub connections_max: u32,
    /// Requests without an answer on one connection. Default [`REQUESTS_OUTSTANDING_MAX`].
    pub outstanding_max: u32,
    /// Requests without an answer of one worker. Default [`REQUESTS_PENDING_MAX`].
    pub pending_max: u32,
    /// How long a sequence number whose answer did not come is not used again.
    /// Default [`REQUESTS_QUARANTINE`].
    #[serde(with = "units::duration")]
    pub quarantine: Duration,
    /// How long a connection without a request is kept. Default [`REQUESTS_IDLE_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// The longest body of a request. Default [`REQUESTS_BODY_MAX`].
    #[serde(with = "units::bytes")]
    pub body_max: u32,
}

impl Default for RequestsConf {
    fn default() -> Self {
        Self {
            login: None,
            connections_max: REQUESTS_CONNECTIONS_MAX,
            outstanding_max: REQUESTS_OUTSTANDING_MAX,
            pending_max: REQUESTS_PENDING_MAX,
            quarantine: REQUESTS_QUARANTINE,
            idle_timeout: REQUESTS_IDLE_TIMEOUT,
            body_max: REQUESTS_BODY_MAX,
        }
    }
}

/// WebSocket clients, where the route has `enable_websocket`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocketConf {
    /// Origins of pages that may connect, as `https://chat.example`; `*` for
    /// any. The page's own host when empty. Clients that send no `Origin` are
    /// no browsers and not asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// The longest message. Default [`WEBSOCKET_MESSAGE_MAX`].
    #[serde(with = "units::bytes")]
    pub message_max: u32,
    /// How long a client may be silent before it is sent a ping. Default
    /// [`WEBSOCKET_PING_INTERVAL`].
    #[serde(with = "units::duration")]
    pub ping_interval: Duration,
    /// How long it may take to answer it. Default [`WEBSOCKET_PONG_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub pong_timeout: Duration,
}

impl Default for WebSocketConf {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            message_max: WEBSOCKET_MESSAGE_MAX,
            ping_interval: WEBSOCKET_PING_INTERVAL,
            pong_timeout: WEBSOCKET_PONG_TIMEOUT,
        }
    }
}

/// Sessions that outlive the connections of their clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionsConf {
    /// Sessions of one worker. Default [`SESSIONS_MAX`].
    pub max: u32,
    /// Messages kept until the client has acknowledged them. Default
    /// [`SESSIONS_HISTORY_MESSAGES`].
    pub history_messages: u32,
    /// Bytes of them. Default [`SESSIONS_HISTORY_BYTES`].
    #[serde(with = "units::bytes")]
    pub history_bytes: u32,
    /// How long one is kept. Default [`SESSIONS_HISTORY_TIME`].
    #[serde(with = "units::duration")]
    pub history_time: Duration,
    /// How long a session lives without a request of its client. Default
    /// [`SESSIONS_IDLE_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// The longest wait of a poll. Default [`SESSIONS_WAIT_MAX`].
    #[serde(with = "units::duration")]
    pub wait_max: Duration,
}

impl Default for SessionsConf {
    fn default() -> Self {
        Self {
            max: SESSIONS_MAX,
            history_messages: SESSIONS_HISTORY_MESSAGES,
            history_bytes: SESSIONS_HISTORY_BYTES,
            history_time: SESSIONS_HISTORY_TIME,
            idle_timeout: SESSIONS_IDLE_TIMEOUT,
            wait_max: SESSIONS_WAIT_MAX,
        }
    }
}

impl RouteProtocol {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.within("conf", |problems| self.conf.validate(problems));
        problems.within("requests", |problems| self.requests.validate(problems));
        problems.within("websocket", |problems| self.websocket.validate(problems));
        problems.within("sessions", |problems| self.sessions.validate(problems));
    }
}

impl RequestsConf {
    fn validate(&self, problems: &mut Problems) {
        count("connections_max", self.connections_max, 1024, problems);
        count("outstanding_max", self.outstanding_max, 32_768, problems);
        count("pending_max", self.pending_max, 1_000_000, problems);
        validate_positive("quarantine", self.quarantine, problems);
        validate_positive("idle_timeout", self.idle_timeout, problems);
        if self.body_max == 0 || self.body_max > 32 * 1024 * 1024 {
            problems.add("body_max", self.body_max, "must be 1 byte to 32MiB");
        }
    }
}

impl WebSocketConf {
    fn validate(&self, problems: &mut Problems) {
        validate_positive("ping_interval", self.ping_interval, problems);
        validate_positive("pong_timeout", self.pong_timeout, problems);
        if self.message_max == 0 || self.message_max > 32 * 1024 * 1024 {
            problems.add("message_max", self.message_max, "must be 1 byte to 32MiB");
        }
        for (index, origin) in self.origins.iter().enumerate() {
            let is_origin = origin == "*" || origin == "null" || origin.contains("://");
            if !is_origin || origin.ends_with('/') {
                let message = "must be an origin such as \"https://chat.example\", or \"*\"";
                problems.add(&format!("origins[{index}]"), origin.as_str(), message);
            }
        }
    }
}

impl SessionsConf {
    fn validate(&self, problems: &mut Problems) {
        count("max", self.max, 10_000_000, problems);
        count("history_messages", self.history_messages, 1_000_000, problems);
        if self.history_bytes == 0 || self.history_bytes > 64 * 1024 * 1024 {
            problems.add("history_bytes", self.history_bytes, "must be 1 byte to 64MiB");
        }
        validate_positive("history_time", self.history_time, problems);
        validate_positive("idle_timeout", self.idle_timeout, problems);
        validate_positive("wait_max", self.wait_max, problems);
    }
}

fn count(field: &str, value: u32, most: u32, problems: &mut Problems) {
    if value == 0 || value > most {
        problems.add(field, value, format!("must be 1 to {most}"));
    }
}
