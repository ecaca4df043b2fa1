//! What a caller gets to know.

use crate::limit::{Limit, Standing};

const SECOND: u64 = 1_000_000;

/// The answer to one check. Seconds are whole, and rounded up: who waits so long has waited enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    pub allowed: bool,
    pub limit: u32,
    pub remaining: u32,
    /// When all of the limit is there again, in seconds since 1970.
    pub reset: u64,
    /// Seconds until a call like this could be allowed, if it would not be now.
    pub retry_after: Option<u32>,
    /// Seconds until all of the limit is there again.
    pub clear: u32,
}

impl Answer {
    /// `unix` is the time of day, in microseconds, of the clock that decided.
    pub fn new(allowed: bool, limit: Limit, standing: &Standing, unix: u64) -> Self {
        let Standing { remaining, wait, clear } = *standing;
        Self {
            allowed,
            limit: limit.quota,
            remaining,
            reset: unix.saturating_add(clear).div_ceil(SECOND),
            retry_after: (!allowed).then(|| seconds(wait).max(1)),
            clear: seconds(clear),
        }
    }
}

fn seconds(micros: u64) -> u32 {
    u32::try_from(micros.div_ceil(SECOND)).unwrap_or(u32::MAX)
}
