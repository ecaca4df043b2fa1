//! Limits on their way to Redis and back.

use super::redis::{Departure, Entered, Redis};
use crate::config::REDIS_SHARE_OF_CHECK;
use crate::error::{Error, Result};
use crate::limit::{Algorithm, Taken};
use crate::rate_limit::{Answer, Check, Key, Limits, OnOutage, Place, Verdict};
use crate::redis_request::{Batch, Replies, Request};
use crate::redis_value::Value;
use crate::stores::redis::{GiveBack, LimitScripts, Named, Take, recall, remembered, understand};
use bytes::{Bytes, BytesMut};
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use tokio::time::timeout;

/// Keys that are looked for, and removed, at once.
const KEYS_A_STEP: &str = "1000";

/// The limits of an engine, and what is said to Redis about them.
pub struct SharedLimits {
    limits: Limits,
    scripts: LimitScripts,
}

impl SharedLimits {
    pub fn new(limits: Limits) -> Self {
        Self { limits, scripts: LimitScripts::new() }
    }
}

impl Deref for SharedLimits {
    type Target = Limits;

    fn deref(&self) -> &Limits {
        &self.limits
    }
}

/// Several equal calls that Redis is asked about together.
pub struct Asking {
    pub limits: Arc<SharedLimits>,
    pub check: Check,
    pub calls: u32,
}

impl Asking {
    /// Appends the command.
    pub fn encode(&self, bytes: &mut BytesMut) {
        self.limits.scripts.take(bytes, Named::Digest, &take(&self.check, self.calls));
    }

    /// What is sent. `done` gets the verdict, on any thread.
    pub fn request(
        self: Arc<Self>,
        entered: Entered,
        length: usize,
        done: impl FnOnce(&Verdict<'_>) + Send + 'static,
    ) -> Request {
        let (redis, asked) = (entered.redis().clone(), self.limits.now());
        let (pool, asking) = (redis.clone(), self.clone());
        let mut request = entered.request(length, Replies::One, false, move |result, _| {
            let Self { limits, check, calls } = &*asking;
            limits.note_life(pool.life());
            let answer = result.and_then(|value| understood(check, &value));
            done(&limits.told(check, *calls, asked, answer));
        });
        let answered = request.answered;
        request.answered = Box::new(move |result| match result {
            // It did not run.
            Err(error) if error.is_unknown_script() => {
                let mut whole = BytesMut::new();
                self.limits.scripts.take(&mut whole, Named::Source, &take(&self.check, self.calls));
                let mut batch = Batch::of(whole, None, answered);
                batch.requests.iter_mut().for_each(|request| request.patience = Some(REDIS_SHARE_OF_CHECK));
                redis.send(batch, Departure::Soon);
            }
            result => answered(result),
        });
        request.patience = Some(REDIS_SHARE_OF_CHECK);
        request
    }
}

fn understood(check: &Check, value: &Value) -> Result<(u64, Taken)> {
    let unknown = || Error::Internal("the script of a limit answered something else".to_owned());
    understand(check.algorithm, value).ok_or_else(unknown)
}

/// What is asked of counts one by one.
pub struct Counting {
    limits: Arc<SharedLimits>,
    redis: Option<Arc<Redis>>,
}

impl Counting {
    /// `redis` is `None` for what this process counts alone.
    pub fn new(limits: Arc<SharedLimits>, redis: Option<Arc<Redis>>) -> Self {
        Self { limits, redis }
    }

    /// What a check would be answered now.
    pub async fn peek(&self, check: &Check, shadow: bool) -> Answer {
        let answer = self.look(check).await;
        Answer { allowed: answer.allowed || shadow, ..answer }
    }

    async fn look(&self, check: &Check) -> Answer {
        let look = |named, bytes: &mut BytesMut| self.limits.scripts.take(bytes, named, &take(check, 0));
        let answer = in_time(self.script(look)).await;
        let answer = answer.and_then(|value| value.map(|value| understood(check, &value)).transpose());
        let away = answer.is_err();
        self.limits.peeked(check, self.or_warned(answer).flatten(), away)
    }

    /// Takes back the latest hits of a check.
    pub async fn give_back(&self, check: &Check) {
        self.limits.give_back(check);
        let Check { key, algorithm, limit, cost, .. } = check;
        let back = GiveBack { key: key.as_bytes(), algorithm: *algorithm, limit: *limit, hits: u64::from(*cost) };
        self.or_warned(self.script(|named, bytes| self.limits.scripts.give_back(bytes, named, &back)).await);
        // What was answered before may have been kept until now.
        self.limits.undeny(key);
    }

