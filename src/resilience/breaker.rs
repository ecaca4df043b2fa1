//! Decides whether a server may be asked. Pure: it takes `now`, and the randomness that it needs.
//!
//! Closed, every call is admitted and its outcome counted. Enough failures among enough calls open it: nothing is
//! admitted for a while. After that it is half-open: one call, the probe, is admitted, and what becomes of it decides.
//!
//! Every admission carries the generation that it was given in, and each change of state begins a new generation. So an
//! answer that arrives late, to a call from before a change, says nothing about the state after it.
//!
//! The breaker cannot see an admission that is dropped without [`Breaker::settle`]; a lost probe would keep it half-open
//! for ever. Admissions are therefore only to be held by [`super::guard::Guard`], which settles each of them, those of
//! cancelled calls when they are dropped.

use std::time::Duration;

use tokio::time::Instant;

use super::window::Window;

/// How long a call that came while the probe was out should wait: about what a probe needs to be answered. The breaker
/// cannot know better, and a longer time would keep callers away from a server that is back.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// By how much of its length an open time is stretched at most, so that the processes of a fleet, which all lost the
/// server at the same moment, do not all come back to it at the same moment.
const MAX_STRETCH: f64 = 0.2;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Opens at this share of failures or more.
    pub failure_percent: u8,
    /// Fewer calls than this in the window prove nothing.
    pub min_calls: u32,
    pub window: Duration,
    pub buckets: usize,
    /// The shortest time that it stays open; up to a fifth is added to it.
    pub open_for: Duration,
}

impl Policy {
    pub const REDIS: Self = Self {
        failure_percent: 70,
        min_calls: 10,
        window: Duration::from_secs(10),
        buckets: 10,
        open_for: Duration::from_secs(15),
    };

    /// Postgres opens at fewer failures, since each costs a caller up to 5 s, and stays open longer, since it is slower
    /// to come back.
    pub const POSTGRES: Self = Self {
        failure_percent: 50,
        min_calls: 10,
        window: Duration::from_secs(10),
        buckets: 10,
        open_for: Duration::from_secs(30),
    };
}

/// What a breaker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Closed,
    HalfOpen,
    Open,
}

impl State {
    /// The name that JavaScript sees.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// What a call says about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
    /// Nothing: it was cancelled, or refused before it reached the server. An ignored probe makes room for the next.
    Ignored,
}

/// The right to make one call. Neither `Clone` nor `Copy`, so that it is settled at most once.
#[must_use = "an admission has to be settled"]
#[derive(Debug)]
pub struct Admission {
    generation: u64,
    changed: Option<State>,
}

impl Admission {
    /// What a closed breaker of this generation gives.
    pub fn through_open_door(generation: u64) -> Self {
        Self { generation, changed: None }
    }

    /// The new state, if admitting this call changed it: the first probe makes an open breaker half-open.
    pub fn changed(&self) -> Option<State> {
        self.changed
    }
}

/// The call must not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// After this time the server may be asked again.
    pub retry_after: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { probing: bool },
}

/// One breaker, for one server.
#[derive(Debug)]
pub struct Breaker {
    policy: Policy,
    phase: Phase,
    window: Window,
    generation: u64,
}

impl Breaker {
    /// A closed breaker that has seen nothing.
    pub fn new(policy: Policy, now: Instant) -> Self {
        let window = Window::new(policy.window, policy.buckets, now);
        Self { policy, phase: Phase::Closed, window, generation: 0 }
    }

    /// Admits a call or rejects it. Each admission has to be settled.
    pub fn admit(&mut self, now: Instant) -> Result<Admission, Rejection> {
        let changed = match self.phase {
            Phase::Closed => None,
            Phase::Open { until } if now < until => return Err(Rejection { retry_after: until - now }),
            Phase::Open { .. } => Some(self.enter(Phase::HalfOpen { probing: true })),
            Phase::HalfOpen { probing: true } => return Err(Rejection { retry_after: PROBE_PATIENCE }),
            Phase::HalfOpen { probing: false } => {
                self.phase = Phase::HalfOpen { probing: true };
                None
            }
        };
        Ok(Admission { generation: self.generation, changed })
    }

    /// While it is closed, what [`Breaker::admit`] gives to every call; otherwise `None`.
    pub fn open_door(&self) -> Option<u64> {
        matches!(self.phase, Phase::Closed).then_some(self.generation)
    }

