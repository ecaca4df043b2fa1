//! What the stores of all processes have between them: links, Postgres, and who waits for what.

use super::oracle::Oracle;
use super::redis::Script;
use super::rows::{Question, Row};
use super::{SECOND, TOKENS};
use crate::error::{Error, Result};
use crate::keys::{Keys, TokenHash};
use crate::redis_value::Value;
use crate::stores::redis::Entries;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use tokio::sync::{Notify, oneshot};
use tokio::task::Id;

/// Tokens by number.
pub struct Names {
    pub hashes: [TokenHash; TOKENS],
    /// In Redis.
    pub keys: [String; TOKENS],
}

impl Names {
    pub fn new(keys: &Keys) -> Self {
        let hashes = std::array::from_fn(|number| TokenHash::of(&[b'a' + number as u8]).unwrap());
        Self { hashes, keys: hashes.map(|hash| keys.session(&hash)) }
    }

    pub fn number(&self, hash: TokenHash) -> usize {
        self.hashes.iter().position(|known| *known == hash).unwrap()
    }

    pub fn number_of(&self, key: &str) -> usize {
        self.keys.iter().position(|known| known == key).unwrap()
    }
}

#[derive(Clone)]
pub struct Shared {
    state: Arc<Mutex<State>>,
    pub names: Arc<Names>,
    pub entries: Arc<Entries>,
}

impl Shared {
    pub fn new(state: State, entries: Entries) -> Self {
        let names = state.names.clone();
        Self { state: Arc::new(Mutex::new(state)), names, entries: Arc::new(entries) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => panic!("a case has one thread, which waits for itself"),
        }
    }

    /// Waits here until the model goes on with it, if it wants to: the thread has something else to do first.
    pub async fn gate(&self, process: usize) {
        let wait = {
            let mut state = self.lock();
            let held = state.holds & 1 == 1;
            state.holds >>= 1;
            held.then(|| {
                let (go, wait) = oneshot::channel();
                state.lagging.push((
                    process,
                    Box::new(move || {
                        let _ = go.send(());
                    }),
                ));
                wait
            })
        };
        if let Some(wait) = wait {
            let _ = wait.await;
        }
    }
}

/// Something that a process does later.
pub type Later = Box<dyn FnOnce() + Send>;

pub struct State {
    pub oracle: Oracle,
    pub names: Arc<Names>,
    pub links: Vec<Link>,
    /// Life of the server in which each lease was given.
    pub leases: BTreeMap<String, usize>,
    pub rows: [Option<Row>; TOKENS],
    pub questions: Vec<Question>,
    /// Which processes read the rows of which tokens now.
    pub reading: Vec<(usize, usize)>,
    /// What the statements of each call were about.
    pub done: Vec<(Id, usize, u64)>,
    pub listeners: Vec<Listener>,
    pub triggers: bool,
    pub postgres_down: bool,
    /// What has arrived at a process that did not get around to it yet.
    pub lagging: Vec<(usize, Later)>,
    /// Which of the next operations wait at their gates.
    pub holds: u32,
    pub ttl: u64,
    pub calls: usize,
    pub sessions: u32,
    pub log: Option<Vec<String>>,
}

impl State {
    pub fn new(oracle: Oracle, names: Names, processes: usize, ttl: u64) -> Self {
        Self {
            oracle,
            names: Arc::new(names),
            links: (0..processes).map(|_| Link::default()).collect(),
            leases: BTreeMap::new(),
            rows: Default::default(),
            questions: Vec::new(),
            reading: Vec::new(),
            done: Vec::new(),
            listeners: (0..processes).map(|_| Listener::default()).collect(),
            triggers: false,
            postgres_down: false,
            lagging: Vec::new(),
            holds: 0,
            ttl,
            calls: 0,
            sessions: 0,
            log: None,
        }
    }

    pub fn now(&self) -> u64 {
        self.oracle.now
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now();
        if let Some(log) = &mut self.log {
            log.push(format!("{:>9.3} ms  {}", now as f64 / 1000.0, what()));
        }
    }
}

/// A command on its way to the server.
pub enum Command {
    Script {
        script: Script,
        token: usize,
        arguments: Vec<Vec<u8>>,
        read: Option<usize>,
    },
    Time,
    /// A probe, and when it was sent.
    Probe(u64),
}

pub struct Request {
    pub command: Command,
    pub reply: oneshot::Sender<Result<Value>>,
}

/// What is on its way to a process.
pub enum Incoming {
    Reply(Value, oneshot::Sender<Result<Value>>),
    Failure(String, oneshot::Sender<Result<Value>>),
    Alive(u64),
    /// Keys that were written, and of each the removal that this tells of. `None`: the server was flushed.
    Push(Vec<usize>, Vec<(usize, u64)>, bool),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nobody waits for it.
    #[default]
    Down,
    /// Who wants it waits.
    Connecting,
    /// The server has answered the handshake that began then.
    Shaken {
        asked: u64,
    },
    Up,
}

/// The session lane of a process.
#[derive(Default)]
pub struct Link {
    pub phase: Phase,
    /// The server's end is gone.
    pub cut: bool,
    /// Which life of the server it is with.
    pub life: usize,
    pub pushes: bool,
    pub number: u64,
    /// When it was probed last, and whether an answer is missing.
    pub probed: u64,
    pub unanswered: bool,
    pub outgoing: VecDeque<Request>,
    pub incoming: VecDeque<Incoming>,
    pub changed: Arc<Notify>,
}

impl Link {
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// The server sees it.
    pub fn is_connected(&self) -> bool {
        !self.cut && matches!(self.phase, Phase::Up | Phase::Shaken { .. })
    }

    pub fn set(&mut self, phase: Phase) {
        self.phase = phase;
        self.changed.notify_waiters();
    }

    /// A probe is late by so much that the link counts as dead.
    pub fn is_silent(&self, now: u64) -> bool {
        self.unanswered && now >= self.probed + 2 * SECOND
    }
}

/// What Postgres tells a process.
#[derive(Clone, Copy, Debug)]
pub enum News {
    /// The listener was connected, which it asked for then.
    Listening(u64),
    Forget(usize, u64),
    ForgetAll,
    Alive(u64),
}

/// The listener of a process.
#[derive(Default)]
pub struct Listener {
    pub connected: bool,
    /// The server's end is gone.
    pub cut: bool,
    pub probed: u64,
    pub unanswered: bool,
    pub news: VecDeque<News>,
}

impl Listener {
    pub fn is_silent(&self, now: u64) -> bool {
        self.unanswered && now >= self.probed + 2 * SECOND
    }
}

/// The error of a connection that was lost.
pub fn lost() -> Error {
    Error::Connection { server: "model".into(), reason: "it was lost".into() }
}
