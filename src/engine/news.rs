//! What Redis and Postgres say without being asked, on its way into the memory of sessions.

use super::Sessions;
use crate::clock::Moment;
use crate::keys::Keys;
use crate::metrics::SessionCounters;
use crate::redis_value::Value;
use crate::sessions::{Guarded, Memory};
use crate::stores::postgres::{Event, Postgres};
use crate::stores::redis::{Ears, Followers, LinkId, Owner, ServerInfo, pushed_tokens};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The owner of the links that carry sessions.
///
/// Together they are one for the memory: it is proven alive when each of them is, and lost when one is.
pub struct FromRedis {
    memory: Memory,
    counters: Arc<SessionCounters>,
    keys: Keys,
    links: Mutex<HashMap<LinkId, Proof>>,
}

/// What is known of a link.
#[derive(Clone, Copy)]
struct Proof {
    /// When the newest question was asked that it has answered.
    alive: Moment,
    pushes: bool,
}

impl FromRedis {
    pub fn new(memory: Memory, counters: Arc<SessionCounters>, keys: Keys) -> Self {
        Self { memory, counters, keys, links: Mutex::default() }
    }

    fn links(&self) -> MutexGuard<'_, HashMap<LinkId, Proof>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds for all of them; `None` while one is missing.
    fn weakest(links: &HashMap<LinkId, Proof>) -> Option<Proof> {
        let weaker =
            |one: Proof, other: &Proof| Proof { alive: one.alive.min(other.alive), pushes: one.pushes && other.pushes };
        let first = *links.values().next()?;
        Some(links.values().fold(first, weaker)).filter(|proof| proof.alive != Moment::NEVER)
    }

    fn up(&self, links: &HashMap<LinkId, Proof>) {
        if let Some(Proof { alive, pushes }) = Self::weakest(links) {
            self.memory.lane_up(alive, pushes);
        }
    }
}

impl Followers for FromRedis {
    fn links(&self, all: &[LinkId]) {
        let mut links = self.links();
        // What one that is gone has pushed may not have been heard.
        self.memory.lane_down();
        links.retain(|link, _| all.contains(link));
        for link in all {
            links.entry(*link).or_insert(Proof { alive: Moment::NEVER, pushes: false });
        }
        self.up(&links);
    }

    fn of_link(self: Arc<Self>, link: LinkId) -> Arc<dyn Owner> {
        Arc::new(FromLink { all: self, link, asked: AtomicU64::new(0) })
    }
}

/// The owner of one of the links.
struct FromLink {
    all: Arc<FromRedis>,
    link: LinkId,
    /// When the server was asked last.
    asked: AtomicU64,
}

impl FromLink {
    fn asking(&self) {
        self.asked.store(self.all.memory.now().as_micros(), Relaxed);
    }

    fn asked(&self) -> Moment {
        Moment::from_micros(self.asked.load(Relaxed))
    }
}

impl Ears for FromLink {
    fn pushed(&self, push: Vec<Value>) {
        let FromRedis { memory, counters, keys, .. } = &*self.all;
        match pushed_tokens(keys, &push) {
            Some(tokens) => {
                counters.pushed.fetch_add(tokens.len() as u64, Relaxed);
                for token in &tokens {
                    memory.pushed(token);
                }
            }
            // The server was flushed.
            None => memory.forget_all(),
        }
    }

    fn probing(&self) {
        self.asking();
    }

    fn alive(&self) {
        let mut links = self.all.links();
        let Some(proof) = links.get_mut(&self.link) else { return };
        proof.alive = self.asked();
        if let Some(Proof { alive, pushes }) = FromRedis::weakest(&links) {
            self.all.memory.lane_alive(alive, pushes);
        }
    }
}

impl Owner for FromLink {
    fn connecting(&self) {
        self.asking();
    }

    fn connected(&self, info: &ServerInfo) {
        let mut links = self.all.links();
        let Some(proof) = links.get_mut(&self.link) else { return };
        *proof = Proof { alive: self.asked(), pushes: info.pushes };
        self.all.up(&links);
    }

    fn lost(&self) {
        let mut links = self.all.links();
        let Some(proof) = links.get_mut(&self.link) else { return };
        proof.alive = Moment::NEVER;
        self.all.memory.lane_down();
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
