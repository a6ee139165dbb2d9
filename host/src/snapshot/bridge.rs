//! HTTP routes whose upstream speaks frames, resolved.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::{StreamRoute, TlvSettings};
use crate::config::Problem;
use crate::config::objects::{
    self, BUILT_IN_PLUGINS, Plugins, RequestsConf, RouteProtocol, SessionsConf, WebSocketConf,
};
use crate::filter::Chain;
use crate::message::{Captures, IpSet, Origin, Stage, Subject, Template, Variable};

/// The frame side of HTTP routes, by the route's id.
pub type BridgedRoutes = BTreeMap<Arc<str>, Arc<StreamRoute>>;

/// What stands for the caller in `requests.login`.
const CALLER: &str = "$im_user";
/// What stands for the connection there, so that a service tells those of one
/// caller apart.
const CONNECTION: &str = "$im_connection";
/// Its place in a login's text until there is a connection. Text of JSON has no
/// such byte.
const CONNECTION_MARK: u8 = 0x1A;

/// How an HTTP route makes frames of what its clients send.
#[derive(Debug)]
pub struct Bridge {
    /// The sessions of its WebSocket and polling clients, as of a stream route:
    /// filters that look at frames, the upstream, counters.
    pub frames: Arc<StreamRoute>,
    /// How frames are handled.
    pub tlv: Arc<TlvSettings>,
    /// Who the caller is; none: frames of requests name nobody.
    pub caller: Option<CallerRule>,
    /// What each shared connection begins with.
    pub login: Option<LoginText>,
    /// Requests.
    pub requests: RequestsConf,
    /// WebSocket clients.
    pub websocket: WebSocketConf,
    /// Sessions clients come back to.
    pub sessions: SessionsConf,
}

/// Where the caller's number is read from.
#[derive(Debug)]
pub struct CallerRule {
    variable: Variable,
    /// The client itself writes it, so that it counts only from trusted hops.
    is_claim: bool,
    from: IpSet,
}

impl CallerRule {
    fn parse(protocol: &RouteProtocol) -> Result<Option<Self>, Problem> {
        let Some(text) = protocol.user.as_deref() else { return Ok(None) };
        let name = text.strip_prefix('$').unwrap_or(text);
        let variable = Variable::parse(name, Stage::Request)
            .map_err(|error| problem("protocol.user", error.to_string(), Some(text)))?;
        let is_claim = ["http_", "cookie_", "arg_", "post_arg", "uri_param_", "request_body", "graphql_"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if variable.needs_body() {
            let message = "the body never says who the caller is".to_owned();
            return Err(problem("protocol.user", message, Some(text)));
        }
        Ok(Some(Self { variable, is_claim, from: IpSet::of(&protocol.user_from) }))
    }

    /// The caller of a request; `is_trusted` says whether the listener trusts
    /// the hop it came by. `None` when nobody trusted names one.
    #[must_use]
    pub fn caller(&self, subject: &Subject<'_>, is_trusted: bool) -> Option<u64> {
        let is_believed = !self.is_claim
            || match self.from.is_empty() {
                true => is_trusted,
                false => self.from.contains(subject.client.ip()),
            };
        if !is_believed {
            return None;
        }
        let value = self.variable.read(subject)?;
        std::str::from_utf8(&value).ok()?.trim().parse().ok()
    }
}

/// The message shared connections begin with.
#[derive(Debug)]
pub struct LoginText {
    pieces: Vec<LoginPiece>,
}

#[derive(Debug)]
enum LoginPiece {
    Text(Template),
    Caller,
    Connection,
}

impl LoginText {
    fn parse(text: &str) -> Result<Self, Problem> {
        let fail = |message: String| problem("protocol.requests.login", message, Some(text));
        if text.as_bytes().contains(&CONNECTION_MARK) {
            return Err(fail("holds a control character".to_owned()));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let next = [(CALLER, LoginPiece::Caller), (CONNECTION, LoginPiece::Connection)];
            let next = next.into_iter().filter_map(|(name, piece)| Some((rest.find(name)?, name, piece)));
            let next = next.min_by_key(|(at, ..)| *at);
            let end = next.as_ref().map_or(rest.len(), |(at, ..)| *at);
            let template = Template::parse(&rest[..end], Stage::Request, Captures::None)
                .map_err(|error| fail(error.to_string()))?;
            if template.needs_body() {
                return Err(fail("the body never says who the caller is".to_owned()));
            }
            pieces.push(LoginPiece::Text(template));
            rest = &rest[end..];
            if let Some((_, name, piece)) = next {
                pieces.push(piece);
                rest = &rest[name.len()..];
            }
        }
        Ok(Self { pieces })
    }

