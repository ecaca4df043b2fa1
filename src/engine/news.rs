//! What Redis and Postgres say without being asked, on its way into the memory of sessions.

use super::Sessions;
use crate::clock::Moment;
use crate::keys::Keys;
use crate::metrics::SessionCounters;
use crate::redis_value::Value;
use crate::sessions::{Guarded, Memory};
use crate::stores::postgres::{Event, Postgres};
use crate::stores::redis::{Ears, Owner, ServerInfo, pushed_tokens};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The owner of the session lane.
pub struct FromRedis {
    memory: Memory,
    counters: Arc<SessionCounters>,
    keys: Keys,
    /// When the server was asked last.
    asked: AtomicU64,
    pushes: AtomicBool,
}

impl FromRedis {
    pub fn new(memory: Memory, counters: Arc<SessionCounters>, keys: Keys) -> Self {
        Self { memory, counters, keys, asked: AtomicU64::new(0), pushes: AtomicBool::new(false) }
    }

    fn asking(&self) {
        self.asked.store(self.memory.now().as_micros(), Relaxed);
    }

    fn asked(&self) -> Moment {
        Moment::from_micros(self.asked.load(Relaxed))
    }
}

impl Ears for FromRedis {
    fn pushed(&self, push: Vec<Value>) {
        match pushed_tokens(&self.keys, &push) {
            Some(tokens) => {
                self.counters.pushed.fetch_add(tokens.len() as u64, Relaxed);
                for token in &tokens {
                    self.memory.pushed(token);
                }
            }
            // The server was flushed.
            None => self.memory.forget_all(),
        }
    }

    fn probing(&self) {
        self.asking();
    }

    fn alive(&self) {
        self.memory.lane_alive(self.asked(), self.pushes.load(Relaxed));
    }
}

impl Owner for FromRedis {
    fn connecting(&self) {
        self.asking();
    }

    fn connected(&self, info: &ServerInfo) {
        self.pushes.store(info.pushes, Relaxed);
        self.memory.lane_up(self.asked(), info.pushes);
    }

    fn lost(&self) {
        self.memory.lane_down();
    }
}

/// What the listener hears.
pub struct FromPostgres {
    memory: Memory,
    sessions: Arc<Sessions>,
    postgres: Arc<Guarded<Postgres>>,
    asked: Moment,
}

impl FromPostgres {
    pub fn new(memory: Memory, sessions: Arc<Sessions>, postgres: Arc<Guarded<Postgres>>) -> Self {
        Self { memory, sessions, postgres, asked: Moment::NEVER }
    }

    pub fn hear(&mut self, event: Event) {
        match event {
            Event::Forget(token) => self.sessions.heard_of(&[token]),
            Event::ForgetAll => self.memory.doubt(),
            Event::Probing => self.asked = self.memory.now(),
            Event::Alive { triggers } => self.memory.listener_alive(self.asked, triggers),
            Event::Lost => self.memory.listener_down(),
            Event::Connected { triggers } => {
                self.memory.listener_up(self.asked, triggers);
                // It answers again: no need to wait until the breaker would try.
                self.postgres.guard.try_soon();
            }
        }
    }
}
