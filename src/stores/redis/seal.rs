//! Entries that carry proof of who wrote them: whoever can write to Redis cannot make a session, or prolong one.

use crate::redis_url::Secret;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What is sealed: everything that decides whose session an entry is, and for how long.
pub struct Sealed<'a> {
    pub key: &'a str,
    pub version: &'a str,
    pub run: &'a str,
    pub t0: &'a str,
    pub ends: &'a str,
    pub session: &'a [u8],
}

/// HMAC-SHA256 (RFC 2104) under one of several secrets. The first one seals, all of them verify, so that a secret can be
/// replaced while instances run: first add the new one behind, everywhere; then put it in front; then drop the old one.
///
/// Without a secret nothing is sealed, and everything verifies.
pub struct Seal(Vec<Hmac<Sha256>>);

impl Seal {
    pub fn new(secrets: &[Secret]) -> Self {
        // HMAC takes keys of any length.
        Self(secrets.iter().filter_map(|secret| Hmac::new_from_slice(secret.reveal().as_bytes()).ok()).collect())
    }

    /// The seal in hex; empty without a secret.
    pub fn seal(&self, entry: &Sealed<'_>) -> String {
        let Some(hmac) = self.0.first() else { return String::new() };
        hex::encode(fed(hmac, entry).finalize().into_bytes())
    }

    /// Whether one of the secrets has sealed the entry. Takes the same time however much of a seal is right.
    pub fn verifies(&self, entry: &Sealed<'_>, seal: &[u8]) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(seal, &mut bytes).is_ok()
            && self.0.iter().any(|hmac| fed(hmac, entry).verify_slice(&bytes).is_ok())
    }
}

/// Each part behind its length, so that nothing can move from one into another.
fn fed(hmac: &Hmac<Sha256>, entry: &Sealed<'_>) -> Hmac<Sha256> {
    let Sealed { key, version, run, t0, ends, session } = entry;
    let mut hmac = hmac.clone();
    for part in [key.as_bytes(), version.as_bytes(), run.as_bytes(), t0.as_bytes(), ends.as_bytes(), session] {
        hmac.update(&(part.len() as u64).to_le_bytes());
        hmac.update(part);
    }
    hmac
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Sealed<'_> =
        Sealed { key: "session:a", version: "1", run: "run", t0: "5", ends: "9", session: b"{\"id\":1}" };

    fn seal(secrets: &[&str]) -> Seal {
        Seal::new(&secrets.iter().map(|secret| Secret::new(*secret)).collect::<Vec<_>>())
    }

    #[test]
    fn any_change_of_any_part_breaks_it() {
        let seal = seal(&["first secret of the three that are"]);
        let good = seal.seal(&ENTRY);
        assert!(good.len() == 64 && seal.verifies(&ENTRY, good.as_bytes()));
        for changed in [
            Sealed { key: "session:b", ..ENTRY },
            Sealed { version: "2", ..ENTRY },
            Sealed { run: "ru", t0: "n5", ..ENTRY },
            Sealed { t0: "6", ..ENTRY },
            Sealed { ends: "99", ..ENTRY },
            Sealed { session: b"{\"id\":2}", ..ENTRY },
        ] {
            assert!(!seal.verifies(&changed, good.as_bytes()));
        }
        for wrong in ["", "00", &good[1..], &good.replace('a', "b"), "zz"] {
            assert!(wrong == good || !seal.verifies(&ENTRY, wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn the_first_secret_seals_and_all_verify() {
        let (old, both, new) = (seal(&["old"]), seal(&["new", "old"]), seal(&["new"]));
        assert!(both.verifies(&ENTRY, old.seal(&ENTRY).as_bytes()));
        assert!(new.verifies(&ENTRY, both.seal(&ENTRY).as_bytes()));
        assert!(!new.verifies(&ENTRY, old.seal(&ENTRY).as_bytes()));
    }

    #[test]
    fn without_a_secret_nothing_is_sealed() {
        let none = seal(&[]);
        assert_eq!(none.seal(&ENTRY), "");
        assert!(none.verifies(&ENTRY, b"anything"));
    }
}
