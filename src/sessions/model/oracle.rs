//! What the model knows for certain, and so what no answer may be: section 3 of the contract, guarantees 1 to 6.
//!
//! Each token has epochs: its row changes from one to the next. Each read of Postgres has a number that travels in the
//! session, so that an answer tells which epoch it comes from, and when that was read. Whatever tells a process of a change
//! raises the oldest epoch that answers to its later calls may come from.

use super::{SECOND, TOKENS};
use crate::sessions::{Answer, Known};
use std::collections::BTreeMap;

/// A link that has not answered a probe sent so long ago serves nothing.
const PROOF: u64 = 3 * SECOND;
/// Without Redis, a row that nobody would tell this process of is kept for so long.
const UNTOLD: u64 = 5 * SECOND;
/// "Nobody" counts for so long.
const UNKNOWN: u64 = 3 * SECOND;
/// So long after Postgres has told of a change, every process that runs has heard of it or knows that it hears nothing: twice
/// the 3 s of a silent link, because time passes in steps of up to a second here.
const TOLD: u64 = 6 * SECOND;
/// How long a read may be joined.
const JOINABLE: u64 = 2 * SECOND;
/// After so long no copy can be left.
const OUTLIVES: u64 = 300 * SECOND;
/// A Postgres that does not answer for so long is one that is away.
const PATIENCE: u64 = 450_000;
/// How long one trouble with Postgres may show in answers: its own deadline, and the time in which a read may be joined.
const TROUBLED: u64 = 8 * SECOND;

/// The oldest epochs that may be answered from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Floor {
    /// What the process was told, or has forgotten itself.
    pub told: u64,
    /// Whatever happens: that, or because a link without a proof serves nothing.
    pub hard: u64,
    /// As long as Postgres answers: else copies that are in doubt count.
    pub soft: u64,
    /// For "nobody".
    pub nobody: u64,
}

struct Epoch {
    since: u64,
    /// From when on there is no valid row; never, zero if there is none from the beginning.
    until: u64,
}

struct Read {
    token: usize,
    epoch: u64,
    /// From then on nobody may be told of it.
    ends: u64,
    /// It was read for a copy only, which the lease alone keeps from being left too late.
    warming: bool,
    /// The life of the server in which the lease was given that it was filled under.
    life: Option<usize>,
}

/// A validation that has begun.
pub struct Asked {
    process: usize,
    token: usize,
    at: u64,
    floor: Floor,
}

#[derive(Default)]
struct Process {
    with_redis: bool,
    floors: [Floor; TOKENS],
    /// Tokens that Redis has not confirmed to have forgotten: since when, and which turn the call that forgot them began in.
    owed: BTreeMap<usize, (u64, u64)>,
    /// Of each token the turn in which the last deletion began that Redis has confirmed.
    confirmed: [u64; TOKENS],
    /// When Postgres last failed it.
    trouble: Option<u64>,
    /// When it asked what Postgres has not answered yet.
    asking: Vec<u64>,
    /// Since when it has not been stopped.
    awake: u64,
}

#[derive(Default)]
pub struct Oracle {
    pub now: u64,
    epochs: [Vec<Epoch>; TOKENS],
    reads: Vec<Read>,
    /// The epoch of each token when it was last removed from Redis.
    removed: [u64; TOKENS],
    /// From a time on, the floor of a token in every process with Redis (`true`) or without it.
    due: Vec<(u64, bool, usize, u64)>,
    /// Of what Postgres has told: when, the token, and its epoch.
    told: Vec<(u64, usize, u64)>,
    processes: Vec<Process>,
    turns: u64,
    /// The floors before the step under way.
    marked: Vec<[Floor; TOKENS]>,
    violation: Option<String>,
    pub seen: BTreeMap<&'static str, u64>,
}

impl Oracle {
    pub fn new(with_redis: &[bool]) -> Self {
        let process = |with_redis: &bool| Process { with_redis: *with_redis, ..Process::default() };
        let mut oracle = Self { processes: with_redis.iter().map(process).collect(), ..Self::default() };
        oracle.epochs.iter_mut().for_each(|epochs| epochs.push(Epoch { since: 0, until: 0 }));
        oracle
    }

    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    pub fn epoch(&self, token: usize) -> u64 {
        self.epochs[token].len() as u64 - 1
    }

    // -- What happens ------------------------------------------------------------------------------------------------

    /// The row of a token has changed; it is valid `until` then, if at all.
    pub fn changed(&mut self, token: usize, until: u64) {
        self.epochs[token].push(Epoch { since: self.now, until });
        self.due.push((self.now + UNTOLD, false, token, self.epoch(token)));
    }

