//! From a configuration object to a live upstream.
//!
//! Everything a request would have to look up is resolved here. What lived
//! under the same name in the previous upstream lives on: the health and
//! measurements of lines and nodes, and the idle connections wherever they
//! would still be made the same way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use tokio::sync::Semaphore;

use crate::config::objects::{self, ActiveCheck, CheckType, Checks, DEFAULT_LINE, UpstreamTls};
use crate::config::{Id, Problem};
use crate::frame::FrameFormat;

use super::balance::{Balance, Kind};
use super::check::{CheckPlan, Probe};
use super::environment::Environment;
use super::hash::HashKey;
use super::health::{Limits, LineLive, LineRules, NodeLive, NodeRules};
use super::model::{Addresses, ConnectPlan, Failover, Line, Node, PoolKey, Statuses, Tier, Upstream, Via};
use super::spec::{KeepalivePool, PassHost, Prefer, ProxyProtocol, Timeouts};
use super::tls::{ServerNameFrom, TlsPlan, TlsSettingError, TlsSettings};
use super::via::stop_of;

/// Good connects in a row that bring a node without an active check back.
const RECOVERY_RISE: u32 = 2;

/// Time between the probes that measure lines without a check of their own,
/// where the fastest is preferred.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// The frame format of TLV checks that name none.
const FRAME_FORMAT: &str = "im20";

/// Looks up what an upstream refers to.
pub struct References<'a> {
    /// Certificate chain and key, both PEM, of an `ssls` object of type `client`.
    pub certificate: &'a dyn Fn(&Id) -> Option<(String, String)>,
    /// A frame format by its id; `im20` is known without.
    pub frame_format: &'a dyn Fn(&str) -> Option<Arc<FrameFormat>>,
}

impl References<'_> {
    /// Knows no object.
    pub const NONE: References<'static> = References { certificate: &|_| None, frame_format: &|_| None };
}

fn problem(field: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem { field: field.into(), message: message.into(), value: None }
}

impl Upstream {
    /// Builds an upstream. `id` names it in logs, metrics and status; `previous`
    /// is what was built before under the same id. Nothing changes for it until
    /// [`adopt`](Self::adopt).
    ///
    /// # Errors
    /// The first problem, its field relative to the object.
    pub fn build(
        object: &objects::Upstream,
        id: &str,
        previous: Option<&Self>,
        references: &References<'_>,
        environment: &Arc<Environment>,
    ) -> Result<Self, Problem> {
        let id: Arc<str> = id.into();
        let builder = Builder { object, id: &id, previous, references, environment, now: Instant::now() };
        let mut lines = builder.lines()?;
        // Stable: of equal priority the first written comes first.
        lines.sort_by_key(|line| std::cmp::Reverse(line.priority));
        let weighted = lines.iter().flat_map(|line| &line.nodes).filter(|node| node.weight > 0).count();
        let hash_key = match builder.kind() {
            Kind::Chash => Some(HashKey::new(object).map_err(|message| problem("key", message))?),
            _ => None,
        };
        let fastest = previous
            .and_then(|old| old.lines.get(old.fastest.load(Relaxed)))
            .and_then(|old| lines.iter().position(|line| line.name == old.name))
            .unwrap_or(0);
        Ok(Self {
            scheme: object.scheme,
            timeouts: Timeouts::of(&object.timeout),
            retries: object
                .retries
                .unwrap_or(u32::try_from(weighted.saturating_sub(1)).unwrap_or(u32::MAX))
                .min(255),
            retry_timeout: Some(object.retry_timeout).filter(|limit| !limit.is_zero()),
            pass_host: PassHost::of(object),
            keepalive: KeepalivePool::of(&object.keepalive_pool),
            proxy_protocol: object.send_proxy_protocol,
            kind: builder.kind(),
            hash_key,
            failover: Failover {
                prefer: object.failover.prefer,
                connect_timeout: object.failover.connect_timeout,
                latency_margin: object.failover.latency_margin,
            },
            lines: lines.into(),
            fastest: AtomicUsize::new(fastest),
            environment: Arc::clone(environment),
            id,
        })
    }
}

