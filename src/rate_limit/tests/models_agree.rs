//! The algorithms decide like their models, and no limit is exceeded.

use super::super::{FixedWindow, SlidingWindow, TokenBucket};
use super::models::{Bucket, Fixed, Model, Sliding};
use super::steps::{Counter, Kind, Life, What, life};
use crate::limit::{Limit, Taken};
use proptest::prelude::*;

/// Some hundred lives; with `SOAK=1` ten times as many.
fn cases() -> ProptestConfig {
    let soak = std::env::var("SOAK").is_ok_and(|soak| soak == "1");
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if soak { 5_000 } else { 500 }) }
}

fn agrees<C: Counter, M: Model>(life: &Life) {
    let (mut counter, mut model, mut now) = (C::default(), M::default(), life.start);
    let (mut wait, mut clear, mut newest) = (0, 0, 0);
    for (index, step) in life.steps.iter().enumerate() {
        let limit = life.limits[step.limit];
        now = step.time(now, limit, wait, clear);
        let (cost, calls) = step.calls(limit);
        match step.what {
            What::Take(..) | What::Peek(_) => {
                let admitted = model.take(now, limit, cost.into(), calls);
                let taken = counter.take(now, limit, cost, calls);
                let reading = model.reading(now, limit, cost.into());
                assert_eq!(taken, Taken { admitted, reading }, "step {index} at {now}: {step:?}");
            }
            What::GiveBack(hits) => {
                counter.give_back(now, limit, hits);
                model.give_back(now, limit, hits);
            }
            What::Add(hits) => {
                counter.add(now, limit, hits);
                model.add(now, limit, hits);
            }
        }
        let looked = counter.clone().take(now, limit, cost, 0);
        assert_eq!(looked.reading, model.reading(now, limit, cost.into()), "after step {index} at {now}: {step:?}");
        assert_eq!(counter.limit(), model.limit(), "after step {index}");
        let standing = looked.standing(limit, cost, 0);
        (wait, clear) = (standing.wait, standing.clear);
        // While the clock is behind, looking does not set the hits to now.
        if now < newest && matches!(step.what, What::Peek(_) | What::Add(0)) {
            continue;
        }
        newest = now;
        // A sole client that keeps to what it was told is admitted the first time, and not a microsecond sooner.
        if wait > 1 {
            assert_eq!(counter.clone().take(now + wait - 1, limit, cost, 1).admitted, 0, "sooner, after step {index}");
        }
        assert_eq!(counter.clone().take(now + wait, limit, cost, 1).admitted, 1, "then, after step {index}");
    }
}

/// What was admitted: time, limit, hits.
type Admitted = Vec<(u64, Limit, u64)>;

/// The calls of a life that were admitted and not taken back.
fn admitted<C: Counter>(life: &Life, mut check: impl FnMut(&Admitted, u64, Limit)) {
    let (mut counter, mut now, mut admitted) = (C::default(), life.start, Admitted::new());
    let (mut wait, mut clear) = (0, 0);
    for step in &life.steps {
        let limit = life.limits[step.limit];
        now = step.time(now, limit, wait, clear);
        let (cost, calls) = step.calls(limit);
        if let What::GiveBack(hits) = step.what {
            let mut left = hits;
            while let Some(last) = admitted.last_mut().filter(|_| left > 0) {
                let gone = left.min(last.2);
                (last.2, left) = (last.2 - gone, left - gone);
                if last.2 == 0 {
                    admitted.pop();
                }
            }
            counter.give_back(now, limit, hits);
            continue;
        }
        let taken = counter.take(now, limit, cost, calls);
        if taken.admitted > 0 {
            admitted.push((now, limit, u64::from(taken.admitted) * u64::from(cost)));
            check(&admitted, now, limit);
        }
        let standing = taken.standing(limit, cost, taken.admitted.max(1) - 1);
        (wait, clear) = (standing.wait, standing.clear);
    }
}

const ONE: Kind = Kind { limits: 1, back: false, add: false, most_calls: 60, steps: 60 };
const SEVERAL: Kind = Kind { limits: 3, ..ONE };
const ALL: Kind = Kind { limits: 3, back: true, add: true, ..ONE };

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_sliding_window_is_exact(one in life(ONE), all in life(ALL)) {
        agrees::<SlidingWindow, Sliding>(&one);
        agrees::<SlidingWindow, Sliding>(&all);
    }

    #[test]
    fn the_bucket_is_exact(one in life(ONE), all in life(ALL)) {
        agrees::<TokenBucket, Bucket>(&one);
        agrees::<TokenBucket, Bucket>(&all);
    }

    #[test]
    fn the_fixed_window_is_exact(one in life(ONE), all in life(ALL)) {
        agrees::<FixedWindow, Fixed>(&one);
        agrees::<FixedWindow, Fixed>(&all);
    }

    /// Every window that ends with an admission, and so every window. With several limits: as far back as the limit was in use.
    #[test]
    fn no_sliding_window_has_more_than_its_limit(one in life(ONE), several in life(SEVERAL)) {
        for life in [one, several] {
            admitted::<SlidingWindow>(&life, |admitted, now, limit| {
                let within = |time: &u64| *time + limit.window > now;
                let since = admitted.iter().find(|(time, own, _)| *own == limit && within(time)).map(|(time, ..)| *time);
                let hits: u64 = admitted.iter().filter(|(time, ..)| Some(*time) >= since && within(time)).map(|hit| hit.2).sum();
                assert!(hits <= u64::from(limit.quota), "{hits} hits in the window that ends at {now} for {limit:?}");
            });
        }
    }

    /// In any stretch of time: the quota, and what is refilled in it.
    #[test]
    fn no_bucket_gives_more_than_burst_and_rate(life in life(SEVERAL)) {
        let mut refunded = false;
        for step in &life.steps {
            refunded |= matches!(step.what, What::GiveBack(_));
        }
        // What is given back under another limit is another debt.
        if refunded && life.limits.len() > 1 {
            return Ok(());
        }
        admitted::<TokenBucket>(&life, |admitted, now, limit| {
            let mut hits = 0;
            for (time, own, count) in admitted.iter().rev() {
                hits += if *own == limit { u128::from(*count) } else { 0 };
                let (window, passed) = (u128::from(limit.window), u128::from(now - time));
                assert!(hits * window <= (window + passed) * u128::from(limit.quota), "{hits} since {time} for {limit:?}");
            }
        });
    }

    #[test]
    fn no_fixed_window_has_more_than_its_limit(life in life(ONE)) {
        admitted::<FixedWindow>(&life, |admitted, _, limit| {
            let (mut start, mut hits) = (0, 0);
            for (time, _, count) in admitted {
                if hits == 0 || *time >= start + limit.window {
                    (start, hits) = (*time, 0);
                }
                hits += count;
                assert!(hits <= u64::from(limit.quota), "{hits} hits in the window that starts at {start}");
            }
        });
    }
}
