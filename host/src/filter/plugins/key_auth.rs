//! `key-auth`: a consumer by its key, in a header or an argument.

use serde::Deserialize;
use serde_json::Value;

use super::auth::{self, Refusal};
use super::headers::check_name;
use crate::filter::build::{BuildContext, Built, FieldError, fields};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default = "apikey")]
    header: String,
    #[serde(default = "apikey")]
    query: String,
    #[serde(default)]
    hide_credentials: bool,
    #[serde(default)]
    anonymous_consumer: Option<String>,
    #[serde(default)]
    realm: Option<String>,
}

fn apikey() -> String {
    "apikey".to_owned()
}

#[derive(Debug)]
pub(in crate::filter) struct KeyAuth {
    header: Box<str>,
    query: Box<str>,
    hides: bool,
    refusal: Refusal,
}

impl KeyAuth {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let own: Fields = fields(config)?;
        check_name("header", &own.header)?;
        if own.query.is_empty() {
            return Err(FieldError::new("query", "must not be empty"));
        }
        Ok(Self {
            header: own.header.into(),
            query: own.query.into(),
            hides: own.hide_credentials,
            refusal: Refusal::new(own.anonymous_consumer, "apikey", own.realm, "key")?,
        })
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let header = exchange.request.fields.value_of(self.header.as_bytes()).map(<[u8]>::to_vec);
        let by_header = header.is_some();
        let Some(key) = header.or_else(|| auth::argument(exchange, &self.query)) else {
            return self.refusal.step(exchange, "key_missing", "Missing API key in request");
        };
        let found = exchange.consumers.as_ref().and_then(|all| all.by_key(&key)).cloned();
        let Some(grant) = found else {
            return self.refusal.step(exchange, "key_invalid", "Invalid API key in request");
        };
        if self.hides && by_header {
            exchange.request.fields.remove(self.header.as_bytes());
        } else if self.hides {
            auth::hide_argument(exchange, &self.query);
        }
        auth::admit(exchange, grant)
    }
}
