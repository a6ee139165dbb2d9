//! The built-in plugins: names, priorities, phases.

mod auth;
mod basic_auth;
mod cors;
mod fault_injection;
mod headers;
mod ip_restriction;
mod jwt_auth;
mod key;
mod key_auth;
mod limit_conn;
mod limit_count;
mod limit_req;
mod mocking;
mod proxy_rewrite;
mod real_ip;
mod redirect;
mod request_id;
mod response_rewrite;
mod traffic_split;
mod uri;

pub(super) use headers::check_field;
pub(super) use uri::split_target;

use std::cell::RefCell;
use std::time::Instant;

use bytes::Bytes;
use serde_json::Value;

use crate::message::{ResponseHead, Subject, UpstreamView};

use super::build::{BuildContext, Built, ChainKind, FieldError};
use super::chain::{Chain, Step};
use super::exchange::{ConnectionScope, Exchange};
use super::module::{MissingModule, ModuleFilter};
use super::verdict::{BodyAction, ConnectionVerdict, FrameVerdict};

/// When a filter runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Rewrite,
    Access,
    Response,
    Connection,
    Frame,
}

macro_rules! plugins {
    ($($variant:ident = $name:literal, $priority:literal, $module:ident::$type:ident, [$($phase:ident),+];)*) => {
        /// A built-in plugin.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind { $($variant,)* }

        /// A plugin with its configuration, built in or a module.
        #[derive(Debug)]
        pub(super) enum Filter {
            $($variant(Box<$module::$type>),)*
            Module(Box<ModuleFilter>),
            Missing(MissingModule),
        }

        const KINDS: &[Kind] = &[$(Kind::$variant,)*];

        impl Kind {
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(super) fn priority(self) -> i32 {
                match self { $(Self::$variant => $priority,)* }
            }

            fn phases(self) -> &'static [Phase] {
                match self { $(Self::$variant => &[$(Phase::$phase),+],)* }
            }

            pub(super) fn build(
                self,
                config: &Value,
                context: &BuildContext<'_>,
                previous: Option<&Chain>,
            ) -> Built<Filter> {
                let same = previous.and_then(|chain| chain.same(self.name(), config));
                Ok(match self {
                    $(Self::$variant => {
                        let same = match same { Some(Filter::$variant(own)) => Some(&**own), _ => None };
                        Filter::$variant(Box::new($module::$type::build(config, context, same)?))
                    })*
                })
            }
        }

        impl Filter {
            pub(super) fn phases(&self) -> &'static [Phase] {
                match self {
                    $(Self::$variant(_) => Kind::$variant.phases(),)*
                    Self::Module(own) => own.phases(),
                    Self::Missing(_) => &[Phase::Access],
                }
            }
        }
    };
}

plugins! {
    RealIp = "real-ip", 23000, real_ip::RealIp, [Rewrite];
    RequestId = "request-id", 12015, request_id::RequestIdPlugin, [Rewrite, Response];
    FaultInjection = "fault-injection", 11000, fault_injection::FaultInjection, [Rewrite];
    Mocking = "mocking", 10900, mocking::Mocking, [Access];
    Cors = "cors", 4000, cors::Cors, [Rewrite, Response];
    IpRestriction = "ip-restriction", 3000, ip_restriction::IpRestriction, [Access, Connection];
    BasicAuth = "basic-auth", 2520, basic_auth::BasicAuth, [Rewrite];
    JwtAuth = "jwt-auth", 2510, jwt_auth::JwtAuth, [Rewrite];
    KeyAuth = "key-auth", 2500, key_auth::KeyAuth, [Rewrite];
    ProxyRewrite = "proxy-rewrite", 1008, proxy_rewrite::ProxyRewrite, [Rewrite];
    LimitConn = "limit-conn", 1003, limit_conn::LimitConn, [Access, Connection];
    LimitCount = "limit-count", 1002, limit_count::LimitCount, [Access, Frame];
    LimitReq = "limit-req", 1001, limit_req::LimitReq, [Access, Frame];
    TrafficSplit = "traffic-split", 966, traffic_split::TrafficSplit, [Access];
    Redirect = "redirect", 900, redirect::Redirect, [Rewrite];
    ResponseRewrite = "response-rewrite", 899, response_rewrite::ResponseRewrite, [Response];
}

/// Name and priority of every built-in plugin.
pub(super) fn all() -> impl Iterator<Item = (&'static str, i32)> {
    KINDS.iter().map(|kind| (kind.name(), kind.priority()))
}

/// Where modules stand in the order unless `_meta.priority` says otherwise:
/// before limits, behind what tells clients apart.
pub(super) const MODULE_PRIORITY: i32 = 2000;

/// Finds a plugin and checks that it has a place in such a chain.
pub(super) fn kind(name: &str, chain: ChainKind) -> Built<Kind> {
    let found = KINDS.iter().copied().find(|kind| kind.name() == name);
    let kind = found.ok_or_else(|| FieldError::new("", "unknown plugin"))?;
    let (phases, place): (&[Phase], _) = match chain {
        ChainKind::Http | ChainKind::Global | ChainKind::Consumer => return Ok(kind),
        ChainKind::Frames => (&[Phase::Connection, Phase::Frame], "stream routes"),
        ChainKind::Stream => (&[Phase::Connection], "stream routes without frames"),
    };
    if kind.phases().iter().any(|phase| phases.contains(phase)) {
        return Ok(kind);
    }
    Err(FieldError::new("", format_args!("has no effect on {place}")))
}

