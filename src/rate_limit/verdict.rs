//! What was decided, and what each of those who asked is told of it.

use super::limiter::Counters;
use super::{Answer, Check};
use crate::limit::{Limit, Taken};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Who asked, as far as it matters for his answer.
#[derive(Clone)]
pub struct Caller {
    pub counters: Arc<Counters>,
    pub shadow: bool,
}

impl Caller {
    /// Counts an answer, and lets it pass in shadow mode.
    pub fn told(&self, answer: Answer) -> Answer {
        let Counters { allowed, denied, shadow_denied, .. } = &*self.counters;
        if !answer.allowed && !self.shadow {
            denied.fetch_add(1, Relaxed);
            return answer;
        }
        allowed.fetch_add(1, Relaxed);
        shadow_denied.fetch_add(u64::from(!answer.allowed), Relaxed);
        Answer { allowed: true, ..answer }
    }
}

/// What was decided of several equal calls.
pub struct Verdict<'a> {
    pub check: &'a Check,
    /// What was decided by: a share of the check's, where this process did.
    pub limit: Limit,
    pub cost: u32,
    pub unix: u64,
    pub taken: Taken,
    /// What this process had to say to those that Redis allowed.
    pub both: Option<Taken>,
    /// What the caller wants to hear in an outage.
    pub instead: Option<bool>,
    pub outage: bool,
}

impl Verdict<'_> {
    /// What the call with this index is told.
    pub fn answer(&self, index: u32, caller: &Caller) -> Answer {
        if self.outage {
            caller.counters.answered_in_outage.fetch_add(1, Relaxed);
        }
        let mut allowed = index < self.taken.admitted;
        let mut standing = self.taken.standing(self.limit, self.cost, index);
        if let Some(own) = self.both.filter(|_| allowed) {
            let seen = own.standing(self.limit, self.cost, index);
            allowed = index < own.admitted;
            standing.remaining = standing.remaining.min(seen.remaining);
            standing.clear = standing.clear.max(seen.clear);
            standing.wait = seen.wait;
        }
        if self.instead == Some(false) {
            standing.remaining = 0;
        }
        let allowed = self.instead.unwrap_or(allowed);
        let answer = Answer::new(allowed, self.limit, &standing, self.unix);
        caller.told(Answer { limit: self.check.limit.quota, ..answer })
    }
}
