//! The guard of one server: the one place that decides to stop waiting for it.
//!
//! A call passes, in this order, the breaker, the bound on calls in flight, the cap on concurrency (where there is one)
//! and the deadline. Whatever becomes of it is counted and told to the breaker; also where its future is dropped.

use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::breaker::{Admission, Breaker, Outcome, Policy, Rejection, State};
use crate::error::{Backlog, Error, Result};
use crate::random;

/// A deadline that is noticed so much later says that this process was stopped, or got no processor, and nothing of the server.
const STANDSTILL: Duration = Duration::from_millis(250);

/// What a call then gets once more, to take the answer that is most likely there.
const SECOND_CHANCE: Duration = Duration::from_secs(1);

/// A call that waited for its turn under the cap is not sent any more in the last tenth of its time. Sent with no time
/// left, it would be cut off at once and count as a failure of a server that never had a chance: a server that is merely
/// asked too much would open its breaker. Those that are sent have time for a healthy server to answer.
const LAST_PART: u32 = 10;

/// No generation of a breaker.
const SHUT: u64 = u64::MAX;

/// What the guard has counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All calls that are over, also those that were rejected.
    pub calls: u64,
    /// Calls that the server failed: [`Error::is_outage`].
    pub failures: u64,
    /// Calls that ran out of time, whether they were sent or still waiting for their turn.
    pub timeouts: u64,
    /// Calls rejected by the breaker.
    pub rejected_open: u64,
    /// Calls rejected because too many were in flight.
    pub rejected_full: u64,
    /// Calls that are in flight now, with those that wait for their turn.
    pub in_flight: usize,
}

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    failures: AtomicU64,
    timeouts: AtomicU64,
    rejected_open: AtomicU64,
    rejected_full: AtomicU64,
    in_flight: AtomicUsize,
}

/// Is told the server's name and the new state of its breaker.
pub type OnChange = Box<dyn Fn(&Arc<str>, State) + Send + Sync>;

/// Deadline, breaker, bounded queue and counters of one server.
pub struct Guard {
    server: Arc<str>,
    deadline: Duration,
    max_in_flight: usize,
    cap: Option<Semaphore>,
    on_change: Option<OnChange>,
    breaker: Mutex<Breaker>,
    /// What [`Breaker::open_door`] says, or [`SHUT`]: a call that may pass does so without the mutex, which the threads
    /// that settle calls are after. (With the mutex, and all counts made here, letting in took 5 % of the main thread.)
    door: AtomicU64,
    counters: Counters,
}

impl Guard {
    /// A guard with a closed breaker. `server` names it in errors and in the log, and so holds no secret.
    pub fn new(server: Arc<str>, policy: Policy, deadline: Duration, max_in_flight: usize) -> Self {
        Self {
            server,
            deadline,
            max_in_flight,
            cap: None,
            on_change: None,
            door: AtomicU64::new(0),
            breaker: Mutex::new(Breaker::new(policy, Instant::now())),
            counters: Counters::default(),
        }
    }

    /// Lets at most `n` calls (at least one) run at once. The others wait for their turn, in order and within their
    /// deadline.
    pub fn with_cap(mut self, n: usize) -> Self {
        self.cap = Some(Semaphore::new(n.clamp(1, Semaphore::MAX_PERMITS)));
        self
    }

    /// How messages name the server.
    pub fn server(&self) -> &Arc<str> {
        &self.server
    }

    /// The longest time that a call may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The state of the breaker.
    pub fn state(&self) -> State {
        self.breaker().state(Instant::now())
    }

    /// The server gave a sign of life by another way: an open breaker lets the next call probe it.
    pub fn try_soon(&self) {
        self.breaker().try_soon(Instant::now());
    }

    /// What was counted until now.
    pub fn snapshot(&self) -> Snapshot {
        let counters = &self.counters;
        Snapshot {
            calls: counters.calls.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            timeouts: counters.timeouts.load(Relaxed),
            rejected_open: counters.rejected_open.load(Relaxed),
            rejected_full: counters.rejected_full.load(Relaxed),
            in_flight: counters.in_flight.load(Relaxed),
        }
    }

