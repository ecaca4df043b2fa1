//! A limit, and how a count stands against it: the same whether Redis counts or this process. All times are microseconds.

/// How calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    SlidingWindow,
    TokenBucket,
    FixedWindow,
}

impl Algorithm {
    pub const ALL: [Self; 3] = [Self::SlidingWindow, Self::TokenBucket, Self::FixedWindow];

    /// As options and keys of Redis have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SlidingWindow => "sliding-window",
            Self::TokenBucket => "token-bucket",
            Self::FixedWindow => "fixed-window",
        }
    }
}

/// Counts of windows end here: more than any quota, and what the scripts for Redis can tell apart.
pub const MOST: u64 = 1 << 31;

/// So many calls in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// 1 to 1,000,000,000.
    pub quota: u32,
    /// 1 ms to 31 days.
    pub window: u64,
}

impl Limit {
    /// How long one token takes to come back, times `tokens`: whole microseconds, and parts of `quota` of one.
    pub fn refill_of(self, tokens: u64) -> (u64, u64) {
        let (time, quota) = (u128::from(self.window) * u128::from(tokens), u128::from(self.quota));
        let whole = |time: u128| u64::try_from(time).unwrap_or(u64::MAX);
        (whole(time / quota), whole(time % quota))
    }
}

/// How a count stands after a check, for a call of the same cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Of a window: calls that are counted; how long until one of this cost fits (0 if it does); how long until nothing is
    /// counted any more.
    Window { used: u64, wait: u64, clear: u64 },
    /// Of a bucket: how long until it is full again, in whole microseconds and `fraction` parts of `quota` of one.
    Bucket { debt: u64, fraction: u64 },
}

/// What a check of several calls at once did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The first so many of them are allowed.
    pub admitted: u32,
    pub reading: Reading,
}

/// What one caller may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub remaining: u32,
    /// How long until a call of this cost is allowed; 0 if it would be now.
    pub wait: u64,
    /// How long until all of the quota is there again.
    pub clear: u64,
}

impl Taken {
    /// What the call with this index is told, of calls that cost `cost` each. One that was allowed does not see those after it.
    pub fn standing(&self, limit: Limit, cost: u32, index: u32) -> Standing {
        let later = u64::from(self.admitted.saturating_sub(index + 1)) * u64::from(cost);
        self.reading.standing(limit, cost, later)
    }
}

impl Reading {
    /// As it would be without the last `later` calls.
    fn standing(self, limit: Limit, cost: u32, later: u64) -> Standing {
        let Limit { quota, window } = limit;
        let left = |left: u64| u32::try_from(left).unwrap_or(u32::MAX).min(quota);
        match self {
            Self::Window { used, wait, clear } => {
                Standing { remaining: left(u64::from(quota).saturating_sub(used.saturating_sub(later))), wait, clear }
            }
            Self::Bucket { debt, fraction } => {
                // In parts of `quota` of a microsecond, where everything is whole.
                let (parts, window) = (u128::from(quota), u128::from(window));
                let debt = (u128::from(debt) * parts + u128::from(fraction)).saturating_sub(u128::from(later) * window);
                let room = (window * parts).saturating_sub(debt);
                // Not by `room`: more may have been added than there is room for.
                let missing = (debt + u128::from(cost) * window).saturating_sub(window * parts);
                let micros = |time: u128| u64::try_from(time.div_ceil(parts)).unwrap_or(u64::MAX);
                let remaining = left(u64::try_from(room / window).unwrap_or(u64::MAX));
                Standing { remaining, wait: micros(missing), clear: micros(debt) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { quota: 7, window: 1_000_000 };

    #[test]
    fn of_calls_that_came_together_each_sees_those_before_it() {
        let reading = Reading::Window { used: 7, wait: 5, clear: 9 };
        let taken = Taken { admitted: 3, reading };
        let remaining: Vec<_> = (0..5).map(|index| taken.standing(LIMIT, 2, index).remaining).collect();
        assert_eq!(remaining, [4, 2, 0, 0, 0]);
        let (debt, fraction) = LIMIT.refill_of(6);
        let taken = Taken { admitted: 3, reading: Reading::Bucket { debt, fraction } };
        let remaining: Vec<_> = (0..4).map(|index| taken.standing(LIMIT, 2, index).remaining).collect();
        assert_eq!(remaining, [5, 3, 1, 1]);
        assert_eq!(taken.standing(LIMIT, 2, 0).clear, 285_715, "two sevenths of a second, rounded up");
        assert_eq!(taken.standing(LIMIT, 2, 3).wait, 142_858, "one token is missing");
    }

    #[test]
    fn a_bucket_counts_in_parts_that_are_whole() {
        for tokens in 0..=7 {
            let (debt, fraction) = LIMIT.refill_of(tokens);
            let standing = Reading::Bucket { debt, fraction }.standing(LIMIT, 1, 0);
            assert_eq!(u64::from(standing.remaining), 7 - tokens);
        }
    }
}
