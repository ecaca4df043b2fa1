//! The scripts on a real server: step by step against the same algorithms in Rust, and against what is none of ours.

use super::*;
use crate::rate_limit::tests::steps::{Counter, Kind, Life, Pause, Step, What, life, step};
use crate::rate_limit::{FixedWindow, SlidingWindow, TokenBucket};
use crate::redis_request::{Answered, Batch, Replies, Request, encode};
use crate::redis_url::RedisUrl;
use crate::stores::redis::lane::{Lane, Plan};
use crate::stores::redis::link::{Departure, Link};
use crate::stores::redis::testing::origin;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::sync::oneshot;

/// Of the longest window and its eighth, in milliseconds.
const LONGEST_EXPIRY: i64 = 2_678_400_000 / 8 * 9 + 2;

struct Fixture {
    link: Link,
    /// Holds the link.
    _lane: Lane,
    scripts: LimitScripts,
    algorithm: Algorithm,
    key: String,
}

/// What a script did, and what it left.
struct Done {
    reply: Value,
    remembered: Option<Limit>,
    /// As PTTL says it: -1 for a key without an expiry, -2 for no key.
    expiry: i64,
}

impl Fixture {
    async fn new(algorithm: Algorithm, test: &str) -> Self {
        let url = std::env::var("REDIS_URL").expect("REDIS_URL names a Redis for tests; `make test` starts one");
        let url = RedisUrl::parse("REDIS_URL", &url).unwrap();
        let lane = Lane::new(Plan::new(origin(&url), format!("test:{test}"), 100_000));
        let link = lane.link().await.unwrap();
        let key = format!("limits:{test}:{}", algorithm.name());
        Self { link, _lane: lane, scripts: LimitScripts::new(), algorithm, key }
    }

    /// Where tests beside this one make the server forget its scripts, the source is never wrong.
    fn ask(&self, named: Named, limit: Limit, hits: u64, calls: i64, now: Option<u64>) -> BytesMut {
        let mut bytes = BytesMut::new();
        let (key, algorithm) = (self.key.as_bytes(), self.algorithm);
        let calls = calls as f64;
        self.scripts.command(&mut bytes, named, &Ask { key, algorithm, limit, hits, calls, now });
        bytes
    }

    fn plain(arguments: &[&str]) -> BytesMut {
        let mut bytes = BytesMut::new();
        encode(&mut bytes, arguments);
        bytes
    }

    async fn send(&self, commands: Vec<BytesMut>) -> Vec<Value> {
        let (mut batch, mut replies) = (Batch::default(), Vec::new());
        for command in commands {
            let (reply, receiver) = oneshot::channel();
            let answered: Answered = Box::new(move |result| drop(reply.send(result)));
            let length = command.len();
            let request = Request::new(length, Replies::One, false, answered);
            batch.push(&command.freeze(), request);
            replies.push(receiver);
        }
        assert!(self.link.send_batch(batch, Departure::Now).is_ok());
        let mut answers = Vec::new();
        for reply in replies {
            answers.push(reply.await.unwrap().unwrap_or_else(|error| Value::Error(error.to_string())));
        }
        answers
    }

    async fn run(&self, arguments: &[&str]) -> Value {
        self.send(vec![Self::plain(arguments)]).await.remove(0)
    }

    /// The script, and a look at what it has left. `lasting` takes the expiry away, so that the server's clock changes nothing.
    fn looked_at(&self, script: BytesMut, lasting: bool) -> Vec<BytesMut> {
        let mut recalled = BytesMut::new();
        recall(&mut recalled, self.algorithm, self.key.as_bytes());
        let expiry = Self::plain(&["PTTL", &self.key]);
        let last = Self::plain(&[if lasting { "PERSIST" } else { "EXISTS" }, &self.key]);
        vec![Self::plain(&["MULTI"]), script, recalled, expiry, last, Self::plain(&["EXEC"])]
    }

    fn done(&self, replies: &[Value]) -> Done {
        let Some(Value::Array(replies)) = replies.last() else { panic!("{replies:?}") };
        let [reply, state, Value::Int(expiry), _] = &replies[..] else { panic!("{replies:?}") };
        assert!(!matches!(reply, Value::Error(_)), "{reply:?}");
        Done { reply: reply.clone(), remembered: remembered(self.algorithm, state), expiry: *expiry }
    }

