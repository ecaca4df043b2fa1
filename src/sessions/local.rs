//! The tier in the process: sessions as they are handed out, shared by all its threads. Whether it may be asked at all is
//! decided by [`super::memory`].

use super::activity::Seen;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use crate::session::SessionWithUser;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use uuid::Uuid;

/// What counts as one entry. A larger session counts as several, so that the number of entries bounds the memory as well: a
/// session as Studio has it takes half of this.
const UNIT: usize = 1024;

/// A session that was read, as it is handed out.
pub struct Known {
    pub id: Uuid,
    /// As JavaScript gets it. Made once, off its thread.
    pub json: Box<str>,
    /// When the read of Postgres began that this comes from, if this process has made it.
    pub read: Moment,
    /// From then on it is not valid.
    pub ends: Moment,
    /// When it was used.
    pub seen: Seen,
}

impl Known {
    /// A session that was `read` and is valid until `ends`.
    pub fn new(session: &SessionWithUser, read: Moment, ends: Moment) -> Result<Arc<Self>> {
        let fault = |what: &dyn std::fmt::Display| Error::Internal(format!("a session cannot be handed out: {what}"));
        let id = Uuid::try_parse(&session.id).map_err(|error| fault(&error))?;
        let json = serde_json::to_string(session).map_err(|error| fault(&error))?.into_boxed_str();
        Ok(Arc::new(Self { id, json, read, ends, seen: Seen::default() }))
    }
}

#[derive(Clone)]
struct ByMemory;

impl Weighter<TokenHash, Arc<Known>> for ByMemory {
    fn weight(&self, _: &TokenHash, known: &Arc<Known>) -> u64 {
        (known.json.len() + size_of::<Known>()).div_ceil(UNIT) as u64
    }
}

/// The entries. The least valuable go first: those that were not asked for again (S3-FIFO, which is what the crate does).
pub struct Local(Cache<TokenHash, Arc<Known>, ByMemory>);

impl Local {
    /// At most so many entries.
    pub fn new(limit: u32) -> Self {
        let this = Self(Cache::with_weighter(limit as usize, u64::from(limit), ByMemory));
        this.limit(limit);
        this
    }

    pub fn get(&self, token: &TokenHash) -> Option<Arc<Known>> {
        self.0.get(token)
    }

    pub fn insert(&self, token: TokenHash, known: Arc<Known>) {
        self.0.insert(token, known);
    }

    pub fn remove(&self, token: &TokenHash) {
        self.0.remove(token);
    }

    pub fn clear(&self) {
        self.0.clear();
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn limit(&self, limit: u32) {
        // The crate would round up: each of its shards has an equal part of the limit.
        let shards = self.0.num_shards() as u64;
        self.0.set_capacity((u64::from(limit) / shards).max(1) * shards);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(length: usize) -> Arc<Known> {
        let json = "x".repeat(length).into_boxed_str();
        let (read, ends) = (Moment::NEVER, Moment::NEVER);
        Arc::new(Known { id: Uuid::nil(), json, read, ends, seen: Seen::default() })
    }

    fn fill(local: &Local, length: usize) -> usize {
        for number in 0..5_000u32 {
            local.insert(TokenHash::of(&number.to_be_bytes()).unwrap(), known(length));
        }
        local.len()
    }

    #[test]
    fn entries_and_their_memory_are_bounded() {
        for limit in [100, 1000, 4_999] {
            let local = Local::new(limit);
            let held = fill(&local, 400);
            assert!(held <= limit as usize && held * 10 > limit as usize * 9, "{held} of {limit}");
            let large = fill(&local, 5_000);
            assert!(large * 5 <= limit as usize, "{large} large ones of {limit}");
        }
        let local = Local::new(100_000);
        fill(&local, 400);
        local.limit(100);
        assert!(local.len() <= 100 && fill(&local, 400) <= 100);
    }

    #[test]
    fn what_is_asked_for_again_stays_and_what_is_not_goes() {
        let local = Local::new(1_000);
        let kept: Vec<_> =
            (0..500u32).map(|number| TokenHash::of(&[7, number as u8, (number >> 8) as u8]).unwrap()).collect();
        for token in &kept {
            local.insert(*token, known(400));
            local.get(token);
        }
        fill(&local, 400);
        let left = kept.iter().filter(|token| local.get(token).is_some()).count();
        assert!(left > 450, "{left} of 500 are left after ten times as many that nobody asked for");
    }
}
