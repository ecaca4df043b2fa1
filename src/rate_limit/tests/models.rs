//! What the algorithms are meant to be, as plainly as it can be said: slow, and with every hit that there was.

use crate::limit::{Limit, MOST, Reading};
use std::collections::BTreeMap;

pub trait Model: Default {
    /// How many of the calls are admitted, one by one.
    fn take(&mut self, now: u64, limit: Limit, cost: u64, calls: u32) -> u32;
    fn add(&mut self, now: u64, limit: Limit, hits: u64);
    fn give_back(&mut self, now: u64, limit: Limit, hits: u64);
    fn reading(&self, now: u64, limit: Limit, cost: u64) -> Reading;
    fn limit(&self) -> Option<Limit>;
}

/// Hits by their time.
type Hits = BTreeMap<u64, u64>;

fn give_back(hits: &mut Hits, mut count: u64) {
    while let Some(mut last) = hits.last_entry().filter(|_| count > 0) {
        let gone = count.min(*last.get());
        count -= gone;
        *last.get_mut() -= gone;
        if *last.get() == 0 {
            last.remove();
        }
    }
}

/// All hits that some limit still counts.
#[derive(Debug, Default, Clone)]
pub struct Sliding {
    hits: Hits,
    span: u64,
    limit: Option<Limit>,
}

impl Sliding {
    fn all(&self) -> u64 {
        self.hits.values().sum()
    }

    /// What is from the future was made now, with all before it.
    fn gather(&mut self, now: u64) {
        if self.hits.keys().any(|time| *time > now) {
            self.hits = [(now, self.all())].into();
        }
    }

    /// More than can be told apart was made now.
    fn limit_all(&mut self, now: u64) {
        if self.all() > MOST {
            self.hits = [(now, MOST)].into();
        }
    }

    fn settle(&mut self, now: u64) {
        self.gather(now);
        self.hits.retain(|time, _| time + self.span > now);
        if self.hits.is_empty() {
            self.span = 0;
        }
    }

    fn count(&mut self, now: u64, limit: Limit, hits: u64) {
        (self.span, self.limit) = (self.span.max(limit.window), Some(limit));
        if hits > 0 {
            *self.hits.entry(now).or_default() += hits;
        }
    }

    fn used(&self, now: u64, limit: Limit) -> u64 {
        let window = limit.window.min(self.span);
        self.hits.iter().filter(|(time, _)| *time + window > now).map(|(_, count)| count).sum()
    }
}

impl Model for Sliding {
    fn take(&mut self, now: u64, limit: Limit, cost: u64, calls: u32) -> u32 {
        if calls == 0 {
            return 0;
        }
        self.settle(now);
        let mut admitted = 0;
        while admitted < calls && self.used(now, limit) + cost <= u64::from(limit.quota) {
            self.count(now, limit, cost);
            admitted += 1;
        }
        self.count(now, limit, 0);
        self.limit_all(now);
        admitted
    }

    fn add(&mut self, now: u64, limit: Limit, hits: u64) {
        if hits > 0 {
            self.settle(now);
            self.count(now, limit, hits);
            self.limit_all(now);
        }
    }

    fn give_back(&mut self, now: u64, _: Limit, hits: u64) {
        self.settle(now);
        give_back(&mut self.hits, hits);
        if self.hits.is_empty() {
            *self = Self::default();
        }
    }

    fn reading(&self, now: u64, limit: Limit, cost: u64) -> Reading {
        let mut own = self.clone();
        own.gather(now);
        let window = limit.window.min(self.span);
        let after = |wait: u64| own.used(now + wait, limit);
        let leaving = own.hits.keys().filter(|time| *time + window > now).map(|time| time + window - now);
        let wait = [0].into_iter().chain(leaving.clone()).find(|wait| after(*wait) + cost <= u64::from(limit.quota));
        let clear = [0].into_iter().chain(leaving).find(|wait| after(*wait) == 0);
        Reading::Window { used: after(0), wait: wait.unwrap(), clear: clear.unwrap() }
    }

    fn limit(&self) -> Option<Limit> {
        self.limit
    }
}

/// All hits of the window that is open.
#[derive(Debug, Default, Clone)]
pub struct Fixed {
    hits: Hits,
    start: u64,
    span: u64,
    limit: Option<Limit>,
}

impl Fixed {
    fn settled(&self, now: u64) -> Self {
        let mut own = Self { start: self.start.min(now), ..self.clone() };
        if own.start + own.span <= now {
            own = Self { start: now, limit: self.limit, ..Self::default() };
        }
        own
    }

