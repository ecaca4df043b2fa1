//! Copies of sessions in Redis, fenced by leases: see `read_or_lease.lua` and `fill.lua`.

use super::entries::{Entries, FILL, READ_OR_LEASE, look};
use super::pool::LaneStats;
use super::script::Script;
use super::seal::Seal;
use super::session_links::{SessionLinks, Way};
use crate::error::{Error, Result};
use crate::keys::{Keys, TokenHash};
use crate::random;
use crate::redis_value::Value;
use crate::session::Disbelief;
use crate::stores::{Lease, Lookup, SessionCopies};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Keys that one batch of deletions names; more are sent in turns, so that others get in between.
const FORGET_BATCH: usize = 500;

/// Of a server that does not say which life of it this is, or is a replica.
const NO_COPIES: Lookup = Lookup::Miss { lease: None, disbelief: None };

/// Redis's side of the store.
pub struct RedisSessions {
    links: Arc<SessionLinks>,
    entries: Entries,
    read_or_lease: Script,
    fill: Script,
    /// Differs from process to process, so that two can never give a lease the same nonce.
    origin: u64,
    leases: AtomicU64,
    /// An unsealed or unreadable entry is news once; the metrics count them.
    warned: [AtomicBool; 2],
}

impl RedisSessions {
    pub fn new(links: Arc<SessionLinks>, keys: Keys, seal: Seal) -> Self {
        Self {
            links,
            entries: Entries::new(keys, seal),
            read_or_lease: Script::new(READ_OR_LEASE),
            fill: Script::new(FILL),
            origin: random::number(),
            leases: AtomicU64::new(0),
            warned: Default::default(),
        }
    }

    /// Connections and commands at this moment.
    pub fn stats(&self) -> LaneStats {
        self.links.stats()
    }

    fn nonce(&self) -> String {
        format!("{:x}-{:x}-{:x}", self.origin, std::process::id(), self.leases.fetch_add(1, Relaxed))
    }

    fn warn(&self, disbelief: Disbelief) {
        let (index, what) = match disbelief {
            Disbelief::Unsealed => (0, "is sealed by no secret of SESSION_CACHE_SECRET"),
            _ => (1, "is unreadable"),
        };
        if !self.warned[index].swap(true, Relaxed) {
            tracing::warn!(
                "an entry of the session cache {what} and is removed; getSessionCacheMetrics() counts more of them"
            );
        }
    }

    /// Removes the key from whoever has it, which `way` leads to or may lead to.
    async fn remove_from(&self, key: &str, mut way: Way) -> Result<()> {
        let mut hops = 0;
        loop {
            let answer = way.send(&["DEL", key]).await;
            match self.links.elsewhere(key, &answer, &mut hops).await {
                Some(next) => way = next?,
                None => return answer.map(drop),
            }
        }
    }

    async fn remove(&self, tokens: &[TokenHash]) -> Result<()> {
        for batch in tokens.chunks(FORGET_BATCH) {
            let mut replies = Vec::with_capacity(batch.len());
            for token in batch {
                let key = self.entries.key(token);
                let link = self.links.of(&key).await?;
                let reply = link.submit(&["DEL", &key])?;
                replies.push((key, link, reply));
            }
            for (key, link, reply) in replies {
                let answer = link.answer(reply).await;
                match self.links.elsewhere(&key, &answer, &mut 0).await {
                    Some(way) => self.remove_from(&key, way?).await?,
                    None => drop(answer?),
                }
            }
        }
        Ok(())
    }
}

