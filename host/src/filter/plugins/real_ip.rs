//! `real-ip`: takes the client's address from the request, when whoever sent
//! it is to be believed.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde_json::Value;

use crate::filter::build::{BuildContext, Built, FieldError, fields};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::message::{IpSet, Name, Stage, Variable};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    source: String,
    #[serde(default)]
    trusted_addresses: Option<Vec<String>>,
    #[serde(default)]
    recursive: bool,
}

#[derive(Debug)]
pub(in crate::filter) struct RealIp {
    source: Variable,
    is_forwarded_for: bool,
    trusted: Option<IpSet>,
    is_recursive: bool,
}

impl RealIp {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let fields: Fields = fields(config)?;
        let source = Variable::parse(&fields.source, Stage::Request)
            .map_err(|error| FieldError::with("source", fields.source.clone(), error))?;
        let trusted = match &fields.trusted_addresses {
            None => None,
            Some(list) if list.is_empty() => {
                return Err(FieldError::new("trusted_addresses", "must not be empty"));
            }
            Some(list) => {
                Some(IpSet::parse(list).map_err(|error| FieldError::new("trusted_addresses", error))?)
            }
        };
        let is_forwarded_for = fields.source.eq_ignore_ascii_case("http_x_forwarded_for");
        Ok(Self { source, is_forwarded_for, trusted, is_recursive: fields.recursive })
    }

    pub(super) fn needs_body(&self) -> bool {
        self.source.needs_body()
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let is_believed = match &self.trusted {
            Some(trusted) => trusted.contains(exchange.client_ip),
            None => exchange.hop_is_trusted,
        };
        if is_believed && let Some((ip, port)) = self.find(exchange) {
            (exchange.client_ip, exchange.client_port) = (ip, port);
        }
        Step::Next
    }

    fn find(&self, exchange: &Exchange) -> Option<(IpAddr, u16)> {
        if !self.is_forwarded_for {
            return parse(&self.source.read(&exchange.subject())?);
        }
        let fields: Vec<&[u8]> = exchange.request.fields.values(Name::XForwardedFor).collect();
        let mut hops = fields.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
        let mut last = parse(hops.next()?)?;
        if let (true, Some(trusted)) = (self.is_recursive, &self.trusted) {
            // From right to left, past those who are trusted; what cannot be
            // read ends the walk, for nothing beyond it can be believed.
            while trusted.contains(last.0) {
                let Some(next) = hops.next().and_then(parse) else { break };
                last = next;
            }
        }
        Some(last)
    }
}

/// An address, alone or with a port; the port is 0 when there is none.
fn parse(text: &[u8]) -> Option<(IpAddr, u16)> {
    let text = std::str::from_utf8(text).ok()?.trim();
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (address.port() != 0).then(|| (address.ip().to_canonical(), address.port()));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    Some((bare.parse::<IpAddr>().ok()?.to_canonical(), 0))
}
