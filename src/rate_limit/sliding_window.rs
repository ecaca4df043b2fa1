//! Exactly at most `quota` hits in any window, wherever it lies: a log of all hits that may still count.
//! `stores/redis/sliding_window.lua` decides the same.

use crate::limit::{Limit, MOST, Reading, Taken};
use std::collections::VecDeque;

/// A hit counts from its time until exactly one window later.
///
/// Each entry of the log has the number of all hits up to it, so that how many lie between two moments is one subtraction,
/// and where enough have left is a binary search. Hits of one microsecond are one entry.
#[derive(Debug, Clone, Default)]
pub struct SlidingWindow {
    /// Hits before the first entry. This and totals wrap around.
    left: u64,
    log: VecDeque<Entry>,
    /// The longest window that it was checked with since it was empty: what none of them counts is not kept.
    span: u64,
    limit: Option<Limit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    time: u64,
    /// All hits up to and with this entry.
    total: u64,
}

impl SlidingWindow {
    /// Counts the first of `calls` calls of `cost` each that are admitted. With no calls, only looks.
    pub fn take(&mut self, now: u64, limit: Limit, cost: u32, calls: u32) -> Taken {
        let cost = u64::from(cost.max(1));
        if calls == 0 {
            let gathered = if self.is_from_the_future(now) { Some(self.gathered(now)) } else { None };
            let reading = gathered.as_ref().unwrap_or(self).reading(now, limit, cost);
            return Taken { admitted: 0, reading };
        }
        self.settle(now);
        let (_, used) = self.counted(now, limit.window);
        let fitting = u64::from(limit.quota).saturating_sub(used) / cost;
        let admitted = u32::try_from(fitting).unwrap_or(u32::MAX).min(calls);
        self.push(now, limit, u64::from(admitted) * cost);
        Taken { admitted, reading: self.reading(now, limit, cost) }
    }

    /// Counts hits without asking, even beyond the limit.
    pub fn add(&mut self, now: u64, limit: Limit, hits: u64) {
        if hits > 0 {
            self.settle(now);
            self.push(now, limit, hits.min(MOST));
        }
    }

    /// Takes back hits, the latest first.
    pub fn give_back(&mut self, now: u64, _: Limit, hits: u64) {
        self.settle(now);
        let (left, rest) = (self.left, self.held().saturating_sub(hits));
        if rest == 0 {
            *self = Self::default();
            return;
        }
        self.log.truncate(self.log.partition_point(|entry| entry.total.wrapping_sub(left) < rest) + 1);
        if let Some(last) = self.log.back_mut() {
            last.total = left.wrapping_add(rest);
        }
        self.shrink();
    }

    /// The limit that was counted with last.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// When nothing is counted any more; 0 if nothing is.
    pub fn ends(&self) -> u64 {
        self.log.back().map_or(0, |last| last.time.saturating_add(self.span))
    }

    /// Entries of a log that are held.
    pub fn weight(&self) -> usize {
        self.log.len()
    }

    /// Makes one entry of the latest two: the hits of the earlier one count for as long as those of the later.
    pub fn thin(&mut self) {
        if let Some(last) = self.log.pop_back() {
            self.log.pop_back();
            self.log.push_back(last);
        }
    }

    /// Hits up to and with this entry that have not left.
    fn up_to(&self, entry: &Entry) -> u64 {
        entry.total.wrapping_sub(self.left)
    }

    /// All hits that have not left.
    fn held(&self) -> u64 {
        self.log.back().map_or(0, |last| self.up_to(last))
    }

    /// There are hits later than now: of a clock that went back.
    fn is_from_the_future(&self, now: u64) -> bool {
        self.log.back().is_some_and(|last| last.time > now)
    }

    /// All hits as if they were made now.
    fn gathered(&self, now: u64) -> Self {
        let total = self.held().min(MOST);
        Self { left: 0, log: [Entry { time: now, total }].into(), span: self.span, limit: self.limit }
    }

    /// Drops what is counted by no limit any more.
    fn settle(&mut self, now: u64) {
        if self.is_from_the_future(now) {
            *self = self.gathered(now);
        }
        while let Some(first) = self.log.front().filter(|first| now.saturating_sub(first.time) >= self.span) {
            self.left = first.total;
            self.log.pop_front();
        }
        self.shrink();
        if self.log.is_empty() {
            (self.left, self.span) = (0, 0);
        }
    }

    fn push(&mut self, now: u64, limit: Limit, hits: u64) {
        (self.span, self.limit) = (self.span.max(limit.window), Some(limit));
        let total = self.left.wrapping_add(self.held()).wrapping_add(hits);
        match self.log.back_mut() {
            Some(last) if last.time == now => last.total = total,
            _ if hits > 0 => self.log.push_back(Entry { time: now, total }),
            _ => {}
        }
        // The script cannot tell more apart. Only several limits on one key can come to so many.
        if self.held() > MOST {
            *self = self.gathered(now);
        }
    }

    /// Gives memory back that a burst has needed.
    fn shrink(&mut self) {
        if self.log.capacity() > 4 * self.log.len().max(4) {
            self.log.shrink_to(2 * self.log.len());
        }
    }

    /// Of the hits that have not left: how many were made before those that a limit with this window counts, and how many it
    /// counts. What no limit has asked to keep is not counted.
    fn counted(&self, now: u64, window: u64) -> (u64, u64) {
        let window = window.min(self.span);
        let gone = self.log.partition_point(|entry| now.saturating_sub(entry.time) >= window);
        let before = gone.checked_sub(1).and_then(|index| self.log.get(index)).map_or(0, |entry| self.up_to(entry));
        (before, self.held() - before)
    }

    fn reading(&self, now: u64, limit: Limit, cost: u64) -> Reading {
        let (before, used) = self.counted(now, limit.window);
        let left = |entry: Option<&Entry>| {
            let passed = |entry: &Entry| now.saturating_sub(entry.time);
            entry.map_or(0, |entry| limit.window.min(self.span).saturating_sub(passed(entry)))
        };
        let missing = (used + cost).saturating_sub(u64::from(limit.quota));
        let wait = if missing == 0 {
            0
        } else {
            let index = self.log.partition_point(|entry| self.up_to(entry) < before + missing);
            left(self.log.get(index).or(self.log.back()))
        };
        Reading::Window { used, wait, clear: left(self.log.back()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_of_one_microsecond_are_one_entry_and_memory_is_given_back() {
        let limit = Limit { quota: 2_000, window: 1_000 };
        let mut window = SlidingWindow::default();
        for index in 0..1_500 {
            window.take(index / 3, limit, 1, 1);
        }
        assert_eq!((window.weight(), window.ends()), (500, 1_499));
        window.take(1_489, limit, 1, 1);
        assert_eq!(window.weight(), 11);
        assert!(window.log.capacity() <= 44, "room for {}", window.log.capacity());
        window.take(10_000, limit, 1, 0);
        assert_eq!(window.weight(), 11, "looking drops nothing");
        window.give_back(1_490, limit, 4);
        assert_eq!(window.weight(), 8, "the last entry had one hit, those before it three");
    }
}