    /// The text for a request and its caller: requests with the same one share
    /// connections. What is filled in is escaped as the inside of a JSON string.
    #[must_use]
    pub fn text(&self, subject: &Subject<'_>, caller: Option<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                LoginPiece::Caller => {
                    out.extend_from_slice(itoa::Buffer::new().format(caller.unwrap_or(0)).as_bytes());
                }
                LoginPiece::Connection => out.push(CONNECTION_MARK),
                LoginPiece::Text(template) => {
                    template.fill_with(
                        subject,
                        |_| None,
                        |origin, bytes| match origin {
                            Origin::Template => out.extend_from_slice(bytes),
                            Origin::Filled => escape(&mut out, bytes),
                        },
                    );
                }
            }
        }
        out
    }

    /// The text that one connection of this name begins with.
    #[must_use]
    pub fn for_connection(text: &[u8], name: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + name.len());
        for (index, piece) in text.split(|byte| *byte == CONNECTION_MARK).enumerate() {
            if index > 0 {
                escape(&mut out, name.as_bytes());
            }
            out.extend_from_slice(piece);
        }
        out
    }
}

/// Appends a value as the inside of a JSON string.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let quoted = serde_json::to_string(&String::from_utf8_lossy(value)).unwrap_or_default();
    let inside = quoted.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"'));
    out.extend_from_slice(inside.unwrap_or_default().as_bytes());
}

impl Bridge {
    /// Resolves what an operator wrote.
    ///
    /// # Errors
    /// Names the field.
    pub fn new(
        protocol: &RouteProtocol,
        frames: StreamRoute,
        tlv: Arc<TlvSettings>,
    ) -> Result<Self, Vec<Problem>> {
        if tlv.format.command().is_none() || tlv.format.sequence().is_none() {
            let message = "needs the roles command and sequence, which the format lacks".to_owned();
            let format = tlv.format.id().to_owned();
            return Err(vec![problem("protocol.conf.frame_format", message, Some(&format))]);
        }
        let caller = CallerRule::parse(protocol).map_err(|problem| vec![problem])?;
        let login = protocol.requests.login.as_deref().map(LoginText::parse).transpose();
        Ok(Self {
            frames: Arc::new(frames),
            tlv,
            caller,
            login: login.map_err(|problem| vec![problem])?,
            requests: protocol.requests.clone(),
            websocket: protocol.websocket.clone(),
            sessions: protocol.sessions.clone(),
        })
    }
}

fn problem(field: &str, message: String, value: Option<&str>) -> Problem {
    Problem { field: field.to_owned(), message, value: value.map(|value| format!("{value:?}")) }
}

/// Parts the plugins of a route whose upstream speaks frames: those that look
/// at requests, and those that look at frames. Limits count frames when their
/// key or their `rejected` says so; modules are among both, since only they
/// themselves know what they look at.
#[must_use]
pub(super) fn part_plugins(plugins: &Plugins) -> (Plugins, Plugins) {
    let counts_frames = |config: &serde_json::Value| {
        let key = config.get("key").and_then(serde_json::Value::as_str);
        key.is_some_and(|key| key.contains("frame_")) || config.get("rejected").is_some()
    };
    let (mut requests, mut frames) = (Plugins::new(), Plugins::new());
    for (name, plugin) in plugins {
        let is_module = is_module(name);
        if is_module || counts_frames(&plugin.config) {
            frames.insert(name.clone(), plugin.clone());
        }
        if is_module || !counts_frames(&plugin.config) {
            requests.insert(name.clone(), plugin.clone());
        }
    }
    (requests, frames)
}

fn is_module(name: &str) -> bool {
    !BUILT_IN_PLUGINS.contains(&name)
}

/// Modules of a route that neither of its chains has.
pub(super) fn idle_modules(plugins: &Plugins, chains: [&Chain; 2]) -> Vec<Problem> {
    let is_used = |name: &str| chains.iter().any(|chain| chain.names().any(|own| own == name));
    let modules = plugins.iter().filter(|(name, plugin)| is_module(name) && !plugin.meta.disable);
    let idle = modules.filter(|(name, _)| !is_used(name));
    let message = "has no effect here: the module looks at neither requests, responses nor frames";
    idle.map(|(name, _)| problem(&format!("plugins.{name}"), message.to_owned(), None)).collect()
}

