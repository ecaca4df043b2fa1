//! Every key that this package writes to Redis, and the one form in which a token leaves the process: its SHA-256.

use sha2::{Digest, Sha256};
use std::fmt;
use std::hash::{Hash, Hasher};

/// Longest bearer token that is looked up, in bytes. A longer one belongs to nobody.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// SHA-256 of a bearer token: what Postgres stores, and what keys and messages are made of.
///
/// It names a session without opening it, but it does not belong into a log either; `Debug` shows four bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenHash([u8; 32]);

impl Hash for TokenHash {
    /// Eight bytes of a SHA-256 are as good as all of them.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut eight = [0; 8];
        eight.copy_from_slice(&self.0[..8]);
        state.write_u64(u64::from_ne_bytes(eight));
    }
}

impl TokenHash {
    /// Hashes a raw token; `None` for an empty or oversized one, which is nobody's.
    pub fn of(token: &[u8]) -> Option<Self> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        Some(Self(Sha256::digest(token).into()))
    }

    /// Reads the lower-case hex form; `None` for anything else, which cannot be the hash of a token.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The form that Postgres stores: 64 lower-case hex digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({}..)", hex::encode(&self.0[..4]))
    }
}

/// Builds keys under `REDIS_KEY_PREFIX`.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// `session:<sha256 hex>`: a hash that holds a copy of a session or a lease.
    pub fn session(&self, token: &TokenHash) -> String {
        format!("{}{}", self.sessions(), token.to_hex())
    }

    /// How the keys of all sessions begin.
    pub fn sessions(&self) -> String {
        format!("{}session:", self.prefix)
    }

    /// `ratelimit:`, how the keys of all counts begin.
    pub fn limits(&self) -> String {
        format!("{}ratelimit:", self.prefix)
    }

    /// The token that a key of [`Keys::session`] is about.
    pub fn token(&self, key: &str) -> Option<TokenHash> {
        TokenHash::from_hex(key.strip_prefix(&self.prefix)?.strip_prefix("session:")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_that_studio_stores() {
        let hash = TokenHash::of(b"abc").unwrap();
        assert_eq!(hash.to_hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(TokenHash::from_hex(&hash.to_hex()), Some(hash));
    }

    #[test]
    fn empty_oversized_and_malformed_are_nobody() {
        assert_eq!(TokenHash::of(b""), None);
        assert_eq!(TokenHash::of(&[b'x'; MAX_TOKEN_BYTES + 1]), None);
        assert!(TokenHash::of(&[b'x'; MAX_TOKEN_BYTES]).is_some());
        assert_eq!(TokenHash::from_hex("xyz"), None);
        assert_eq!(TokenHash::from_hex(&"AB".repeat(32)), None);
    }

    #[test]
    fn keys_carry_the_prefix_and_the_full_hash() {
        let hash = TokenHash::of(b"abc").unwrap();
        let key = Keys::new("studio:").session(&hash);
        assert_eq!(key, format!("studio:session:{}", hash.to_hex()));
        assert_eq!(Keys::new("studio:").token(&key), Some(hash));
        assert_eq!(Keys::new("other:").token(&key), None);
        assert_eq!(Keys::new("").token("session:xyz"), None);
        assert!(!format!("{hash:?}").contains(&hash.to_hex()));
    }
}
