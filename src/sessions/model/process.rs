//! One process of the model: the real sessions on a paused clock of their own.

use super::copies::Copies;
use super::rows::Rows;
use super::state::Shared;
use super::world::Config;
use crate::clock::{Clock, Moment};
use crate::metrics::SessionCounters;
use crate::resilience::breaker::Policy;
use crate::resilience::guard::Guard;
use crate::sessions::{Guarded, Memory, Sessions, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

pub type Tested = Sessions<Copies, Rows>;

pub struct Process {
    pub runtime: Runtime,
    pub sessions: Arc<Tested>,
    pub memory: Memory,
    pub guard: Arc<Guard>,
    running: AbortHandle,
    pub with_redis: bool,
    clock: Arc<AtomicU64>,
    /// Until when its timers have run.
    time: u64,
    pub stopped: bool,
    /// The machine sleeps: timers do not go on, as the clock of its memory does.
    pub asleep: bool,
    pub enabled: bool,
    pub local_enabled: bool,
}

impl Process {
    pub fn new(number: usize, config: &Config, shared: &Shared) -> Self {
        let (with_redis, _) = config.processes[number];
        let clock = Arc::new(AtomicU64::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let memory = Memory::with_clock(Clock::manual(clock.clone()), with_redis, 64);
        let Engine { sessions, guard, running } = Engine::new(number, config, shared, &memory, &runtime);
        Self {
            runtime,
            sessions,
            memory,
            guard,
            running,
            with_redis,
            clock,
            time: 0,
            stopped: false,
            asleep: false,
            enabled: true,
            local_enabled: true,
        }
    }

    /// What it has is closed, and opened again. Its memory stays.
    pub fn reopen(&mut self, number: usize, config: &Config, shared: &Shared) {
        self.running.abort();
        let engine = Engine::new(number, config, shared, &self.memory, &self.runtime);
        (self.sessions, self.guard, self.running) = (engine.sessions, engine.guard, engine.running);
        (self.enabled, self.local_enabled) = (true, true);
    }

    /// Its clock shows the present.
    pub fn wake(&self, now: u64) {
        self.clock.store(now, SeqCst);
    }

    /// It goes on.
    pub fn wakes(&mut self, now: u64) {
        if std::mem::take(&mut self.asleep) {
            self.time = now;
        }
    }

    pub fn run(&mut self, now: u64) {
        if self.stopped {
            return;
        }
        self.wake(now);
        let passed = Duration::from_micros(now - self.time);
        self.time = now;
        self.runtime.block_on(async {
            if !passed.is_zero() {
                tokio::time::advance(passed).await;
            }
            tokio::task::yield_now().await;
        });
    }
}

/// What is opened and closed.
struct Engine {
    sessions: Arc<Tested>,
    guard: Arc<Guard>,
    running: AbortHandle,
}

impl Engine {
    fn new(number: usize, config: &Config, shared: &Shared, memory: &Memory, runtime: &Runtime) -> Self {
        let _entered = runtime.enter();
        let guard = |policy, deadline| Arc::new(Guard::new("model".into(), policy, deadline, 1000));
        let never = Policy { failure_percent: 101, ..Policy::REDIS };
        let nervous = Policy { min_calls: 2, open_for: Duration::from_secs(1), ..Policy::POSTGRES };
        let copies = config.processes[number].0.then(|| {
            let store = Copies { process: number, shared: shared.clone(), entries: shared.entries.clone() };
            Guarded { store, guard: guard(never, Duration::from_secs(1)) }
        });
        let postgres = guard(if config.nervous { nervous } else { never }, Duration::from_secs(5));
        let rows = Guarded { store: Rows { process: number, shared: shared.clone() }, guard: postgres.clone() };
        let settings = Settings {
            enabled: true,
            local_enabled: true,
            ttl: Duration::from_micros(config.ttl),
            flush: Duration::from_secs(100_000),
        };
        let counters = Arc::new(SessionCounters::default());
        let sessions = Arc::new(Sessions::new(copies, Some(Arc::new(rows)), memory.clone(), counters, settings));
        let run = sessions.clone();
        let running = runtime.spawn(async move { run.run().await }).abort_handle();
        Self { sessions, guard: postgres, running }
    }
}

/// The time that a process shows when the model shows `now`.
pub fn moment(now: u64) -> Moment {
    Moment::from_micros(now + 1)
}
