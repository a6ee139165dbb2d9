//! What the server has to do with `qr-login`: it checks the sessions browsers got
//! there, and tells it which logins phones confirmed.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::hub::refuse;
use crate::im_v1::{Error, ErrorCode};

/// How long `qr-login` may take to answer.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest token that is passed on, in bytes.
const TOKEN_MAX: usize = 64;
/// The longest session that is looked at, in bytes.
const SESSION_MAX: usize = 256;
/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 16 * 1024;

/// How `qr-login` is reached and trusted.
#[derive(Debug, Clone)]
pub struct QrOptions {
    /// Where it is, over plain HTTP on the services' own network.
    pub address: SocketAddr,
    /// Path of its step `confirm`.
    pub path: String,
    /// Its `confirm_key`.
    pub confirm_key: String,
    /// Its `session_key`.
    pub session_key: String,
}

impl QrOptions {
    /// Whether `token` is a session of this user that holds.
    pub(super) fn is_session_of(&self, token: &str, user: u32) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs());
        self.read_session(token, now) == Some(user)
    }

    /// The user of `USER.EXPIRES.SIGNATURE`, each in base64, unless it is none or
    /// has expired.
    fn read_session(&self, token: &str, now: u64) -> Option<u32> {
        if token.len() > SESSION_MAX {
            return None;
        }
        let (claims, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.session_key.as_bytes());
        hmac::verify(&key, claims.as_bytes(), &signature).ok()?;
        let (user, expires) = claims.split_once('.')?;
        let number = |text| String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok();
        let expires: u64 = number(expires)?.parse().ok()?;
        if expires <= now { None } else { number(user)?.parse().ok() }
    }

    /// Tells `qr-login` that this user lets the browser with `token` in.
    pub(super) async fn confirm(&self, token: &str, user: u32) -> Result<(), Error> {
        if token.is_empty() || token.len() > TOKEN_MAX {
            let text = format!("token: {} bytes; a code has 1 to {TOKEN_MAX}", token.len());
            return Err(refuse(ErrorCode::Invalid, text));
        }
        match timeout(CONFIRM_TIMEOUT, self.post(token, user)).await {
            Ok(Ok(200 | 204)) => Ok(()),
            Ok(Ok(409)) => Err(refuse(ErrorCode::Invalid, "token: this login was confirmed before")),
            Ok(Ok(410)) => {
                Err(refuse(ErrorCode::Invalid, "token: there is no such login, or it has expired"))
            }
            Ok(Ok(status)) => {
                Err(refuse(ErrorCode::Unavailable, format!("the login service answers with {status}")))
            }
            Ok(Err(error)) => {
                Err(refuse(ErrorCode::Unavailable, format!("the login service cannot be reached: {error}")))
            }
            Err(_) => Err(refuse(ErrorCode::Unavailable, "the login service does not answer")),
        }
    }

    /// One request on a connection of its own; gives the status.
    async fn post(&self, token: &str, user: u32) -> io::Result<u16> {
        let body = serde_json::json!({"token": token, "user": user.to_string()}).to_string();
        let Self { address, path, confirm_key, .. } = self;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {confirm_key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut fields);
        head.parse(&answer).map_err(io::Error::other)?;
        head.code.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> QrOptions {
        QrOptions {
            address: "127.0.0.1:1".parse().unwrap(),
            path: "/confirm".to_owned(),
            confirm_key: String::new(),
            session_key: "a key of at least thirty-two bytes".to_owned(),
        }
    }

    fn session(key: &str, user: &str, expires: &str) -> String {
        let claims = format!("{}.{}", URL_SAFE_NO_PAD.encode(user), URL_SAFE_NO_PAD.encode(expires));
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        format!("{claims}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, claims.as_bytes())))
    }

    #[test]
    fn a_session_is_good_until_it_expires_and_only_with_its_signature() {
        let own = options();
        let good = session(&own.session_key, "7", "1000");
        assert_eq!(own.read_session(&good, 999), Some(7));
        assert_eq!(own.read_session(&good, 1000), None, "expired");
        let (claims, signature) = good.rsplit_once('.').unwrap();
        let other = session(&own.session_key, "8", "1000");
        let forged = format!("{}.{signature}", other.rsplit_once('.').unwrap().0);
        let bad = [
            session("another key", "7", "1000"),
            forged,
            session(&own.session_key, "seven", "1000"),
            session(&own.session_key, "7", "soon"),
            claims.to_owned(),
            format!("{claims}."),
            "..".to_owned(),
            String::new(),
            "x".repeat(SESSION_MAX + 1),
        ];
        for text in bad {
            assert_eq!(own.read_session(&text, 0), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_login_service_that_is_not_there_is_told() {
        let error = options().confirm("token", 7).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unavailable);
        let error = options().confirm(&"x".repeat(65), 7).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Invalid);
    }
}
