//! What a case consists of: calls, faults and time, each read from a number, so that a case can be cut to pieces.

use super::redis::Refuses;
use super::rows::{Row, USER};
use super::state::{Command, Incoming, News, Request, Shared};
use super::world::{Tested, World};
use super::{SECOND, TOKENS};
use crate::sessions::Switches;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::EnterGuard;
use tokio::sync::oneshot;

/// Kinds of steps, and how often each is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Validate,
    Progress,
    Settle,
    Pass,
    RevokeToken,
    Revoke,
    RevokeUser,
    RevokeOthers,
    Rotate,
    Forget,
    ForgetUser,
    SqlDelete,
    SqlChange,
    SignIn,
    Truncate,
    Cut,
    Freeze,
    Snapshot,
    Restart,
    Flush,
    Evict,
    Persist,
    Garble,
    Refuse,
    CutListener,
    PostgresDown,
    FailAnswer,
    Stop,
    Sleep,
    Switch,
    Heal,
}

const KINDS: [(Kind, u64); 31] = [
    (Kind::Validate, 60),
    (Kind::Progress, 90),
    (Kind::Settle, 36),
    (Kind::Pass, 18),
    (Kind::RevokeToken, 5),
    (Kind::Revoke, 5),
    (Kind::RevokeUser, 2),
    (Kind::RevokeOthers, 2),
    (Kind::Rotate, 3),
    (Kind::Forget, 5),
    (Kind::ForgetUser, 3),
    (Kind::SqlDelete, 2),
    (Kind::SqlChange, 2),
    (Kind::SignIn, 12),
    (Kind::Truncate, 1),
    (Kind::Cut, 4),
    (Kind::Freeze, 4),
    (Kind::Snapshot, 4),
    (Kind::Restart, 2),
    (Kind::Flush, 1),
    (Kind::Evict, 2),
    (Kind::Persist, 2),
    (Kind::Garble, 1),
    (Kind::Refuse, 3),
    (Kind::CutListener, 3),
    (Kind::PostgresDown, 1),
    (Kind::FailAnswer, 2),
    (Kind::Stop, 3),
    (Kind::Sleep, 2),
    (Kind::Switch, 1),
    (Kind::Heal, 16),
];

/// How long a step may let pass, in milliseconds: around what matters, which are 250 ms for Redis, 1 s to forget, 2 s to
/// join, 3 s of proof, 5 s for Postgres, 6 s of lease, and the life of a copy.
const TIMES: [u64; 16] = [1, 4, 20, 60, 120, 255, 400, 600, 1_100, 1_990, 2_100, 3_005, 4_000, 6_100, 21_000, 302_000];

/// The step that a number stands for.
pub fn kind(number: u64, without: u64) -> Kind {
    let total: u64 = KINDS.iter().map(|(_, weight)| weight).sum();
    let mut left = number % total;
    for (kind, weight) in KINDS {
        if left < weight {
            let left_out =
                kind as u64 >= Kind::RevokeToken as u64 && kind != Kind::Heal && without >> (kind as u64) & 1 == 1;
            return if left_out { Kind::Progress } else { kind };
        }
        left -= weight;
    }
    Kind::Progress
}

