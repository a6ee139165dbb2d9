//! Who sends a request: consumers, and finding them by what they show.
//!
//! Everything is resolved when the table is built: secrets are digests or
//! verifying keys, plugins are chains. Start at [`Consumers`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::Chain;
use super::build::{Built, FieldError, fields, within};
use crate::config::{Digest, Problem};

/// The longest token that is looked at, in bytes.
const TOKEN_MAX: usize = 16 << 10;
/// The most seconds a token may be used past its end: a year.
const GRACE_MAX: u64 = 365 * 24 * 3600;
/// Plugins by which consumers prove who they are.
const AUTH_PLUGINS: [&str; 3] = ["key-auth", "jwt-auth", "basic-auth"];

/// Whether a plugin is one by which consumers prove who they are.
pub fn is_auth_plugin(name: &str) -> bool {
    AUTH_PLUGINS.contains(&name)
}

/// A consumer as requests meet it.
#[derive(Debug)]
pub struct Consumer {
    /// Its name.
    pub name: Box<str>,
    /// The group it belongs to; empty when it has none.
    pub group: Box<str>,
    /// Its label `custom_id`.
    pub custom_id: Option<Box<str>>,
    /// The plugins that run for its requests, its group's included.
    pub chain: Option<Arc<Chain>>,
}

/// A consumer, and by which of its credentials it came.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Who.
    pub consumer: Arc<Consumer>,
    /// The credential's id; `None` for what stands in the consumer itself.
    pub credential: Option<Arc<str>>,
}

/// All consumers, by what they show.
#[derive(Debug, Default)]
pub struct Consumers {
    names: HashMap<Box<str>, Grant>,
    keys: HashMap<Digest, Grant>,
    tokens: HashMap<Box<str>, (Verifier, Grant)>,
    users: HashMap<Box<str>, (Digest, Grant)>,
}

/// What a consumer shows by one plugin, its secrets resolved. Shows none of them.
#[derive(Debug, Clone)]
pub struct Proof(Shown);

#[derive(Clone)]
enum Shown {
    Key(Digest),
    Token(Box<str>, Verifier),
    User(Box<str>, Digest),
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(_) => f.write_str("Key"),
            Self::Token(key, _) => f.debug_tuple("Token").field(key).finish(),
            Self::User(name, _) => f.debug_tuple("User").field(name).finish(),
        }
    }
}

/// Tells whether a token was signed for a consumer.
#[derive(Clone)]
struct Verifier {
    key: Arc<DecodingKey>,
    validation: Arc<Validation>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("algorithms", &self.validation.algorithms).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFields {
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BasicFields {
    username: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFields {
    key: String,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    public_key: Option<String>,
    /// Used by older APISIX to sign; not needed to verify.
    #[serde(default, rename = "private_key")]
    _private_key: Option<String>,
    #[serde(default = "default_algorithm")]
    algorithm: String,
    /// The lifetime of tokens that older APISIX signed.
    #[serde(default, rename = "exp")]
    _exp: Option<u64>,
    #[serde(default)]
    base64_secret: bool,
    #[serde(default)]
    lifetime_grace_period: u64,
}

fn default_algorithm() -> String {
    "HS256".to_owned()
}

impl Proof {
    /// Reads what a consumer says under an auth plugin.
    ///
    /// # Errors
    /// The field at fault below the plugin; never a secret's value.
    pub fn parse(plugin: &str, config: &Value) -> Result<Self, Problem> {
        let built = match plugin {
            "key-auth" => key(config),
            "basic-auth" => user(config),
            "jwt-auth" => token(config),
            _ => Err(FieldError::new("", "is no plugin by which consumers prove who they are")),
        };
        built.map(Self).map_err(|mut error| {
            // What the parser says of a wrong type has the value in it.
            if error.message.starts_with("invalid ") {
                error.message = "has the wrong type".to_owned();
            }
            let dot = if error.field.is_empty() { "" } else { "." };
            let field = format!("plugins.{plugin}{dot}{}", error.field);
            Problem { field, message: error.message, value: None }
        })
    }
}

fn key(config: &Value) -> Built<Shown> {
    let KeyFields { key } = fields(config)?;
    not_empty("key", &key)?;
    Ok(Shown::Key(Digest::of(key.as_bytes())))
}

fn user(config: &Value) -> Built<Shown> {
    let BasicFields { username, password } = fields(config)?;
    not_empty("username", &username)?;
    if username.contains(':') {
        return Err(FieldError::new("username", "must not have a ':'"));
    }
    Ok(Shown::User(username.into(), Digest::of(password.as_bytes())))
}

fn token(config: &Value) -> Built<Shown> {
    let own: TokenFields = fields(config)?;
    not_empty("key", &own.key)?;
    let algorithm: Algorithm = own.algorithm.parse().map_err(|_| {
        let known = "HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA";
        FieldError::with("algorithm", own.algorithm.as_str(), format_args!("must be {known}"))
    })?;
    let decoding = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            let secret =
                own.secret.ok_or_else(|| FieldError::new("secret", "is needed for this algorithm"))?;
            not_empty("secret", &secret)?;
            let bytes = if own.base64_secret {
                STANDARD.decode(&secret).map_err(|_| FieldError::new("secret", "is not base64 text"))?
            } else {
                secret.into_bytes()
            };
            DecodingKey::from_secret(&bytes)
        }
        _ => {
            let message = "is needed for this algorithm";
            let pem = own.public_key.ok_or_else(|| FieldError::new("public_key", message))?;
            public_key(algorithm, pem.as_bytes())?
        }
    };
    within("lifetime_grace_period", own.lifetime_grace_period, 0, GRACE_MAX)?;
    let mut validation = Validation::new(algorithm);
    // Claims about time count where a token has them, as in APISIX.
    validation.required_spec_claims.clear();
    validation.validate_nbf = true;
    validation.validate_aud = false;
    validation.leeway = own.lifetime_grace_period;
    let verifier = Verifier { key: Arc::new(decoding), validation: Arc::new(validation) };
    Ok(Shown::Token(own.key.into(), verifier))
}

fn public_key(algorithm: Algorithm, pem: &[u8]) -> Built<DecodingKey> {
    let key = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(pem),
        _ => DecodingKey::from_rsa_pem(pem),
    };
    key.map_err(|_| {
        FieldError::new("public_key", format_args!("is no public key in PEM form for {algorithm:?}"))
    })
}

