//! What this process has counted: a bounded number of keys, none of which can be pushed out by others.

use super::count::Count;
use super::key::Key;
use crate::limit::{Algorithm, Limit, Taken};
use indexmap::IndexMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Entries of logs for each key that there may be, and in any case.
const LOG_A_KEY: usize = 32;
const LEAST_LOG: usize = 1_000_000;

/// Keys that find no room share a count with some others of the same algorithm and of limiters that fall into the same group:
/// one of so many for each key there may be, and no fewer than that.
const GROUPS: u64 = 16;
const KEYS_A_SHARE: usize = 8;
const LEAST_SHARES: usize = 64;

/// Entries that each call looks at, one after the other, to remove those that are over; and one that needs room.
const SWEPT: usize = 2;
const SWEPT_FOR_ROOM: usize = 16;

/// The counts of a process.
///
/// A key that something is counted for keeps its place until that is over. Beyond the number of keys there may be, one that
/// is new shares a count with others, for as long as anything is counted there. Which one never changes. So no count is ever
/// lower than the truth, whatever is thrown at it; that of newcomers may be higher. A log that would take too much memory
/// counts some of its hits for longer than it has to.
///
/// A key of 40 bytes takes 570 bytes with its first hit.
#[derive(Default)]
pub struct Counts(Mutex<Table>);

/// Who is counted, and how.
#[derive(Clone, Copy)]
pub struct Counted<'a> {
    pub key: &'a Key,
    pub algorithm: Algorithm,
    pub limit: Limit,
}

impl Counts {
    /// Changes how many keys there may be. What there is stays until it is over, but for what is shared: it is forgotten.
    pub fn resize(&self, most_keys: usize) {
        let shares = (most_keys / KEYS_A_SHARE).max(LEAST_SHARES) as u64;
        self.table().resize(most_keys, shares);
    }

    /// Counts the first of `calls` calls of `cost` each that are admitted. With no calls, only looks.
    pub fn take(&self, now: u64, counted: Counted<'_>, cost: u32, calls: u32) -> Taken {
        let mut table = self.table();
        if calls == 0 {
            return table.peek(now, counted, cost);
        }
        table.change(now, counted, |entry| {
            entry.alone = now;
            entry.count.take(now, counted.limit, cost, calls)
        })
    }

    /// The same for a key that shares its count with nobody, beside somebody else who decides; `None` for other keys, and
    /// unless `all` of them matter, for those that were decided here alone longer ago than a window.
    pub fn take_beside(&self, now: u64, counted: Counted<'_>, cost: u32, calls: u32, all: bool) -> Option<Taken> {
        let mut table = self.table();
        let entry = table.own.entries.get(counted.key.as_bytes())?;
        if !all && (entry.alone == 0 || now - entry.alone.min(now) >= counted.limit.window) {
            return None;
        }
        Some(match calls {
            0 => table.peek(now, counted, cost),
            calls => table.change(now, counted, |entry| entry.count.take(now, counted.limit, cost, calls)),
        })
    }

    /// Counts hits without asking, even beyond the limit.
    pub fn add(&self, now: u64, counted: Counted<'_>, hits: u64) {
        self.table().change(now, counted, |entry| entry.count.add(now, counted.limit, hits));
    }

    /// Takes back hits; not of a count that is shared, where they may be another one's.
    pub fn give_back(&self, now: u64, counted: Counted<'_>, hits: u64) {
        let mut table = self.table();
        if table.own.entries.contains_key(counted.key.as_bytes()) {
            table.change(now, counted, |entry| entry.count.give_back(now, counted.limit, hits));
        }
    }

    /// The limit that a key was counted with last.
    pub fn limit(&self, key: &Key) -> Option<Limit> {
        self.table().own.entries.get(key.as_bytes())?.count.limit()
    }

    /// Forgets what is counted for a key, and nothing of any other: it gets a place of its own, as long as fewer than twice as
    /// many keys as there may be have one.
    pub fn forget(&self, now: u64, key: &Key, algorithm: Algorithm) {
        self.table().forget(now, key, algorithm);
    }

