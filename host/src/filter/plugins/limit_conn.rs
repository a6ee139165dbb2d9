//! `limit-conn`: so many requests, or connections of a stream route, at once.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::key::{KeyBuffer, KeyType, LimitKey, check_policy};
use super::limit_count::{Refusal, RefusalFields};
use super::limit_req::keys_max;
use crate::filter::build::{BuildContext, Built, ChainKind, FieldError, fields, within};
use crate::filter::chain::Step;
use crate::filter::exchange::{ConnectionScope, Exchange};
use crate::filter::verdict::ConnectionVerdict;
use crate::message::{Stage, Subject};
use crate::rate::{Concurrency, ConcurrencyRule};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    conn: u32,
    burst: u32,
    default_conn_delay: f64,
    #[serde(default)]
    only_use_default_delay: bool,
    key: String,
    #[serde(default)]
    key_type: KeyType,
    #[serde(default, rename = "policy")]
    _policy: Option<String>,
    #[serde(default)]
    rejected_code: Option<u16>,
    #[serde(default)]
    rejected_msg: Option<String>,
    #[serde(default)]
    allow_degradation: bool,
    #[serde(default)]
    keys_max: Option<u32>,
}

#[derive(Debug)]
pub(in crate::filter) struct LimitConn {
    key: LimitKey,
    limit: Arc<Concurrency>,
    refusal: Refusal,
}

impl LimitConn {
    pub(super) fn build(config: &Value, context: &BuildContext<'_>, same: Option<&Self>) -> Built<Self> {
        check_policy(config)?;
        let fields: Fields = fields(config)?;
        within("conn", fields.conn, 1, u32::MAX / 2)?;
        within("burst", fields.burst, 0, u32::MAX / 2)?;
        if !(fields.default_conn_delay > 0.0 && fields.default_conn_delay <= 60.0) {
            let message = "must be more than 0 and at most 60 seconds";
            return Err(FieldError::with("default_conn_delay", fields.default_conn_delay, message));
        }
        let keys_max = keys_max(fields.keys_max)?;
        let stage = match context.kind {
            ChainKind::Http | ChainKind::Global | ChainKind::Consumer => Stage::Request,
            ChainKind::Frames | ChainKind::Stream => Stage::Connection,
        };
        let key = LimitKey::parse("key", &fields.key, fields.key_type, stage, context)?;
        let refusal = Refusal::new(
            RefusalFields {
                code: fields.rejected_code,
                message: fields.rejected_msg,
                on_frame: None,
                allow_degradation: fields.allow_degradation,
            },
            context,
        )?;
        let rule = ConcurrencyRule {
            most: fields.conn,
            burst: fields.burst,
            default_delay: Duration::from_secs_f64(fields.default_conn_delay),
            // A connection's life says nothing about when the next one may come.
            adapts: !fields.only_use_default_delay && stage == Stage::Request,
        };
        let limit = match same {
            Some(same) => Arc::clone(&same.limit),
            None => Arc::new(Concurrency::new(rule, keys_max)),
        };
        Ok(Self { key, limit, refusal })
    }

    pub(super) fn needs_body(&self) -> bool {
        self.key.needs_body()
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let mut key = KeyBuffer::new();
        self.key.fill(&exchange.subject(), &mut key);
        match self.limit.enter(&key) {
            Some((slot, wait)) => {
                exchange.slots.push(slot);
                Step::Wait(wait)
            }
            None => self.refusal.answer("concurrency_limited", None, exchange),
        }
    }

    pub(super) fn connection(&self, subject: &Subject<'_>, scope: &mut ConnectionScope) -> ConnectionVerdict {
        let mut key = KeyBuffer::new();
        self.key.fill(subject, &mut key);
        match self.limit.enter(&key) {
            Some((slot, wait)) => {
                scope.slots.push(slot);
                if wait.is_zero() { ConnectionVerdict::Continue } else { ConnectionVerdict::Delay(wait) }
            }
            None => ConnectionVerdict::Close("concurrency_limited"),
        }
    }
}