    async fn take(&self, limit: Limit, cost: u64, calls: i64, now: Option<u64>) -> (u64, Taken) {
        let script = self.ask(Named::Source, limit, cost, calls, now);
        let done = self.done(&self.send(self.looked_at(script, false)).await);
        if calls > 0 {
            assert!((1..=LONGEST_EXPIRY).contains(&done.expiry), "{}", done.expiry);
        }
        understand(self.algorithm, &done.reply).unwrap()
    }

    async fn clear(&self) {
        self.run(&["DEL", &self.key]).await;
    }

    /// One life, in Rust and on the server.
    async fn live<C: Counter>(&self, life: &Life) {
        let (mut counter, mut now) = (C::default(), life.start);
        let (mut wait, mut clear) = (0, 0);
        let (mut commands, mut expected) = (Vec::new(), Vec::new());
        for step in &life.steps {
            let limit = life.limits[step.limit];
            now = step.time(now, limit, wait, clear);
            let (cost, calls) = step.calls(limit);
            let taken = match step.what {
                What::GiveBack(hits) => {
                    counter.give_back(now, limit, hits);
                    commands.extend(self.looked_at(self.ask(Named::Digest, limit, hits, -1, Some(now)), true));
                    None
                }
                _ => {
                    let taken = counter.take(now, limit, cost, calls);
                    let script = self.ask(Named::Digest, limit, cost.into(), calls.into(), Some(now));
                    commands.extend(self.looked_at(script, true));
                    Some(taken)
                }
            };
            let standing = counter.clone().take(now, limit, cost, 0).standing(limit, cost, 0);
            (wait, clear) = (standing.wait, standing.clear);
            expected.push((now, taken, counter.limit(), counter.ends()));
        }
        let mut replies = Vec::new();
        while replies.is_empty() || replies.iter().any(is_unknown) {
            self.clear().await;
            self.send(vec![self.ask(Named::Source, life.limits[0], 1, 0, None)]).await;
            replies = self.send(commands.clone()).await;
        }
        // Until when the server would have kept the key.
        let mut kept: Option<u64> = None;
        for (index, (replies, (now, taken, limit, ends))) in replies.chunks(6).zip(expected).enumerate() {
            let done = self.done(replies);
            let context = || format!("step {index} at {now}: {:?} of {life:?}", life.steps[index]);
            if let Some(taken) = taken {
                assert_eq!(understand(self.algorithm, &done.reply), Some((now, taken)), "{}", context());
            }
            assert_eq!(done.remembered, limit, "{}", context());
            kept = match done.expiry {
                -2 => None,
                -1 => kept,
                millis => Some(now + u64::try_from(millis).unwrap() * 1_000),
            };
            assert!(done.expiry <= LONGEST_EXPIRY, "{}", context());
            assert_eq!(kept.is_some(), limit.is_some(), "a key has an expiry: {}", context());
            // Half a second for a machine that is busy between a write and the look at it.
            assert!(ends <= now || kept.unwrap() + 500_000 >= ends, "kept {kept:?}, ends {ends}: {}", context());
        }
    }

    /// At least so many steps in all.
    async fn lives<C: Counter>(&self) {
        let soak = std::env::var("SOAK").is_ok_and(|soak| soak == "1");
        let (least, mut steps) = (if soak { 210_000 } else { 21_000 }, 0);
        let mut runner = TestRunner::default();
        for index in 0.. {
            let most_calls = [60, 100_000, u32::MAX][index % 3];
            let kind = Kind { limits: 1 + index % 3, back: index % 4 < 2, add: false, most_calls, steps: 150 };
            let life = if index % 50 == 49 {
                dense(&mut runner, kind)
            } else {
                life(kind).new_tree(&mut runner).unwrap().current()
            };
            self.live::<C>(&life).await;
            steps += life.steps.len();
            if steps >= least {
                break;
            }
        }
        self.clear().await;
    }
}

/// The server did not know the script, since a test beside this one made it forget all.
fn is_unknown(reply: &Value) -> bool {
    match reply {
        Value::Error(error) => error.contains("NOSCRIPT"),
        Value::Array(replies) => replies.iter().any(is_unknown),
        _ => false,
    }
}