    /// Lets a handler know of each change of the breaker's state. It is called on any thread, outside of every lock.
    pub fn with_on_change(mut self, on_change: OnChange) -> Self {
        self.on_change = Some(on_change);
        self
    }

    /// Runs `call`, if it may be run, for at most `deadline` and never longer than the guard's own.
    ///
    /// Missing a shorter deadline is a failure of the server as well: a caller gives less time only where a healthy
    /// server needs far less.
    ///
    /// Running out of time while waiting under the cap is a timeout for the caller, and nothing for the breaker: the
    /// server was not asked. If it is frozen, those that hold their turn fail and open the breaker; if it is
    /// busy, its answers to them keep it closed, however many wait in vain.
    pub async fn run<T, F>(&self, deadline: Duration, call: F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let deadline = deadline.min(self.deadline);
        let start = Instant::now();
        // Dropped on any way out of here, it settles the call as ignored and gives its place back.
        let mut pass = Pass::enter(self)?;
        let timed_out = |after| Error::Timeout { server: self.server.clone(), after };
        let patience = deadline / LAST_PART * (LAST_PART - 1);
        let turn = awake(start + patience, patience, self.turn()).await.ok_or_else(|| timed_out(patience));
        let _turn = turn.inspect_err(|_| self.count_timeout())?;
        let result = awake(start + deadline, deadline, call).await.unwrap_or_else(|| Err(timed_out(deadline)));
        pass.settle(&result);
        result
    }

    /// Waits for a turn under the cap. The semaphore is never closed, so that `None` means that there is no cap.
    async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.cap.as_ref()?.acquire().await.ok()
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Nothing in the breaker can be left half done by a panic.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, admission: Admission, outcome: Outcome) {
        // Only an opening is spread out.
        let jitter = if outcome == Outcome::Failure { random::share() } else { 0.0 };
        let changed = {
            let mut breaker = self.breaker();
            let changed = breaker.settle(Instant::now(), admission, outcome, jitter);
            self.note_door(&breaker);
            changed
        };
        self.tell(changed);
    }

    /// Called under the mutex after whatever may have changed the breaker's state.
    fn note_door(&self, breaker: &Breaker) {
        let door = breaker.open_door().unwrap_or(SHUT);
        if self.door.load(Relaxed) != door {
            self.door.store(door, Release);
        }
    }

    fn tell(&self, changed: Option<State>) {
        let Some(state) = changed else { return };
        let server = &self.server;
        match state {
            State::Open => {
                let Snapshot { calls, failures, timeouts, rejected_full, in_flight, .. } = self.snapshot();
                tracing::warn!(%server, calls, failures, timeouts, rejected_full, in_flight,
                    "the breaker is open: the server is not asked for a while");
            }
            State::HalfOpen => tracing::info!(%server, "the breaker is half-open: one call probes the server"),
            State::Closed => tracing::info!(%server, "the breaker is closed: the server answers again"),
        }
        if let Some(on_change) = &self.on_change {
            on_change(server, state);
        }
    }

    fn count_timeout(&self) {
        self.counters.timeouts.fetch_add(1, Relaxed);
    }
}

/// Waits until `due`, of time in which this process was running; `None` if that was in vain.
async fn awake<T>(due: Instant, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut done = timeout_at(due, work.as_mut()).await;
    if done.is_err() && Instant::now() > due + STANDSTILL {
        // Nobody ran here when the time was over: what was waited for may have been there for long.
        done = timeout(limit.min(SECOND_CHANCE), work).await;
    }
    done.ok()
}

/// What a result says about the server. An error reply is a success: it proves that the server lives.
fn outcome_of<T>(result: &Result<T>) -> Outcome {
    match result {
        Err(error) if error.is_outage() => Outcome::Failure,
        Ok(_) | Err(Error::Reply { .. }) => Outcome::Success,
        Err(_) => Outcome::Ignored,
    }
}

/// The right to make one call, and its place among the calls in flight. Settled once.
///
/// Dropped without a result, because the call was refused or cancelled or panicked, it settles as ignored. That never
/// changes the breaker's state, so that no handler is called from a drop.
pub struct Pass<G: Deref<Target = Guard>> {
    guard: G,
    admission: Option<Admission>,
    placed: bool,
}

