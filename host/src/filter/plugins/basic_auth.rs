//! `basic-auth`: a consumer by its name and password (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::auth::{self, Refusal};
use crate::filter::build::{BuildContext, Built, fields};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    hide_credentials: bool,
    #[serde(default)]
    anonymous_consumer: Option<String>,
    #[serde(default)]
    realm: Option<String>,
}

#[derive(Debug)]
pub(in crate::filter) struct BasicAuth {
    hides: bool,
    refusal: Refusal,
}

impl BasicAuth {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let own: Fields = fields(config)?;
        let refusal = Refusal::new(own.anonymous_consumer, "Basic", own.realm, "basic")?;
        Ok(Self { hides: own.hide_credentials, refusal })
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let Some(value) = exchange.request.fields.value_of(b"Authorization") else {
            return self.refusal.step(exchange, "authorization_missing", "Missing authorization in request");
        };
        let Some((user, password)) = decoded(value) else {
            return self.refusal.step(exchange, "authorization_invalid", "Invalid authorization in request");
        };
        let found = exchange.consumers.as_ref().and_then(|all| all.by_password(&user, &password)).cloned();
        let Some(grant) = found else {
            return self.refusal.step(exchange, "user_invalid", "Invalid user authorization");
        };
        if self.hides {
            exchange.request.fields.remove(b"Authorization");
        }
        auth::admit(exchange, grant)
    }
}

/// Name and password; the password may have colons.
fn decoded(value: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut user = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = user.iter().position(|byte| *byte == b':')?;
    let password = user.split_off(colon + 1);
    user.pop();
    Some((String::from_utf8(user).ok()?, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_are_read() {
        let fine = Some(("foo".to_owned(), b"bar:baz".to_vec()));
        assert_eq!(decoded(b"Basic Zm9vOmJhcjpiYXo="), fine);
        assert_eq!(decoded(b"basic  Zm9vOmJhcjpiYXo= "), fine);
        for bad in [&b"Basic"[..], b"Basic !", b"Basic Zm9v", b"Bearer Zm9vOmJhcg==", b"Basic /zph", b""] {
            assert_eq!(decoded(bad), None, "{bad:?}");
        }
    }
}
