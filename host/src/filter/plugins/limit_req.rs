//! `limit-req`: a leaky bucket for each key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::key::{KeyBuffer, KeyType, LimitKey, check_policy};
use super::limit_count::{OnReject, Refusal, RefusalFields};
use crate::filter::build::{BuildContext, Built, FieldError, fields, within};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::filter::verdict::FrameVerdict;
use crate::message::Subject;
use crate::rate::{KEYS_MAX_DEFAULT, LeakyBucket, LeakyRule, Overflow};

/// The longest delay a rate and burst may lead to, and the longest of a frame
/// that is delayed in place of being rejected.
const DELAY_MAX: Duration = Duration::from_secs(300);
const FRAME_DELAY_MAX: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    rate: f64,
    burst: f64,
    key: String,
    #[serde(default)]
    key_type: KeyType,
    #[serde(default)]
    nodelay: bool,
    #[serde(default, rename = "policy")]
    _policy: Option<String>,
    #[serde(default)]
    rejected_code: Option<u16>,
    #[serde(default)]
    rejected_msg: Option<String>,
    #[serde(default)]
    allow_degradation: bool,
    #[serde(default)]
    rejected: Option<OnReject>,
    #[serde(default)]
    keys_max: Option<u32>,
}

#[derive(Debug)]
pub(in crate::filter) struct LimitReq {
    key: LimitKey,
    bucket: Arc<LeakyBucket>,
    is_delayed: bool,
    refusal: Refusal,
}

impl LimitReq {
    pub(super) fn build(config: &Value, context: &BuildContext<'_>, same: Option<&Self>) -> Built<Self> {
        check_policy(config)?;
        let fields: Fields = fields(config)?;
        if !(fields.rate.is_finite() && fields.rate > 0.0) {
            return Err(FieldError::with("rate", fields.rate, "must be more than 0"));
        }
        if !(fields.burst.is_finite() && fields.burst >= 0.0) {
            return Err(FieldError::with("burst", fields.burst, "must be 0 or more"));
        }
        if !fields.nodelay && fields.burst / fields.rate > DELAY_MAX.as_secs_f64() {
            let message = "delays requests by more than 300 s at this rate; lower it or set nodelay";
            return Err(FieldError::with("burst", fields.burst, message));
        }
        let keys_max = keys_max(fields.keys_max)?;
        let key_field = LimitKey::parse("key", &fields.key, fields.key_type, context.stage(), context)?;
        let refusal = Refusal::new(
            RefusalFields {
                code: fields.rejected_code,
                message: fields.rejected_msg,
                on_frame: fields.rejected,
                allow_degradation: fields.allow_degradation,
            },
            context,
        )?;
        let rule = LeakyRule { rate: fields.rate, burst: fields.burst };
        let bucket = match same {
            Some(same) => Arc::clone(&same.bucket),
            None => Arc::new(LeakyBucket::new(rule, keys_max)),
        };
        Ok(Self { key: key_field, bucket, is_delayed: !fields.nodelay, refusal })
    }

    pub(super) fn needs_body(&self) -> bool {
        self.key.needs_body()
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let mut key = KeyBuffer::new();
        self.key.fill(&exchange.subject(), &mut key);
        match self.bucket.incoming(&key, Instant::now(), Overflow::Reject) {
            Ok(wait) if self.is_delayed => Step::Wait(wait),
            Ok(_) => Step::Next,
            Err(rejected) => self.refusal.answer("rate_limited", Some(rejected.retry_after), exchange),
        }
    }

    pub(super) fn frame(&self, subject: &Subject<'_>, now: Instant) -> FrameVerdict {
        let mut key = KeyBuffer::new();
        self.key.fill(subject, &mut key);
        let overflow = match self.refusal.on_frame {
            OnReject::Delay => Overflow::Delay(FRAME_DELAY_MAX),
            _ => Overflow::Reject,
        };
        match self.bucket.incoming(&key, now, overflow) {
            Ok(wait) if wait < Duration::from_millis(1) => FrameVerdict::Pass,
            Ok(wait) if self.is_delayed || self.refusal.on_frame == OnReject::Delay => {
                FrameVerdict::Delay(wait)
            }
            Ok(_) => FrameVerdict::Pass,
            Err(rejected) => self.refusal.frame("rate_limited", rejected.retry_after),
        }
    }
}

/// Checks `keys_max`.
pub(super) fn keys_max(value: Option<u32>) -> Built<usize> {
    let Some(value) = value else { return Ok(KEYS_MAX_DEFAULT) };
    within("keys_max", value, 1, 10_000_000)?;
    Ok(value as usize)
}
