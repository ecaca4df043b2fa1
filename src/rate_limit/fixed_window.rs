//! A window that begins with its first hit: two numbers, and at worst twice the quota around the end of a window.
//! `stores/redis/fixed_window.lua` decides the same.

use crate::limit::{Limit, MOST, Reading, Taken};

#[derive(Debug, Clone, Default)]
pub struct FixedWindow {
    start: u64,
    used: u64,
    /// How long it lasts: the longest window that it was checked with.
    span: u64,
    limit: Option<Limit>,
}

impl FixedWindow {
    /// Counts the first of `calls` calls of `cost` each that are admitted. With no calls, only looks.
    pub fn take(&mut self, now: u64, limit: Limit, cost: u32, calls: u32) -> Taken {
        let mut next = self.at(now);
        if calls > 0 {
            next.span = next.span.max(limit.window);
            next.limit = Some(limit);
        }
        let (quota, cost) = (u64::from(limit.quota), u64::from(cost.max(1)));
        let fitting = quota.saturating_sub(next.used) / cost;
        let admitted = u32::try_from(fitting).unwrap_or(u32::MAX).min(calls);
        next.used += u64::from(admitted) * cost;
        let left = next.span.saturating_sub(now - next.start);
        let reading = Reading::Window {
            used: next.used,
            wait: if next.used + cost <= quota { 0 } else { left },
            clear: if next.used == 0 { 0 } else { left },
        };
        if calls > 0 {
            *self = next;
        }
        Taken { admitted, reading }
    }

    /// Counts hits without asking, even beyond the limit.
    pub fn add(&mut self, now: u64, limit: Limit, hits: u64) {
        if hits > 0 {
            let next = self.at(now);
            let used = (next.used + hits.min(MOST)).min(MOST);
            *self = Self { used, span: next.span.max(limit.window), limit: Some(limit), ..next };
        }
    }

    /// Takes back hits.
    pub fn give_back(&mut self, now: u64, _: Limit, hits: u64) {
        let next = self.at(now);
        let used = next.used.saturating_sub(hits);
        *self = if used == 0 { Self::default() } else { Self { used, ..next } };
    }

    /// The limit that was counted with last.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// When nothing is counted any more; 0 if nothing is.
    pub fn ends(&self) -> u64 {
        if self.used == 0 { 0 } else { self.start.saturating_add(self.span) }
    }

    /// As it is now. A start later than now is of a clock that went back: the window starts now.
    fn at(&self, now: u64) -> Self {
        let start = self.start.min(now);
        if self.used == 0 || now - start >= self.span {
            return Self { start: now, used: 0, span: 0, limit: self.limit };
        }
        Self { start, ..self.clone() }
    }
}
