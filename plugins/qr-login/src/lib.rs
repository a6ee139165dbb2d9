//! Logs a browser in by a phone that is logged in already.
//!
//! ```text
//! browser   POST /start          token, picture of the QR code, secret in a cookie
//! phone     reads the picture, confirms over its own channel
//! service   POST /confirm        the token and who the phone is, with the key
//! browser   GET /poll?token=     202 while nobody confirmed, then the session, once
//! ```
//!
//! A token is of use to nobody but the browser that asked: the session is given
//! against its cookie alone, which is in no picture. It expires, and it is taken
//! away before the session is given, so that two polls at once give one session.
//! `/confirm` is for the service that authenticated the phone; it shows a key no
//! browser has.

mod session;
mod store;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use qrcode::QrCode;
use qrcode::render::svg;
use serde_json::json;
use sha2::{Digest, Sha256};
use sluice_sdk::clock;
use sluice_sdk::prelude::*;
use subtle::ConstantTimeEq;

use store::{Login, State, Store};

/// The cookie of the browser's secret. The prefix keeps other hosts and plain
/// HTTP from setting it.
const COOKIE: &str = "__Host-qr-login";
/// Bytes of chance in a token and in a secret.
const RANDOM: usize = 32;
/// The longest name of a user, in bytes.
const USER_MAX: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What the picture says, before the token: a page of the phone's program.
    url: String,
    /// What `/confirm` must show as `authorization: Bearer KEY`; 32 bytes or more.
    confirm_key: String,
    /// What sessions are signed with; 32 bytes or more, known to who checks them.
    session_key: String,
    /// Seconds in which a token must be confirmed and fetched.
    #[serde(default = "token_ttl")]
    token_ttl: u32,
    /// Seconds a session holds.
    #[serde(default = "session_ttl")]
    session_ttl: u32,
    /// The namespace of tokens, one of the module's `grants.kv`.
    #[serde(default = "namespace")]
    namespace: String,
    /// Whether all nodes share the tokens, through the store; else each node has
    /// its own.
    #[serde(default)]
    shared: bool,
}

fn token_ttl() -> u32 {
    120
}

fn session_ttl() -> u32 {
    7 * 24 * 60 * 60
}

fn namespace() -> String {
    "qr-login".to_owned()
}

/// The shortest key, in bytes.
const KEY_MIN: usize = 32;

struct QrLogin {
    config: Config,
    store: Store,
}

impl Plugin for QrLogin {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        for (field, key) in [("confirm_key", &config.confirm_key), ("session_key", &config.session_key)] {
            if key.len() < KEY_MIN {
                let shown = format!("{} bytes", key.len());
                return Err(ConfigError::new(field, shown, format_args!("at least {KEY_MIN} bytes")));
            }
        }
        for (field, seconds) in [("token_ttl", config.token_ttl), ("session_ttl", config.session_ttl)] {
            if seconds == 0 {
                return Err(ConfigError::new(field, 0, "at least one second"));
            }
        }
        let store = Store::new(&config.namespace, config.shared);
        Ok(Self { config, store })
    }

    fn interest(&self) -> Interest {
        Interest::new()
    }
}

impl Function for QrLogin {
    fn handle(&mut self, request: Request) -> Response {
        let step = request.path().rsplit('/').next().unwrap_or_default().to_owned();
        let answer = match (&*request.method, &*step) {
            ("POST", "start") => self.start(),
            ("GET", "poll") => self.poll(&request),
            ("POST", "confirm") => self.confirm(&request),
            (_, "start" | "confirm") => Ok(Response::new(405).header("allow", "POST")),
            (_, "poll") => Ok(Response::new(405).header("allow", "GET")),
            _ => Ok(problem(404, "there are start, poll and confirm")),
        };
        let response = answer.unwrap_or_else(|error| {
            sluice_sdk::error!("namespace {}: {error}", self.config.namespace);
            problem(503, "logins are not kept at the moment")
        });
        // What is said here is for one browser and one moment.
        response.header("cache-control", "no-store")
    }

    fn body_max(&self) -> usize {
        4096
    }
}