/// A life with some thousand hits in its windows.
fn dense(runner: &mut TestRunner, kind: Kind) -> Life {
    let limits = vec![Limit { quota: 3_000, window: 60_000_000 }, Limit { quota: 900, window: 20_000_000 }];
    let kind = Kind { limits: limits.len(), most_calls: 3, ..kind };
    let mut steps = prop::collection::vec(step(kind), 2_000).new_tree(runner).unwrap().current();
    for (index, step) in steps.iter_mut().enumerate() {
        *step = match step.pause {
            _ if index % 400 == 399 => *step,
            Pause::Some(share) => Step { pause: Pause::Some(share / 500.0), ..*step },
            _ => Step { pause: Pause::One, ..*step },
        };
        if let What::Take(_, calls) = step.what {
            step.what = What::Take(0.0, calls);
        }
    }
    Life { start: 1_790_000_000_000_000, limits, steps }
}

#[tokio::test]
async fn the_sliding_window_decides_as_in_rust() {
    Fixture::new(Algorithm::SlidingWindow, "steps").await.lives::<SlidingWindow>().await;
}

#[tokio::test]
async fn the_bucket_decides_as_in_rust() {
    Fixture::new(Algorithm::TokenBucket, "steps").await.lives::<TokenBucket>().await;
}

#[tokio::test]
async fn the_fixed_window_decides_as_in_rust() {
    Fixture::new(Algorithm::FixedWindow, "steps").await.lives::<FixedWindow>().await;
}

