//! All processes, the server and Postgres, and what may happen next between them. Nothing happens by itself: every message
//! waits until the model lets it go on.

use super::copies::Copies;
use super::oracle::Oracle;
use super::redis::{Keyspace, Redis, Script};
use super::rows::{Asked, Question, Rows, Said};
use super::state::{Command, Incoming, Names, News, Phase, Request, Shared, State, lost};
use super::{OFFSET, SECOND, TOKENS};
use crate::clock::{Clock, Moment};
use crate::error::Error;
use crate::keys::Keys;
use crate::metrics::SessionCounters;
use crate::redis_value::Value;
use crate::resilience::breaker::Policy;
use crate::resilience::guard::Guard;
use crate::sessions::{Guarded, Memory, Sessions, Settings};
use crate::stores::redis::{Entries, Seal, pushed_tokens};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::runtime::Runtime;

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
    /// Kinds of steps that are left out.
    pub without: u64,
}

pub type Tested = Sessions<Copies, Rows>;

pub struct Process {
    pub runtime: Runtime,
    pub sessions: Arc<Tested>,
    pub memory: Memory,
    pub guard: Arc<Guard>,
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

pub struct World<'a> {
    pub redis: &'a Redis,
    pub keys: Keys,
    pub shared: Shared,
    pub processes: Vec<Process>,
    pub config: Config,
    /// Which life the server is in.
    pub life: usize,
    pub frozen: bool,
    pub snapshot: BTreeMap<String, super::redis::Entry>,
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
        let shared = Shared::new(state);
        let entries = Arc::new(Entries::new(keys.clone(), Seal::new(&[])));
        let process = |number| Process::new(number, &config, &shared, &entries);
        let processes = (0..with_redis.len()).map(process).collect();
        let snapshot = BTreeMap::new();
        Self { redis, keys, shared, processes, config, life: 0, frozen: false, snapshot }
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

    // -- The server --------------------------------------------------------------------------------------------------

    /// Lets somebody do something on the server, and takes note of what it removed.
    pub fn on_server<T>(&self, act: impl FnOnce(&Redis) -> T) -> T {
        self.redis.keyspace().micros = self.micros();
        let result = act(self.redis);
        let removed = std::mem::take(&mut self.redis.keyspace().removed);
        let mut state = self.shared.lock();
        for key in removed {
            state.oracle.removed(self.shared.names.number_of(&key));
        }
        result
    }

    fn micros(&self) -> u64 {
        OFFSET + self.now()
    }

    /// Ends the server's turn: what was written is pushed.
    pub fn push(&self) {
        let written = std::mem::take(&mut self.redis.keyspace().written);
        if written.is_empty() {
            return;
        }
        let tokens: Vec<_> = written.iter().map(|key| self.shared.names.number_of(key)).collect();
        let mut state = self.shared.lock();
        let removals: Vec<_> = tokens.iter().map(|token| (*token, state.oracle.removal(*token))).collect();
        for link in state.links.iter_mut().filter(|link| link.is_connected() && link.pushes) {
            link.incoming.push_back(Incoming::Push(tokens.clone(), removals.clone(), false));
        }
    }

    fn execute(&mut self, process: usize) {
        let Some(Request { command, reply }) = self.shared.lock().links[process].outgoing.pop_front() else { return };
        let answer = match command {
            Command::Probe(asked) => Incoming::Alive(asked),
            Command::Time => Incoming::Reply(Value::Int(self.micros() as i64), reply),
            Command::Script { script, token, arguments, read } => {
                let key = &self.shared.names.keys[token];
                let result = self.on_server(|redis| redis.run(script, key, &arguments));
                self.note(|| format!("server executes {script:?} of {process} on {token}: {}", shown(&result)));
                match result {
                    Ok(value) => {
                        self.take_note(script, &arguments, read, &value);
                        Incoming::Reply(value, reply)
                    }
                    Err(text) => Incoming::Failure(text, reply),
                }
            }
        };
        self.shared.lock().links[process].incoming.push_back(answer);
    }

