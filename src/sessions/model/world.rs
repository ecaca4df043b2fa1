//! All processes, the server and Postgres, and what may happen next between them. Nothing happens by itself: every message
//! waits until the model lets it go on.

use super::TOKENS;
use super::oracle::Oracle;
use super::process::Process;
use super::redis::{Entry, Keyspace, Redis};
use super::rows::{Asked, Question, Said};
use super::state::{Names, News, Phase, Shared, State, lost};
use crate::error::Error;
use crate::keys::Keys;
use crate::stores::redis::{Entries, Seal};
use std::collections::BTreeMap;

/// How a case is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Of each process, whether it has Redis, and whether Redis pushes to it.
    pub processes: Vec<(bool, bool)>,
    pub tokens: usize,
    pub triggers: bool,
    pub ttl: u64,
    /// The breaker of Postgres opens at the second failure.
    pub nervous: bool,
    /// The processes are not connected yet when it begins.
    pub cold: bool,
    /// Postgres is often slow, and processes often lag.
    pub slow: bool,
    /// Whenever something has become out of date, somebody asks for it.
    pub pounces: bool,
    /// In the end all gets well again, and has to.
    pub to_the_end: bool,
    /// Kinds of steps that are left out.
    pub without: u64,
}

pub struct World<'a> {
    pub redis: &'a Redis,
    pub keys: Keys,
    pub shared: Shared,
    pub processes: Vec<Process>,
    pub config: Config,
    /// Which life the server is in.
    pub life: usize,
    pub frozen: bool,
    pub snapshot: BTreeMap<String, Entry>,
    /// The floors of answers when they were last looked at.
    floors: Vec<[u64; TOKENS]>,
}

/// What may happen next.
#[derive(Debug, Clone, Copy)]
pub enum Next {
    /// The server executes the next command of a link.
    Execute(usize),
    /// The next message arrives at a process.
    Deliver(usize),
    /// A process gets around to something.
    Later(usize),
    /// Postgres answers.
    Answer(usize),
    /// A process hears the next news of Postgres.
    Hear(usize),
    Connect(usize),
    Shake(usize),
    Listen(usize),
    LoseLink(usize),
    LoseListener(usize),
}

impl<'a> World<'a> {
    pub fn new(redis: &'a Redis, config: Config, log: bool) -> Self {
        *redis.keyspace() = Keyspace::default();
        let with_redis: Vec<_> = config.processes.iter().map(|(with_redis, _)| *with_redis).collect();
        let keys = Keys::new("");
        let mut state = State::new(Oracle::new(&with_redis), Names::new(&keys), with_redis.len(), config.ttl);
        state.triggers = config.triggers;
        state.log = log.then(Vec::new);
        let shared = Shared::new(state, Entries::new(keys.clone(), Seal::new(&[])));
        let process = |number| Process::new(number, &config, &shared);
        let processes = (0..with_redis.len()).map(process).collect();
        let (snapshot, floors) = (BTreeMap::new(), vec![[0; TOKENS]; with_redis.len()]);
        Self { redis, keys, shared, processes, config, life: 0, frozen: false, snapshot, floors }
    }

    pub fn now(&self) -> u64 {
        self.shared.lock().now()
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        self.shared.lock().note(what);
    }

    /// Lets a process run until it waits.
    pub fn run(&mut self, process: usize) {
        let now = self.now();
        self.processes[process].run(now);
    }