impl World<'_> {
    /// Takes a step.
    pub fn step(&mut self, number: u64) {
        let kind = kind(number, self.config.without);
        let bits = number >> 16;
        let (process, token) = (bits as usize % self.processes.len(), (bits >> 4) as usize % self.config.tokens);
        let bits = bits >> 8;
        {
            let mut state = self.shared.lock();
            state.holds = (bits >> 20 & bits >> 28 & 0xff) as u32;
            state.oracle.mark();
            state.oracle.now += 1 + (bits >> 36 & 0x3f) * 16;
            state.note(|| format!("--- {kind:?} process {process} token {token}"));
        }
        self.act(kind, process, token, bits);
        self.look();
    }

    fn act(&mut self, kind: Kind, process: usize, token: usize, bits: u64) {
        let stopped = self.processes[process].stopped;
        match kind {
            Kind::Progress => {
                for turn in 0..1 + bits % 4 {
                    let all = self.next();
                    if all.is_empty() {
                        break;
                    }
                    let bits = bits >> (3 * turn + 2);
                    self.go(all[(bits >> 2) as usize % all.len()], bits ^ bits >> 9);
                }
            }
            Kind::Settle => self.settle(bits & 7 == 0, bits >> 3 & 7 == 0),
            Kind::Pass => {
                let time = TIMES[bits as usize % TIMES.len()] * 1000;
                self.pass(time, (bits >> 4 & 3 != 0).then_some((bits >> 6 & 3 == 0, bits >> 8 & 3 == 0)));
            }
            Kind::Validate if !stopped => self.validate(process, token),
            Kind::RevokeToken if !stopped => self.revoke_token(process, token),
            Kind::Revoke if !stopped => self.revoke(process, token, bits & 1 == 1),
            Kind::RevokeUser if !stopped => self.revoke_all(process, None),
            Kind::RevokeOthers if !stopped => self.revoke_all(process, Some(token)),
            Kind::Rotate if !stopped => self.rotate(process, token, (token + 1) % TOKENS),
            Kind::Forget if !stopped => {
                self.change(token);
                self.forget(process, token);
            }
            Kind::ForgetUser if !stopped => {
                (0..TOKENS).for_each(|token| self.change(token));
                self.forget_user(process);
            }
            Kind::SqlDelete => self.write(token, None),
            Kind::SqlChange => self.change(token),
            Kind::SignIn => {
                let mut state = self.shared.lock();
                if state.rows[token].is_none() {
                    state.sign_in(token, if bits & 7 == 0 { 4 * SECOND } else { 3_600 * SECOND });
                }
            }
            Kind::Truncate => {
                let mut state = self.shared.lock();
                (0..TOKENS).for_each(|token| state.put(token, None));
                if state.triggers {
                    state.tell(News::ForgetAll);
                }
            }
            Kind::Cut => self.cut(process, bits as usize & 3),
            Kind::Freeze => self.frozen = true,
            Kind::Snapshot => self.snapshot = self.redis.keyspace().keys.clone(),
            Kind::Restart => self.restart(bits),
            Kind::Flush if !self.frozen => self.flush(),
            Kind::Evict if !self.frozen => self.on_key(token, |keys, key| {
                keys.remove(key);
            }),
            Kind::Persist if !self.frozen => self.on_key(token, |keys, key| keys.persist(key)),
            Kind::Garble if !self.frozen => self.on_key(token, |keys, key| keys.garble(key)),
            Kind::Refuse => {
                self.redis.keyspace().refuses = if bits & 1 == 0 { Refuses::Del } else { Refuses::Writes };
            }
            Kind::CutListener => {
                let listener = &mut self.shared.lock().listeners[process];
                listener.cut = listener.connected;
            }
            Kind::PostgresDown => {
                let mut state = self.shared.lock();
                state.postgres_down = true;
                for listener in state.listeners.iter_mut().filter(|listener| listener.connected) {
                    listener.cut = true;
                }
            }
            Kind::FailAnswer => {
                let questions = self.shared.lock().questions.len();
                if questions > 0 {
                    self.answer(bits as usize % questions, Some(bits & 8 != 0), true);
                }
            }
            Kind::Stop => self.processes[process].stopped = true,
            Kind::Sleep => {
                self.processes[process].asleep |= !stopped;
                self.processes[process].stopped = true;
            }
            Kind::Heal => self.heal(process, bits),
            Kind::Switch if !stopped => self.switch(process, bits & 1 == 0),
            _ => {}
        }
    }

    /// Looks at what every process would say now.
    fn look(&mut self) {
        let now = self.now();
        for (number, process) in self.processes.iter().enumerate() {
            if process.stopped || !process.enabled || !process.local_enabled {
                continue;
            }
            for token in 0..TOKENS {
                if let Some(known) = process.memory.hit(&self.shared.names.hashes[token], super::world::moment(now)) {
                    self.shared.lock().oracle.would_say(number, token, &known);
                }
            }
            let mut state = self.shared.lock();
            if process.with_redis && !state.links[number].is_up() && process.memory.local().len() > 0 {
                state.oracle.violated(format!("process {number} keeps copies though its link is lost"));
            }
        }
    }

    /// Ends some of the faults.
    fn heal(&mut self, process: usize, bits: u64) {
        if bits & 1 == 0 {
            self.frozen = false;
        }
        if bits & 2 == 0 {
            self.redis.keyspace().refuses = Refuses::Nothing;
        }
        if bits & 4 == 0 {
            self.shared.lock().postgres_down = false;
        }
        if bits & 8 == 0 && std::mem::take(&mut self.processes[process].stopped) {
            let now = self.now();
            self.processes[process].wakes(now);
            self.shared.lock().oracle.wakes(process);
            // What it does first is left to chance.
            if bits & 16 == 0 {
                self.tend(process);
            }
            self.run(process);
        }
    }

    // -- Time --------------------------------------------------------------------------------------------------------

    /// Lets time pass. If it is `lively`, everybody does what he can meanwhile: see [`World::settle`].
    pub fn pass(&mut self, micros: u64, lively: Option<(bool, bool)>) {
        let until = self.now() + micros;
        // Longer than any time that matters, it is passed in one go, as if the machine had slept.
        let most = if lively.is_some() && micros <= 30 * SECOND { SECOND / 2 } else { SECOND.max(micros / 4) };
        while self.now() < until {
            let now = until.min(self.now() + most);
            self.shared.lock().oracle.now = now;
            for process in 0..self.processes.len() {
                if !self.processes[process].stopped {
                    self.tend(process);
                    self.run(process);
                }
            }
            if let Some((slow, lag)) = lively {
                self.settle(slow, lag);
            }
        }
    }

    /// Probes the links of a process, and gives up those that are silent.
    fn tend(&mut self, process: usize) {
        let (silent, deaf) = {
            let mut state = self.shared.lock();
            let now = state.now();
            let link = &mut state.links[process];
            let silent = link.is_up() && link.is_silent(now);
            if link.is_up() && !link.unanswered && now >= link.probed + SECOND {
                link.probed = now;
                link.unanswered = true;
                link.outgoing.push_back(Request { command: Command::Probe(now), reply: oneshot::channel().0 });
            }
            let listener = &mut state.listeners[process];
            let deaf = listener.connected && listener.is_silent(now);
            if listener.connected && !listener.unanswered && now >= listener.probed + SECOND {
                listener.probed = now;
                listener.unanswered = true;
                if !listener.cut {
                    listener.news.push_back(News::Alive(now));
                }
            }
            (silent, deaf)
        };
        if silent {
            self.lose_link(process, 0);
        }
        if deaf {
            self.lose_listener(process);
        }
    }

    // -- What others do ----------------------------------------------------------------------------------------------

    /// Writes a row as the triggers see it.
    fn write(&mut self, token: usize, row: Option<Row>) {
        let mut state = self.shared.lock();
        if state.rows[token].is_none() {
            return;
        }
        state.put(token, row);
        if state.triggers {
            let epoch = state.oracle.epoch(token);
            state.tell(News::Forget(token, epoch));
        }
    }

    fn change(&mut self, token: usize) {
        let row = self.shared.lock().rows[token].clone();
        self.write(token, row);
    }

    fn on_key(&mut self, token: usize, act: impl FnOnce(&mut super::redis::Keyspace, &str)) {
        let key = self.shared.names.keys[token].clone();
        self.on_server(|redis| act(&mut redis.keyspace(), &key));
        self.push();
    }

    fn flush(&mut self) {
        let names = self.shared.names.clone();
        self.on_server(|redis| {
            let mut keyspace = redis.keyspace();
            for token in 0..TOKENS {
                keyspace.remove(&names.keys[token]);
            }
            keyspace.written.clear();
        });
        let mut state = self.shared.lock();
        let removals: Vec<_> = (0..TOKENS).map(|token| (token, state.oracle.removal(token))).collect();
        for link in state.links.iter_mut().filter(|link| link.is_connected() && link.pushes) {
            link.incoming.push_back(Incoming::Push(Vec::new(), removals.clone(), true));
        }
    }

    fn switch(&mut self, number: usize, all: bool) {
        let process = &mut self.processes[number];
        let switches = if all {
            process.enabled = !process.enabled;
            Switches { enabled: Some(process.enabled), ..Switches::default() }
        } else {
            process.local_enabled = !process.local_enabled;
            Switches { local_enabled: Some(process.local_enabled), ..Switches::default() }
        };
        process.sessions.configure(switches).unwrap();
        if all {
            self.shared.lock().oracle.doubts(number);
        }
        self.run(number);
    }

    // -- The end -----------------------------------------------------------------------------------------------------

    /// All is well again: every call ends, what was kept is delivered, everybody says what is true, and caches it.
    pub fn end(&mut self) {
        self.tell_counts();
        self.shared.lock().holds = 0;
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
        self.must(self.shared.lock().calls == 0, "a call does not end");
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
        self.must(self.shared.lock().calls == 0, "a call does not end when all is well");
    }

    // -- What the application does -----------------------------------------------------------------------------------

    pub fn validate(&mut self, number: usize, token: usize) {
        let process = &self.processes[number];
        let (sessions, shared, guard) = (process.sessions.clone(), self.shared.clone(), process.guard.clone());
        let hash = shared.names.hashes[token];
        process.wake(self.now());
        let entered = process.runtime.enter();
        let asked = {
            let mut state = shared.lock();
            if guard.state() != crate::resilience::breaker::State::Closed {
                state.oracle.trouble(number);
            }
            state.oracle.asks(number, token)
        };
        match sessions.immediate(Some(&hash)).unwrap() {
            Some(Some(known)) => {
                let mut state = shared.lock();
                state.oracle.saw("local hit");
                state.oracle.would_say(number, token, &known);
            }
            Some(None) => {
                let mut state = shared.lock();
                state.oracle.saw("known to be nobody's");
                state.oracle.answered(&asked, &Ok(None));
            }
            None => {
                shared.lock().calls += 1;
                process.runtime.spawn(async move {
                    let answer = sessions.validate(hash).await;
                    let mut state = shared.lock();
                    state.calls -= 1;
                    let read = answer
                        .as_ref()
                        .ok()
                        .map(|known| known.as_ref().map(|known| super::oracle::read_of(&known.json)));
                    state.note(|| format!("process {number} says of {token}: {read:?}"));
                    state.oracle.answered(&asked, &answer);
                });
            }
        }
        drop(entered);
        self.run(number);
    }

    fn revoke_token(&mut self, number: usize, token: usize) {
        let (sessions, shared, _entered) = self.caller(number);
        let hash = shared.names.hashes[token];
        let begun = Begun::new(&shared, number, &[token]);
        let task = async move {
            let ended = sessions.revoke_token(Some(hash)).await;
            begun.ends(&shared, ended.is_ok());
        };
        self.processes[number].runtime.spawn(task);
        drop(_entered);
        self.run(number);
    }

    fn revoke(&mut self, number: usize, token: usize, with_token: bool) {
        let Some(Row { id, .. }) = self.shared.lock().rows[token].clone() else { return };
        let (sessions, shared, _entered) = self.caller(number);
        let hash = shared.names.hashes[token];
        let begun = Begun::new(&shared, number, &[token][usize::from(!with_token)..]);
        let task = async move {
            let ended = sessions.revoke(&id, with_token.then_some(hash)).await;
            begun.ends(&shared, ended.is_ok());
        };
        self.processes[number].runtime.spawn(task);
        drop(_entered);
        self.run(number);
    }

    fn revoke_all(&mut self, number: usize, except: Option<usize>) {
        let rows = self.shared.lock().rows.clone();
        let Some(except) = except.map_or(Some(None), |token| rows[token].clone().map(|row| Some(row.id))) else {
            return;
        };
        let (sessions, shared, _entered) = self.caller(number);
        let begun = Begun::new(&shared, number, &[]);
        let task = async move {
            let ended = match &except {
                Some(except) => sessions.revoke_others(USER, except).await,
                None => sessions.revoke_user(USER).await,
            };
            begun.ends(&shared, ended.is_ok());
        };
        self.processes[number].runtime.spawn(task);
        drop(_entered);
        self.run(number);
    }

    fn rotate(&mut self, number: usize, token: usize, new: usize) {
        let (sessions, shared, _entered) = self.caller(number);
        let hash = shared.names.hashes[token];
        let new_hash = shared.names.hashes[new];
        let begun = Begun::new(&shared, number, &[token, new]);
        let task = async move {
            let rotated = sessions.rotate(Some(hash), new_hash, SystemTime::UNIX_EPOCH + Duration::from_secs(1)).await;
            begun.ends(&shared, rotated.is_ok());
        };
        self.processes[number].runtime.spawn(task);
        drop(_entered);
        self.run(number);
    }

    pub fn forget(&mut self, number: usize, token: usize) {
        let (sessions, shared, _entered) = self.caller(number);
        let hash = shared.names.hashes[token];
        let begun = Begun::new(&shared, number, &[token]);
        let task = async move {
            sessions.forget(Some(hash)).await;
            begun.ends(&shared, true);
        };
        self.processes[number].runtime.spawn(task);
        drop(_entered);
        self.run(number);
    }

    fn forget_user(&mut self, number: usize) {
        let (sessions, shared, _entered) = self.caller(number);
        let begun = Begun::new(&shared, number, &[]);
        let task = async move {
            let forgotten = sessions.forget_user(USER).await;
            begun.ends(&shared, forgotten.is_ok());
        };
        self.processes[number].runtime.spawn(task);
        drop(_entered);
        self.run(number);
    }

    fn caller(&self, number: usize) -> (Arc<Tested>, Shared, EnterGuard<'_>) {
        let process = &self.processes[number];
        process.wake(self.now());
        (process.sessions.clone(), self.shared.clone(), process.runtime.enter())
    }
}

/// A call that forgets tokens or ends sessions.
struct Begun {
    process: usize,
    turn: u64,
    /// Those that it was given, and their epochs when it began.
    tokens: Vec<(usize, u64)>,
}

impl Begun {
    fn new(shared: &Shared, process: usize, tokens: &[usize]) -> Self {
        let mut state = shared.lock();
        state.calls += 1;
        let tokens = tokens.iter().map(|token| (*token, state.oracle.epoch(*token))).collect();
        Self { process, turn: state.oracle.turn(), tokens }
    }

    /// It has resolved, or rejected. Called on the task of the call.
    fn ends(&self, shared: &Shared, resolved: bool) {
        let mut state = shared.lock();
        state.calls -= 1;
        state.note(|| format!("process {} has forgotten {:?}: {resolved}", self.process, self.tokens));
        let call = tokio::task::id();
        let named: Vec<_> =
            state.done.iter().filter(|(task, ..)| *task == call).map(|(_, token, epoch)| (*token, *epoch)).collect();
        for (token, epoch) in self.tokens.iter().chain(named.iter().filter(|_| resolved)) {
            if resolved {
                state.oracle.forgot(self.process, *token, *epoch);
            }
            state.oracle.owes(self.process, *token, self.turn);
        }
    }
}