    /// The server gave a sign of life: if the breaker is open, the next call may probe it.
    pub fn try_soon(&mut self, now: Instant) {
        if let Phase::Open { until } = &mut self.phase {
            *until = now.min(*until);
        }
    }

    /// Takes note of what became of an admitted call; returns the new state if that changed it. `jitter`, from 0 to 1,
    /// is the share of the longest stretch that an opening gets. An ignored outcome never changes the state.
    pub fn settle(&mut self, now: Instant, admission: Admission, outcome: Outcome, jitter: f64) -> Option<State> {
        if admission.generation != self.generation {
            return None;
        }
        match (self.phase, outcome) {
            (Phase::Closed, Outcome::Success | Outcome::Failure) => {
                self.window.record(now, outcome == Outcome::Success);
                self.must_open(now).then(|| self.open(now, jitter))
            }
            (Phase::HalfOpen { .. }, Outcome::Success) => {
                self.window.clear();
                Some(self.enter(Phase::Closed))
            }
            (Phase::HalfOpen { .. }, Outcome::Failure) => Some(self.open(now, jitter)),
            (Phase::HalfOpen { .. }, Outcome::Ignored) => {
                self.phase = Phase::HalfOpen { probing: false };
                None
            }
            // Nothing is admitted while it is open, so no admission is of that generation.
            (Phase::Closed, Outcome::Ignored) | (Phase::Open { .. }, _) => None,
        }
    }

    /// The state as a caller would find it: an open time that has run out is half-open, although no probe came yet.
    pub fn state(&self, now: Instant) -> State {
        match self.phase {
            Phase::Open { until } if now >= until => State::HalfOpen,
            phase => phase.state(),
        }
    }

    /// Looked at after every outcome: it may be a success that makes the calls enough to judge by.
    fn must_open(&self, now: Instant) -> bool {
        let counts = self.window.counts(now);
        let total = counts.total();
        total >= u64::from(self.policy.min_calls)
            && u64::from(counts.failures) * 100 >= total * u64::from(self.policy.failure_percent)
    }

    fn open(&mut self, now: Instant, jitter: f64) -> State {
        let stretch = 1.0 + MAX_STRETCH * jitter.clamp(0.0, 1.0);
        self.enter(Phase::Open { until: now + self.policy.open_for.mul_f64(stretch) })
    }

    fn enter(&mut self, phase: Phase) -> State {
        self.generation += 1;
        self.phase = phase;
        phase.state()
    }
}

