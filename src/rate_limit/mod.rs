//! Limits of calls. Redis counts for all processes; where it does not answer in its time, this process decides by what it
//! has counted along.
//!
//! Nothing here waits: who asks Redis brings its answer, or why there is none ([`Limits::told`]).

mod address;
mod answer;
pub mod arguments;
mod count;
mod counts;
mod denied;
mod fixed_window;
mod headers;
mod key;
mod limiter;
mod sliding_window;
#[cfg(test)]
pub mod tests;
pub mod tiers;
mod token_bucket;
mod verdict;

use crate::clock::{Clock, Moment, unix_micros};
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::limit::{Algorithm, Limit, Taken};
#[cfg_attr(not(feature = "node"), expect(unused_imports, reason = "some are for its JavaScript face only"))]
pub use address::{Client, Trust, client};
pub use answer::Answer;
use counts::{Counted, Counts};
use denied::Denied;
#[cfg_attr(not(feature = "node"), expect(unused_imports, reason = "some are for its JavaScript face only"))]
pub use headers::{HEADERS, Policy};
pub use key::Key;
use limiter::{Counters, Registry};
pub use limiter::{Limiter, LimiterMetrics, OnOutage, Place};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
pub use verdict::{Caller, Verdict};
#[cfg(test)]
pub use {fixed_window::FixedWindow, sliding_window::SlidingWindow, token_bucket::TokenBucket};

/// Once Redis was not missed for so long, it is worth another line in the log.
const QUIET: Duration = Duration::from_secs(60);

/// What outlives an engine: counts of this process, and what was decided.
#[derive(Clone, Default)]
pub struct Memory(Arc<Kept>);

#[derive(Default)]
struct Kept {
    clock: Clock,
    counts: Counts,
    registry: Registry,
    /// When this process last decided about any key alone.
    alone: AtomicU64,
    /// When it was noticed that Redis may have forgotten its counts.
    forgotten: AtomicU64,
    /// Which life of Redis answered last; 0 for none yet.
    life: AtomicU64,
}

/// What a check is about. Equal checks can be asked together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub key: Key,
    pub place: Place,
    pub algorithm: Algorithm,
    pub on_outage: OnOutage,
    pub limit: Limit,
    pub cost: u32,
}

impl Check {
    fn counted(&self, limit: Limit) -> Counted<'_> {
        Counted { key: &self.key, algorithm: self.algorithm, limit }
    }
}

/// The limits of one engine.
pub struct Limits {
    memory: Memory,
    keys: Keys,
    denied: Denied,
    /// There is a Redis to ask.
    shared: bool,
    share: f64,
    /// Redis did not answer when it was last asked.
    missed: AtomicBool,
    /// When that was last said: of checks, and of what is only forgotten here.
    warned: [AtomicU64; 2],
}

impl Limits {
    pub fn new(memory: Memory, keys: Keys, shared: bool, most_keys: usize, share: f64) -> Self {
        memory.0.counts.resize(most_keys);
        let (denied, missed) = (Denied::new(most_keys), AtomicBool::new(false));
        let warned = [(); 2].map(|()| AtomicU64::new(Moment::NEVER.as_micros()));
        Self { memory, keys, denied, shared, share, missed, warned }
    }

    pub fn now(&self) -> Moment {
        self.memory.0.clock.now()
    }

    /// What was decided under each name.
    pub fn metrics(&self) -> BTreeMap<String, LimiterMetrics> {
        self.memory.0.registry.metrics()
    }

    /// The counters of a limiter. They are the same for as long as the process lives.
    pub fn counters(&self, limiter: &Limiter) -> Arc<Counters> {
        self.memory.0.registry.counters(&limiter.name)
    }

    /// Where a limiter's counts are: how their keys begin.
    pub fn beginning(&self, limiter: &Limiter) -> String {
        let (all, algorithm, name) = (self.all(limiter.place), limiter.algorithm.name(), &limiter.name);
        format!("{all}{algorithm}:{name}:")
    }

    /// How the keys of all counts begin.
    pub fn all(&self, place: Place) -> String {
        match place {
            Place::Redis => self.keys.limits(),
            Place::Process => "memory:".to_owned(),
        }
    }

    /// Whether Redis has to be asked for this.
    pub fn is_shared(&self, place: Place) -> bool {
        self.shared && place == Place::Redis
    }

    /// The answer, if Redis need not be asked.
    pub fn immediate(&self, check: &Check, caller: &Caller) -> Option<Answer> {
        if !self.is_shared(check.place) {
            return Some(self.process(check, 1, false).answer(0, caller));
        }
        let now = self.now();
        if let Some(denied) = self.denied.answer(check.key.as_bytes(), check.limit, check.cost, now) {
            caller.counters.answered_locally.fetch_add(1, Relaxed);
            return Some(caller.told(denied));
        }
        if check.on_outage != OnOutage::Allow {
            // Redis is not made to count what this process would deny anyway.
            let standing = self.beside(check, 0, now).map(|seen| seen.standing(check.limit, check.cost, 0));
            if let Some(standing) = standing.filter(|standing| standing.wait > 0) {
                let Counters { answered_in_outage, answered_locally, .. } = &*caller.counters;
                let counter = if self.missed.load(Relaxed) { answered_in_outage } else { answered_locally };
                counter.fetch_add(1, Relaxed);
                return Some(caller.told(Answer::new(false, check.limit, &standing, unix_micros())));
            }
        }
        None
    }

