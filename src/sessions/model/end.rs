//! How a case begins and ends.

use super::process::moment;
use super::world::World;
use super::{SECOND, TOKENS};

impl World<'_> {
    /// Everybody is connected, and there are rows.
    pub fn begin(&mut self) {
        {
            let mut state = self.shared.lock();
            state.oracle.now = SECOND;
            for token in 0..self.config.tokens {
                state.sign_in(token, 3_600 * SECOND);
            }
        }
        if !self.config.cold {
            self.settle(false, false);
        }
    }

    /// What the processes have counted.
    pub fn tell_counts(&self) {
        let metrics: Vec<_> = self.processes.iter().map(|process| process.sessions.metrics()).collect();
        let mut state = self.shared.lock();
        for metrics in metrics {
            let seen = &mut state.oracle.seen;
            for (what, times) in [
                ("Redis hit", metrics.redis_hits),
                ("miss", metrics.misses),
                ("joined", metrics.coalesced),
                ("from another life", metrics.not_believed.other_life),
                ("ended", metrics.not_believed.ended),
                ("older than news", metrics.not_believed.older_than_news),
                ("overtaken", metrics.not_believed.overtaken),
                ("unreadable", metrics.not_believed.unreadable),
            ] {
                *seen.entry(what).or_default() += times;
            }
        }
    }

    /// Looks at what every process would say now.
    pub fn look(&mut self) {
        let now = self.now();
        for (number, process) in self.processes.iter().enumerate() {
            if process.stopped || !process.enabled || !process.local_enabled {
                continue;
            }
            for token in 0..TOKENS {
                if let Some(known) = process.memory.hit(&self.shared.names.hashes[token], moment(now)) {
                    self.shared.lock().oracle.would_say(number, token, &known);
                }
            }
            let mut state = self.shared.lock();
            if process.with_redis && !state.links[number].is_up() && process.memory.local().len() > 0 {
                state.oracle.violated(format!("process {number} keeps copies though its link is lost"));
            }
        }
    }

    /// All is well again: every call ends, what was kept is delivered, everybody says what is true, and caches it.
    pub fn end(&mut self) {
        self.shared.lock().holds = 0;
        self.config.pounces = false;
        for process in 0..self.processes.len() {
            self.heal(process, 0);
            if !self.processes[process].enabled {
                self.switch(process, true);
            }
            if !self.processes[process].local_enabled {
                self.switch(process, false);
            }
        }
        self.settle(false, false);
        self.pass(12 * SECOND, Some((false, false)));
        for process in 0..self.processes.len() {
            (0..self.config.tokens).for_each(|token| self.forget(process, token));
        }
        self.pass(6 * SECOND, Some((false, false)));
        let calls = self.shared.lock().calls;
        self.must(calls == 0, "a call does not end");
        for process in 0..self.processes.len() {
            let memory = self.processes[process].memory.clone();
            self.must(memory.undelivered().none() && memory.heard().none(), "something stays undelivered");
            self.must(!memory.missed().is_open(), "a gap stays open");
        }
        self.shared.lock().oracle.settled();
        for process in 0..self.processes.len() {
            for token in 0..self.config.tokens {
                self.reads_until_local(process, token);
            }
        }
    }

    fn must(&self, holds: bool, what: &str) {
        if !holds {
            self.shared.lock().oracle.violated(what.to_owned());
        }
    }

    fn reads_until_local(&mut self, process: usize, token: usize) {
        let now = self.now();
        let valid = self.shared.lock().rows[token].as_ref().is_some_and(|row| row.ends > now + SECOND);
        let before = self.processes[process].sessions.metrics();
        // The first one may still have to find out that Postgres is back.
        for _ in 0..4 {
            self.validate(process, token);
            self.settle(false, false);
        }
        let after = self.processes[process].sessions.metrics();
        let (with_redis, pushes) = self.config.processes[process];
        let hits = (after.local_hits - before.local_hits, after.redis_hits - before.redis_hits);
        let enough = if with_redis && !pushes { hits.1 >= 2 } else { hits.0 >= 1 };
        self.must(!valid || enough, "the fourth read is not a hit");
        let calls = self.shared.lock().calls;
        self.must(calls == 0, "a call does not end when all is well");
    }
}