struct Builder<'a> {
    object: &'a objects::Upstream,
    id: &'a Arc<str>,
    previous: Option<&'a Upstream>,
    references: &'a References<'a>,
    environment: &'a Arc<Environment>,
    now: Instant,
}

/// A line as written, whichever way.
struct Written<'a> {
    /// The path of its fields; empty for the line that `nodes` make.
    field: String,
    name: &'a str,
    priority: i32,
    nodes: &'a objects::Nodes,
    via: &'a [String],
    checks: Option<&'a Checks>,
    checks_field: String,
    tls: &'a UpstreamTls,
    tls_field: String,
}

impl Builder<'_> {
    fn kind(&self) -> Kind {
        match self.object.balance {
            objects::Balance::Roundrobin => Kind::RoundRobin,
            objects::Balance::Chash => Kind::Chash,
            objects::Balance::Ewma => Kind::Ewma,
            objects::Balance::LeastConn => Kind::LeastConn,
        }
    }

    fn lines(&self) -> Result<Vec<Arc<Line>>, Problem> {
        let object = self.object;
        let written: Vec<Written<'_>> = match (&object.lines, &object.nodes) {
            (Some(lines), _) => {
                lines.iter().enumerate().map(|(index, line)| self.written(index, line)).collect()
            }
            (None, Some(nodes)) => vec![Written {
                field: String::new(),
                name: DEFAULT_LINE,
                priority: 0,
                nodes,
                via: &[],
                checks: object.checks.as_ref(),
                checks_field: "checks".to_owned(),
                tls: &object.tls,
                tls_field: "tls".to_owned(),
            }],
            (None, None) => return Err(problem("nodes", "is required, or lines")),
        };
        let count = written.len();
        written.iter().map(|line| self.line(line, count)).collect()
    }

    fn written<'a>(&'a self, index: usize, line: &'a objects::Line) -> Written<'a> {
        let field = format!("lines[{index}]");
        let own = |has: bool, name: &str| if has { format!("{field}.{name}") } else { name.to_owned() };
        Written {
            name: &line.name,
            priority: line.priority,
            nodes: &line.nodes,
            via: &line.via,
            checks: line.checks.as_ref().or(self.object.checks.as_ref()),
            checks_field: own(line.checks.is_some(), "checks"),
            tls: line.tls.as_ref().unwrap_or(&self.object.tls),
            tls_field: own(line.tls.is_some(), "tls"),
            field: format!("{field}."),
        }
    }

    fn line(&self, written: &Written<'_>, count: usize) -> Result<Arc<Line>, Problem> {
        let previous = self.previous.and_then(|old| {
            old.lines.iter().find(|line| *line.name == *written.name && same_way(line, written.via))
        });
        let scheme = self.object.scheme;
        let identity = self.identity(written)?;
        let tls = if scheme.is_tls() { Some(self.tls(written, identity.as_ref(), previous)?) } else { None };
        let check = self.check(written, count, tls.as_ref(), identity.as_ref())?;
        let shared = NodeParts {
            rules: self.rules(written, check.is_some(), count),
            check,
            passive: passive_statuses(written.checks),
            fingerprint: format!(
                "{scheme:?} {:?} {:?} {:?} {}",
                self.object.send_proxy_protocol,
                written.via,
                self.object.keepalive_pool,
                tls.as_ref().map_or("", |tls| &tls.digest),
            ),
            previous,
        };
        let nodes: Box<[Arc<Node>]> = written
            .nodes
            .iter()
            .map(|node| self.node(node, &shared).map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(|error| Problem { field: format!("{}{}", written.field, error.field), ..error })?;
        let live = previous.map_or_else(|| Arc::new(LineLive::new(self.now)), |old| Arc::clone(&old.live));
        let hold_down = if count > 1 { self.object.failover.hold_down } else { Duration::ZERO };
        let line = Line {
            name: written.name.into(),
            upstream: Arc::clone(self.id),
            priority: written.priority,
            tiers: tiers(self.kind(), &nodes),
            nodes,
            rules: LineRules { hold_down },
            live,
            plan: ConnectPlan {
                scheme,
                timeout: self.object.timeout.connect,
                proxy_protocol: self.object.send_proxy_protocol,
                tls,
                via: self.via(written)?,
            },
            trial_after: self.object.failover.hold_down.max(Duration::from_secs(1)),
            environment: Arc::clone(self.environment),
        };
        let line = Arc::new(line);
        if previous.is_none() {
            // Nobody else has it yet, so it may be told of its nodes already.
            *line.live.current.lock() = Arc::downgrade(&line);
            line.live.adopt(line.members(), &line.rules, self.now);
        }
        Ok(line)
    }

    fn node(&self, object: &objects::Node, shared: &NodeParts<'_>) -> Result<Node, Problem> {
        let scheme = self.object.scheme;
        let port = object.port.or(scheme.default_port());
        let port = port.ok_or_else(|| problem("nodes", format!("node {} needs a port", object.host)))?;
        let name = stop_of(&object.host, port);
        let previous = shared
            .previous
            .and_then(|line| line.nodes.iter().find(|node| *node.host == *object.host && node.port == port));
        let limits = KeepalivePool::of(&self.object.keepalive_pool);
        let pool = previous.filter(|node| node.pool.fingerprint == shared.fingerprint).map_or_else(
            || {
                let is_kept = self.object.send_proxy_protocol == ProxyProtocol::Off;
                Arc::new(PoolKey { limits, is_kept, fingerprint: shared.fingerprint.clone() })
            },
            |node| Arc::clone(&node.pool),
        );
        let bare = if object.host.contains(':') { format!("[{}]", object.host) } else { object.host.clone() };
        let authority = if scheme.default_port() == Some(port) { bare } else { name.clone() };
        Ok(Node {
            name: name.into(),
            host: object.host.as_str().into(),
            port,
            weight: object.weight,
            priority: object.priority,
            authority: authority.into(),
            addresses: Addresses::of(self.environment, &object.host, port),
            rules: shared.rules,
            check: shared.check.clone(),
            passive: shared.passive.clone(),
            live: previous.map_or_else(|| Arc::new(NodeLive::new(self.now)), |node| Arc::clone(&node.live)),
            pool,
        })
    }

    fn via(&self, written: &Written<'_>) -> Result<Option<Via>, Problem> {
        let Some(first) = written.via.first() else { return Ok(None) };
        let field = format!("{}via", written.field);
        if self.environment.way_key.is_none() {
            return Err(problem(field, "needs the fleet's key, which this node was not given"));
        }
        let parsed = first.rsplit_once(':').and_then(|(host, port)| {
            let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
            Some((host, port.parse().ok()?))
        });
        let (host, port) = parsed.ok_or_else(|| problem(format!("{field}[0]"), "must be host:port"))?;
        let via = Via {
            first: Addresses::of(self.environment, host, port),
            relays: written.via.iter().map(|relay| relay.as_str().into()).collect(),
        };
        for node in written.nodes.iter() {
            via.way_to(&node.host, node.port.unwrap_or(1))
                .map_err(|error| problem(field.clone(), error.to_string()))?;
        }
        Ok(Some(via))
    }

    /// The client certificate and its key, PEM.
    fn identity(&self, written: &Written<'_>) -> Result<Option<(String, String)>, Problem> {
        let tls = written.tls;
        if let Some(id) = &tls.client_cert_id {
            let found = (self.references.certificate)(id);
            let missing = || {
                problem(
                    format!("{}.client_cert_id", written.tls_field),
                    format!("names no client certificate: {id}"),
                )
            };
            return found.map(Some).ok_or_else(missing);
        }
        Ok(tls.client_cert.clone().zip(tls.client_key.clone()))
    }

    fn tls(
        &self,
        written: &Written<'_>,
        identity: Option<&(String, String)>,
        previous: Option<&Arc<Line>>,
    ) -> Result<Arc<TlsPlan>, Problem> {
        let name = match (&written.tls.sni, &PassHost::of(self.object)) {
            (Some(sni), _) => ServerNameFrom::Fixed(sni.as_str().into()),
            (None, PassHost::Rewrite(host)) => ServerNameFrom::Fixed(without_port(host).into()),
            (None, PassHost::Node) => ServerNameFrom::Node,
            (None, PassHost::Pass) if self.object.scheme.is_http() => ServerNameFrom::Request,
            (None, PassHost::Pass) => ServerNameFrom::Node,
        };
        self.tls_plan(
            written,
            !written.tls.verify,
            name,
            identity,
            previous.and_then(|line| line.plan.tls.as_ref()),
        )
    }

    fn tls_plan(
        &self,
        written: &Written<'_>,
        skip_verify: bool,
        name: ServerNameFrom,
        identity: Option<&(String, String)>,
        previous: Option<&Arc<TlsPlan>>,
    ) -> Result<Arc<TlsPlan>, Problem> {
        let ca = written.tls.ca.as_deref();
        let digest = digest_of(&[
            format!("{skip_verify} {name:?}").as_str(),
            ca.unwrap_or_default(),
            identity.map_or("", |(chain, _)| chain),
            identity.map_or("", |(_, key)| key),
        ]);
        if let Some(previous) = previous.filter(|plan| plan.digest == digest) {
            return Ok(Arc::clone(previous));
        }
        let settings = TlsSettings {
            skip_verify,
            ca,
            identity: identity.map(|(chain, key)| (chain.as_str(), key.as_str())),
        };
        let plan = TlsPlan::new(settings, name, digest, &self.environment.roots);
        plan.map(Arc::new).map_err(|TlsSettingError { field, message }| {
            problem(format!("{}.{field}", written.tls_field), message)
        })
    }

    fn rules(&self, written: &Written<'_>, is_checked: bool, count: usize) -> NodeRules {
        let active = written.checks.and_then(|checks| checks.active.as_ref());
        let passive = written.checks.and_then(|checks| checks.passive.as_ref());
        // Where another line waits, the first failed probe moves the traffic.
        let eager = self.object.lines.is_some();
        let fall = |own: Option<u32>, short: Option<u32>, usual: u32| {
            own.or(short).unwrap_or(if eager { 1 } else { usual })
        };
        let of_active = |check: &ActiveCheck| Limits {
            http_failures: check.http_failures(),
            tcp_failures: fall(check.unhealthy.tcp_failures, check.fall, check.tcp_failures()),
            timeouts: fall(check.unhealthy.timeouts, check.fall, check.timeouts()),
            successes: check.successes(),
        };
        let measured = Limits { http_failures: 0, tcp_failures: 1, timeouts: 1, successes: RECOVERY_RISE };
        NodeRules {
            active: active.map(of_active).or(is_checked.then_some(measured)),
            passive: passive.map(|check| Limits {
                http_failures: check.unhealthy.http_failures,
                tcp_failures: check.unhealthy.tcp_failures,
                timeouts: check.unhealthy.timeouts,
                successes: check.healthy.successes,
            }),
            first_connect: passive.is_none() || count > 1,
            rise: RECOVERY_RISE,
        }
    }

    fn check(
        &self,
        written: &Written<'_>,
        count: usize,
        tls: Option<&Arc<TlsPlan>>,
        identity: Option<&(String, String)>,
    ) -> Result<Option<Arc<CheckPlan>>, Problem> {
        let Some(check) = written.checks.and_then(|checks| checks.active.as_ref()) else {
            let is_measured = self.object.failover.prefer == Prefer::Latency && count > 1;
            return Ok(is_measured.then(|| Arc::new(CheckPlan::measuring())));
        };
        let field = format!("{}.active", written.checks_field);
        let tls = match check.check_type {
            CheckType::Http | CheckType::Tcp => None,
            CheckType::Tlv => tls.cloned(),
            CheckType::Https => {
                let name = match (&check.host, tls) {
                    (Some(host), _) => ServerNameFrom::Fixed(without_port(host).into()),
                    (None, Some(tls)) => tls.name.clone(),
                    (None, None) => ServerNameFrom::Node,
                };
                Some(self.tls_plan(written, !check.https_verify_certificate, name, identity, None)?)
            }
        };
        Ok(Some(Arc::new(CheckPlan {
            probe: self.probe(check, &field)?,
            tls,
            port: check.port,
            timeout: check.timeout,
            healthy_interval: check.healthy_interval(),
            unhealthy_interval: check.unhealthy_interval(),
            permits: Arc::new(Semaphore::new(check.concurrency as usize)),
        })))
    }

    fn probe(&self, check: &ActiveCheck, field: &str) -> Result<Probe, Problem> {
        Ok(match check.check_type {
            CheckType::Tcp => Probe::Tcp,
            CheckType::Http | CheckType::Https => Probe::Http {
                path: check.http_path.as_str().into(),
                host: check.host.as_deref().map(Box::from),
                headers: check.req_headers.iter().map(|line| line.as_str().into()).collect(),
                statuses: Statuses {
                    good: check.healthy.http_statuses.as_slice().into(),
                    bad: check.unhealthy.http_statuses.as_slice().into(),
                },
            },
            CheckType::Tlv => {
                let id = check.frame_format.as_ref().map_or(FRAME_FORMAT, Id::as_str);
                let format = (self.references.frame_format)(id)
                    .or_else(|| (id == FRAME_FORMAT).then(|| Arc::new(FrameFormat::im20())))
                    .ok_or_else(|| {
                        problem(format!("{field}.frame_format"), format!("names no frame format: {id}"))
                    })?;
                let command = format.command().ok_or_else(|| {
                    problem(
                        format!("{field}.frame_format"),
                        format!("{id} has no field with the role command"),
                    )
                })?;
                let mut heartbeat = Vec::new();
                let value = u64::from(check.command.unwrap_or(objects::CHECK_TLV_COMMAND));
                format
                    .encode(&mut heartbeat, &[(command, value)], b"")
                    .map_err(|error| problem(format!("{field}.command"), error.to_string()))?;
                Probe::Tlv { format, heartbeat: heartbeat.into() }
            }
        })
    }
}