    /// Forgets all keys that begin like this, in one go through all of them; and whatever is shared, since nobody knows whose
    /// it is.
    pub fn forget_all(&self, beginning: &[u8]) {
        let mut table = self.table();
        table.own.entries.retain(|key, _| !key.starts_with(beginning));
        table.shared.entries.clear();
        table.log = table.own.entries.values().map(|entry| entry.count.weight()).sum();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Table {
    most: usize,
    own: Group,
    shared: Group,
    /// Shared counts of each group of limiters.
    shares: u64,
    /// Entries of all logs.
    log: usize,
}

/// Counts by their keys, in a row that is walked around for those that are over. Hashed with a seed that nobody knows: keys
/// come from anyone.
#[derive(Default)]
struct Group {
    entries: IndexMap<Box<[u8]>, Entry, RandomState>,
    at: usize,
}

struct Entry {
    count: Count,
    /// When this process last decided alone about it.
    alone: u64,
    /// Until then it stays although nothing is counted: it was cleared, but not what it had in common with others.
    free_until: u64,
}

impl Entry {
    fn is_over(&self, now: u64) -> bool {
        self.count.ends() <= now && self.free_until <= now
    }
}

impl Group {
    /// Looks at some entries and removes those that are over; says how many entries of logs they had.
    fn sweep(&mut self, now: u64, steps: usize) -> usize {
        let mut log = 0;
        for _ in 0..steps {
            if self.at >= self.entries.len() {
                self.at = 0;
            }
            match self.entries.get_index(self.at) {
                None => break,
                Some((_, entry)) if entry.is_over(now) => {
                    log += entry.count.weight();
                    self.entries.swap_remove_index(self.at);
                }
                Some(_) => self.at += 1,
            }
        }
        // Memory that a flood has needed is given back.
        if self.entries.capacity() / 4 > self.entries.len().max(SWEPT_FOR_ROOM) {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        log
    }
}

/// How several keys are counted together. A fixed window begins with the first hit of whichever key; what would hold for each
/// of them is a window that is exact wherever it lies.
fn shared_algorithm(algorithm: Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::FixedWindow => Algorithm::SlidingWindow,
        other => other,
    }
}

impl Table {
    /// Changes the count of a key, which gets its place.
    fn change<T>(&mut self, now: u64, counted: Counted<'_>, change: impl FnOnce(&mut Entry) -> T) -> T {
        self.sweep(now, SWEPT);
        let room = self.most.saturating_mul(LOG_A_KEY).max(LEAST_LOG).saturating_sub(self.log);
        let entry = self.place(now, counted);
        let before = entry.count.weight();
        let result = change(entry);
        if entry.count.weight() > before + room {
            entry.count.thin();
        }
        let after = entry.count.weight();
        self.log = self.log + after - before;
        result
    }

    /// Where a key is counted.
    fn place(&mut self, now: u64, Counted { key, algorithm, .. }: Counted<'_>) -> &mut Entry {
        let known = self.own.entries.contains_key(key.as_bytes());
        let (group, name, algorithm) = if known || !self.is_shared(now, key, algorithm) && self.has_room(now) {
            (&mut self.own, key.as_bytes().into(), algorithm)
        } else {
            let name = self.share(key, algorithm);
            (&mut self.shared, name.into(), shared_algorithm(algorithm))
        };
        let new = || Entry { count: Count::new(algorithm), alone: 0, free_until: 0 };
        let entry = group.entries.entry(name).or_insert_with(new);
        if entry.count.ends() <= now {
            self.log -= entry.count.weight();
            entry.count = Count::new(algorithm);
        }
        entry
    }

    /// What a key is counted as together with others.
    fn share(&self, key: &Key, algorithm: Algorithm) -> [u8; 17] {
        let hasher = self.own.entries.hasher();
        let (group, number) =
            (hasher.hash_one(key.limiter()) % GROUPS, hasher.hash_one(key.as_bytes()) % self.shares.max(1));
        let mut name = [0; 17];
        name[0] = algorithm as u8;
        name[1..9].copy_from_slice(&group.to_be_bytes());
        name[9..].copy_from_slice(&number.to_be_bytes());
        name
    }

    /// Until when something is counted for a key and others together.
    fn shared_until(&self, key: &Key, algorithm: Algorithm) -> u64 {
        if self.shared.entries.is_empty() {
            return 0;
        }
        self.shared.entries.get(&self.share(key, algorithm)[..]).map_or(0, |entry| entry.count.ends())
    }

    fn is_shared(&self, now: u64, key: &Key, algorithm: Algorithm) -> bool {
        self.shared_until(key, algorithm) > now
    }

    fn resize(&mut self, most: usize, shares: u64) {
        if (self.most, self.shares) != (most, shares) {
            (self.most, self.shares) = (most, shares);
            self.log -= self.shared.entries.values().map(|entry| entry.count.weight()).sum::<usize>();
            self.shared.entries.clear();
        }
    }

    fn has_room(&mut self, now: u64) -> bool {
        if self.own.entries.len() >= self.most {
            self.sweep(now, SWEPT_FOR_ROOM);
        }
        self.own.entries.len() < self.most
    }

    fn peek(&mut self, now: u64, Counted { key, algorithm, limit }: Counted<'_>, cost: u32) -> Taken {
        let share = self.share(key, algorithm);
        let entry = self.own.entries.get_mut(key.as_bytes()).or_else(|| self.shared.entries.get_mut(&share[..]));
        match entry.filter(|entry| entry.count.ends() > now) {
            Some(entry) => entry.count.take(now, limit, cost, 0),
            None => Count::new(algorithm).take(now, limit, cost, 0),
        }
    }

    fn sweep(&mut self, now: u64, steps: usize) {
        self.log -= self.own.sweep(now, steps) + self.shared.sweep(now, 1);
    }

    fn forget(&mut self, now: u64, key: &Key, algorithm: Algorithm) {
        if let Some(entry) = self.own.entries.swap_remove(key.as_bytes()) {
            self.log -= entry.count.weight();
        }
        let free_until = self.shared_until(key, algorithm);
        if free_until > now && self.own.entries.len() < 2 * self.most {
            let entry = Entry { count: Count::new(algorithm), alone: 0, free_until };
            self.own.entries.insert(key.as_bytes().into(), entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const MINUTE: u64 = 60_000_000;
    const LIMIT: Limit = Limit { quota: 5, window: MINUTE };

    fn counts(most: usize) -> Counts {
        let counts = Counts::default();
        counts.resize(most);
        counts
    }

    fn key(number: usize) -> Key {
        Key::new("ratelimit:test:", number.to_string().as_bytes())
    }

    fn take(counts: &Counts, now: u64, key: &Key, algorithm: Algorithm, calls: u32) -> u32 {
        counts.take(now, Counted { key, algorithm, limit: LIMIT }, 1, calls).admitted
    }

    fn sizes(counts: &Counts) -> (usize, usize, usize) {
        let table = counts.table();
        let entries = || table.own.entries.values().chain(table.shared.entries.values());
        assert_eq!(table.log, entries().map(|entry| entry.count.weight()).sum::<usize>(), "the log is counted right");
        (table.own.entries.len(), table.shared.entries.len(), table.log)
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_a_victim_stays_denied() {
        for algorithm in Algorithm::ALL {
            let (counts, victim) = (counts(1_000), key(usize::MAX));
            assert_eq!(take(&counts, 0, &victim, algorithm, 6), 5);
            for number in 0..100_000 {
                take(&counts, 1, &key(number), algorithm, 1);
            }
            assert_eq!(take(&counts, 2, &victim, algorithm, 1), 0);
            let (own, shared, log) = sizes(&counts);
            assert!(own == 1_000 && shared <= 125 && log <= 1_000 + 125 * 5, "{own} {shared} {log}");
        }
    }

    #[test]
    fn an_attacker_who_finds_no_room_does_not_get_his_own_count_back() {
        for algorithm in Algorithm::ALL {
            let counts = counts(10);
            for number in 0..10 {
                take(&counts, 0, &key(number), algorithm, 1);
            }
            let late = key(10);
            assert_eq!(take(&counts, MINUTE - 1, &late, algorithm, 9), 5);
            // There is room again.
            assert_eq!(take(&counts, MINUTE + 1, &key(11), algorithm, 1), 1);
            assert_eq!(take(&counts, MINUTE + 2, &late, algorithm, 1), 0);
            assert!(take(&counts, 3 * MINUTE, &late, algorithm, 1) == 1 && counts.limit(&late).is_some());
        }
    }

    #[test]
    fn what_is_over_makes_room_and_gives_memory_back() {
        let counts = counts(100_000);
        for number in 0..50_000 {
            take(&counts, 0, &key(number), Algorithm::SlidingWindow, 1);
        }
        for _ in 0..60_000 {
            take(&counts, 2 * MINUTE, &key(0), Algorithm::TokenBucket, 0);
            counts.add(2 * MINUTE, Counted { key: &key(1), algorithm: Algorithm::TokenBucket, limit: LIMIT }, 1);
        }
        assert_eq!(sizes(&counts), (1, 0, 0));
        assert!(counts.table().own.entries.capacity() < 1_000);
    }

    #[test]
    fn a_key_is_forgotten_at_once_and_no_other_is() {
        let counts = counts(2);
        let all: Vec<_> = (0..4).map(key).collect();
        let sliding = Algorithm::SlidingWindow;
        for key in &all {
            take(&counts, 0, key, sliding, 5);
        }
        assert!(all.iter().all(|key| take(&counts, 1, key, sliding, 1) == 0));
        counts.forget(2, &all[0], sliding);
        assert_eq!(all.iter().map(|key| take(&counts, 3, key, sliding, 1)).collect::<Vec<_>>(), [1, 0, 0, 0]);
        counts.forget(4, &all[0], sliding);
        counts.forget(4, &all[2], sliding);
        assert_eq!(all.iter().map(|key| take(&counts, 5, key, sliding, 9)).collect::<Vec<_>>(), [5, 0, 5, 0]);
        counts.forget_all(b"ratelimit:other:");
        assert_eq!(take(&counts, 6, &all[1], sliding, 1), 0, "it has a place of its own");
        counts.forget_all(b"ratelimit:test:");
        assert_eq!(sizes(&counts), (0, 0, 0));
    }

    #[test]
    fn algorithms_and_most_limiters_do_not_share() {
        let counts = counts(1);
        for number in 0..10_000_u32 {
            take(&counts, 0, &Key::new("api:", &number.to_be_bytes()), Algorithm::SlidingWindow, 1);
        }
        let limiters = (0..64).map(|number| Key::new(&format!("{number}:"), b"somebody"));
        let free = limiters.filter(|key| take(&counts, 1, key, Algorithm::SlidingWindow, 9) == 5).count();
        assert!((40..64).contains(&free), "{free} of 64 share nothing with a flood");
        assert_eq!(take(&counts, 1, &Key::new("api:", b"somebody"), Algorithm::TokenBucket, 9), 5);
    }

    #[test]
    fn a_log_that_is_too_long_counts_longer_and_never_less() {
        let (counts, limit) = (counts(1), Limit { quota: 3_000_000, window: MINUTE });
        let key = key(0);
        let counted = Counted { key: &key, algorithm: Algorithm::SlidingWindow, limit };
        for now in 0..LEAST_LOG as u64 + 1_000 {
            assert_eq!(counts.take(now, counted, 1, 1).admitted, 1);
        }
        assert_eq!(sizes(&counts).2, LEAST_LOG);
        let used = |now| match counts.take(now, counted, 1, 0).reading {
            crate::limit::Reading::Window { used, .. } => used,
            crate::limit::Reading::Bucket { .. } => panic!("a window"),
        };
        let all = LEAST_LOG as u64 + 1_000;
        assert_eq!((used(MINUTE - 1), used(MINUTE + LEAST_LOG as u64 - 2)), (all, 1_001));
        assert_eq!(used(MINUTE + all), 0);
    }

    proptest! {
        /// Against as many counts as there are keys.
        #[test]
        fn a_count_is_never_lower_than_the_truth(
            (most, shares) in (1..6_usize, 1..4_u64),
            steps in prop::collection::vec((0..8_usize, 0..3_usize, 1..4_u32, prop_oneof![Just(0), 1..MINUTE / 3]), 1..200),
        ) {
            let (bounded, mut alone, mut now) = (Counts::default(), HashMap::new(), 1);
            // So few that keys meet.
            bounded.table().resize(most, shares);
            for (number, algorithm, cost, pause) in steps {
                now += pause;
                let algorithm = Algorithm::ALL[algorithm];
                let key = Key::new(algorithm.name(), number.to_string().as_bytes());
                let true_count = alone.entry((number, algorithm)).or_insert_with(|| Count::new(algorithm));
                let counted = Counted { key: &key, algorithm, limit: LIMIT };
                let peeked = bounded.take(now, counted, cost, 0).standing(LIMIT, cost, 0).wait == 0;
                let admitted = bounded.take(now, counted, cost, 1).admitted;
                // A key whose count is over may lose its place before the call.
                prop_assert!(peeked || admitted == 0);
                if admitted == 1 {
                    prop_assert_eq!(true_count.take(now, LIMIT, cost, 1).admitted, 1, "{} would be denied", number);
                }
            }
            let (own, shared, _) = sizes(&bounded);
            prop_assert!(own <= most && shared <= 9 * 3);
        }

        #[test]
        fn with_room_for_all_each_is_counted_alone(
            steps in prop::collection::vec((0..8_usize, 1..4_u32, 0..MINUTE / 3), 1..200),
        ) {
            for algorithm in Algorithm::ALL {
                let (bounded, mut alone, mut now) = (counts(8), HashMap::new(), 1);
                for (number, cost, pause) in &steps {
                    now += pause;
                    let key = key(*number);
                    let alone = alone.entry(number).or_insert_with(|| Count::new(algorithm));
                    let counted = Counted { key: &key, algorithm, limit: LIMIT };
                    prop_assert_eq!(bounded.take(now, counted, *cost, 2), alone.take(now, LIMIT, *cost, 2));
                }
            }
        }
    }
}
