//! What the plugins that ask who sends a request have in common.

use bytes::Bytes;

use crate::filter::build::{Built, FieldError};
use crate::filter::chain::Step;
use crate::filter::consumers::Grant;
use crate::filter::exchange::Exchange;
use crate::filter::verdict::LocalResponse;
use crate::message::{Name, ResponseHead};

/// Fields the origin learns of the consumer by.
const USERNAME: &str = "X-Consumer-Username";
const CREDENTIAL: &str = "X-Credential-Identifier";
const CUSTOM_ID: &str = "X-Consumer-Custom-ID";

/// What happens to a request that shows nothing or the wrong thing.
#[derive(Debug)]
pub(super) struct Refusal {
    anonymous: Option<Box<str>>,
    challenge: Box<str>,
}

impl Refusal {
    pub(super) fn new(
        anonymous: Option<String>,
        scheme: &str,
        realm: Option<String>,
        own: &str,
    ) -> Built<Self> {
        let realm = realm.unwrap_or_else(|| own.to_owned());
        let is_fine = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\' || c == ' ';
        if realm.is_empty() || realm.len() > 128 || !realm.chars().all(is_fine) {
            let message = "must be 1 to 128 visible ASCII characters without quotes";
            return Err(FieldError::with("realm", realm, message));
        }
        Ok(Self {
            anonymous: anonymous.map(Into::into),
            challenge: format!("{scheme} realm=\"{realm}\"").into(),
        })
    }

    /// Lets the request go on as the anonymous consumer's, or answers 401.
    pub(super) fn step(&self, exchange: &mut Exchange, reason: &'static str, message: &str) -> Step {
        let anonymous = self.anonymous.as_deref();
        let grant = anonymous.and_then(|name| exchange.consumers.as_ref()?.named(name).cloned());
        if let Some(grant) = grant {
            return admit(exchange, grant);
        }
        let id = exchange.request_id.get();
        let body = serde_json::json!({"message": message, "error_msg": message, "request_id": id});
        let head = ResponseHead::new(401)
            .with("Content-Type", "application/json")
            .with("WWW-Authenticate", &self.challenge);
        let body = Bytes::from(body.to_string() + "\n");
        Step::Respond(Box::new(LocalResponse { head, body, reason }))
    }
}

/// Notes who sends the request, and tells the origin; whatever the client itself
/// said of that is taken out.
pub(super) fn admit(exchange: &mut Exchange, grant: Grant) -> Step {
    let fields = &mut exchange.request.fields;
    fields.set(USERNAME.as_bytes(), grant.consumer.name.as_bytes());
    for (name, value) in
        [(CREDENTIAL, grant.credential.as_deref()), (CUSTOM_ID, grant.consumer.custom_id.as_deref())]
    {
        match value {
            Some(value) => fields.set(name.as_bytes(), value.as_bytes()),
            None => {
                fields.remove(name.as_bytes());
            }
        }
    }
    exchange.consumer = Some(grant);
    Step::Next
}

/// The argument of this name, decoded.
pub(super) fn argument(exchange: &Exchange, name: &str) -> Option<Vec<u8>> {
    use crate::message::Variable;
    Variable::Arg(name.into()).read(&exchange.subject()).map(|value| value.to_vec())
}

/// Takes an argument out of the query.
pub(super) fn hide_argument(exchange: &mut Exchange, name: &str) {
    let Some(query) = exchange.request.query() else { return };
    let is_other = |pair: &&str| {
        let key = pair.split('=').next().unwrap_or_default().replace('+', " ");
        *percent_encoding::percent_decode_str(&key).decode_utf8_lossy() != *name
    };
    let rest = query.split('&').filter(is_other).collect::<Vec<_>>().join("&");
    exchange.request.set_query((!rest.is_empty()).then_some(rest.as_str()));
}

/// Takes a cookie out.
pub(super) fn hide_cookie(exchange: &mut Exchange, name: &str) {
    let fields = &mut exchange.request.fields;
    let is_other = |pair: &&[u8]| {
        let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        key.trim_ascii() != name.as_bytes()
    };
    let rest: Vec<&[u8]> = fields
        .values(Name::Cookie)
        .flat_map(|value| value.split(|byte| *byte == b';'))
        .filter(is_other)
        .map(<[u8]>::trim_ascii)
        .collect();
    let rest = rest.join(&b"; "[..]);
    if rest.is_empty() {
        fields.remove(b"Cookie");
    } else {
        fields.set(b"Cookie", &rest);
    }
}