impl CheckPlan {
    /// Connects now and then, for the round trip.
    fn measuring() -> Self {
        Self {
            probe: Probe::Tcp,
            tls: None,
            port: None,
            timeout: Duration::from_secs(1),
            healthy_interval: MEASURE_INTERVAL,
            unhealthy_interval: Duration::from_secs(1),
            permits: Arc::new(Semaphore::new(objects::CHECK_CONCURRENCY as usize)),
        }
    }
}

/// What the nodes of a line share.
struct NodeParts<'a> {
    rules: NodeRules,
    check: Option<Arc<CheckPlan>>,
    passive: Option<Arc<Statuses>>,
    fingerprint: String,
    previous: Option<&'a Arc<Line>>,
}

fn same_way(line: &Line, via: &[String]) -> bool {
    let own: &[Box<str>] = line.plan.via.as_ref().map_or(&[], |via| &via.relays);
    own.len() == via.len() && own.iter().zip(via).all(|(own, new)| **own == **new)
}

fn passive_statuses(checks: Option<&Checks>) -> Option<Arc<Statuses>> {
    let check = checks?.passive.as_ref()?;
    // For the other types there is no status to judge by.
    let is_http = matches!(check.check_type, CheckType::Http | CheckType::Https);
    is_http.then(|| {
        Arc::new(Statuses {
            good: check.healthy.http_statuses.as_slice().into(),
            bad: check.unhealthy.http_statuses.as_slice().into(),
        })
    })
}

/// The nodes that take traffic, by priority, each group with its balancer.
fn tiers(kind: Kind, nodes: &[Arc<Node>]) -> Box<[Tier]> {
    let mut priorities: Vec<i32> =
        nodes.iter().filter(|node| node.weight > 0).map(|node| node.priority).collect();
    priorities.sort_unstable_by(|a, b| b.cmp(a));
    priorities.dedup();
    let tier = |priority: i32| {
        let own: Vec<(u16, &Arc<Node>)> = nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.weight > 0 && node.priority == priority)
            .map(|(index, node)| (index as u16, node))
            .collect();
        let weights: Vec<(&str, u32)> = own.iter().map(|(_, node)| (&*node.name, node.weight)).collect();
        Tier { balance: Balance::new(kind, &weights), nodes: own.iter().map(|(index, _)| *index).collect() }
    };
    priorities.into_iter().map(tier).collect()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port)) if !bare.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    }
}

fn digest_of(parts: &[&str]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    HEXLOWER.encode(context.finish().as_ref())
}