impl Filter {
    /// Whether it asks who sends the request.
    pub(super) fn needs_consumers(&self) -> bool {
        matches!(self, Self::BasicAuth(_) | Self::JwtAuth(_) | Self::KeyAuth(_))
    }

    /// Whether it reads variables of the request's body.
    pub(super) fn needs_body(&self) -> bool {
        match self {
            Self::FaultInjection(own) => own.needs_body(),
            Self::LimitConn(own) => own.needs_body(),
            Self::LimitCount(own) => own.needs_body(),
            Self::LimitReq(own) => own.needs_body(),
            Self::ProxyRewrite(own) => own.needs_body(),
            Self::Redirect(own) => own.needs_body(),
            Self::TrafficSplit(own) => own.needs_body(),
            Self::Mocking(own) => own.needs_body(),
            Self::RealIp(own) => own.needs_body(),
            _ => false,
        }
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        match self {
            Self::RealIp(own) => own.request(exchange),
            Self::RequestId(own) => own.request(exchange),
            Self::FaultInjection(own) => own.request(exchange),
            Self::Mocking(own) => own.request(exchange),
            Self::Cors(own) => own.request(exchange),
            Self::IpRestriction(own) => own.request(exchange),
            Self::ProxyRewrite(own) => own.request(exchange),
            Self::BasicAuth(own) => own.request(exchange),
            Self::JwtAuth(own) => own.request(exchange),
            Self::KeyAuth(own) => own.request(exchange),
            Self::LimitConn(own) => own.request(exchange),
            Self::LimitCount(own) => own.request(exchange),
            Self::LimitReq(own) => own.request(exchange),
            Self::TrafficSplit(own) => own.request(exchange),
            Self::Redirect(own) => own.request(exchange),
            Self::Missing(own) => own.request(exchange),
            Self::ResponseRewrite(_) | Self::Module(_) => Step::Next,
        }
    }

    pub(super) fn response(
        &self,
        exchange: &mut Exchange,
        head: &mut ResponseHead,
        upstream: Option<UpstreamView<'_>>,
    ) -> BodyAction {
        match self {
            Self::RequestId(own) => own.response(exchange, head),
            Self::Cors(own) => own.response(exchange, head),
            Self::ResponseRewrite(own) => return own.response(exchange, head, upstream),
            _ => {}
        }
        BodyAction::Pass
    }

    pub(super) fn transform(&self, exchange: &Exchange, body: Bytes) -> Bytes {
        match self {
            Self::ResponseRewrite(own) => own.transform(exchange, body),
            _ => body,
        }
    }

    pub(super) fn connection(&self, subject: &Subject<'_>, scope: &mut ConnectionScope) -> ConnectionVerdict {
        match self {
            Self::IpRestriction(own) => own.connection(subject),
            Self::LimitConn(own) => own.connection(subject, scope),
            _ => ConnectionVerdict::Continue,
        }
    }

    pub(super) fn frame(&self, subject: &Subject<'_>, now: Instant) -> FrameVerdict {
        match self {
            Self::LimitReq(own) => own.frame(subject, now),
            Self::LimitCount(own) => own.frame(subject, now),
            _ => FrameVerdict::Pass,
        }
    }
}

const POOL_BYTES: usize = 512;

thread_local! {
    /// Random bytes from the system, fetched many at a time: a call for every
    /// request's id would cost more than the id.
    static RANDOM: RefCell<([u8; POOL_BYTES], usize)> = const { RefCell::new(([0; POOL_BYTES], POOL_BYTES)) };
}

/// Fills `out` (at most 512 bytes) with random bytes nobody can guess.
pub(super) fn random_bytes(out: &mut [u8]) {
    RANDOM.with_borrow_mut(|(pool, used)| {
        if let Some(taken) = pool.get_mut(*used..*used + out.len()) {
            out.copy_from_slice(taken);
            // Nobody is to find in memory what was given out.
            taken.fill(0);
            *used += out.len();
            return;
        }
        for byte in out {
            if *used == POOL_BYTES {
                // Without a source of randomness ids repeat, which is better
                // than not serving.
                if getrandom::fill(pool).is_err() {
                    pool.fill(0);
                }
                *used = 0;
            }
            *byte = std::mem::take(&mut pool[*used]);
            *used += 1;
        }
    });
}

/// A random number below `bound`, which is at least 1.
pub(super) fn random_below(bound: u32) -> u32 {
    let mut bytes = [0; 8];
    random_bytes(&mut bytes);
    // 64 random bits make the bias of the remainder negligible.
    (u64::from_le_bytes(bytes) % u64::from(bound.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_knows_every_built_in_plugin() {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name()).collect();
        let mut known = crate::config::objects::BUILT_IN_PLUGINS.to_vec();
        known.sort_unstable();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(known, sorted);
    }
}