    fn take_note(&self, script: Script, arguments: &[Vec<u8>], read: Option<usize>, value: &Value) {
        let text = |argument: &[u8]| String::from_utf8_lossy(argument).into_owned();
        let mut state = self.shared.lock();
        match (script, value) {
            (Script::ReadOrLease, Value::Array(items))
                if items.get(1).is_some_and(|nonce| nonce.as_str() == Some(&text(&arguments[2]))) =>
            {
                state.leases.insert(text(&arguments[2]), self.life);
            }
            (Script::Fill, Value::Int(1)) => {
                // A lease that nobody gave is of no life.
                let life = state.leases.get(&text(&arguments[0])).copied().unwrap_or(usize::MAX);
                state.oracle.filled(read.unwrap(), life, self.life);
            }
            (Script::Fill, _) => state.oracle.saw("fill refused"),
            _ => {}
        }
    }

    /// The server dies, with some of what was sent executed, and is back with nothing, with what was saved, or, as a replica
    /// that takes its place, with everything.
    pub fn restart(&mut self, bits: u64) {
        for process in 0..self.processes.len() {
            self.cut(process, (bits >> (2 * process)) as usize & 3);
        }
        self.life += 1;
        let mut keyspace = self.redis.keyspace();
        let keys = match bits >> 8 & 3 {
            0 => BTreeMap::new(),
            1 => self.snapshot.clone(),
            _ => keyspace.keys.clone(),
        };
        *keyspace = Keyspace { keys, ..Keyspace::default() };
        drop(keyspace);
        self.frozen = false;
        let mut state = self.shared.lock();
        for token in 0..TOKENS {
            state.oracle.removed(token);
        }
        state.oracle.saw("restart");
    }

    /// The connection of a process breaks; the server executes so many of the commands that were on their way.
    pub fn cut(&mut self, process: usize, executed: usize) {
        if !self.shared.lock().links[process].is_connected() {
            return;
        }
        if !self.frozen {
            let sent = self.shared.lock().links[process].outgoing.len();
            for _ in 0..sent.min(executed) {
                self.execute(process);
                self.push();
            }
        }
        let mut state = self.shared.lock();
        state.links[process].cut = true;
        state.oracle.saw("link cut");
    }

