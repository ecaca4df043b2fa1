//! Copies of sessions in Redis, fenced by leases: see `read_or_lease.lua` and `fill.lua`.

use super::lane::{Lane, Status};
use super::link::Link;
use super::script::Script;
use super::seal::{Seal, Sealed};
use crate::config::MAX_TTL;
use crate::error::{Error, Result};
use crate::keys::{Keys, TokenHash};
use crate::random;
use crate::redis_value::Value;
use crate::session::{Disbelief, SessionWithUser};
use crate::stores::{Lease, Lookup, SessionCopies};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use uuid::Uuid;

/// Of the entries in Redis. A copy of another version is a miss, so that old and new instances run side by side.
const FORMAT_VERSION: &str = "1";

/// Life of a lease: longer than Postgres may take, so that a slow read can still be filled.
const LEASE_MILLIS: &str = "6000";

/// Keys that one batch of deletions names; more are sent in turns, so that others get in between.
const FORGET_BATCH: usize = 500;

/// Longest session that is copied, as JSON. What is longer was not written here, and a session that is longer is left to
/// Postgres.
const LONGEST_SESSION: usize = 512 * 1024;

/// Longest nonce or run id of a lease. Ours have about 40 bytes.
const LONGEST_NAME: usize = 128;

/// The session lane's side of the store.
pub struct RedisSessions {
    lane: Arc<Lane>,
    keys: Keys,
    seal: Seal,
    read_or_lease: Script,
    fill: Script,
    /// Differs from process to process, so that two can never give a lease the same nonce.
    origin: u64,
    leases: AtomicU64,
    /// An unsealed or unreadable entry is news once; the metrics count them.
    warned: [AtomicBool; 2],
}

impl RedisSessions {
    pub fn new(lane: Arc<Lane>, keys: Keys, seal: Seal) -> Self {
        Self {
            lane,
            keys,
            seal,
            read_or_lease: Script::new(include_str!("read_or_lease.lua")),
            fill: Script::new(include_str!("fill.lua")),
            origin: random::number(),
            leases: AtomicU64::new(0),
            warned: Default::default(),
        }
    }

    /// Whether there is a connection, and how many commands wait on it.
    pub fn connection(&self) -> Option<usize> {
        match self.lane.status() {
            Status::Up(link) => Some(link.unanswered()),
            Status::Connecting | Status::Down(_) => None,
        }
    }

    fn nonce(&self) -> String {
        format!("{:x}-{:x}-{:x}", self.origin, std::process::id(), self.leases.fetch_add(1, Relaxed))
    }

    /// A copy whose fields are all in order, or why it is not believed.
    fn copy(
        &self,
        token: TokenHash,
        run_id: &str,
        fields: &[Value],
        pushed: bool,
    ) -> std::result::Result<Lookup, Disbelief> {
        let [Value::Text(json), t0, ends, now, Value::Text(seal)] = fields else { return Err(Disbelief::Unreadable) };
        let text = |value: &'_ Value| value.as_str().map(str::to_owned).ok_or(Disbelief::Unreadable);
        let (t0, ends) = (text(t0)?, text(ends)?);
        let key = self.keys.session(&token);
        let sealed = Sealed { key: &key, version: FORMAT_VERSION, run_id, t0: &t0, ends: &ends, session: json };
        if json.len() > LONGEST_SESSION {
            return Err(Disbelief::Unreadable);
        }
        if !self.seal.verifies(&sealed, seal) {
            return Err(Disbelief::Unsealed);
        }
        let micros = |text: &str| text.parse::<u64>().map_err(|_| Disbelief::Unreadable);
        let (t0, ends, now) = (micros(&t0)?, micros(&ends)?, micros(now.as_str().unwrap_or_default())?);
        // Nobody here writes one that lives longer, or that began later than now.
        if t0 > now || u128::from(ends.saturating_sub(t0)) > MAX_TTL.as_micros() {
            return Err(Disbelief::Unreadable);
        }
        let session = readable(json, token).ok_or(Disbelief::Unreadable)?;
        let life = Duration::from_micros(ends.saturating_sub(now));
        Ok(Lookup::Copy { session: Box::new(session), life, pushed })
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

    async fn remove(&self, link: &Link, tokens: &[TokenHash]) -> Result<()> {
        for batch in tokens.chunks(FORGET_BATCH) {
            let mut replies = Vec::with_capacity(batch.len());
            for token in batch {
                replies.push(link.submit(&["DEL", &self.keys.session(token)])?);
            }
            for reply in replies {
                link.answer(reply).await?;
            }
        }
        Ok(())
    }
}

impl SessionCopies for RedisSessions {
    async fn read_or_lease(&self, token: TokenHash, after: u64) -> Result<Lookup> {
        let link = self.lane.link().await?;
        let Some(run_id) = link.info().run_id.clone() else { return Ok(Lookup::Miss { lease: None, disbelief: None }) };
        let (nonce, after) = (self.nonce(), after.to_string());
        let arguments =
            [FORMAT_VERSION.as_bytes(), run_id.as_bytes(), nonce.as_bytes(), LEASE_MILLIS.as_bytes(), after.as_bytes()];
        let reply = self.read_or_lease.run(&link, &self.keys.session(&token), &arguments).await?;
        let pushed = link.info().pushes;
        let understood = match reply.as_array() {
            Some([Value::Int(1), fields @ ..]) => self.copy(token, &run_id, fields, pushed),
            Some([Value::Int(0), fields @ ..]) => missed(fields, &nonce, pushed).ok_or(Disbelief::Unreadable),
            _ => Err(Disbelief::Unreadable),
        };
        match understood {
            Ok(Lookup::Miss { lease, disbelief: Some(Disbelief::Unreadable) }) => {
                self.warn(Disbelief::Unreadable);
                Ok(Lookup::Miss { lease, disbelief: Some(Disbelief::Unreadable) })
            }
            Ok(lookup) => Ok(lookup),
            Err(disbelief) => {
                self.warn(disbelief);
                self.remove(&link, &[token]).await?;
                Ok(Lookup::Miss { lease: None, disbelief: Some(disbelief) })
            }
        }
    }

