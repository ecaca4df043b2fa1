//! What Redis and Postgres say without being asked, on its way into the memory of sessions.

use super::Sessions;
use crate::clock::Moment;
use crate::keys::Keys;
use crate::metrics::SessionCounters;
use crate::redis_value::Value;
use crate::sessions::{Guarded, Memory};
use crate::stores::postgres::{Event, Postgres};
use crate::stores::redis::{Ears, Followers, LinkId, OnNewLife, Owner, ServerInfo, pushed_tokens};
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
    /// Lets the server be tried again at once, where another one may stand in for it.
    revive: Option<OnNewLife>,
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
    pub fn new(memory: Memory, counters: Arc<SessionCounters>, keys: Keys, revive: Option<OnNewLife>) -> Self {
        Self { memory, counters, keys, revive, links: Mutex::default() }
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
        if !links.is_empty() {
            // What one that is gone has pushed may not have been heard.
            self.memory.lane_down();
        }
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
        drop(links);
        if let Some(revive) = &self.all.revive {
            revive();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::TokenHash;
    use crate::resilience::single_flight::Joined;
    use crate::session::SessionWithUser;
    use crate::sessions::Known;
    use std::time::Duration;

    /// A memory with a session in its tier, and three links to Redis of which it hears.
    struct Scene {
        memory: Memory,
        all: Arc<FromRedis>,
        links: Vec<Arc<dyn Owner>>,
        token: TokenHash,
    }

    const UP: ServerInfo = ServerInfo { life: None, tells: true, version: None, pushes: true, not_pushed: None };

    fn scene() -> Scene {
        let memory = Memory::new(true, 100);
        let all = Arc::new(FromRedis::new(memory.clone(), Arc::default(), Keys::new(""), None));
        Followers::links(&*all, &[0, 1, 2]);
        let links: Vec<_> = (0..3).map(|link| all.clone().of_link(link)).collect();
        Scene { memory, all, links, token: TokenHash::of(b"t").unwrap() }
    }

    impl Scene {
        fn connect(&self, link: usize) {
            self.links[link].connecting();
            self.links[link].connected(&UP);
        }

        /// Puts a session into the tier, as a copy that was read on a link.
        fn keep(&self) {
            let (now, token) = (self.memory.now(), self.token);
            let session: SessionWithUser = serde_json::from_value(serde_json::json!({
                "id": "11111111-1111-4111-8111-111111111111", "userId": "u", "token": token.to_hex(), "expiresAt": "",
                "lastActivityAt": "", "createdAt": "", "email": "", "firstName": null, "lastName": null, "username": null,
            }))
            .unwrap();
            let known = Known::new(&session, now, now.after(Duration::from_secs(60))).unwrap();
            let Joined::Leader(flight) = self.memory.flights().join(token, now) else { panic!("it is under way") };
            self.memory.keep_copy(&flight, flight.nudges(), token, &known, true);
        }

        fn serves(&self) -> bool {
            self.memory.hit(&self.token, self.memory.now()).is_some()
        }
    }

    /// All links are up, and the session is served.
    fn serving() -> Scene {
        let scene = scene();
        (0..3).for_each(|link| scene.connect(link));
        scene.keep();
        assert!(scene.serves());
        scene
    }

    #[test]
    fn nothing_is_served_before_every_link_is_up() {
        let scene = scene();
        scene.connect(0);
        scene.connect(2);
        scene.keep();
        assert!(!scene.serves());
        scene.links[0].probing();
        scene.links[0].alive();
        assert!(!scene.serves(), "a sign of life of one proves nothing of another");
        scene.connect(1);
        assert!(!scene.serves(), "what was kept while one was missing is gone");
        scene.keep();
        assert!(scene.serves());
    }

    #[test]
    fn one_that_is_lost_takes_everything_with_it_until_it_is_back() {
        let scene = serving();
        scene.links[1].lost();
        scene.keep();
        scene.links[0].probing();
        scene.links[0].alive();
        assert!(!scene.serves());
        scene.connect(1);
        assert!(!scene.serves());
        scene.keep();
        assert!(scene.serves());
    }

    #[test]
    fn other_links_begin_anew() {
        let scene = serving();
        Followers::links(&*scene.all, &[0, 1]);
        assert!(!scene.serves(), "what the third has pushed may not have been heard");
        scene.keep();
        assert!(scene.serves());
        Followers::links(&*scene.all, &[0, 1, 3]);
        scene.keep();
        assert!(!scene.serves(), "the new one is not up yet");
        // One that is gone has nothing to say.
        scene.connect(2);
        assert!(!scene.serves());
        let new = scene.all.clone().of_link(3);
        new.connecting();
        new.connected(&UP);
        scene.keep();
        assert!(scene.serves());
    }

    #[test]
    fn without_pushes_from_each_nothing_is_served() {
        let scene = serving();
        scene.links[2].connecting();
        scene.links[2].connected(&ServerInfo { pushes: false, ..UP });
        scene.keep();
        assert!(!scene.serves());
    }
}