/// What keeps modules from being shown the texts of messages.
pub(super) fn check_inspection(inspect: &[String], frames: &Chain) -> Result<(), Vec<Problem>> {
    if inspect.is_empty() {
        return Ok(());
    }
    let missing = inspect.iter().enumerate().filter(|(_, name)| !frames.names().any(|own| own == *name));
    let mut problems: Vec<Problem> = missing
        .map(|(index, name)| {
            let message = "is no module among the plugins of this route".to_owned();
            problem(&format!("protocol.conf.inspect[{index}]"), message, Some(name))
        })
        .collect();
    if frames.transcoder().is_none() {
        let message = "needs the plugin transcode, which finds the texts of messages".to_owned();
        problems.push(problem("protocol.conf.inspect", message, None));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// What of a route touches its sessions when it changes.
pub(super) fn bridge_identity(route: &objects::Route, upstream: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    // The JSON form is canonical enough, as for stream routes.
    serde_json::to_string(&route.protocol).unwrap_or_default().hash(&mut hasher);
    upstream.hash(&mut hasher);
    route.enable_websocket.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Client, Fields, Method, RequestHead, Scheme, Version};

    fn client(ip: &str) -> Client {
        let address = format!("{ip}:1").parse().unwrap();
        Client { peer: address, address, local: address, tls: None, path: None }
    }

    fn request(user: &str) -> RequestHead {
        let mut fields = Fields::default();
        fields.append(b"x-user-id", user.as_bytes());
        let (authority, path) = (fields.store(b"a.test"), fields.store(b"/"));
        RequestHead::new(Method::Get, Version::Http11, Scheme::Http, authority, path, None, fields)
    }

    fn rule(user: &str, from: &[&str]) -> Result<Option<CallerRule>, Problem> {
        let user_from = from.iter().map(|net| net.parse().unwrap()).collect();
        CallerRule::parse(&RouteProtocol { user: Some(user.into()), user_from, ..RouteProtocol::default() })
    }

    #[test]
    fn a_header_names_the_caller_only_from_trusted_hops() {
        let rule_by_listener = rule("$http_x_user_id", &[]).unwrap().unwrap();
        let by_address = rule("$http_x_user_id", &["10.0.0.0/8"]).unwrap().unwrap();
        let head = request("17");
        for (ip, trusted, listener, address) in
            [("10.1.1.1", false, None, Some(17)), ("192.0.2.1", true, Some(17), None)]
        {
            let client = client(ip);
            let subject = Subject::of_request(&client, client.ip(), &head);
            assert_eq!(rule_by_listener.caller(&subject, trusted), listener);
            assert_eq!(by_address.caller(&subject, trusted), address);
        }
        let (head, client) = (request("1 or 2"), client("10.1.1.1"));
        assert_eq!(by_address.caller(&Subject::of_request(&client, client.ip(), &head), true), None);
    }

    #[test]
    fn what_is_filled_into_a_login_stays_inside_its_string() {
        let login = LoginText::parse(r#"{"body":{"user":$im_user,"token":"$http_x_user_id"}}"#).unwrap();
        let (client, head) = (client("10.1.1.1"), request(r#"a","admin":"1"#));
        let subject = Subject::of_request(&client, client.ip(), &head);
        let text = login.text(&subject, Some(17));
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["body"]["user"], 17);
        assert_eq!(value["body"]["token"], r#"a","admin":"1"#);
    }

    #[test]
    fn a_login_names_its_connection_where_it_is_asked_to() {
        let login = LoginText::parse(r#"{"user":$im_user,"device":"rest-$im_connection"}"#).unwrap();
        let (client, head) = (client("10.1.1.1"), request(""));
        let subject = Subject::of_request(&client, client.ip(), &head);
        let shared = login.text(&subject, Some(17));
        assert_eq!(shared, login.text(&subject, Some(17)), "connections are shared by it");
        let text = LoginText::for_connection(&shared, "node \"a\"-0-1");
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value, serde_json::json!({"user": 17, "device": "rest-node \"a\"-0-1"}));
        assert!(LoginText::parse("{\"a\": \"\u{1a}\"}").is_err());
    }
}
