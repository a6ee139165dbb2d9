//! Ed25519 keys and signatures of modules.
//!
//! What is signed is the text of [`ModuleSignature::manifest`]. Public keys are
//! written `ed25519:<base64>`, private keys as PKCS #8 in PEM, as other tools
//! write and read them.
//!
//! [`ModuleSignature::manifest`]: super::objects::ModuleSignature::manifest

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MARK: &str = "ed25519:";
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Whether `signature` is this key's, of these bytes.
    #[must_use]
    pub fn verifies(&self, bytes: &[u8], signature: &SignatureBytes) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(bytes, &signature.0).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.strip_prefix(MARK).and_then(|base64| STANDARD.decode(base64).ok());
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("must be `ed25519:` and 32 bytes in base64")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The 64 bytes of a signature, written in base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignatureBytes([u8; 64]);

impl fmt::Display for SignatureBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for SignatureBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SignatureBytes {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SignatureBytes {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(input)?).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("must be 64 bytes in base64"))
    }
}

/// Why a private key cannot be used. Never holds any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// It is no PEM.
    #[error("is no private key in PEM (`sluice keygen --signing FILE` makes one)")]
    NotPem,
    /// It is another kind of key.
    #[error("is no Ed25519 private key")]
    NotEd25519,
    /// There is no randomness.
    #[error("cannot be made: the system gives no randomness")]
    NoRandomness,
}

/// A private key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, SigningKeyError> {
        let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new());
        let document = document.map_err(|_| SigningKeyError::NoRandomness)?;
        Self::from_pkcs8(document.as_ref())
    }

    fn from_pkcs8(bytes: &[u8]) -> Result<Self, SigningKeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes);
        Ok(Self { pair: pair.map_err(|_| SigningKeyError::NotEd25519)?, pkcs8: bytes.to_owned() })
    }

    /// Reads PKCS #8 in PEM.
    ///
    /// # Errors
    /// It is none, or of another kind of key.
    pub fn from_pem(text: &str) -> Result<Self, SigningKeyError> {
        let inner = text.split_once(PEM_BEGIN).and_then(|(_, rest)| rest.split_once(PEM_END));
        let (inner, _) = inner.ok_or(SigningKeyError::NotPem)?;
        let base64: String = inner.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let bytes = STANDARD.decode(base64).map_err(|_| SigningKeyError::NotPem)?;
        Self::from_pkcs8(&bytes)
    }

    /// The key as PKCS #8 in PEM: to be kept secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(&self.pkcs8))
    }

    /// Its public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs bytes.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> SignatureBytes {
        let mut own = [0; 64];
        own.copy_from_slice(self.pair.sign(bytes).as_ref());
        SignatureBytes(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_its_key_and_its_bytes() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let signature = key.sign(b"manifest");
        assert!(key.public().verifies(b"manifest", &signature));
        assert!(!key.public().verifies(b"manifesT", &signature));
        assert!(!other.public().verifies(b"manifest", &signature));
        let read: PublicKey = key.public().to_string().parse().unwrap();
        assert!(read.verifies(b"manifest", &signature));
    }

    #[test]
    fn a_private_key_reads_back_and_nothing_else_does() {
        let key = SigningKey::generate().unwrap();
        let pem = key.to_pem();
        assert_eq!(SigningKey::from_pem(&pem).unwrap().public(), key.public());
        assert!(!format!("{key:?}").contains(pem.lines().nth(1).unwrap()));
        for wrong in ["", "-----BEGIN PRIVATE KEY-----", &pem.replace('M', "?")] {
            assert_eq!(SigningKey::from_pem(wrong).unwrap_err(), SigningKeyError::NotPem, "{wrong}");
        }
        let short = format!("{PEM_BEGIN}\nMC4CAQAw\n{PEM_END}\n");
        assert_eq!(SigningKey::from_pem(&short).unwrap_err(), SigningKeyError::NotEd25519);
    }
}
