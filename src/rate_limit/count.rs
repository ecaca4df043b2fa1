//! What is counted for one key, by its algorithm.

use super::fixed_window::FixedWindow;
use super::sliding_window::SlidingWindow;
use super::token_bucket::TokenBucket;
use crate::limit::{Algorithm, Limit, Taken};

#[derive(Debug, Clone)]
pub enum Count {
    Sliding(SlidingWindow),
    Bucket(TokenBucket),
    Fixed(FixedWindow),
}

/// The same of each kind.
macro_rules! each {
    ($count:expr, $one:ident => $what:expr) => {
        match $count {
            Count::Sliding($one) => $what,
            Count::Bucket($one) => $what,
            Count::Fixed($one) => $what,
        }
    };
}

impl Count {
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::SlidingWindow => Self::Sliding(SlidingWindow::default()),
            Algorithm::TokenBucket => Self::Bucket(TokenBucket::default()),
            Algorithm::FixedWindow => Self::Fixed(FixedWindow::default()),
        }
    }

    /// Counts the first of `calls` calls of `cost` each that are admitted. With no calls, only looks.
    pub fn take(&mut self, now: u64, limit: Limit, cost: u32, calls: u32) -> Taken {
        each!(self, one => one.take(now, limit, cost, calls))
    }

    /// Counts hits without asking, even beyond the limit.
    pub fn add(&mut self, now: u64, limit: Limit, hits: u64) {
        each!(self, one => one.add(now, limit, hits));
    }

    /// Takes back hits, the latest first.
    pub fn give_back(&mut self, now: u64, limit: Limit, hits: u64) {
        each!(self, one => one.give_back(now, limit, hits));
    }

    /// The limit that was counted with last.
    pub fn limit(&self) -> Option<Limit> {
        each!(self, one => one.limit())
    }

    /// When nothing is counted any more; 0 if nothing is.
    pub fn ends(&self) -> u64 {
        each!(self, one => one.ends())
    }

    /// Entries of a log that are held.
    pub fn weight(&self) -> usize {
        match self {
            Self::Sliding(window) => window.weight(),
            Self::Bucket(_) | Self::Fixed(_) => 0,
        }
    }

    /// Makes a log shorter by one entry, counting some hits for longer than they would have to be.
    pub fn thin(&mut self) {
        if let Self::Sliding(window) = self {
            window.thin();
        }
    }
}