    // -- What may happen next ----------------------------------------------------------------------------------------

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
                listener.news.push_back(News::Listening);
            }
            Next::LoseLink(process) => self.lose_link(process, bits),
            Next::LoseListener(process) => self.lose_listener(process),
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

    fn deliver(&mut self, process: usize, at_once: bool) {
        self.push();
        let Some(incoming) = self.shared.lock().links[process].incoming.pop_front() else { return };
        self.processes[process].wake(self.now());
        let memory = self.processes[process].memory.clone();
        let mut state = self.shared.lock();
        match incoming {
            Incoming::Reply(value, reply) if !at_once => {
                state.lagging.push((process, Box::new(move || drop(reply.send(Ok(value))))));
            }
            Incoming::Reply(value, reply) => drop(reply.send(Ok(value))),
            Incoming::Failure(text, reply) => drop(reply.send(Err(Error::Reply { server: "model".into(), text }))),
            Incoming::Alive(asked) => {
                let link = &mut state.links[process];
                link.unanswered = false;
                memory.lane_alive(moment(asked), link.pushes);
            }
            Incoming::Push(tokens, removals, all) => {
                let text = |text: String| Value::Text(Bytes::from(text));
                let names = tokens.iter().map(|token| text(self.shared.names.keys[*token].clone())).collect();
                let names = if all { Value::Null } else { Value::Array(names) };
                match pushed_tokens(&self.keys, &[text("invalidate".into()), names]) {
                    Some(tokens) => tokens.iter().for_each(|token| memory.pushed(token)),
                    None => memory.forget_all(),
                }
                for (token, removal) in removals {
                    state.oracle.told(process, token, removal);
                }
            }
        }
        drop(state);
        if at_once {
            self.run(process);
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

    fn hear(&mut self, process: usize) {
        let now = self.now();
        let Some(news) = self.shared.lock().listeners[process].news.pop_front() else { return };
        self.note(|| format!("{process} hears {news:?}"));
        let this = &mut self.processes[process];
        this.wake(now);
        let (triggers, memory) = (self.config.triggers, this.memory.clone());
        match news {
            News::Listening => memory.listener_up(memory.now(), triggers),
            News::Forget(token, _) => {
                let _runtime = this.runtime.enter();
                this.sessions.heard_of(&[self.shared.names.hashes[token]]);
            }
            News::ForgetAll => memory.doubt(),
            News::Alive(asked) => memory.listener_alive(moment(asked), triggers),
        }
        let mut state = self.shared.lock();
        match news {
            News::Listening if triggers || !this.with_redis => state.oracle.doubts(process),
            News::Forget(token, epoch) => state.oracle.forgot(process, token, epoch),
            News::ForgetAll => state.oracle.doubts(process),
            News::Alive(_) => state.listeners[process].unanswered = false,
            News::Listening => {}
        }
        drop(state);
        self.run(process);
    }

    fn connect(&mut self, process: usize) {
        let mut state = self.shared.lock();
        let now = state.now();
        let link = &mut state.links[process];
        link.set(Phase::Shaken { asked: now });
        link.cut = false;
        link.life = self.life;
        link.pushes = self.config.processes[process].1;
        link.number += 1;
        link.unanswered = false;
        link.probed = now;
    }

    fn shake(&mut self, process: usize) {
        let now = self.now();
        self.processes[process].wake(now);
        let mut state = self.shared.lock();
        let link = &mut state.links[process];
        let Phase::Shaken { asked } = link.phase else { return };
        // Pushes that come during the handshake are passed over.
        link.incoming.clear();
        self.processes[process].memory.lane_up(moment(asked), link.pushes);
        link.set(Phase::Up);
        state.oracle.relinked(process);
        drop(state);
        self.run(process);
    }

    pub fn lose_link(&mut self, process: usize, bits: u64) {
        {
            let mut state = self.shared.lock();
            let link = &mut state.links[process];
            link.cut = true;
            link.incoming.clear();
            link.outgoing.clear();
            // Who is woken by that may run before the memory is told.
        }
        if bits & 4 != 0 {
            self.run(process);
        }
        let now = self.now();
        self.processes[process].wake(now);
        self.processes[process].memory.lane_down();
        let mut state = self.shared.lock();
        state.links[process].set(if bits & 8 != 0 { Phase::Down } else { Phase::Connecting });
        state.oracle.relinked(process);
        drop(state);
        self.run(process);
    }

    pub fn lose_listener(&mut self, process: usize) {
        let now = self.now();
        self.processes[process].wake(now);
        self.processes[process].memory.listener_down();
        let mut state = self.shared.lock();
        let listener = &mut state.listeners[process];
        listener.connected = false;
        listener.cut = false;
        listener.unanswered = false;
        listener.news.clear();
        state.oracle.doubts(process);
        drop(state);
        self.run(process);
    }
}

fn shown(result: &Result<Value, String>) -> String {
    match result {
        Ok(Value::Array(items)) => {
            let item = |item: &Value| {
                item.as_str().map_or_else(
                    || format!("{item:?}"),
                    |text| super::oracle::read_of(text).map_or_else(|| text.to_owned(), |read| format!("read {read}")),
                )
            };
            format!("{:?}", items.iter().map(item).collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}

/// The time that a process shows when the model shows `now`.
pub fn moment(now: u64) -> Moment {
    Moment::from_micros(now + 1)
}

impl Process {
    fn new(number: usize, config: &Config, shared: &Shared, entries: &Arc<Entries>) -> Self {
        let (with_redis, _) = config.processes[number];
        let clock = Arc::new(AtomicU64::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let entered = runtime.enter();
        let memory = Memory::with_clock(Clock::manual(clock.clone()), with_redis, 64);
        let guard = |policy, deadline| Arc::new(Guard::new("model".into(), policy, deadline, 1000));
        let never = Policy { failure_percent: 101, ..Policy::REDIS };
        let nervous = Policy { min_calls: 2, open_for: Duration::from_secs(1), ..Policy::POSTGRES };
        let copies = with_redis.then(|| {
            let (shared, entries) = (shared.clone(), entries.clone());
            let store = Copies { process: number, shared, entries, leases: AtomicU64::new(0) };
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
        let running = sessions.clone();
        runtime.spawn(async move { running.run().await });
        drop(entered);
        Self {
            runtime,
            sessions,
            memory,
            guard: postgres,
            with_redis,
            clock,
            time: 0,
            stopped: false,
            asleep: false,
            enabled: true,
            local_enabled: true,
        }
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

    fn run(&mut self, now: u64) {
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
}