/// The server's own clock: that of TIME, and the key ends by it.
#[tokio::test]
async fn without_a_time_it_is_the_servers() {
    let limit = Limit { quota: 10, window: 60_000_000 };
    for algorithm in Algorithm::ALL {
        let fixture = Fixture::new(algorithm, "clock").await;
        fixture.clear().await;
        let clock = async || {
            let Value::Array(parts) = fixture.run(&["TIME"]).await else { panic!("a time") };
            let part = |index: usize| parts[index].as_str().unwrap().parse::<u64>().unwrap();
            part(0) * 1_000_000 + part(1)
        };
        let before = clock().await;
        let (now, first) = fixture.take(limit, 3, 2, None).await;
        assert!(before <= now && now <= clock().await && first.admitted == 2);
        let (later, second) = fixture.take(limit, 3, 2, None).await;
        assert!(later >= now && second.admitted == 1, "{second:?}");
        let Value::Int(left) = fixture.run(&["PTTL", &fixture.key]).await else { panic!("a number") };
        // All but the bucket keep what they count for a whole window; the bucket for nine tenths.
        assert!((1_000..=67_502).contains(&left), "{left}");
        let back = GiveBack { key: fixture.key.as_bytes(), algorithm, limit, hits: 100 };
        let mut bytes = BytesMut::new();
        fixture.scripts.give_back(&mut bytes, Named::Source, &back);
        fixture.send(vec![bytes]).await;
        assert_eq!(fixture.run(&["EXISTS", &fixture.key]).await, Value::Int(0), "nothing is left of {algorithm:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_the_script_says_so_and_learns_it() {
    let fixture = Fixture::new(Algorithm::TokenBucket, "unknown").await;
    let limit = Limit { quota: 10, window: 60_000_000 };
    let [digest, source] = [Named::Digest, Named::Source].map(|named| fixture.ask(named, limit, 1, 0, None));
    let flush = Fixture::plain(&["SCRIPT", "FLUSH"]);
    let replies = fixture.send(vec![flush, digest.clone(), source, digest]).await;
    // A test beside this one may have taught it in between.
    assert!(is_unknown(&replies[1]) || understand(fixture.algorithm, &replies[1]).is_some(), "{replies:?}");
    assert!(understand(fixture.algorithm, &replies[2]).is_some(), "{replies:?}");
    assert!(is_unknown(&replies[3]) || understand(fixture.algorithm, &replies[3]).is_some(), "{replies:?}");
}

/// Whatever stands in the key: it counts nothing, is replaced, and has an expiry from then on.
#[tokio::test]
async fn what_is_none_of_ours_is_replaced() {
    let limit = Limit { quota: 10, window: 60_000_000 };
    let doubles = |numbers: [f64; 5]| [&[1], numbers.map(f64::to_le_bytes).as_flattened()].concat();
    let mut states: Vec<Vec<Vec<u8>>> = vec![
        vec![b"HSET".into(), b"field".into(), b"1".into()],
        vec![b"SADD".into(), b"1".into()],
        vec![b"ZADD".into(), b"1".into(), b"2".into()],
        vec![b"XADD".into(), b"*".into(), b"field".into(), b"2".into()],
        vec![b"SET".into(), b"".into()],
        vec![b"SET".into(), b"12".into()],
        vec![b"SET".into(), vec![b'1'; 41]],
        vec![b"SET".into(), [&[2], &doubles([1.8e15, 1.0, 0.0, 10.0, 6e7])[1..]].concat()],
        vec![b"RPUSH".into(), b"1".into()],
        vec![b"RPUSH".into(), b"1".into(), b"2".into(), b"3".into(), b"4".into()],
        vec![b"RPUSH".into(), vec![1; 33]],
        vec![b"RPUSH".into(), vec![1; 33], vec![7; 12], vec![9; 12]],
        vec![b"RPUSH".into(), vec![2; 33], vec![7; 12]],
    ];
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300] {
        for place in 0..5 {
            let mut numbers = [5.0, 5.0, 5.0, 10.0, 6e7];
            numbers[place] = odd;
            states.push(vec![b"SET".into(), doubles(numbers)]);
        }
    }
    for algorithm in Algorithm::ALL {
        let fixture = Fixture::new(algorithm, "garbage").await;
        for state in &states {
            fixture.clear().await;
            let mut command = BytesMut::new();
            let key = fixture.key.as_bytes();
            let arguments: Vec<&[u8]> =
                [&state[0][..], key].into_iter().chain(state[1..].iter().map(|part| &part[..])).collect();
            encode(&mut command, &arguments);
            fixture.send(vec![command]).await;
            for expected in 1..=3u32 {
                assert_eq!(fixture.take(limit, 1, 0, None).await.1.admitted, 0);
                let (_, taken) = fixture.take(limit, 1, 1, None).await;
                let remaining = taken.standing(limit, 1, 0).remaining;
                assert_eq!((taken.admitted, remaining), (1, 10 - expected), "{algorithm:?}: {state:?}");
            }
        }
        fixture.clear().await;
    }
}

/// Lists that look like ours at both ends, and are not.
#[tokio::test]
async fn a_list_that_is_broken_inside_is_no_error() {
    let fixture = Fixture::new(Algorithm::SlidingWindow, "broken").await;
    let limit = Limit { quota: 5, window: 1_000_000 };
    let entry = |time: f64, total: u32| [&time.to_le_bytes()[..], &total.to_le_bytes()].concat();
    let mut runner = TestRunner::default();
    let anything = prop_oneof![
        prop::collection::vec(any::<u8>(), 12),
        prop::collection::vec(any::<u8>(), 0..40),
        (0.0..3e6f64, 0..9u32).prop_map(move |(time, total)| entry(time, total)),
    ];
    let list = (prop::collection::vec(anything, 0..9), 0.0..3e6f64, 0.0..3e6f64, 1.0..4e6f64, 0..9u32, 0..3_000_000u64);
    for index in 0..600 {
        let (inside, first, last, span, total, now) = list.new_tree(&mut runner).unwrap().current();
        let head = [&[1], [5.0, 1e6, span.floor(), 0.0].map(f64::to_le_bytes).as_flattened()].concat();
        let mut command = vec![b"RPUSH".to_vec(), fixture.key.clone().into_bytes(), head, entry(first.floor(), 1)];
        command.extend(inside);
        command.push(entry(last.floor(), total));
        let mut bytes = BytesMut::new();
        encode(&mut bytes, &command);
        let mut commands = vec![Fixture::plain(&["DEL", &fixture.key]), bytes];
        for (cost, calls) in [(1, 0), (2, 1), (1, 2), (1, -1), (5, 3)] {
            commands.push(fixture.ask(Named::Source, limit, cost, calls, Some(now)));
        }
        let replies = fixture.send(commands.clone()).await;
        assert!(!replies.iter().any(|reply| matches!(reply, Value::Error(_))), "{index}: {replies:?} to {commands:?}");
        // Whatever it was, it is over when everything in it has passed.
        let after = fixture.take(limit, 5, 1, Some(now + 20_000_000)).await.1;
        assert_eq!(after.admitted, 1, "{index}");
    }
}

/// What a hit takes in the sliding window, as the documentation says it.
#[tokio::test]
async fn the_memory_of_the_sliding_window_is_as_documented() {
    let fixture = Fixture::new(Algorithm::SlidingWindow, "memory").await;
    let limit = Limit { quota: 10_000, window: 60_000_000 };
    let start = 1_790_000_000_000_000;
    let (mut sent, mut text) = (0, String::new());
    fixture.clear().await;
    for hits in [100, 1_000, 10_000] {
        let commands =
            (sent..hits).map(|index| fixture.ask(Named::Source, limit, 1, 1, Some(start + index * 50))).collect();
        fixture.send(commands).await;
        sent = hits;
        let Value::Int(bytes) = fixture.run(&["MEMORY", "USAGE", &fixture.key, "SAMPLES", "0"]).await else {
            panic!("a number")
        };
        text += &format!("{hits} hits: {bytes} bytes, {:.1} each; ", bytes as f64 / hits as f64);
        assert!(bytes as u64 <= 400 + hits * 21, "{text}");
    }
    println!("{text}");
    fixture.clear().await;
}

#[test]
fn a_command_is_a_script_on_one_key() {
    let scripts = LimitScripts::new();
    let limit = Limit { quota: 3, window: 1_000 };
    let take = Take { key: b"k", algorithm: Algorithm::TokenBucket, limit, cost: 1, calls: 7 };
    let mut bytes = BytesMut::new();
    scripts.take(&mut bytes, Named::Digest, &take);
    let numbers = [3.0, 1_000.0, 333.0, 1.0, 7.0].map(f64::to_le_bytes).concat();
    let digest = hex::encode(Sha1::digest(include_str!("../token_bucket.lua")));
    let mut expected = BytesMut::new();
    encode(&mut expected, &[b"EVALSHA".as_slice(), digest.as_bytes(), b"1", b"k", &numbers, b"2"]);
    assert_eq!(bytes, expected);
    bytes.clear();
    let back = GiveBack { key: b"k", algorithm: Algorithm::FixedWindow, limit, hits: u64::MAX };
    scripts.give_back(&mut bytes, Named::Source, &back);
    let numbers = [3.0, 1_000.0, 2_147_483_648.0, -1.0].map(f64::to_le_bytes).concat();
    expected.clear();
    encode(&mut expected, &[b"EVAL".as_slice(), include_bytes!("../fixed_window.lua"), b"1", b"k", &numbers, b"2"]);
    assert_eq!(bytes, expected);
}

#[test]
fn replies_that_are_none_are_not_understood() {
    let reply = |numbers: &[f64]| Value::Text(numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
    let understood = understand(Algorithm::TokenBucket, &reply(&[9.0, 1.0, 5.0, 2.0]));
    let reading = Reading::Bucket { debt: 5, fraction: 2 };
    assert_eq!(understood, Some((9, Taken { admitted: 1, reading })));
    for numbers in [
        &[9.0, 1.0, 5.0][..],
        &[9.0, 1.0, 5.0, 2.0, 3.0],
        &[9.0, 1.0, 5.0, -2.0],
        &[9.0, 1.0, 5.5, 2.0],
        &[9.0, 1.0, f64::NAN, 2.0],
        &[9.0, 1.0, f64::INFINITY, 2.0],
        &[9.0, 5e9, 1.0, 2.0],
        &[],
    ] {
        assert_eq!(understand(Algorithm::TokenBucket, &reply(numbers)), None, "{numbers:?}");
    }
    for value in [Value::Null, Value::Int(1), Value::Array(Vec::new()), Value::Text("123456789".into())] {
        for algorithm in Algorithm::ALL {
            assert_eq!(understand(algorithm, &value), None);
            assert_eq!(remembered(algorithm, &value), None);
        }
    }
}
