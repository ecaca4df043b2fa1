//! What a case consists of: calls, faults and time, each read from a number, so that a case can be cut to pieces.

use super::redis::Refuses;
use super::rows::Row;
use super::state::News;
use super::world::World;
use super::{SECOND, TOKENS};
use crate::sessions::Switches;

/// Kinds of steps, and how often each is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Validate,
    Progress,
    Settle,
    Pass,
    Warm,
    CleanUp,
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
    Reopen,
    Heal,
}

const KINDS: [(Kind, u64); 34] = [
    (Kind::Validate, 60),
    (Kind::Progress, 90),
    (Kind::Settle, 36),
    (Kind::Pass, 18),
    (Kind::Warm, 4),
    (Kind::CleanUp, 1),
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
    (Kind::Reopen, 1),
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
        self.pounce();
        self.look();
    }

    fn act(&mut self, kind: Kind, process: usize, token: usize, bits: u64) {
        // What goes before a removal must not be seen after it: so that this can be told, something goes.
        if matches!(kind, Kind::Flush | Kind::Evict | Kind::Garble) {
            (0..self.config.tokens).for_each(|token| self.change(token));
        }
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
            Kind::Settle => {
                let (slow, lag) = self.hurry(bits);
                self.settle(slow, lag);
            }
            Kind::Pass => {
                let time = TIMES[bits as usize % TIMES.len()] * 1000;
                let lively = (bits >> 4 & 3 != 0).then(|| self.hurry(bits >> 6));
                self.pass(time, lively);
            }
            Kind::Validate if !stopped => self.validate(process, token),
            Kind::Warm if !stopped => self.warm(process, token),
            Kind::CleanUp if !stopped => self.clean_up(process),
            Kind::RevokeToken if !stopped => self.revoke_token(process, token),
            Kind::Revoke if !stopped => self.revoke(process, token, bits & 1 == 1),
            Kind::RevokeUser if !stopped => self.revoke_user(process),
            Kind::RevokeOthers if !stopped => self.revoke_others(process, token),
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
            Kind::Evict if !self.frozen => self.on_key(token, |keys, key| keys.remove(key)),
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
            Kind::Reopen if !stopped => self.reopen(process),
            Kind::Heal => self.heal(process, bits),
            Kind::Switch if !stopped => self.switch(process, bits & 1 == 0),
            _ => {}
        }
    }

    /// Whether Postgres is slow, and whether processes lag.
    fn hurry(&self, bits: u64) -> (bool, bool) {
        let rare = if self.config.slow { 1 } else { 7 };
        (bits & rare == 0, bits >> 3 & rare == 0)
    }

    /// Ends some of the faults.
    pub fn heal(&mut self, process: usize, bits: u64) {
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

    /// Lets time pass. If it is `lively`, everybody does what he can meanwhile: see [`World::settle`].
    pub fn pass(&mut self, micros: u64, lively: Option<(bool, bool)>) {
        let until = self.now() + micros;
        // In parts that are no longer than between two probes; but what is longer than any time that matters, in a few.
        let most = SECOND.max(micros / 24);
        while self.now() < until {
            let now = until.min(self.now() + most);
            self.shared.lock().oracle.now = now;
            for process in 0..self.processes.len() {
                if !self.processes[process].stopped {
                    self.tend(process);
                    self.run(process);
                }
            }
            self.pounce();
            if let Some((slow, lag)) = lively {
                self.settle(slow, lag);
            }
        }
    }

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

    pub fn switch(&mut self, number: usize, all: bool) {
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
}