    /// Postgres reads a row that is valid `until` then; copies may live for `ttl`.
    pub fn reads(&mut self, token: usize, until: u64, ttl: u64, warming: bool) -> usize {
        let ends = until.min(self.now + ttl);
        self.reads.push(Read { token, epoch: self.epoch(token), ends, warming, life: None });
        self.reads.len() - 1
    }

    /// Key and lease of a token are gone.
    pub fn removed(&mut self, token: usize) {
        self.removed[token] = self.epoch(token);
        self.due.push((self.now + PROOF, true, token, self.epoch(token)));
    }

    /// Redis took a copy of a read, under a lease that was given in `life`.
    pub fn filled(&mut self, read: usize, life: usize, present: usize) {
        self.saw("fill accepted");
        self.reads[read].life = Some(life);
        let Read { token, epoch, .. } = self.reads[read];
        if life == present && epoch < self.removed[token] {
            self.violated(format!("a copy of {token} from before its removal was left in Redis"));
        }
    }

    /// A process believes a copy that it has read in a life of the server.
    pub fn believes(&mut self, process: usize, known: &str, life: usize) {
        match read_of(known) {
            Some(read) if self.reads[read].life == Some(life) => {
                if life > 0 {
                    self.saw("copy believed after a restart");
                }
            }
            _ => self.violated(format!("process {process} believes a copy from another life of the server")),
        }
    }

    /// How many removals a push that is sent now tells of.
    pub fn removal(&self, token: usize) -> u64 {
        self.removed[token]
    }

    /// A process was told of a removal.
    pub fn told(&mut self, process: usize, token: usize, removal: u64) {
        let floor = &mut self.processes[process].floors[token];
        floor.told = floor.told.max(removal);
        floor.hard = floor.hard.max(removal);
    }

    /// The link of a process was lost, or is there again.
    pub fn relinked(&mut self, process: usize) {
        for token in 0..TOKENS {
            self.told(process, token, self.removed[token]);
        }
    }

    /// A call that ended or forgot what was there in an epoch has resolved, or its news was heard.
    pub fn forgot(&mut self, process: usize, token: usize, epoch: u64) {
        let floor = &mut self.processes[process].floors[token];
        floor.told = floor.told.max(epoch);
        floor.hard = floor.hard.max(epoch);
        floor.nobody = floor.nobody.max(epoch);
    }

    /// A process knows that it may have missed news.
    pub fn doubts(&mut self, process: usize) {
        for token in 0..TOKENS {
            let epoch = self.epoch(token);
            let floor = &mut self.processes[process].floors[token];
            floor.soft = floor.soft.max(epoch);
            floor.nobody = epoch;
            if !self.processes[process].with_redis {
                self.forgot(process, token, epoch);
            }
        }
    }

    /// Everything was forgotten everywhere, and all is well.
    pub fn settled(&mut self) {
        for process in 0..self.processes.len() {
            for token in 0..TOKENS {
                self.forgot(process, token, self.epoch(token));
            }
            self.processes[process].trouble = None;
        }
    }

    /// Counts beginnings.
    pub fn turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// A call has resolved that began in `turn` and forgot a token: if Redis has not confirmed that, the process knows it.
    pub fn owes(&mut self, process: usize, token: usize, turn: u64) {
        if self.processes[process].with_redis && self.processes[process].confirmed[token] < turn {
            self.saw("undelivered");
            self.processes[process].owed.insert(token, (self.now, turn));
        }
    }

    /// Redis has confirmed a deletion that began in `turn`.
    pub fn delivered(&mut self, process: usize, token: usize, turn: u64) {
        let Process { owed, confirmed, .. } = &mut self.processes[process];
        confirmed[token] = confirmed[token].max(turn);
        if owed.get(&token).is_some_and(|(_, since)| *since <= turn) {
            owed.remove(&token);
        }
    }

    /// A process asks Postgres.
    pub fn asks_postgres(&mut self, process: usize) {
        let now = self.now;
        self.processes[process].asking.push(now);
    }

    /// A process does not wait any more for what it asked at a time.
    pub fn asked_postgres(&mut self, process: usize, at: u64, failed: bool) {
        let asking = &mut self.processes[process].asking;
        if let Some(index) = asking.iter().position(|asked| *asked == at) {
            asking.swap_remove(index);
        }
        if failed || self.now >= at + PATIENCE {
            self.trouble(process);
        }
    }

    /// Postgres fails a process.
    pub fn trouble(&mut self, process: usize) {
        self.processes[process].trouble = Some(self.now);
    }

    // -- What may not be ---------------------------------------------------------------------------------------------

    /// What no copy can have outlived.
    fn owed(&self, process: usize) -> impl Iterator<Item = usize> {
        let owed = self.processes[process].owed.iter();
        owed.filter(|(_, (since, _))| *since + OUTLIVES > self.now).map(|(token, _)| *token)
    }

