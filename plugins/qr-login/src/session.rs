//! Sessions: `USER.EXPIRES.SIGNATURE`, each in base64 for URLs without padding;
//! the signature is HMAC-SHA256 over what is before it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// A session of a user, until `expires`, in seconds since 1970.
pub(crate) fn sign(key: &[u8], user: &str, expires: u64) -> String {
    let claims = format!("{}.{}", URL_SAFE_NO_PAD.encode(user), URL_SAFE_NO_PAD.encode(expires.to_string()));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(claims.as_bytes());
    format!("{claims}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}