impl<G: Deref<Target = Guard>> Pass<G> {
    /// Passes the breaker and the bound on calls in flight.
    ///
    /// # Errors
    /// [`Error::CircuitOpen`] or [`Error::Overloaded`].
    pub fn enter(guard: G) -> Result<Self> {
        let mut pass = Self { guard, admission: None, placed: false };
        let door = pass.guard.door.load(Acquire);
        let admitted = if door == SHUT {
            let mut breaker = pass.guard.breaker();
            // Read under the lock, so that the breaker never sees time go backwards.
            let admitted = breaker.admit(Instant::now());
            pass.guard.note_door(&breaker);
            admitted
        } else {
            Ok(Admission::through_open_door(door))
        };
        match admitted {
            Ok(admission) => {
                let changed = admission.changed();
                // It is in the pass first: that gives the probe back even if a handler of changes panics.
                pass.admission = Some(admission);
                pass.guard.tell(changed);
            }
            Err(Rejection { retry_after }) => {
                pass.guard.counters.rejected_open.fetch_add(1, Relaxed);
                return Err(Error::CircuitOpen { server: pass.guard.server.clone(), retry_after });
            }
        }
        let most = pass.guard.max_in_flight;
        let room = |taken| (taken < most).then_some(taken + 1);
        if pass.guard.counters.in_flight.fetch_update(Relaxed, Relaxed, room).is_err() {
            pass.guard.counters.rejected_full.fetch_add(1, Relaxed);
            return Err(Error::Overloaded { server: pass.guard.server.clone(), limit: Backlog::Calls(most) });
        }
        pass.placed = true;
        Ok(pass)
    }

    /// The guard that let it in.
    pub fn guard(&self) -> &G {
        &self.guard
    }

    /// Tells the guard what became of the call, once. The place is given back when the pass is dropped.
    pub fn settle<T>(&mut self, result: &Result<T>) {
        let outcome = outcome_of(result);
        if outcome == Outcome::Failure {
            self.guard.counters.failures.fetch_add(1, Relaxed);
        }
        if matches!(result, Err(Error::Timeout { .. })) {
            self.guard.count_timeout();
        }
        if let Some(admission) = self.admission.take() {
            self.guard.settle(admission, outcome);
        }
    }
}