impl SessionCopies for RedisSessions {
    async fn read_or_lease(&self, token: TokenHash, after: u64) -> Result<Lookup> {
        let (key, nonce, after) = (self.entries.key(&token), self.nonce(), after.to_string());
        let (mut way, mut hops) = (Way::to(self.links.of(&key).await?), 0);
        let (life, reply) = loop {
            let Some(life) = way.link.info().life.clone() else { return Ok(NO_COPIES) };
            let answer = self.read_or_lease.run(&way, &key, &look(&life, &nonce, &after)).await;
            match self.links.elsewhere(&key, &answer, &mut hops).await {
                Some(next) => way = next?,
                None => break (life, answer?),
            }
        };
        match self.entries.understand(token, (&life, &nonce), way.link.info().pushes, &reply) {
            Ok(Lookup::Miss { lease, disbelief: Some(Disbelief::Unreadable) }) => {
                self.warn(Disbelief::Unreadable);
                Ok(Lookup::Miss { lease, disbelief: Some(Disbelief::Unreadable) })
            }
            Ok(lookup) => Ok(lookup),
            Err(disbelief) => {
                self.warn(disbelief);
                self.remove(&[token]).await?;
                Ok(Lookup::Miss { lease: None, disbelief: Some(disbelief) })
            }
        }
    }

    async fn fill(&self, token: TokenHash, lease: &Lease, session: &str, life: Duration) -> Result<bool> {
        let Some(fill) = self.entries.fill(token, lease, session, life) else { return Ok(false) };
        let key = self.entries.key(&token);
        let (mut way, mut hops) = (Way::to(self.links.of(&key).await?), 0);
        loop {
            let answer = self.fill.run(&way, &key, &fill.arguments()).await;
            match self.links.elsewhere(&key, &answer, &mut hops).await {
                Some(next) => way = next?,
                None => return Ok(answer? == Value::Int(1)),
            }
        }
    }

    async fn now(&self) -> Result<u64> {
        let mut latest = 0;
        for link in self.links.all().await? {
            let reply = link.send(&["TIME"]).await?;
            let part = |index: usize| reply.as_array()?.get(index)?.as_str()?.parse::<u64>().ok();
            let time = part(0).zip(part(1)).map(|(seconds, micros)| seconds * 1_000_000 + micros);
            latest = latest.max(time.ok_or_else(|| Error::Internal("no TIME".to_owned()))?);
        }
        Ok(latest)
    }

    async fn ping(&self) -> Result<()> {
        for link in self.links.all().await? {
            link.send(&["PING"]).await?;
        }
        Ok(())
    }

    async fn forget(&self, tokens: &[TokenHash]) -> Result<()> {
        self.remove(tokens).await
    }
}