    fn used(&self) -> u64 {
        self.hits.values().sum()
    }

    /// The clock may go back, but what is given back goes by the order of hits: each has its number for a time.
    fn count(&mut self, hits: u64) {
        let next = self.hits.keys().last().map_or(0, |last| last + 1);
        self.hits.insert(next, hits);
    }
}

impl Model for Fixed {
    fn take(&mut self, now: u64, limit: Limit, cost: u64, calls: u32) -> u32 {
        if calls == 0 {
            return 0;
        }
        *self = self.settled(now);
        (self.span, self.limit) = (self.span.max(limit.window), Some(limit));
        let mut admitted = 0;
        while admitted < calls && self.used() + cost <= u64::from(limit.quota) {
            self.count(cost);
            admitted += 1;
        }
        admitted
    }

    fn add(&mut self, now: u64, limit: Limit, hits: u64) {
        if hits > 0 {
            *self = self.settled(now);
            (self.span, self.limit) = (self.span.max(limit.window), Some(limit));
            self.count(hits);
        }
    }

    fn give_back(&mut self, now: u64, _: Limit, hits: u64) {
        *self = self.settled(now);
        give_back(&mut self.hits, hits);
        if self.hits.is_empty() {
            *self = Self::default();
        }
    }

    fn reading(&self, now: u64, limit: Limit, cost: u64) -> Reading {
        let own = self.settled(now);
        let left = own.start + own.span - now;
        let fits = own.used() + cost <= u64::from(limit.quota);
        Reading::Window {
            used: own.used(),
            wait: if fits { 0 } else { left },
            clear: if own.hits.is_empty() { 0 } else { left },
        }
    }

    fn limit(&self) -> Option<Limit> {
        self.limit
    }
}

/// The theoretical arrival time of the textbook, exact: in parts of the quota of a microsecond.
#[derive(Debug, Default, Clone)]
pub struct Bucket {
    /// When the bucket is full.
    full: i128,
    /// When that was last changed.
    at: u64,
    limit: Option<Limit>,
}

impl Bucket {
    /// What is missing now.
    fn debt(&self, now: u64, limit: Limit) -> i128 {
        let own = i128::from(self.limit.map_or(limit.quota, |own| own.quota));
        let debt = (self.full - i128::from(now.max(self.at)) * own).max(0);
        if own == i128::from(limit.quota) { debt } else { (debt + own - 1) / own * i128::from(limit.quota) }
    }

    fn set(&mut self, now: u64, limit: Limit, debt: i128) {
        *self = Self { full: i128::from(now) * i128::from(limit.quota) + debt, at: now, limit: Some(limit) };
    }
}

impl Model for Bucket {
    fn take(&mut self, now: u64, limit: Limit, cost: u64, calls: u32) -> u32 {
        let (window, quota) = (i128::from(limit.window), i128::from(limit.quota));
        let mut debt = self.debt(now, limit);
        let mut admitted = 0;
        while admitted < calls && debt + i128::from(cost) * window <= window * quota {
            debt += i128::from(cost) * window;
            admitted += 1;
        }
        // A call that was denied leaves no trace, but of a clock that went back, and of its limit.
        if admitted > 0 || calls > 0 && (now < self.at || self.limit != Some(limit)) {
            self.set(now, limit, debt);
        }
        admitted
    }

    fn add(&mut self, now: u64, limit: Limit, hits: u64) {
        if hits > 0 {
            let debt = self.debt(now, limit) + i128::from(hits) * i128::from(limit.window);
            self.set(now, limit, debt);
        }
    }

    fn give_back(&mut self, now: u64, limit: Limit, hits: u64) {
        let Some(own) = self.limit else { return };
        let (mut back, quota) = (i128::from(hits) * i128::from(limit.window), i128::from(limit.quota));
        if own.quota != limit.quota {
            back = back / quota * i128::from(own.quota);
        }
        match self.debt(now, own) - back {
            debt if debt > 0 => self.set(now, own, debt),
            _ => *self = Self::default(),
        }
    }

    fn reading(&self, now: u64, limit: Limit, _: u64) -> Reading {
        let (debt, quota) = (self.debt(now, limit), i128::from(limit.quota));
        Reading::Bucket { debt: u64::try_from(debt / quota).unwrap(), fraction: u64::try_from(debt % quota).unwrap() }
    }

    fn limit(&self) -> Option<Limit> {
        self.limit
    }
}