fn not_empty(field: &str, text: &str) -> Built<()> {
    if text.is_empty() { Err(FieldError::new(field, "must not be empty")) } else { Ok(()) }
}

impl Consumers {
    /// Takes in a consumer.
    pub fn add(&mut self, consumer: &Arc<Consumer>) {
        let grant = Grant { consumer: Arc::clone(consumer), credential: None };
        self.names.insert(consumer.name.clone(), grant);
    }

    /// Takes in what a consumer shows.
    ///
    /// # Errors
    /// The name of the consumer that shows the same already.
    pub fn allow(&mut self, proof: &Proof, grant: Grant) -> Result<(), Box<str>> {
        let taken = |other: &Grant| Err(other.consumer.name.clone());
        match &proof.0 {
            Shown::Key(digest) => match self.keys.get(digest) {
                Some(other) => taken(other),
                None => {
                    self.keys.insert(*digest, grant);
                    Ok(())
                }
            },
            Shown::Token(key, verifier) => match self.tokens.get(key) {
                Some((_, other)) => taken(other),
                None => {
                    self.tokens.insert(key.clone(), (verifier.clone(), grant));
                    Ok(())
                }
            },
            Shown::User(name, digest) => match self.users.get(name) {
                Some((_, other)) => taken(other),
                None => {
                    self.users.insert(name.clone(), (*digest, grant));
                    Ok(())
                }
            },
        }
    }

    /// Who shows this already.
    #[must_use]
    pub fn holder(&self, proof: &Proof) -> Option<&Grant> {
        match &proof.0 {
            Shown::Key(digest) => self.keys.get(digest),
            Shown::Token(key, _) => self.tokens.get(key).map(|(_, grant)| grant),
            Shown::User(name, _) => self.users.get(name).map(|(_, grant)| grant),
        }
    }

    /// A consumer by its name, for requests that show nothing.
    pub(super) fn named(&self, name: &str) -> Option<&Grant> {
        self.names.get(name)
    }

    /// Who shows this key. Looked up by its digest, so that the time tells
    /// nothing about keys there are.
    pub(super) fn by_key(&self, key: &[u8]) -> Option<&Grant> {
        self.keys.get(&Digest::of(key))
    }

    /// Who has this name and password.
    pub(super) fn by_password(&self, user: &str, password: &[u8]) -> Option<&Grant> {
        let shown = Digest::of(password);
        let found = self.users.get(user);
        // A name that is not there costs the same.
        let wanted = found.map_or(&shown, |(digest, _)| digest);
        let is_same = verify_slices_are_equal(wanted.bytes(), shown.bytes()).is_ok();
        found.filter(|_| is_same).map(|(_, grant)| grant)
    }

