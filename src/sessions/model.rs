//! The coherence of the session cache under every order of events: a model test.
//!
//! Each process of the model is the real [`Sessions`](super::Sessions) over the real [`Memory`](super::Memory), on a paused
//! clock of its own; the scripts run in a real Lua. The model owns everything between them: the server and its lives, links
//! with what is on its way, rows, news, and time. Nothing arrives and nobody goes on unless a step of the case says so.
//!
//! A case is a list of numbers (`steps`), so that one that fails can be cut down to the steps that matter. `oracle` knows what
//! no answer may be. `SOAK=1` runs 100,000 cases, `MODEL_CASES` as many as it says, and `MODEL_SEED` makes others.

mod calls;
mod copies;
mod end;
mod links;
mod oracle;
mod process;
mod redis;
mod rows;
mod server;
mod state;
mod steps;
mod world;

use redis::Redis;
use std::collections::BTreeMap;
use world::{Config, World};

/// A second in the model's microseconds.
const SECOND: u64 = 1_000_000;
/// Tokens that there are.
const TOKENS: usize = 3;
/// What the server's clock shows when the model begins.
const OFFSET: u64 = 1_700_000_000_000_000;

/// How often what was seen.
type Seen = BTreeMap<&'static str, u64>;

/// Random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

impl Config {
    /// Without what goes wrong by itself.
    fn plain(self) -> Self {
        Self { triggers: false, nervous: false, cold: false, slow: false, pounces: false, to_the_end: false, ..self }
    }
}

#[derive(Debug, Clone)]
struct Case {
    config: Config,
    steps: Vec<u64>,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let processes = 2 + (random.next() % 3 / 2) as usize;
        let without = if random.one_in(4) { 0 } else { random.next() & random.next() | random.next() & random.next() };
        let config = Config {
            processes: (0..processes).map(|_| (!random.one_in(12), !random.one_in(5))).collect(),
            tokens: 1 + (random.next() % 5 / 2) as usize,
            triggers: random.one_in(2),
            ttl: if random.one_in(3) { 300 } else { 20 } * SECOND,
            nervous: random.one_in(6),
            cold: random.one_in(6),
            slow: random.one_in(4),
            pounces: random.one_in(2),
            to_the_end: random.one_in(4),
            without,
        };
        let steps = (0..20 + random.next() % 80).map(|_| random.next()).collect();
        Self { config, steps }
    }

    /// Runs it; what was seen, or what is wrong and how it came to that.
    fn run(&self, redis: &Redis, log: bool) -> Result<Seen, (String, Vec<String>)> {
        let mut world = World::new(redis, self.config.clone(), log);
        world.begin();
        for step in &self.steps {
            if world.shared.lock().oracle.violation().is_some() {
                break;
            }
            world.step(*step);
        }
        world.tell_counts();
        if self.config.to_the_end && world.shared.lock().oracle.violation().is_none() {
            world.end();
        }
        let mut state = world.shared.lock();
        match state.oracle.violation().cloned() {
            Some(violation) => Err((violation, state.log.take().unwrap_or_default())),
            None => Ok(std::mem::take(&mut state.oracle.seen)),
        }
    }

    /// The shortest case that is found to fail by leaving out steps.
    fn shrunk(mut self, redis: &Redis) -> Self {
        let fails = |case: &Self| case.run(redis, false).is_err();
        loop {
            let before = self.clone();
            let mut part = self.steps.len() / 2;
            while part > 0 {
                let mut at = 0;
                while at < self.steps.len() {
                    let mut fewer = self.clone();
                    fewer.steps.drain(at..(at + part).min(fewer.steps.len()));
                    if fails(&fewer) { self = fewer } else { at += part }
                }
                part /= 2;
            }
            // No chance, no other processes and tokens, where that will do.
            for at in 0..self.steps.len() {
                for mask in [0xffff, 0xff_ffff, 0xff_ffff_ffff] {
                    let mut plainer = self.clone();
                    plainer.steps[at] &= mask;
                    if plainer.steps[at] != self.steps[at] && fails(&plainer) {
                        self = plainer;
                        break;
                    }
                }
            }
            if self.steps == before.steps {
                return self;
            }
        }
    }
}