impl QrLogin {
    /// A token for a browser, and its secret.
    fn start(&self) -> Result<Response, store::Error> {
        let token = URL_SAFE_NO_PAD.encode(clock::random(RANDOM));
        let secret = URL_SAFE_NO_PAD.encode(clock::random(RANDOM));
        let login = Login { browser: hash(&secret), state: State::Waiting };
        self.store.begin(&token, &login, self.token_ttl())?;
        let url = format!("{}{token}", self.config.url);
        let Ok(code) = QrCode::new(&url) else {
            return Ok(problem(500, "the configured url is too long for a QR code"));
        };
        let picture = code.render::<svg::Color<'_>>().min_dimensions(240, 240).build();
        sluice_sdk::metrics::add("started", 1);
        let ttl = self.config.token_ttl;
        let cookie = format!("{COOKIE}={secret}; Path=/; Max-Age={ttl}; Secure; HttpOnly; SameSite=Strict");
        Ok(Response::new(200)
            .header("set-cookie", cookie)
            .json(&json!({"token": token, "url": url, "picture": picture, "expires_in": ttl})))
    }

    /// The browser asks whether the phone confirmed.
    fn poll(&self, request: &Request) -> Result<Response, store::Error> {
        let (Some(token), Some(secret)) = (request.parameter("token"), request.cookie(COOKIE)) else {
            return Ok(problem(400, "poll?token=TOKEN, with the cookie that came with it"));
        };
        let Some(found) = self.store.find(&token)? else { return Ok(gone()) };
        if !bool::from(hash(secret).as_bytes().ct_eq(found.login.browser.as_bytes())) {
            sluice_sdk::metrics::add("other_browser", 1);
            // The same words as for no token: nobody learns which tokens there are.
            return Ok(gone());
        }
        let user = match &found.login.state {
            State::Waiting => return Ok(Response::new(202).json(&json!({"state": "waiting"}))),
            State::Taken => return Ok(gone()),
            State::Confirmed(user) => user,
        };
        // Whoever changes the state first has the session.
        let taken = Login { browser: found.login.browser.clone(), state: State::Taken };
        if !self.store.replace(&token, &found, &taken, self.token_ttl())? {
            return Ok(gone());
        }
        let expires = clock::now().as_secs() + u64::from(self.config.session_ttl);
        let session = session::sign(self.config.session_key.as_bytes(), user, expires);
        sluice_sdk::metrics::add("sessions", 1);
        Ok(Response::new(200)
            .header("set-cookie", format!("{COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict"))
            .json(&json!({"state": "confirmed", "user": user, "session": session, "expires": expires})))
    }

    /// The service that authenticated the phone says who it is.
    fn confirm(&self, request: &Request) -> Result<Response, store::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            token: String,
            user: String,
        }
        let key =
            request.field("authorization").and_then(|field| field.strip_prefix("Bearer ")).unwrap_or("");
        // Hashes have one length, so the time says nothing of the key.
        if !bool::from(hash(key).as_bytes().ct_eq(hash(&self.config.confirm_key).as_bytes())) {
            sluice_sdk::metrics::add("bad_key", 1);
            return Ok(problem(401, "this is for the service that knows the phone"));
        }
        let body: Body = match serde_json::from_slice(&request.body) {
            Ok(body) => body,
            Err(error) => return Ok(problem(400, &error.to_string())),
        };
        if body.user.is_empty() || body.user.len() > USER_MAX {
            return Ok(problem(400, "user: from 1 to 128 bytes"));
        }
        let Some(found) = self.store.find(&body.token)? else { return Ok(gone()) };
        let confirmed = Login { browser: found.login.browser.clone(), state: State::Confirmed(body.user) };
        let is_waiting = matches!(found.login.state, State::Waiting);
        if !is_waiting || !self.store.replace(&body.token, &found, &confirmed, self.token_ttl())? {
            return Ok(problem(409, "the token was confirmed before"));
        }
        Ok(Response::new(204))
    }

    fn token_ttl(&self) -> Duration {
        Duration::from_secs(self.config.token_ttl.into())
    }
}

fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()))
}

fn gone() -> Response {
    problem(410, "there is no such login, or it has ended")
}

fn problem(status: u16, message: &str) -> Response {
    Response::new(status).json(&json!({"error_msg": message}))
}

sluice_sdk::export!(QrLogin: Function);

#[cfg(test)]
mod tests;