    /// A process asks Redis for a token.
    pub fn asks_redis(&mut self, process: usize, token: usize) {
        if self.owed(process).any(|owed| owed == token) {
            self.violated(format!("process {process} reads {token} from Redis, which has not forgotten it"));
        }
    }

    /// From here on, what raises a floor may come in the middle of something.
    pub fn mark(&mut self) {
        self.marked.clear();
        self.marked.extend(self.processes.iter().map(|process| process.floors));
    }

    /// A process begins to leave a copy in Redis.
    pub fn leaves(&mut self, process: usize, known: &str) {
        let Some(Read { token, epoch, warming: false, .. }) = read_of(known).map(|read| &self.reads[read]) else {
            return;
        };
        if *epoch < self.marked[process][*token].told {
            self.violated(format!("process {process} leaves a copy of {token}, which it has forgotten"));
        }
    }

    pub fn floor(&mut self, process: usize, token: usize) -> Floor {
        let Self { now, due, processes, .. } = self;
        for (_, with_redis, token, epoch) in due.extract_if(.., |(at, ..)| *at <= *now) {
            for process in processes.iter_mut().filter(|process| process.with_redis == with_redis) {
                let hard = &mut process.floors[token].hard;
                *hard = (*hard).max(epoch);
            }
        }
        let Self { now, told, .. } = self;
        let Process { floors, awake, .. } = &mut self.processes[process];
        for (at, token, epoch) in told.iter() {
            if (*at).max(*awake) + TOLD <= *now {
                floors[*token].soft = floors[*token].soft.max(*epoch);
            }
        }
        floors[token]
    }

    /// Postgres tells of a change, in the statement that makes it.
    pub fn announced(&mut self, token: usize, epoch: u64) {
        self.told.push((self.now, token, epoch));
    }

    /// A process that was stopped goes on.
    pub fn wakes(&mut self, process: usize) {
        self.processes[process].awake = self.now;
    }

    pub fn asks(&mut self, process: usize, token: usize) -> Asked {
        Asked { process, token, at: self.now, floor: self.floor(process, token) }
    }

    /// What a process would say at once, if it were asked now.
    pub fn would_say(&mut self, process: usize, token: usize, known: &Known) {
        let asked = self.asks(process, token);
        if self.owed(process).next().is_some() {
            self.violated(format!("process {process} serves copies though Redis has not forgotten"));
        }
        self.check(&asked, known, 0, "its own tier");
    }

    pub fn answered(&mut self, asked: &Asked, answer: &Answer) {
        let Asked { process, token, at, floor } = *asked;
        match answer {
            Ok(Some(known)) => self.check(asked, known, JOINABLE, "an answer"),
            Ok(None) => {
                let epochs = self.epochs[token].iter().enumerate();
                let absent = |(number, epoch): (usize, &Epoch)| {
                    let ended = self.epochs[token].get(number + 1).map_or(u64::MAX, |next| next.since);
                    number as u64 >= floor.nobody && ended.saturating_add(UNKNOWN) >= at && epoch.until <= self.now
                };
                if !{ epochs }.any(absent) {
                    self.violated(format!("process {process} says that {token} is nobody's"));
                }
            }
            Err(error) if !self.is_troubled(process, at) => {
                self.violated(format!("process {process} fails though Postgres answers: {error}"));
            }
            Err(_) => self.saw("rejected"),
        }
    }

    fn is_troubled(&self, process: usize, at: u64) -> bool {
        let Process { trouble, asking, .. } = &self.processes[process];
        trouble.is_some_and(|trouble| trouble + TROUBLED >= at)
            || asking.iter().any(|asked| asked + PATIENCE <= self.now)
    }

    fn check(&mut self, asked: &Asked, known: &Known, slack: u64, what: &str) {
        let Asked { process, token, at, floor } = *asked;
        let Some(number) = read_of(&known.json) else { return self.violated("an answer from nowhere".into()) };
        let read = &self.reads[number];
        let (epoch, ends) = (read.epoch, read.ends);
        let wrong = if read.token != token {
            "is of another token"
        } else if at >= ends + slack {
            "has ended"
        } else if epoch < floor.hard {
            "was revoked or forgotten"
        } else if epoch < floor.soft && !self.is_troubled(process, at) {
            "is from before news that may have been missed"
        } else {
            return;
        };
        self.violated(format!(
            "{what} of process {process} for token {token}, asked at {at}: read {number} {wrong}, epoch {epoch}, {floor:?}, ends {ends}"
        ));
    }
}

/// The number of the read that a session comes from.
pub fn read_of(json: &str) -> Option<usize> {
    let (_, rest) = json.split_once("\"userAgent\":\"")?;
    rest.split_once('"')?.0.parse().ok()
}
