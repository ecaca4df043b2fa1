//! Tokens that Postgres did not know, for a few seconds: guesses hammer nothing, and push out no session.

use crate::clock::Moment;
use crate::keys::TokenHash;
use quick_cache::sync::Cache;
use std::time::Duration;

/// How long "nobody" counts. Long enough to blunt a flood, too short for somebody who has just signed in to notice.
const LIFE: Duration = Duration::from_secs(3);

/// Tokens at most, about 1 MB.
const MOST: usize = 10_000;

pub struct Unknown(Cache<TokenHash, Moment>);

impl Default for Unknown {
    fn default() -> Self {
        Self(Cache::new(MOST))
    }
}

impl Unknown {
    /// Postgres was asked at `asked`, and said that the token is nobody's.
    pub fn insert(&self, token: TokenHash, asked: Moment) {
        self.0.insert(token, asked);
    }

    pub fn contains(&self, token: &TokenHash, now: Moment) -> bool {
        let Some(asked) = self.0.get(token) else { return false };
        let fresh = now.since(asked) < LIFE;
        if !fresh {
            self.0.remove_if(token, |known| *known == asked);
        }
        fresh
    }

    pub fn remove(&self, token: &TokenHash) {
        self.0.remove(token);
    }

    pub fn clear(&self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u32) -> TokenHash {
        TokenHash::of(&number.to_be_bytes()).unwrap()
    }

    #[test]
    fn it_is_remembered_for_three_seconds_and_bounded() {
        let (unknown, asked) = (Unknown::default(), Moment::from_micros(7));
        unknown.insert(token(1), asked);
        assert!(unknown.contains(&token(1), asked.after(LIFE - Duration::from_micros(1))));
        assert!(!unknown.contains(&token(1), asked.after(LIFE)));
        assert_eq!(unknown.0.len(), 0);
        for number in 0..3 * u32::try_from(MOST).unwrap() {
            unknown.insert(token(number), asked);
        }
        assert!(unknown.0.len() <= MOST + 64, "{}", unknown.0.len());
    }
}