/// Whose keys a push of CLIENT TRACKING is about; `None` for every key: the server was flushed.
pub fn pushed_tokens(keys: &Keys, push: &[Value]) -> Option<Vec<TokenHash>> {
    match push {
        [kind, names] if kind.as_str() == Some("invalidate") => match names {
            Value::Array(names) => Some(names.iter().filter_map(|name| keys.token(name.as_str()?)).collect()),
            _ => None,
        },
        _ => Some(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    //! The rules of leases and copies, one by one, on a real server.

    use super::*;
    use crate::redis_url::RedisUrl;
    use crate::session::SessionWithUser;
    use crate::stores::redis::connection::Ears;
    use crate::stores::redis::lane::Owner;
    use crate::stores::redis::link::Link;
    use crate::stores::redis::session_links::{Followers, LinkId};
    use crate::stores::redis::testing::origin;

    struct Nobody;

    impl Ears for Nobody {}

    impl Owner for Nobody {}

    impl Followers for Nobody {
        fn links(&self, _: &[LinkId]) {}

        fn of_link(self: Arc<Self>, _: LinkId) -> Arc<dyn Owner> {
            self
        }
    }

    struct Fixture {
        store: RedisSessions,
        link: Link,
        key: String,
        token: TokenHash,
    }

    /// A store on the server of `REDIS_URL`, and a key that no other test uses.
    async fn fixture(test: &str) -> Fixture {
        let url = std::env::var("REDIS_URL").expect("REDIS_URL names a Redis for tests; `make test` starts one");
        let url = RedisUrl::parse("REDIS_URL", &url).unwrap();
        let pushes = Keys::new(format!("{test}:")).sessions();
        let links = SessionLinks::new(origin(&url), format!("test:{test}"), 10_000, pushes, Arc::new(Nobody));
        let links = Arc::new(links);
        let (keys, token) = (Keys::new(format!("{test}:")), TokenHash::of(test.as_bytes()).unwrap());
        let link = links.of("").await.unwrap();
        let (store, key) = (RedisSessions::new(links, keys.clone(), Seal::new(&[])), keys.session(&token));
        store.forget(&[token]).await.unwrap();
        Fixture { store, link, key, token }
    }

    impl Fixture {
        fn session(&self) -> SessionWithUser {
            serde_json::from_value(serde_json::json!({
                "id": "11111111-1111-4111-8111-111111111111", "userId": "u", "token": self.token.to_hex(), "expiresAt": "", "lastActivityAt": "",
                "createdAt": "", "email": "a@b.test", "firstName": null, "lastName": "Ünïcode \"", "username": null,
            }))
            .unwrap()
        }

        async fn lease(&self) -> Lease {
            match self.store.read_or_lease(self.token, 0).await.unwrap() {
                Lookup::Miss { lease, .. } => lease.expect("a lease"),
                Lookup::Copy { .. } => panic!("a copy is believed"),
            }
        }

        async fn fill(&self, lease: &Lease) -> bool {
            let session = serde_json::to_string(&self.session()).unwrap();
            self.store.fill(self.token, lease, &session, Duration::from_secs(60)).await.unwrap()
        }

        async fn is_believed(&self) -> bool {
            match self.store.read_or_lease(self.token, 0).await.unwrap() {
                Lookup::Copy { session, life, .. } => {
                    assert!(*session == self.session() && life <= Duration::from_secs(60));
                    true
                }
                Lookup::Miss { .. } => false,
            }
        }

        async fn run(&self, command: &[&str]) -> Value {
            self.link.send(command).await.unwrap()
        }

        /// Fills, then changes one field of the copy behind the back of the store.
        async fn tampered(&self, field: &str, value: &str) -> bool {
            assert!(self.fill(&self.lease().await).await && self.is_believed().await);
            self.run(&["HSET", &self.key, field, value]).await;
            self.disbelief().await.is_none()
        }

        /// Why there is no copy that is believed; `None` if there is one.
        async fn disbelief(&self) -> Option<Option<Disbelief>> {
            match self.store.read_or_lease(self.token, 0).await.unwrap() {
                Lookup::Copy { .. } => None,
                Lookup::Miss { disbelief, .. } => Some(disbelief),
            }
        }
    }

    #[tokio::test]
    async fn a_fill_under_the_lease_is_believed_and_ends_by_itself() {
        let f = fixture("fill").await;
        let lease = f.lease().await;
        let Value::Int(left) = f.run(&["PTTL", &f.key]).await else { panic!("a number") };
        assert!((1..=6000).contains(&left), "a lease lives 6 s at most, this one {left} ms");
        assert!(f.fill(&lease).await);
        assert!(f.is_believed().await);
        let Value::Int(left) = f.run(&["PTTL", &f.key]).await else { panic!("a number") };
        assert!((1..=60_001).contains(&left), "{left}");
    }

    #[tokio::test]
    async fn readers_share_a_lease_and_cannot_prolong_it() {
        let f = fixture("share").await;
        let first = f.lease().await;
        f.run(&["PEXPIRE", &f.key, "3000"]).await;
        assert!(first.announced, "its writing is pushed");
        assert_eq!(f.lease().await, Lease { announced: false, ..first });
        let Value::Int(left) = f.run(&["PTTL", &f.key]).await else { panic!("a number") };
        assert!(left <= 3000);
    }

    #[tokio::test]
    async fn a_late_fill_is_refused() {
        let f = fixture("late").await;
        let lease = f.lease().await;
        f.store.forget(&[f.token]).await.unwrap();
        assert!(!f.fill(&lease).await, "nothing stands there");
        let lease = f.lease().await;
        f.store.forget(&[f.token]).await.unwrap();
        f.lease().await;
        assert!(!f.fill(&lease).await, "another lease stands there");
        let lease = f.lease().await;
        assert!(f.fill(&lease).await && !f.fill(&lease).await, "a lease serves once");
    }

    #[tokio::test]
    async fn a_copy_from_another_life_of_the_server_is_not_believed() {
        let f = fixture("run").await;
        assert!(!f.tampered("run", "0000000000000000000000000000000000000000").await);
    }

    #[tokio::test]
    async fn a_lease_from_another_life_is_filled_in_vain() {
        let f = fixture("lease-run").await;
        f.lease().await;
        f.run(&["HSET", &f.key, "run", "0000000000000000000000000000000000000000"]).await;
        let restored = f.lease().await;
        assert!(f.fill(&restored).await && !f.is_believed().await);
    }

    #[tokio::test]
    async fn a_copy_is_not_believed_after_its_end_even_if_its_key_lives_on() {
        let f = fixture("end").await;
        assert!(!f.tampered("end", "1000000").await);
        assert!(!f.tampered("end", "never").await);
    }

    #[tokio::test]
    async fn a_copy_of_another_version_is_a_miss() {
        let f = fixture("version").await;
        assert!(!f.tampered("version", "2").await);
    }

    #[tokio::test]
    async fn a_copy_from_before_the_given_time_is_not_believed() {
        let f = fixture("after").await;
        let before = f.store.now().await.unwrap();
        assert!(f.fill(&f.lease().await).await);
        let after = f.store.now().await.unwrap();
        assert!(matches!(f.store.read_or_lease(f.token, before).await.unwrap(), Lookup::Copy { .. }));
        let Lookup::Miss { disbelief, .. } = f.store.read_or_lease(f.token, after).await.unwrap() else {
            panic!("believed")
        };
        assert_eq!(disbelief, Some(Disbelief::OlderThanNews));
    }

    #[tokio::test]
    async fn what_is_no_session_or_anothers_is_removed() {
        let f = fixture("garbage").await;
        let other = SessionWithUser { token: TokenHash::of(b"other").unwrap().to_hex(), ..f.session() };
        for garbage in ["", "{", "null", "[]", "{\"id\":1}", &serde_json::to_string(&other).unwrap()] {
            assert!(!f.tampered("session", garbage).await, "{garbage}");
            f.lease().await;
        }
    }

    #[tokio::test]
    async fn a_key_of_another_type_is_replaced() {
        let f = fixture("type").await;
        f.run(&["SET", &f.key, "text"]).await;
        assert!(f.fill(&f.lease().await).await && f.is_believed().await);
    }

    #[tokio::test]
    async fn a_session_that_ends_sooner_than_its_fill_leaves_nothing() {
        let f = fixture("ended").await;
        let lease = f.lease().await;
        let session = serde_json::to_string(&f.session()).unwrap();
        f.store.fill(f.token, &lease, &session, Duration::ZERO).await.unwrap();
        assert!(!f.is_believed().await);
    }

    #[tokio::test]
    async fn scripts_are_sent_again_after_a_flush() {
        let f = fixture("flush").await;
        f.run(&["SCRIPT", "FLUSH"]).await;
        assert!(f.fill(&f.lease().await).await && f.is_believed().await);
    }

    #[tokio::test]
    async fn more_tokens_than_a_batch_are_forgotten() {
        let f = fixture("many").await;
        let tokens: Vec<_> = (0..1200u32).map(|n| TokenHash::of(&n.to_be_bytes()).unwrap()).collect();
        for token in &tokens {
            f.store.read_or_lease(*token, 0).await.unwrap();
        }
        f.store.forget(&tokens).await.unwrap();
        assert_eq!(f.run(&["KEYS", "many:*"]).await, Value::Array(Vec::new()));
    }
}