    /// What became of `calls` equal calls that Redis was asked for at `asked`: by its clock and decision, or by this
    /// process's where Redis did not answer.
    pub fn told<'a>(&self, check: &'a Check, calls: u32, asked: Moment, answer: Result<(u64, Taken)>) -> Verdict<'a> {
        let (unix, taken) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.warn(&error);
                self.missed.store(true, Relaxed);
                return self.process(check, calls, true);
            }
        };
        self.missed.store(false, Relaxed);
        if taken.admitted > 0 {
            // What was denied has to wait for longer now, and has less left.
            self.denied.outdate(&check.key);
        }
        if taken.admitted < calls {
            let standing = taken.standing(check.limit, check.cost, taken.admitted);
            self.denied.learn(check, asked, self.now(), unix, &standing);
        }
        let both = self.beside(check, taken.admitted, self.now());
        let hits = u64::from(taken.admitted) * u64::from(check.cost);
        if both.is_none() && hits > 0 {
            self.memory.0.counts.add(self.now().as_micros(), check.counted(check.limit), hits);
        }
        Verdict { check, limit: check.limit, cost: check.cost, unix, taken, both, instead: None, outage: false }
    }

    /// Takes note of which life of Redis was connected to last, 0 for none: another one has most likely forgotten what it had
    /// counted.
    pub fn note_life(&self, life: u64) {
        if life == 0 {
            return;
        }
        let before = self.memory.0.life.swap(life, SeqCst);
        if before != 0 && before != life {
            self.memory.0.forgotten.store(self.now().as_micros(), SeqCst);
        }
    }

    /// Says that Redis is missed, once for all calls that miss it at this time.
    fn warn(&self, error: &Error) {
        if self.is_news(&self.warned[0]) {
            tracing::warn!("rate limits are decided by this process alone: {error}");
        }
    }

    /// The same of a count that Redis did not take back or forget.
    pub fn warn_of_count(&self, error: &Error) {
        if self.is_news(&self.warned[1]) {
            tracing::warn!("a count of rate limits was changed or read in this process alone: {error}");
        }
    }

    fn is_news(&self, warned: &AtomicU64) -> bool {
        let now = self.now();
        let said = Moment::from_micros(warned.swap(now.as_micros(), SeqCst));
        said == Moment::NEVER || now.since(said) > QUIET
    }

    /// Decides here.
    fn process<'a>(&self, check: &'a Check, calls: u32, outage: bool) -> Verdict<'a> {
        let (mut limit, mut cost) = (check.limit, check.cost);
        if check.place == Place::Redis {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of it is smaller")]
            let quota = (f64::from(limit.quota) * self.share) as u32;
            limit.quota = quota.max(1);
            cost = cost.min(limit.quota);
        }
        let instead = match check.on_outage {
            _ if !outage => None,
            OnOutage::Local => None,
            OnOutage::Allow => Some(true),
            OnOutage::Deny => Some(false),
        };
        if outage {
            self.memory.0.alone.store(self.now().as_micros(), SeqCst);
        }
        let calls = if instead == Some(false) { 0 } else { calls };
        let now = self.now().as_micros();
        let counts = &self.memory.0.counts;
        let taken = counts.take(now, check.counted(limit), cost, calls);
        Verdict { check, limit, cost, unix: unix_micros(), taken, both: None, instead, outage }
    }

    /// What this process has to say to a key that Redis decides about, for one window after it has decided alone about it, or after
    /// Redis may have forgotten its count: the change gives nobody a second quota. What a key has in common with others does not
    /// matter then.
    fn beside(&self, check: &Check, calls: u32, now: Moment) -> Option<Taken> {
        let Kept { alone, forgotten, counts, .. } = &*self.memory.0;
        let recent = |moment: &AtomicU64| {
            let moment = Moment::from_micros(moment.load(SeqCst));
            moment != Moment::NEVER && now.since(moment) < Duration::from_micros(check.limit.window)
        };
        let all = recent(forgotten);
        if !all && !recent(alone) {
            return None;
        }
        counts.take_beside(now.as_micros(), check.counted(check.limit), check.cost, calls, all)
    }

    /// What a check would be answered, without counting it: by what Redis said, or by this process, in an outage (`away`) or
    /// because it is the only one to ask.
    pub fn peeked(&self, check: &Check, answer: Option<(u64, Taken)>, away: bool) -> Answer {
        let (unix, limit, taken) = match answer {
            Some((unix, taken)) => (unix, check.limit, taken),
            None => {
                let verdict = self.process(check, 0, false);
                (verdict.unix, verdict.limit, verdict.taken)
            }
        };
        let mut standing = taken.standing(limit, check.cost.min(limit.quota), 0);
        let allowed = match check.on_outage {
            OnOutage::Allow if away => true,
            OnOutage::Deny if away => {
                standing.remaining = 0;
                false
            }
            _ => standing.wait == 0,
        };
        Answer { limit: check.limit.quota, ..Answer::new(allowed, limit, &standing, unix) }
    }

    /// Forgets what is known to be denied for a key.
    pub fn undeny(&self, key: &Key) {
        self.denied.forget(key.as_bytes(), self.now());
    }

    /// The limit that this process last counted a key against.
    pub fn remembered(&self, key: &Key) -> Option<Limit> {
        self.memory.0.counts.limit(key)
    }

    /// Takes back hits that were counted here, and what is known to be denied.
    pub fn give_back(&self, check: &Check) {
        self.undeny(&check.key);
        let now = self.now().as_micros();
        self.memory.0.counts.give_back(now, check.counted(check.limit), check.cost.into());
    }

    /// Forgets a key.
    pub fn forget(&self, key: &Key, algorithm: Algorithm) {
        self.memory.0.counts.forget(self.now().as_micros(), key, algorithm);
        self.undeny(key);
    }

    /// Forgets all keys that begin like this.
    pub fn forget_all(&self, beginning: &[u8]) {
        self.memory.0.counts.forget_all(beginning);
        self.denied.forget_all(self.now());
    }
}
