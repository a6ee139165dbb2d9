//! `jwt-auth`: a consumer by a token it signed, in a header, an argument or a
//! cookie.

use serde::Deserialize;
use serde_json::Value;

use super::auth::{self, Refusal};
use super::headers::check_name;
use crate::filter::build::{BuildContext, Built, FieldError, fields};
use crate::filter::chain::Step;
use crate::filter::consumers::TokenError;
use crate::filter::exchange::Exchange;
use crate::message::Variable;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default = "authorization")]
    header: String,
    #[serde(default = "jwt")]
    query: String,
    #[serde(default = "jwt")]
    cookie: String,
    #[serde(default)]
    hide_credentials: bool,
    #[serde(default = "key")]
    key_claim_name: String,
    #[serde(default)]
    anonymous_consumer: Option<String>,
    #[serde(default)]
    realm: Option<String>,
}

fn authorization() -> String {
    "authorization".to_owned()
}

fn jwt() -> String {
    "jwt".to_owned()
}

fn key() -> String {
    "key".to_owned()
}

#[derive(Debug)]
pub(in crate::filter) struct JwtAuth {
    header: Box<str>,
    query: Box<str>,
    cookie: Box<str>,
    claim: Box<str>,
    hides: bool,
    refusal: Refusal,
}

/// Where a token stood.
enum Place {
    Header,
    Query,
    Cookie,
}

impl JwtAuth {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let own: Fields = fields(config)?;
        check_name("header", &own.header)?;
        for (field, text) in
            [("query", &own.query), ("cookie", &own.cookie), ("key_claim_name", &own.key_claim_name)]
        {
            if text.is_empty() {
                return Err(FieldError::new(field, "must not be empty"));
            }
        }
        Ok(Self {
            header: own.header.into(),
            query: own.query.into(),
            cookie: own.cookie.into(),
            claim: own.key_claim_name.into(),
            hides: own.hide_credentials,
            refusal: Refusal::new(own.anonymous_consumer, "Bearer", own.realm, "jwt")?,
        })
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let Some((place, token)) = self.token(exchange) else {
            return self.refusal.step(exchange, "token_missing", "Missing JWT token in request");
        };
        if self.hides {
            self.hide(&place, exchange);
        }
        let found = match &exchange.consumers {
            Some(all) => all.by_token(&token, &self.claim).cloned(),
            None => Err(TokenError::UnknownKey),
        };
        match found {
            Ok(grant) => auth::admit(exchange, grant),
            Err(error) => {
                let (reason, message) = match error {
                    TokenError::Malformed => ("token_malformed", "JWT token invalid"),
                    TokenError::NoKey => ("token_key_missing", "missing user key in JWT token"),
                    TokenError::UnknownKey => ("token_key_unknown", "Invalid user key in JWT token"),
                    TokenError::NotVerified => ("token_invalid", "failed to verify jwt"),
                };
                self.refusal.step(exchange, reason, message)
            }
        }
    }

    fn token(&self, exchange: &Exchange) -> Option<(Place, Vec<u8>)> {
        if let Some(value) = exchange.request.fields.value_of(self.header.as_bytes()) {
            let bare = match value.split_at_checked(7) {
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest,
                _ => value,
            };
            return Some((Place::Header, bare.trim_ascii().to_vec()));
        }
        if let Some(token) = auth::argument(exchange, &self.query) {
            return Some((Place::Query, token));
        }
        let cookie = Variable::Cookie(self.cookie.clone());
        let token = cookie.read(&exchange.subject()).map(|value| value.to_vec())?;
        Some((Place::Cookie, token))
    }

    fn hide(&self, place: &Place, exchange: &mut Exchange) {
        match place {
            Place::Header => {
                exchange.request.fields.remove(self.header.as_bytes());
            }
            Place::Query => auth::hide_argument(exchange, &self.query),
            Place::Cookie => auth::hide_cookie(exchange, &self.cookie),
        }
    }
}
