//! Random lives of one key: what is asked of it, and how the time passes.

use super::super::{FixedWindow, SlidingWindow, TokenBucket};
use crate::limit::{Limit, Taken};
use proptest::prelude::*;

/// What the algorithms have in common.
pub trait Counter: Default + Clone + std::fmt::Debug {
    fn take(&mut self, now: u64, limit: Limit, cost: u32, calls: u32) -> Taken;
    fn add(&mut self, now: u64, limit: Limit, hits: u64);
    fn give_back(&mut self, now: u64, limit: Limit, hits: u64);
    fn limit(&self) -> Option<Limit>;
    fn ends(&self) -> u64;
}

macro_rules! counter {
    ($($own:ty),+) => {$(
        impl Counter for $own {
            fn take(&mut self, now: u64, limit: Limit, cost: u32, calls: u32) -> Taken {
                self.take(now, limit, cost, calls)
            }
            fn add(&mut self, now: u64, limit: Limit, hits: u64) {
                self.add(now, limit, hits);
            }
            fn give_back(&mut self, now: u64, limit: Limit, hits: u64) {
                self.give_back(now, limit, hits);
            }
            fn limit(&self) -> Option<Limit> {
                self.limit()
            }
            fn ends(&self) -> u64 {
                self.ends()
            }
        }
    )+};
}

counter!(SlidingWindow, TokenBucket, FixedWindow);

/// One key from its first hit on.
#[derive(Debug, Clone)]
pub struct Life {
    pub start: u64,
    /// The limits that it is checked with.
    pub limits: Vec<Limit>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub pause: Pause,
    /// Which of the limits.
    pub limit: usize,
    pub what: What,
}

#[derive(Debug, Clone, Copy)]
pub enum What {
    /// With what share of the quota a call costs; 0 is 1.
    Take(f64, u32),
    Peek(f64),
    GiveBack(u64),
    Add(u64),
}

/// Time that passes before a step.
#[derive(Debug, Clone, Copy)]
pub enum Pause {
    None,
    One,
    /// A share of the window.
    Some(f64),
    /// Of the window, a microsecond sooner or later.
    Window(i64),
    /// Until the last answer says that the same call fits, a microsecond sooner or later.
    Wait(i64),
    /// Until the last answer says that nothing is counted any more, a microsecond sooner or later.
    Clear(i64),
    /// Many windows.
    Long(u64),
    /// The clock goes back, by a share of the window.
    Back(f64),
}

impl Step {
    /// The cost of its calls, and their number.
    pub fn calls(&self, limit: Limit) -> (u32, u32) {
        let cost = |share: f64| ((f64::from(limit.quota) * share) as u32).clamp(1, limit.quota);
        match self.what {
            What::Take(share, calls) => (cost(share), calls),
            What::Peek(share) => (cost(share), 0),
            What::GiveBack(_) | What::Add(_) => (1, 0),
        }
    }

    /// When it is made, after one at `now` that was told to wait, and when all is clear.
    pub fn time(&self, now: u64, limit: Limit, wait: u64, clear: u64) -> u64 {
        let share = |share: f64| (limit.window as f64 * share) as i64;
        let pause = match self.pause {
            Pause::None => 0,
            Pause::One => 1,
            Pause::Some(part) => share(part),
            Pause::Window(more) => limit.window as i64 + more,
            Pause::Wait(more) => (wait as i64 + more).max(0),
            Pause::Clear(more) => (clear as i64 + more).max(0),
            Pause::Long(windows) => (limit.window * windows) as i64,
            Pause::Back(part) => -share(part),
        };
        // The double of a script holds no more.
        now.saturating_add_signed(pause).min(1 << 52)
    }
}

fn pause(back: u32) -> impl Strategy<Value = Pause> {
    prop_oneof![
        6 => Just(Pause::None),
        3 => Just(Pause::One),
        6 => (0.0..0.3).prop_map(Pause::Some),
        2 => (0.0..1.2).prop_map(Pause::Some),
        2 => (-1..=1i64).prop_map(Pause::Window),
        5 => (-1..=1i64).prop_map(Pause::Wait),
        1 => (-1..=1i64).prop_map(Pause::Clear),
        1 => (2..5u64).prop_map(Pause::Long),
        back => prop_oneof![(0.0..0.01f64), (0.0..0.6), (0.0..3.0)].prop_map(Pause::Back),
    ]
}

fn what(most: u32, add: u32) -> impl Strategy<Value = What> {
    let cost = || prop_oneof![6 => Just(0.0), 2 => 0.0..0.4, 1 => 0.0..=1.0f64];
    let calls = prop_oneof![6 => Just(1), 3 => 2..5u32, 1 => 2..=most, 1 => Just(most)];
    prop_oneof![
        12 => (cost(), calls).prop_map(|(cost, calls)| What::Take(cost, calls)),
        2 => cost().prop_map(What::Peek),
        2 => prop_oneof![3 => 1..3u64, 1 => 1..2000u64].prop_map(What::GiveBack),
        add => (0..4u64).prop_map(What::Add),
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    let quota = prop_oneof![4 => 1..6u32, 4 => 1..40u32, 2 => 900..1100u32, 1 => 1..=1_000_000_000u32, 1 => Just(1_000_000_000)];
    let window = prop_oneof![
        2 => 1_000..1_050u64,
        4 => 1_000..1_000_000u64,
        2 => Just(60_000_000u64),
        1 => 1_000..=2_678_400_000_000u64,
        1 => Just(2_678_400_000_000u64),
    ];
    (quota, window).prop_map(|(quota, window)| Limit { quota, window })
}

/// Limits whose windows and quotas have to do with each other.
fn limits(most: usize) -> impl Strategy<Value = Vec<Limit>> {
    let other = (0.2..5.0f64, 0.05..20.0f64, any::<bool>(), any::<bool>());
    (limit(), prop::collection::vec(other, 0..most)).prop_map(|(first, others)| {
        let of = |(quota, window, same_quota, same_window): (f64, f64, bool, bool)| Limit {
            quota: if same_quota { first.quota } else { (f64::from(first.quota) * quota) as u32 }
                .clamp(1, 1_000_000_000),
            window: if same_window { first.window } else { (first.window as f64 * window) as u64 }
                .clamp(1_000, 2_678_400_000_000),
        };
        [first].into_iter().chain(others.into_iter().map(of)).collect()
    })
}

/// What may happen in a life.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub limits: usize,
    /// Whether the clock goes back now and then.
    pub back: bool,
    /// Whether hits are counted without asking.
    pub add: bool,
    pub most_calls: u32,
    pub steps: usize,
}

pub fn step(kind: Kind) -> impl Strategy<Value = Step> {
    (pause(u32::from(kind.back)), 0..kind.limits, what(kind.most_calls, u32::from(kind.add)))
        .prop_map(|(pause, limit, what)| Step { pause, limit, what })
}

pub fn life(kind: Kind) -> impl Strategy<Value = Life> {
    let start = prop_oneof![4 => 1_700_000_000_000_000..1_900_000_000_000_000u64, 1 => 0..3u64, 1 => 0..100_000_000u64];
    (start, limits(kind.limits), prop::collection::vec(step(kind), 1..kind.steps)).prop_map(|(start, limits, steps)| {
        let choices = limits.len();
        let steps = steps.into_iter().map(|step| Step { limit: step.limit % choices, ..step }).collect();
        Life { start, limits, steps }
    })
}
