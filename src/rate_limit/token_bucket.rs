//! A bucket of `quota` tokens that refills evenly in one window (GCRA, ITU-T I.371): burst and rate in a few numbers.
//! `stores/redis/token_bucket.lua` decides the same.

use crate::limit::{Limit, Reading, Taken};

/// Kept as debt: the time until the bucket is full again. A token costs the time that it takes to come back, and a call is
/// admitted if the debt is at most the window after it. Called with several limits, each finds its own calls in the debt and
/// those of others on top.
#[derive(Debug, Clone, Default)]
pub struct TokenBucket {
    /// When the debt was this.
    at: u64,
    debt: u64,
    /// Of a microsecond more, in parts of the quota of `limit`: without it, small errors would add up to whole calls.
    fraction: u64,
    limit: Option<Limit>,
}

impl TokenBucket {
    /// Counts the first of `calls` calls of `cost` each that are admitted. With no calls, only looks.
    pub fn take(&mut self, now: u64, limit: Limit, cost: u32, calls: u32) -> Taken {
        let mut next = self.at(now).under(limit);
        let admitted = next.room_for(limit, cost).min(calls);
        next.charge(limit, u64::from(admitted) * u64::from(cost));
        let reading = Reading::Bucket { debt: next.debt, fraction: next.fraction };
        if admitted > 0 || calls > 0 && (self.limit != Some(limit) || now < self.at) {
            *self = next;
        }
        Taken { admitted, reading }
    }

    /// Counts hits without asking, even beyond the limit.
    pub fn add(&mut self, now: u64, limit: Limit, hits: u64) {
        if hits > 0 {
            *self = self.at(now).under(limit);
            self.charge(limit, hits);
        }
    }

    /// Takes back hits that were counted under this limit.
    pub fn give_back(&mut self, now: u64, limit: Limit, hits: u64) {
        let mut next = self.at(now);
        let (mut whole, mut fraction) = limit.refill_of(hits);
        if self.limit.is_none_or(|own| own.quota != limit.quota) {
            // Other parts: what is less than a microsecond is not given back.
            fraction = 0;
        }
        if next.fraction < fraction {
            next.fraction += u64::from(limit.quota);
            whole = whole.saturating_add(1);
        }
        next.fraction -= fraction;
        *self = match next.debt.checked_sub(whole) {
            Some(debt) if debt > 0 || next.fraction > 0 => Self { debt, ..next },
            _ => Self::default(),
        };
    }

    /// The limit that was counted with last.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// When nothing is counted any more; 0 if nothing is.
    pub fn ends(&self) -> u64 {
        if self.rounded_up() == 0 { 0 } else { self.at.saturating_add(self.rounded_up()) }
    }

    /// As it is now. A time later than now is of a clock that went back: the debt begins to shrink now.
    fn at(&self, now: u64) -> Self {
        let (debt, fraction) = match self.debt.checked_sub(now.saturating_sub(self.at)) {
            Some(debt) => (debt, self.fraction),
            None => (0, 0),
        };
        Self { at: now, debt, fraction, limit: self.limit }
    }

    /// With the fraction in parts of the quota of this limit.
    fn under(self, limit: Limit) -> Self {
        let same = self.limit.is_some_and(|own| own.quota == limit.quota);
        let (debt, fraction) = if same { (self.debt, self.fraction) } else { (self.rounded_up(), 0) };
        Self { at: self.at, debt, fraction, limit: Some(limit) }
    }

    fn rounded_up(&self) -> u64 {
        self.debt.saturating_add(u64::from(self.fraction > 0))
    }

    /// How many calls of this cost fit.
    fn room_for(&self, limit: Limit, cost: u32) -> u32 {
        let (parts, window) = (u128::from(limit.quota), u128::from(limit.window));
        let debt = u128::from(self.debt) * parts + u128::from(self.fraction);
        let calls = (window * parts).saturating_sub(debt) / (window * u128::from(cost.max(1))).max(1);
        u32::try_from(calls).unwrap_or(u32::MAX)
    }

    fn charge(&mut self, limit: Limit, hits: u64) {
        let (whole, fraction) = limit.refill_of(hits);
        self.debt = self.debt.saturating_add(whole);
        self.fraction += fraction;
        if self.fraction >= u64::from(limit.quota) {
            self.fraction -= u64::from(limit.quota);
            self.debt = self.debt.saturating_add(1);
        }
    }
}