    /// How a key stands against the limit that it was last checked against; `None` if nothing is counted.
    pub async fn standing(&self, key: Key, place: Place, algorithm: Algorithm) -> Option<Answer> {
        let limit = match &self.redis {
            Some(redis) => {
                let mut bytes = BytesMut::new();
                recall(&mut bytes, algorithm, key.as_bytes());
                match self.or_warned(in_time(redis.ask(bytes, true)).await) {
                    Some(value) => remembered(algorithm, &value),
                    None => self.limits.remembered(&key),
                }
            }
            None => self.limits.remembered(&key),
        };
        let check = Check { key, place, algorithm, on_outage: OnOutage::Local, limit: limit?, cost: 1 };
        let answer = self.look(&check).await;
        (answer.remaining < answer.limit).then_some(answer)
    }

    /// Forgets a key.
    pub async fn forget(&self, key: Key, algorithm: Algorithm) {
        self.limits.forget(&key, algorithm);
        if let Some(redis) = &self.redis {
            let command = [Bytes::from_static(b"DEL"), Bytes::copy_from_slice(key.as_bytes())];
            self.or_warned(redis.command(&command, true).await);
            // What was answered before it was removed may have been kept until now.
            self.limits.forget(&key, algorithm);
        }
    }

    /// Forgets every key that begins like this.
    pub async fn forget_all(&self, beginning: &str) {
        self.limits.forget_all(beginning.as_bytes());
        if let Some(redis) = &self.redis {
            self.or_warned(remove_all(redis, beginning).await);
            self.limits.forget_all(beginning.as_bytes());
        }
    }

    /// The same for what this process counts alone.
    pub fn forget_all_here(&self, beginning: &str) {
        self.limits.forget_all(beginning.as_bytes());
    }

    /// Runs a script, whose command `encode` writes; `None` where there is no Redis.
    async fn script(&self, encode: impl Fn(Named, &mut BytesMut)) -> Result<Option<Value>> {
        let Some(redis) = &self.redis else { return Ok(None) };
        let command = |named| {
            let mut bytes = BytesMut::new();
            encode(named, &mut bytes);
            bytes
        };
        match redis.ask(command(Named::Digest), false).await {
            Err(error) if error.is_unknown_script() => redis.ask(command(Named::Source), false).await.map(Some),
            answer => answer.map(Some),
        }
    }

    /// What Redis said; where it did not answer, this process goes on alone, which is worth a line in the log.
    fn or_warned<T>(&self, answer: Result<T>) -> Option<T> {
        answer.inspect_err(|error| self.limits.warn_of_count(error)).ok()
    }
}

fn take(check: &Check, calls: u32) -> Take<'_> {
    let Check { key, algorithm, limit, cost, .. } = check;
    Take { key: key.as_bytes(), algorithm: *algorithm, limit: *limit, cost: *cost, calls }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::Timeout { server: "Redis".into(), after: REDIS_SHARE_OF_CHECK };
    timeout(REDIS_SHARE_OF_CHECK, work).await.map_err(late)?
}

/// Removes all keys that begin like this, some at a time.
async fn remove_all(redis: &Arc<Redis>, beginning: &str) -> Result<()> {
    let pattern: String = beginning.chars().flat_map(escaped).chain(['*']).collect();
    let mut cursor = Bytes::from_static(b"0");
    loop {
        let words = ["MATCH", &pattern, "COUNT", KEYS_A_STEP];
        let scan = [Bytes::from_static(b"SCAN"), cursor.clone()];
        let scan: Vec<_> = scan.into_iter().chain(words.map(|word| Bytes::copy_from_slice(word.as_bytes()))).collect();
        let step = redis.command(&scan, true).await?;
        let Some([Value::Text(next), Value::Array(keys)]) = step.as_array() else {
            return Err(Error::Internal("SCAN answered something else".to_owned()));
        };
        let keys = keys.iter().filter_map(|key| if let Value::Text(key) = key { Some(key.clone()) } else { None });
        let unlink: Vec<_> = std::iter::once(Bytes::from_static(b"UNLINK")).chain(keys).collect();
        if unlink.len() > 1 {
            redis.command(&unlink, true).await?;
        }
        cursor = next.clone();
        if &cursor[..] == b"0" {
            return Ok(());
        }
    }
}

/// A character of a pattern that means itself.
fn escaped(character: char) -> impl Iterator<Item = char> {
    let special = matches!(character, '*' | '?' | '[' | ']' | '^' | '\\');
    special.then_some('\\').into_iter().chain([character])
}
