//! Processes, a Redis that goes away, comes back and forgets, and a clock that a random schedule owns.

use super::super::*;
use crate::clock::Clock;
use crate::rate_limit::sliding_window::SlidingWindow;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;
const LIMIT: Limit = Limit { quota: 10, window: 60 * SECOND };

fn away() -> Error {
    Error::Timeout { server: "Redis".into(), after: Duration::from_millis(100) }
}

/// A Redis with one key.
#[derive(Default)]
struct Redis {
    count: SlidingWindow,
    up: bool,
    life: u64,
}

/// Limits of one process at a clock of the test's.
struct Process {
    limits: Limits,
    clock: Arc<AtomicU64>,
    caller: Caller,
    check: Check,
}

impl Process {
    fn new(clock: &Arc<AtomicU64>, share: f64) -> Self {
        let memory = Memory(Arc::new(Kept { clock: Clock::manual(clock.clone()), ..Kept::default() }));
        let limits = Limits::new(memory, Keys::new(""), true, 1_000, share);
        let limiter = Limiter::named("test");
        let caller = Caller { counters: limits.counters(&limiter), shadow: false };
        let Limiter { place, algorithm, on_outage, .. } = limiter;
        let check = Check { key: Key::new("test:", b"key"), place, algorithm, on_outage, limit: LIMIT, cost: 1 };
        Self { limits, clock: clock.clone(), caller, check }
    }

    fn call(&self, redis: &mut Redis) -> Answer {
        if let Some(answer) = self.limits.immediate(&self.check, &self.caller) {
            return answer;
        }
        let asked = self.limits.now();
        let answer = if redis.up {
            self.limits.note_life(redis.life);
            let now = self.clock.load(SeqCst);
            Ok((now, redis.count.take(now, self.check.limit, self.check.cost, 1)))
        } else {
            Err(away())
        };
        self.limits.told(&self.check, 1, asked, answer).answer(0, &self.caller)
    }

    fn calls(&self, redis: &mut Redis, calls: usize) -> usize {
        (0..calls).filter(|_| self.call(redis).allowed).count()
    }
}

fn world(share: f64) -> (Redis, Process) {
    (Redis { up: true, life: 1, ..Redis::default() }, Process::new(&Arc::default(), share))
}

#[test]
fn what_redis_has_admitted_is_counted_along() {
    let (mut redis, process) = world(1.0);
    assert_eq!(process.calls(&mut redis, 6), 6);
    redis.up = false;
    assert_eq!(process.calls(&mut redis, 20), 4);
    let metrics = &process.limits.metrics()["test"];
    let expected = r#"{"allowed":10,"denied":16,"shadowDenied":0,"answeredLocally":0,"answeredInOutage":20}"#;
    assert_eq!(serde_json::to_string(metrics).unwrap(), expected);
}

#[test]
fn who_is_at_the_limit_stays_denied_when_redis_goes() {
    let (mut redis, process) = world(1.0);
    process.calls(&mut redis, 11);
    redis.up = false;
    process.clock.store(2 * SECOND, SeqCst);
    assert_eq!(process.calls(&mut redis, 5), 0);
}

#[test]
fn a_redis_that_has_forgotten_gives_no_second_quota() {
    let (mut redis, process) = world(1.0);
    assert_eq!(process.calls(&mut redis, 10), 10);
    // A pool that was made anew has not connected yet.
    process.limits.note_life(0);
    redis = Redis { up: true, life: 2, ..Redis::default() };
    process.clock.store(SECOND * 2, SeqCst);
    let answers: Vec<_> = (0..3).map(|_| process.call(&mut redis)).collect();
    assert!(answers.iter().all(|answer| !answer.allowed && answer.retry_after == Some(58)));
    process.clock.store(SECOND * 63, SeqCst);
    assert_eq!(process.calls(&mut redis, 20), 10);
}

#[test]
fn a_share_is_what_a_process_allows_alone() {
    let (mut redis, process) = world(0.35);
    redis.up = false;
    let answers: Vec<_> = (0..5).map(|_| process.call(&mut redis)).collect();
    assert_eq!(answers.iter().filter(|answer| answer.allowed).count(), 3);
    assert_eq!(answers.iter().map(|answer| (answer.limit, answer.remaining)).next(), Some((10, 2)));
    let (mut redis, process) = world(0.01);
    redis.up = false;
    assert_eq!(process.calls(&mut redis, 5), 1, "never none");
}