impl<G: Deref<Target = Guard>> Drop for Pass<G> {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            self.guard.settle(admission, Outcome::Ignored);
        }
        self.guard.counters.calls.fetch_add(1, Relaxed);
        self.guard.counters.in_flight.fetch_sub(usize::from(self.placed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use tokio::time::{advance, sleep, timeout};

    const SECOND: Duration = Duration::from_secs(1);

    fn guard() -> Guard {
        Guard::new("Redis".into(), Policy::REDIS, SECOND, 100)
    }

    fn lost() -> Error {
        Error::Connection { server: "Redis".into(), reason: "reset".into() }
    }

    fn reply(text: &str) -> Error {
        Error::Reply { server: "Redis".into(), text: text.into() }
    }

    async fn call(guard: &Guard, result: Result<()>) -> Result<()> {
        guard.run(SECOND, ready(result)).await
    }

    async fn takes(time: Duration) -> Result<()> {
        sleep(time).await;
        Ok(())
    }

    async fn open(guard: &Guard) {
        for _ in 0..10 {
            call(guard, Err(lost())).await.unwrap_err();
        }
        assert_eq!(guard.state(), State::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn only_outages_open_the_breaker() {
        let innocent = [
            reply("WRONGTYPE Operation against a key"),
            Error::type_error("no"),
            Error::NotConfigured("X"),
            Error::Internal("bug".into()),
            Error::Overloaded { server: "Redis".into(), limit: Backlog::Calls(1) },
            Error::CircuitOpen { server: "Redis".into(), retry_after: SECOND },
        ];
        for error in innocent {
            let guard = guard();
            for _ in 0..30 {
                call(&guard, Err(error.clone())).await.unwrap_err();
            }
            assert_eq!(guard.state(), State::Closed, "{error}");
            assert_eq!(guard.snapshot().failures, 0, "{error}");
        }
        for error in [lost(), reply("LOADING Redis is loading"), reply("READONLY You can't write")] {
            let guard = guard();
            for _ in 0..10 {
                call(&guard, Err(error.clone())).await.unwrap_err();
            }
            assert_eq!(guard.state(), State::Open, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_was_not_asked_does_not_dilute_the_failures() {
        let guard = guard();
        for _ in 0..50 {
            call(&guard, Err(Error::NotConfigured("X"))).await.unwrap_err();
        }
        open(&guard).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_reply_proves_that_the_server_lives() {
        let guard = guard();
        open(&guard).await;
        advance(18 * SECOND).await;
        call(&guard, Err(reply("WRONGTYPE Operation against a key"))).await.unwrap_err();
        assert_eq!(guard.state(), State::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_rejects_without_running_the_call() {
        let guard = guard();
        open(&guard).await;
        let error = guard.run::<(), _>(SECOND, async { panic!("it was run") }).await.unwrap_err();
        let Error::CircuitOpen { retry_after, .. } = error else { panic!("{error}") };
        assert!((15 * SECOND..=18 * SECOND).contains(&retry_after), "{retry_after:?}");
        assert_eq!(guard.snapshot(), Snapshot { calls: 11, failures: 10, rejected_open: 1, ..Snapshot::default() });
        advance(retry_after).await;
        call(&guard, Ok(())).await.unwrap();
        assert_eq!(guard.state(), State::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn the_shorter_deadline_counts_and_missing_it_is_a_failure() {
        let guard = guard();
        for (asked, given) in [(SECOND / 4, SECOND / 4), (10 * SECOND, SECOND)] {
            let start = Instant::now();
            let error = guard.run::<(), _>(asked, pending()).await.unwrap_err();
            assert!(matches!(error, Error::Timeout { after, .. } if after == given), "{error}");
            assert_eq!(start.elapsed().as_millis(), given.as_millis());
        }
        assert_eq!(guard.snapshot(), Snapshot { calls: 2, failures: 2, timeouts: 2, ..Snapshot::default() });
        let slow = takes(SECOND * 9 / 10);
        guard.run(guard.deadline(), slow).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_probe_makes_room_for_the_next() {
        let guard = guard();
        open(&guard).await;
        advance(18 * SECOND).await;
        let probe = guard.run::<(), _>(SECOND, pending());
        timeout(SECOND / 10, async {
            tokio::join!(probe, async {
                let rejected = call(&guard, Ok(())).await.unwrap_err();
                assert_eq!(rejected.code(), "ERR_CIRCUIT_OPEN");
                assert_eq!(guard.state(), State::HalfOpen);
            })
        })
        .await
        .unwrap_err();
        assert_eq!(guard.state(), State::HalfOpen);
        assert_eq!(guard.snapshot().in_flight, 0);
        call(&guard, Ok(())).await.unwrap();
        assert_eq!(guard.state(), State::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_panics_gives_its_place_and_its_probe_back() {
        let guard = Arc::new(guard());
        open(&guard).await;
        advance(18 * SECOND).await;
        let panicking = guard.clone();
        let task = tokio::spawn(async move { panicking.run::<(), _>(SECOND, async { panic!("on purpose") }).await });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(guard.snapshot().in_flight, 0);
        call(&guard, Ok(())).await.unwrap();
        assert_eq!(guard.state(), State::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_in_flight_are_bounded_and_the_bound_blames_nobody() {
        let guard = Arc::new(Guard::new("Redis".into(), Policy::REDIS, SECOND, 2));
        let slow = || {
            let guard = guard.clone();
            tokio::spawn(async move { guard.run(SECOND, takes(SECOND / 2)).await })
        };
        let running = [slow(), slow()];
        tokio::task::yield_now().await;
        for _ in 0..20 {
            let error = call(&guard, Ok(())).await.unwrap_err();
            assert!(matches!(error, Error::Overloaded { limit: Backlog::Calls(2), .. }), "{error}");
        }
        let expected = Snapshot { calls: 20, rejected_full: 20, in_flight: 2, ..Snapshot::default() };
        assert_eq!(guard.snapshot(), expected);
        for task in running {
            task.await.unwrap().unwrap();
        }
        call(&guard, Ok(())).await.unwrap();
        assert_eq!((guard.state(), guard.snapshot().in_flight), (State::Closed, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_frees_the_probe() {
        let guard = Arc::new(Guard::new("Redis".into(), Policy::REDIS, 60 * SECOND, 1));
        let stuck = guard.clone();
        let stuck = tokio::spawn(async move { stuck.run::<(), _>(60 * SECOND, pending()).await });
        tokio::task::yield_now().await;
        for _ in 0..10 {
            let admission = guard.breaker().admit(Instant::now()).unwrap();
            guard.settle(admission, Outcome::Failure);
        }
        advance(18 * SECOND).await;
        for _ in 0..2 {
            assert_eq!(call(&guard, Ok(())).await.unwrap_err().code(), "ERR_OVERLOADED");
        }
        stuck.abort();
        stuck.await.unwrap_err();
        call(&guard, Ok(())).await.unwrap();
        assert_eq!(guard.state(), State::Closed);
    }

    fn postgres(cap: usize) -> Arc<Guard> {
        Arc::new(Guard::new("Postgres".into(), Policy::POSTGRES, 5 * SECOND, 10_000).with_cap(cap))
    }

    /// Starts a call each `every` for `length` whose query takes `query`; returns how many were answered.
    async fn demand(guard: &Arc<Guard>, every: Duration, length: Duration, query: Duration) -> usize {
        let mut tasks = Vec::new();
        let end = Instant::now() + length;
        while Instant::now() < end {
            let guard = guard.clone();
            tasks.push(tokio::spawn(async move { guard.run(5 * SECOND, takes(query)).await }));
            sleep(every).await;
        }
        let mut answered = 0;
        for task in tasks {
            answered += usize::from(task.await.unwrap().is_ok());
        }
        answered
    }

    #[tokio::test(start_paused = true)]
    async fn the_cap_lets_so_many_run_at_once_and_the_others_wait() {
        let guard = postgres(3);
        let running = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let query = |running: Arc<(AtomicUsize, AtomicUsize)>| async move {
            let now_running = running.0.fetch_add(1, Relaxed) + 1;
            running.1.fetch_max(now_running, Relaxed);
            sleep(SECOND).await;
            running.0.fetch_sub(1, Relaxed);
            Ok(())
        };
        let start = Instant::now();
        let tasks: Vec<_> = (0..12)
            .map(|_| {
                let (guard, running) = (guard.clone(), running.clone());
                tokio::spawn(async move { guard.run(5 * SECOND, query(running)).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(start.elapsed().as_secs(), 4);
        assert_eq!(running.1.load(Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_in_vain_under_the_cap_is_a_timeout_that_blames_nobody() {
        let guard = postgres(3);
        let start = Instant::now();
        let tasks: Vec<_> = (0..30)
            .map(|_| {
                let guard = guard.clone();
                tokio::spawn(async move { guard.run::<(), _>(5 * SECOND, pending()).await })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap_err().code(), "ERR_TIMEOUT");
        }
        assert!(start.elapsed() <= Duration::from_millis(5001), "{:?}", start.elapsed());
        let expected = Snapshot { calls: 30, failures: 3, timeouts: 30, ..Snapshot::default() };
        assert_eq!((guard.snapshot(), guard.state()), (expected, State::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_server_opens_the_breaker_however_small_the_cap() {
        for cap in [1, 2, 10] {
            let guard = postgres(cap);
            demand(&guard, SECOND / 20, 15 * SECOND, 3600 * SECOND).await;
            assert_eq!(guard.state(), State::Open, "cap {cap}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_that_answers_keeps_it_closed() {
        let guard = postgres(2);
        // Asked for five times what it can do, it does all that it can.
        let answered = demand(&guard, SECOND / 100, 20 * SECOND, SECOND / 10).await;
        assert_eq!(guard.snapshot().failures, 0);
        assert_eq!(guard.state(), State::Closed);
        assert!(answered >= 400, "{answered}");
        assert!(guard.snapshot().timeouts > 500, "{:?}", guard.snapshot());
    }

    #[test]
    fn a_guarded_call_can_be_spawned() {
        fn sendable<T: Send>(_: T) {}
        sendable(guard().run::<(), _>(SECOND, pending()));
        fn shareable<T: Send + Sync>() {}
        shareable::<Guard>();
    }
}