impl Phase {
    fn state(self) -> State {
        match self {
            Self::Closed => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn call(breaker: &mut Breaker, now: Instant, outcome: Outcome) -> Option<State> {
        let admission = breaker.admit(now).unwrap();
        breaker.settle(now, admission, outcome, 0.0)
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(Policy::REDIS, now);
        for _ in 0..10 {
            call(&mut breaker, now, Outcome::Failure);
        }
        assert_eq!(breaker.state(now), State::Open);
        breaker
    }

    #[test]
    fn it_opens_at_seventy_percent_of_ten_calls_and_not_before() {
        let now = Instant::now();
        let mut breaker = Breaker::new(Policy::REDIS, now);
        for _ in 0..3 {
            call(&mut breaker, now, Outcome::Success);
        }
        for _ in 0..6 {
            assert_eq!(call(&mut breaker, now, Outcome::Failure), None);
        }
        assert_eq!(call(&mut breaker, now, Outcome::Ignored), None);
        assert_eq!(call(&mut breaker, now, Outcome::Failure), Some(State::Open));
    }

    #[test]
    fn less_than_seventy_percent_keeps_it_closed() {
        let now = Instant::now();
        let mut breaker = Breaker::new(Policy::REDIS, now);
        for call_number in 0..1000 {
            let outcome = if call_number % 100 < 31 { Outcome::Success } else { Outcome::Failure };
            call(&mut breaker, now, outcome);
        }
        assert_eq!(breaker.state(now), State::Closed);
    }

    #[test]
    fn it_is_open_for_its_time_and_up_to_a_fifth_more() {
        let now = Instant::now();
        for (jitter, millis) in [(0.0, 15_000), (0.5, 16_500), (1.0, 18_000), (7.0, 18_000), (-1.0, 15_000)] {
            let mut breaker = opened(now);
            let probe = breaker.admit(after(now, 15)).unwrap();
            assert_eq!(probe.changed(), Some(State::HalfOpen));
            assert_eq!(breaker.settle(now, probe, Outcome::Failure, jitter), Some(State::Open));
            assert_eq!(breaker.admit(now).unwrap_err().retry_after, Duration::from_millis(millis));
        }
    }

    #[test]
    fn half_open_admits_one_probe_at_a_time() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let now = after(start, 15);
        assert_eq!(breaker.state(now), State::HalfOpen);
        let probe = breaker.admit(now).unwrap();
        assert_eq!(breaker.admit(now).unwrap_err().retry_after, PROBE_PATIENCE);
        assert_eq!(breaker.settle(now, probe, Outcome::Ignored, 0.0), None);
        let next = breaker.admit(now).unwrap();
        assert_eq!(next.changed(), None);
        assert!(breaker.admit(now).is_err());
        assert_eq!(breaker.settle(now, next, Outcome::Success, 0.0), Some(State::Closed));
        for _ in 0..9 {
            assert_eq!(call(&mut breaker, now, Outcome::Failure), None, "it closes with an empty window");
        }
    }

    #[test]
    fn a_late_answer_changes_no_later_state() {
        let start = Instant::now();
        let mut breaker = Breaker::new(Policy::REDIS, start);
        let mut late: Vec<_> = (0..40).map(|_| breaker.admit(start).unwrap()).collect();
        for admission in late.drain(..10) {
            breaker.settle(start, admission, Outcome::Failure, 0.0);
        }
        let now = after(start, 15);
        let probe = breaker.admit(now).unwrap();
        assert_eq!(breaker.settle(now, late.pop().unwrap(), Outcome::Success, 0.0), None);
        assert_eq!(breaker.settle(now, late.pop().unwrap(), Outcome::Failure, 0.0), None);
        assert_eq!(breaker.settle(now, late.pop().unwrap(), Outcome::Ignored, 0.0), None);
        assert!(breaker.admit(now).is_err(), "a late cancellation must not free the probe's place");
        breaker.settle(now, probe, Outcome::Success, 0.0);
        for admission in late {
            assert_eq!(breaker.settle(now, admission, Outcome::Failure, 0.0), None);
        }
        assert_eq!(breaker.state(now), State::Closed);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Admit,
        Settle { which: prop::sample::Index, outcome: Outcome, jitter: u8 },
        Advance { millis: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let outcome =
            prop_oneof![3 => Just(Outcome::Success), 5 => Just(Outcome::Failure), 1 => Just(Outcome::Ignored)];
        let settle = (any::<prop::sample::Index>(), outcome, 0..=10_u8)
            .prop_map(|(which, outcome, jitter)| Step::Settle { which, outcome, jitter });
        let advance = prop_oneof![4 => 0_u64..900, 1 => 0_u64..9000, 1 => Just(500), 1 => Just(5000)];
        let step = prop_oneof![
            5 => Just(Step::Admit),
            4 => settle,
            2 => advance.prop_map(|millis| Step::Advance { millis }),
        ];
        prop::collection::vec(step, 1..250)
    }

    /// A call in the model: when it was let in, and what became of it when. Times are milliseconds; `order` numbers the
    /// steps, to tell what came first at one and the same time.
    struct Call {
        admitted: usize,
        settled: Option<(usize, u64, Outcome)>,
    }

    /// The model holds no generation, no probe flag, no ring: it keeps all that ever happened and looks it up again.
    struct Model {
        policy: Policy,
        calls: Vec<Call>,
        /// Each change of state: at which step, to what, and for `Open` until which time.
        changes: Vec<(usize, State, u64)>,
    }

    impl Model {
        fn last_change(&self) -> (usize, State, u64) {
            self.changes.last().copied().unwrap_or((0, State::Closed, 0))
        }

        fn state(&self, now: u64) -> State {
            match self.last_change() {
                (_, State::Open, until) if now >= until => State::HalfOpen,
                (_, state, _) => state,
            }
        }

        fn may_admit(&self, now: u64) -> bool {
            let (since, recorded, _) = self.last_change();
            let probe_is_out = self.calls.iter().any(|call| call.admitted >= since && call.settled.is_none());
            match self.state(now) {
                State::Closed => true,
                State::Open => false,
                State::HalfOpen => recorded == State::Open || !probe_is_out,
            }
        }

        fn admit(&mut self, order: usize, now: u64) {
            if self.last_change().1 == State::Open {
                self.changes.push((order, State::HalfOpen, 0));
            }
            assert!(self.may_admit(now));
            self.calls.push(Call { admitted: order, settled: None });
        }

        fn settle(&mut self, order: usize, now: u64, id: usize, outcome: Outcome, open_for: u64) {
            self.calls[id].settled = Some((order, now, outcome));
            let (since, state, _) = self.last_change();
            if self.calls[id].admitted < since || outcome == Outcome::Ignored {
                return;
            }
            let bucket = u64::try_from(self.policy.window.as_millis()).unwrap() / self.policy.buckets as u64;
            let count = |wanted| {
                let of_now = |call: &&Call| call.admitted >= since;
                let counted = |call: &Call| {
                    let (_, at, outcome) = call.settled?;
                    (outcome == wanted && at / bucket + self.policy.buckets as u64 > now / bucket).then_some(())
                };
                self.calls.iter().filter(of_now).filter_map(counted).count()
            };
            let (good, bad) = (count(Outcome::Success), count(Outcome::Failure));
            let too_bad = good + bad >= self.policy.min_calls as usize
                && bad as f64 / (good + bad) as f64 >= f64::from(self.policy.failure_percent) / 100.0;
            match (state, outcome) {
                (State::HalfOpen, Outcome::Success) => self.changes.push((order, State::Closed, 0)),
                (State::HalfOpen, _) => self.changes.push((order, State::Open, now + open_for)),
                (State::Closed, _) if too_bad => self.changes.push((order, State::Open, now + open_for)),
                _ => {}
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn it_agrees_with_a_model_that_looks_everything_up(
            steps in steps(),
            failure_percent in prop::sample::select(vec![1_u8, 25, 50, 70, 75, 100]),
            min_calls in 1_u32..8,
            buckets in prop::sample::select(vec![1_usize, 2, 5, 10]),
            open_for in prop::sample::select(vec![500_u64, 5000]),
        ) {
            let policy = Policy {
                failure_percent,
                min_calls,
                buckets,
                window: Duration::from_secs(4),
                open_for: Duration::from_millis(open_for),
            };
            let start = Instant::now();
            let mut millis = 0;
            let mut breaker = Breaker::new(policy, start);
            let mut model = Model { policy, calls: Vec::new(), changes: Vec::new() };
            let mut open_calls: Vec<(Admission, usize)> = Vec::new();
            for (order, step) in (1..).zip(steps) {
                let now = start + Duration::from_millis(millis);
                let changes = model.changes.len();
                let changed = match step {
                    Step::Advance { millis: by } => {
                        millis += by;
                        None
                    }
                    Step::Admit if model.may_admit(millis) => {
                        let admission = breaker.admit(now);
                        prop_assert!(admission.is_ok(), "{admission:?} at {millis} ms");
                        let admission = admission.unwrap();
                        let changed = admission.changed();
                        open_calls.push((admission, model.calls.len()));
                        model.admit(order, millis);
                        changed
                    }
                    Step::Admit => {
                        let rejection = breaker.admit(now);
                        prop_assert!(rejection.is_err(), "admitted at {millis} ms");
                        let wait = match model.last_change() {
                            (_, State::Open, until) => Duration::from_millis(until - millis),
                            _ => PROBE_PATIENCE,
                        };
                        prop_assert_eq!(rejection.unwrap_err().retry_after, wait);
                        None
                    }
                    Step::Settle { which, outcome, jitter } if !open_calls.is_empty() => {
                        let (admission, id) = open_calls.swap_remove(which.index(open_calls.len()));
                        model.settle(order, millis, id, outcome, open_for + open_for / 50 * u64::from(jitter));
                        breaker.settle(now, admission, outcome, f64::from(jitter) / 10.0)
                    }
                    Step::Settle { .. } => None,
                };
                let expected = (model.changes.len() > changes).then(|| model.last_change().1);
                prop_assert_eq!(changed, expected, "step {} at {} ms", order, millis);
                let now = start + Duration::from_millis(millis);
                prop_assert_eq!(breaker.state(now), model.state(millis), "after step {}", order);
            }
        }
    }
}