/// How often what matters has to be seen in a thousand cases, at least.
const SEEN: [(&str, u64); 20] = [
    ("local hit", 600),
    ("Redis hit", 300),
    ("Postgres asked", 3_000),
    ("joined", 500),
    ("read beside one that may not be joined", 100),
    ("known to be nobody's", 500),
    ("fill accepted", 500),
    ("fill refused", 40),
    ("warmed", 60),
    ("link cut", 300),
    ("restart", 80),
    ("copy believed after a restart", 60),
    ("from another life", 6),
    ("older than news", 20),
    ("overtaken", 15),
    ("ended", 1),
    ("unreadable", 10),
    ("undelivered", 200),
    ("rejected", 200),
    ("rotated", 20),
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs cases on as many threads as `make test` may have; tells how often what was seen.
fn run_all(cases: std::ops::Range<u64>) -> Seen {
    const THREADS: u64 = 2;
    let run = |thread: u64| {
        let (redis, mut seen) = (Redis::new().unwrap(), Seen::new());
        for seed in cases.clone().filter(|seed| seed % THREADS == thread) {
            let case = Case::new(seed);
            match case.run(&redis, false) {
                Ok(more) => more.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times),
                Err((violation, _)) => return Err(explained(seed, &violation, &case.shrunk(&redis), &redis)),
            }
        }
        Ok(seen)
    };
    let all: Vec<Result<Seen, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut seen = Seen::new();
    for (what, times) in all.into_iter().flat_map(|seen| seen.unwrap_or_else(|failure| panic!("{failure}"))) {
        *seen.entry(what).or_default() += times;
    }
    seen
}

fn explained(seed: u64, violation: &str, least: &Case, redis: &Redis) -> String {
    let Err((why, log)) = least.run(redis, true) else { return format!("seed {seed} fails by chance: {violation}") };
    let (steps, config, log) = (least.steps.len(), &least.config, log.join("\n"));
    format!("seed {seed}: {violation}\n{steps} steps are enough, {config:?}:\n{log}\n{why}")
}

#[test]
fn no_order_of_events_brings_back_what_was_revoked() {
    let soak = std::env::var("SOAK").is_ok_and(|soak| soak == "1");
    let cases = number("MODEL_CASES").unwrap_or(if soak { 100_000 } else { 1_000 });
    let first = number("MODEL_SEED").unwrap_or(1) * 1_000_000_000;
    let seen = run_all(first..first + cases);
    println!("{cases} cases: {seen:?}");
    for (what, least) in SEEN.iter().filter(|_| cases >= 1_000) {
        let times = seen.get(what).copied().unwrap_or_default();
        assert!(times >= least * cases / 1_000, "{what}: seen {times} times in {cases} cases");
    }
}

/// However the messages of calls that come at once are delivered, Postgres is asked once, also for what is nobody's.
#[test]
fn concurrent_misses_are_one_query() {
    let redis = Redis::new().unwrap();
    for seed in 0..400 {
        let mut random = Random(seed);
        let config = Config { processes: vec![(true, true)], tokens: 1, ..Case::new(seed).config.plain() };
        let mut world = World::new(&redis, config, true);
        world.begin();
        if random.one_in(2) {
            world.shared.lock().put(0, None);
        }
        for _ in 0..60 {
            let bits = random.next();
            let all = world.next();
            match all.len() as u64 {
                _ if bits & 3 == 0 => world.validate(0, 0),
                0 => {}
                choices => world.go(all[(bits >> 3) as usize % choices as usize], bits >> 32),
            }
        }
        world.settle(false, false);
        let reads = world.processes[0].sessions.metrics().database_reads;
        assert!(reads <= 1, "seed {seed}: {reads}\n{}", world.shared.lock().log.take().unwrap().join("\n"));
    }
}
