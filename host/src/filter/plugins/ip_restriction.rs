//! `ip-restriction`: who may come in, by address.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::filter::build::{BuildContext, Built, FieldError, fields};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::filter::verdict::{ConnectionVerdict, LocalResponse};
use crate::message::{IpSet, Subject};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    whitelist: Option<Vec<String>>,
    #[serde(default)]
    blacklist: Option<Vec<String>>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    response_code: Option<u16>,
}

#[derive(Debug)]
pub(in crate::filter) struct IpRestriction {
    set: IpSet,
    is_whitelist: bool,
    message: Box<str>,
    code: u16,
}

impl IpRestriction {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let fields: Fields = fields(config)?;
        let (field, list, is_whitelist) = match (fields.whitelist, fields.blacklist) {
            (Some(list), None) => ("whitelist", list, true),
            (None, Some(list)) => ("blacklist", list, false),
            (None, None) => return Err(FieldError::new("", "needs whitelist or blacklist")),
            (Some(_), Some(_)) => {
                return Err(FieldError::new("blacklist", "cannot be combined with whitelist"));
            }
        };
        if list.is_empty() {
            return Err(FieldError::new(field, "must not be empty"));
        }
        let set = IpSet::parse(&list).map_err(|error| FieldError::new(field, error))?;
        let message = fields.message.unwrap_or_else(|| "Your IP address is not allowed".to_owned());
        if message.is_empty() || message.len() > 1024 {
            return Err(FieldError::with("message", message, "must have from 1 to 1024 bytes"));
        }
        let code = fields.response_code.unwrap_or(403);
        if !matches!(code, 403 | 404) {
            return Err(FieldError::with("response_code", code, "must be 403 or 404"));
        }
        Ok(Self { set, is_whitelist, message: message.into(), code })
    }

    fn admits(&self, ip: IpAddr) -> bool {
        self.set.contains(ip) == self.is_whitelist
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        if self.admits(exchange.client_ip) {
            return Step::Next;
        }
        let id = exchange.request_id.get();
        Step::Respond(Box::new(LocalResponse::error(self.code, "ip_denied", &self.message, id)))
    }

    pub(super) fn connection(&self, subject: &Subject<'_>) -> ConnectionVerdict {
        if self.admits(subject.client_ip) {
            ConnectionVerdict::Continue
        } else {
            ConnectionVerdict::Close("ip_denied")
        }
    }
}