    /// Who signed this token; the claim `claim` names the key.
    pub(super) fn by_token(&self, token: &[u8], claim: &str) -> Result<&Grant, TokenError> {
        if token.len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        // Only to learn whose key is to verify it; nothing is believed yet.
        let claims = jsonwebtoken::dangerous::insecure_decode::<HashMap<String, Value>>(token);
        let claims = claims.map_err(|_| TokenError::Malformed)?.claims;
        let key = claims.get(claim).and_then(Value::as_str).ok_or(TokenError::NoKey)?;
        let (verifier, grant) = self.tokens.get(key).ok_or(TokenError::UnknownKey)?;
        jsonwebtoken::decode::<HashMap<String, Value>>(token, &verifier.key, &verifier.validation)
            .map_err(|_| TokenError::NotVerified)?;
        Ok(grant)
    }
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenError {
    Malformed,
    NoKey,
    UnknownKey,
    NotVerified,
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;

    fn grant(name: &str) -> Grant {
        let consumer = Consumer { name: name.into(), group: "".into(), custom_id: None, chain: None };
        Grant { consumer: Arc::new(consumer), credential: None }
    }

    fn with(proofs: &[(&str, &str, Value)]) -> Consumers {
        let mut all = Consumers::default();
        for (name, plugin, config) in proofs {
            all.allow(&Proof::parse(plugin, config).unwrap(), grant(name)).unwrap();
        }
        all
    }

    fn name(found: Option<&Grant>) -> Option<&str> {
        found.map(|grant| &*grant.consumer.name)
    }

    #[test]
    fn a_consumer_is_found_by_what_it_shows_and_by_nothing_else() {
        let all = with(&[
            ("jack", "key-auth", json!({"key": "k-1"})),
            ("rose", "basic-auth", json!({"username": "rose", "password": "p:w"})),
        ]);
        assert_eq!(name(all.by_key(b"k-1")), Some("jack"));
        assert_eq!(name(all.by_key(b"k-2")), None);
        assert_eq!(name(all.by_password("rose", b"p:w")), Some("rose"));
        assert_eq!(name(all.by_password("rose", b"p")), None);
        assert_eq!(name(all.by_password("nobody", b"p:w")), None);
    }

    #[test]
    fn the_same_is_not_shown_by_two() {
        let mut all = with(&[("jack", "key-auth", json!({"key": "k-1"}))]);
        let proof = Proof::parse("key-auth", &json!({"key": "k-1"})).unwrap();
        assert_eq!(all.allow(&proof, grant("rose")), Err("jack".into()));
    }

    fn signed(secret: &[u8], claims: Value) -> String {
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    #[test]
    fn a_token_counts_when_its_key_signed_it_and_its_time_is_right() {
        let all = with(&[
            ("jack", "jwt-auth", json!({"key": "user-key", "secret": "my-secret"})),
            ("rose", "jwt-auth", json!({"key": "b64", "secret": "bXktc2VjcmV0", "base64_secret": true})),
        ]);
        let outcome =
            |token: &str| all.by_token(token.as_bytes(), "key").map(|grant| grant.consumer.name.to_string());
        let now = jsonwebtoken::get_current_timestamp();
        assert_eq!(outcome(&signed(b"my-secret", json!({"key": "user-key"}))), Ok("jack".into()));
        assert_eq!(outcome(&signed(b"my-secret", json!({"key": "b64", "exp": now + 60}))), Ok("rose".into()));
        for (token, error) in [
            (signed(b"other", json!({"key": "user-key"})), TokenError::NotVerified),
            (signed(b"my-secret", json!({"key": "user-key", "exp": now - 10})), TokenError::NotVerified),
            (signed(b"my-secret", json!({"key": "user-key", "nbf": now + 60})), TokenError::NotVerified),
            (signed(b"my-secret", json!({"key": "user-key", "exp": "soon"})), TokenError::NotVerified),
            (signed(b"my-secret", json!({"key": "nobody"})), TokenError::UnknownKey),
            (signed(b"my-secret", json!({"sub": "user-key"})), TokenError::NoKey),
            ("a.b.c".to_owned(), TokenError::Malformed),
            ("no token".to_owned(), TokenError::Malformed),
            ("x".repeat(TOKEN_MAX + 1), TokenError::Malformed),
        ] {
            assert_eq!(outcome(&token), Err(error), "{token}");
        }
        // A token that says it needs no signature, or is signed by another algorithm.
        let none = "eyJhbGciOiJub25lIn0.eyJrZXkiOiJ1c2VyLWtleSJ9.";
        assert_eq!(outcome(none), Err(TokenError::Malformed));
        let header = Header::new(Algorithm::HS512);
        let other = jsonwebtoken::encode(
            &header,
            &json!({"key": "user-key"}),
            &EncodingKey::from_secret(b"my-secret"),
        );
        assert_eq!(outcome(&other.unwrap()), Err(TokenError::NotVerified));
    }

    #[test]
    fn faults_name_the_field_and_never_the_secret() {
        for (plugin, config, field) in [
            ("key-auth", json!({"key": ""}), "plugins.key-auth.key"),
            ("key-auth", json!({"key": 987_654}), "plugins.key-auth.key"),
            ("key-auth", json!({"kee": "987654"}), "plugins.key-auth"),
            ("basic-auth", json!({"username": "a:b", "password": "987654"}), "plugins.basic-auth.username"),
            ("basic-auth", json!({"username": "a", "password": 987_654}), "plugins.basic-auth.password"),
            ("jwt-auth", json!({"key": "k"}), "plugins.jwt-auth.secret"),
            (
                "jwt-auth",
                json!({"key": "k", "secret": "987654", "algorithm": "none"}),
                "plugins.jwt-auth.algorithm",
            ),
            (
                "jwt-auth",
                json!({"key": "k", "secret": "98765!", "base64_secret": true}),
                "plugins.jwt-auth.secret",
            ),
            (
                "jwt-auth",
                json!({"key": "k", "algorithm": "RS256", "public_key": "987654"}),
                "plugins.jwt-auth.public_key",
            ),
        ] {
            let problem = Proof::parse(plugin, &config).unwrap_err();
            assert!(problem.field.starts_with(field), "{problem}");
            assert!(!problem.to_string().contains("98765"), "{problem}");
        }
    }
}