    pub fn next(&self) -> Vec<Next> {
        let state = self.shared.lock();
        let mut next = Vec::new();
        for (number, (link, listener)) in state.links.iter().zip(&state.listeners).enumerate() {
            let process = &self.processes[number];
            if !self.frozen && link.is_connected() && !link.outgoing.is_empty() {
                next.push(Next::Execute(number));
            }
            if process.stopped {
                continue;
            }
            match link.phase {
                Phase::Up if !link.incoming.is_empty() => next.push(Next::Deliver(number)),
                Phase::Down | Phase::Connecting if process.with_redis && !self.frozen => {
                    next.push(Next::Connect(number))
                }
                Phase::Shaken { .. } if !link.cut => next.push(Next::Shake(number)),
                _ => {}
            }
            // What had arrived before may be read before the end is seen, or not.
            if link.cut && matches!(link.phase, Phase::Up | Phase::Shaken { .. }) {
                next.push(Next::LoseLink(number));
            }
            if !listener.news.is_empty() {
                next.push(Next::Hear(number));
            }
            if listener.cut {
                next.push(Next::LoseListener(number));
            } else if !listener.connected && !state.postgres_down {
                next.push(Next::Listen(number));
            }
        }
        let runs = |process: usize| !self.processes[process].stopped;
        let lagging = state.lagging.iter().enumerate().filter(|(_, (process, _))| runs(*process));
        next.extend(lagging.map(|(index, _)| Next::Later(index)));
        next.extend((0..state.questions.len()).map(Next::Answer));
        next
    }

    /// Lets something happen; `bits` decide what is left to chance.
    pub fn go(&mut self, next: Next, bits: u64) {
        self.happens(next, bits);
        self.pounce();
    }

    fn happens(&mut self, next: Next, bits: u64) {
        self.shared.lock().oracle.mark();
        self.note(|| format!("{next:?}"));
        let at_once = bits & 3 != 0;
        match next {
            Next::Execute(process) => {
                self.execute(process);
                if at_once {
                    self.push();
                }
            }
            Next::Deliver(process) => self.deliver(process, at_once),
            Next::Later(index) => {
                let (process, later) = self.shared.lock().lagging.remove(index);
                later();
                self.run(process);
            }
            Next::Answer(index) => self.answer(index, None, at_once),
            Next::Hear(process) => self.hear(process),
            Next::Connect(process) => self.connect(process),
            Next::Shake(process) => self.shake(process),
            Next::Listen(process) => {
                let mut state = self.shared.lock();
                let now = state.now();
                let listener = &mut state.listeners[process];
                listener.connected = true;
                listener.probed = now;
                listener.unanswered = false;
                listener.news.push_back(News::Listening(now));
            }
            Next::LoseLink(process) => self.lose_link(process, bits),
            Next::LoseListener(process) => self.lose_listener(process),
        }
    }

    /// Asks at once where something has just become out of date.
    pub fn pounce(&mut self) {
        let pounces = self.config.pounces;
        for process in (0..self.processes.len()).filter(|_| pounces) {
            for token in 0..self.config.tokens {
                let floor = self.shared.lock().oracle.floor(process, token).hard;
                let risen = std::mem::replace(&mut self.floors[process][token], floor) < floor;
                if risen && !self.processes[process].stopped {
                    self.validate(process, token);
                }
            }
        }
    }

    /// Lets everything happen that can; without Postgres, if that is `slow`, and without what processes have not got around to,
    /// if they `lag`.
    pub fn settle(&mut self, slow: bool, lag: bool) {
        for _ in 0..400 {
            let waits = |next: &Next| matches!(next, Next::Answer(_)) && slow || matches!(next, Next::Later(_)) && lag;
            let Some(next) = self.next().into_iter().find(|next| !waits(next)) else { break };
            self.go(next, 1);
        }
    }

    /// Postgres executes and answers a question, or fails before or after that.
    pub fn answer(&mut self, index: usize, fails: Option<bool>, at_once: bool) {
        let mut state = self.shared.lock();
        let Question { process, task, asked, reply } = state.questions.remove(index);
        let fails = if state.postgres_down { Some(false) } else { fails };
        let said: Result<Said, Error> = match fails {
            None => Ok(state.execute(&asked, task)),
            Some(executed) => {
                if executed {
                    state.execute(&asked, task);
                }
                Err(lost())
            }
        };
        state.note(|| format!("{asked:?} of {process}: {}", if said.is_ok() { "answered" } else { "failed" }));
        if matches!(asked, Asked::Find(_)) && said.is_ok() {
            state.oracle.saw("Postgres asked");
        }
        let later = move || drop(reply.send(said));
        if at_once && !self.processes[process].stopped {
            later();
            drop(state);
            self.run(process);
        } else {
            state.lagging.push((process, Box::new(later)));
        }
    }
}