    async fn fill(&self, token: TokenHash, lease: &Lease, session: &str, life: Duration) -> Result<bool> {
        if session.len() > LONGEST_SESSION {
            return Ok(false);
        }
        let link = self.lane.link().await?;
        let key = self.keys.session(&token);
        let ends = lease.since.saturating_add(u64::try_from(life.as_micros()).unwrap_or(u64::MAX));
        let (t0, ends) = (lease.since.to_string(), ends.to_string());
        let (run_id, session) = (lease.run_id.as_str(), session.as_bytes());
        let seal =
            self.seal.seal(&Sealed { key: &key, version: FORMAT_VERSION, run_id, t0: &t0, ends: &ends, session });
        let arguments = [
            lease.nonce.as_bytes(),
            FORMAT_VERSION.as_bytes(),
            run_id.as_bytes(),
            t0.as_bytes(),
            ends.as_bytes(),
            session,
            seal.as_bytes(),
        ];
        Ok(self.fill.run(&link, &key, &arguments).await? == Value::Int(1))
    }

    async fn now(&self) -> Result<u64> {
        let reply = self.lane.link().await?.send(&["TIME"]).await?;
        let part = |index: usize| reply.as_array()?.get(index)?.as_str()?.parse::<u64>().ok();
        let parts = part(0).zip(part(1));
        parts.map(|(seconds, micros)| seconds * 1_000_000 + micros).ok_or_else(|| Error::Internal("no TIME".to_owned()))
    }

    async fn ping(&self) -> Result<()> {
        self.lane.link().await?.send(&["PING"]).await.map(drop)
    }

    async fn forget(&self, tokens: &[TokenHash]) -> Result<()> {
        self.remove(&self.lane.link().await?, tokens).await
    }
}

/// A session of this token, as only this package writes it.
fn readable(json: &[u8], token: TokenHash) -> Option<SessionWithUser> {
    let session: SessionWithUser = serde_json::from_slice(json).ok()?;
    let whole = TokenHash::from_hex(&session.token) == Some(token) && Uuid::try_parse(&session.id).is_ok();
    (whole && !session.has_nul()).then_some(session)
}

/// The lease that a script left or found, and why it believed no copy.
fn missed(fields: &[Value], nonce: &str, pushed: bool) -> Option<Lookup> {
    let [name, run_id, since, why] = fields else { return None };
    let named = |value: &Value| value.as_str().filter(|name| name.len() <= LONGEST_NAME).map(str::to_owned);
    let (name, run_id) = (named(name)?, named(run_id)?);
    let announced = pushed && name == nonce;
    let since = since.as_str()?.parse().ok()?;
    let disbelief = match why.as_str()? {
        "version" => Some(Disbelief::OtherVersion),
        "life" => Some(Disbelief::OtherLife),
        "ended" => Some(Disbelief::Ended),
        "news" => Some(Disbelief::OlderThanNews),
        "unreadable" => Some(Disbelief::Unreadable),
        _ => None,
    };
    Some(Lookup::Miss { lease: Some(Lease { nonce: name, run_id, since, announced }), disbelief })
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
    use crate::stores::redis::lane::Plan;
    use crate::stores::redis::link::Link;

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
        let mut plan = Plan::new(url, "Redis".into(), format!("test:{test}"), 10_000);
        plan.pushes = Some(Keys::new(format!("{test}:")).sessions());
        let lane = Arc::new(Lane::new(plan));
        let (keys, token) = (Keys::new(format!("{test}:")), TokenHash::of(test.as_bytes()).unwrap());
        let link = lane.link().await.unwrap();
        let (store, key) = (RedisSessions::new(lane, keys.clone(), Seal::new(&[])), keys.session(&token));
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