#[test]
fn in_an_outage_everybody_gets_what_he_asked_for() {
    let (mut redis, mut process) = world(1.0);
    redis.up = false;
    process.check.on_outage = OnOutage::Deny;
    let answer = process.call(&mut redis);
    assert!(!answer.allowed && answer.retry_after == Some(1) && answer.remaining == 0);
    process.check.on_outage = OnOutage::Allow;
    assert_eq!(process.calls(&mut redis, 30), 30);
    process.check.on_outage = OnOutage::Local;
    assert_eq!(process.calls(&mut redis, 5), 0, "they were counted");
}

#[test]
fn a_shadow_allows_and_reports() {
    let (mut redis, mut process) = world(1.0);
    process.caller.shadow = true;
    assert_eq!(process.calls(&mut redis, 15), 15);
    let metrics = serde_json::to_value(&process.limits.metrics()["test"]).unwrap();
    assert_eq!((&metrics["allowed"], &metrics["shadowDenied"], &metrics["denied"]), (&15.into(), &5.into(), &0.into()));
}

#[test]
fn a_denial_is_not_asked_again_for_a_second() {
    let (mut redis, process) = world(1.0);
    process.calls(&mut redis, 11);
    redis.count = SlidingWindow::default();
    assert_eq!(process.calls(&mut redis, 5), 0, "not seen yet that it was cleared");
    process.clock.store(SECOND, SeqCst);
    assert_eq!(process.calls(&mut redis, 5), 5);
}

#[test]
fn what_is_forgotten_here_is_free_here() {
    let (mut redis, process) = world(1.0);
    process.calls(&mut redis, 11);
    redis.count = SlidingWindow::default();
    process.limits.forget(&process.check.key, process.check.algorithm);
    assert_eq!(process.calls(&mut redis, 5), 5);
    process.limits.give_back(&process.check);
    redis.up = false;
    assert_eq!(process.calls(&mut redis, 20), 6);
}

#[derive(Debug, Clone)]
enum Step {
    Call(usize),
    Wait(u64),
    Up(bool),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..3usize).prop_map(Step::Call),
        4 => prop_oneof![Just(1), 1..SECOND, SECOND..20 * SECOND, Just(LIMIT.window - 1), Just(LIMIT.window)].prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Up),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..300)
}

/// The most that any window has.
fn most(admitted: &[u64]) -> usize {
    let within = |end: &u64| admitted.iter().filter(|time| *time <= end && end - *time < LIMIT.window).count();
    admitted.iter().map(within).max().unwrap_or(0)
}

fn run(steps: &[Step], processes: usize, share: f64) -> usize {
    let clock: Arc<AtomicU64> = Arc::default();
    let processes: Vec<_> = (0..processes).map(|_| Process::new(&clock, share)).collect();
    let mut redis = Redis { up: true, life: 1, ..Redis::default() };
    let mut admitted = Vec::new();
    for step in steps {
        match step {
            Step::Call(process) => {
                if processes[process % processes.len()].call(&mut redis).allowed {
                    admitted.push(clock.load(SeqCst));
                }
            }
            Step::Wait(time) => {
                clock.fetch_add(*time, SeqCst);
            }
            Step::Up(up) => redis.up = *up,
            Step::Restart => redis = Redis { up: redis.up, life: redis.life + 1, ..Redis::default() },
        }
    }
    most(&admitted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var("SOAK").is_ok() { 20_000 } else { 500 }))]

    /// All that it has admitted was counted along.
    #[test]
    fn one_process_never_exceeds_its_limit(steps in steps()) {
        prop_assert!(run(&steps, 1, 1.0) <= 10);
    }

    /// Each for itself, even with a Redis that forgets again and again.
    #[test]
    fn several_processes_never_exceed_the_limit_each(steps in steps()) {
        prop_assert!(run(&steps, 3, 1.0) <= 3 * 10);
    }

    /// All shares, and what Redis gives out besides.
    #[test]
    fn several_processes_stay_within_their_shares_and_one_quota(mut steps in steps()) {
        steps.retain(|step| !matches!(step, Step::Restart));
        prop_assert!(run(&steps, 3, 0.34) <= 3 * 3 + 10);
    }
}
