//! What is said to Redis about rate limits, and what its replies mean: all of it that needs no connection.

use crate::limit::{Algorithm, Limit, MOST, Reading, Taken};
use crate::redis_request::{encode_argument, encode_head};
use crate::redis_value::Value;
use bytes::BytesMut;
use sha1::{Digest, Sha1};

/// Of what scripts leave in keys. Another version counts nothing, so that old and new instances run side by side.
const FORMAT_VERSION: u8 = 1;

/// The scripts, whose heads say what they want and return.
pub struct LimitScripts {
    sha: [String; Algorithm::ALL.len()],
}

/// A check of `calls` calls of `cost` each on one key; of no calls: a look.
#[derive(Debug, Clone, Copy)]
pub struct Take<'a> {
    pub key: &'a [u8],
    pub algorithm: Algorithm,
    pub limit: Limit,
    pub cost: u32,
    pub calls: u32,
}

/// Takes back `hits` hits, the latest first. Nobody needs its reply.
#[derive(Debug, Clone, Copy)]
pub struct GiveBack<'a> {
    pub key: &'a [u8],
    pub algorithm: Algorithm,
    pub limit: Limit,
    pub hits: u64,
}

/// How a script is named to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// By its SHA-1: what the server answers with NOSCRIPT did not run.
    Digest,
    /// By its text, which the server then knows.
    Source,
}

impl LimitScripts {
    pub fn new() -> Self {
        Self { sha: Algorithm::ALL.map(|algorithm| hex::encode(Sha1::digest(source(algorithm)))) }
    }

    /// Appends the command that makes a check.
    pub fn take(&self, buffer: &mut BytesMut, named: Named, take: &Take<'_>) {
        let Take { key, algorithm, limit, cost, calls } = *take;
        let calls = f64::from(calls);
        self.command(buffer, named, &Ask { key, algorithm, limit, hits: u64::from(cost), calls, now: None });
    }

    /// Appends the command that takes hits back.
    pub fn give_back(&self, buffer: &mut BytesMut, named: Named, back: &GiveBack<'_>) {
        let GiveBack { key, algorithm, limit, hits } = *back;
        self.command(buffer, named, &Ask { key, algorithm, limit, hits, calls: -1.0, now: None });
    }

    fn command(&self, buffer: &mut BytesMut, named: Named, ask: &Ask<'_>) {
        let Ask { key, algorithm, limit, hits, calls, now } = *ask;
        let constant = algorithm != Algorithm::SlidingWindow;
        encode_head(buffer, 5 + usize::from(constant) + usize::from(now.is_some()));
        match named {
            Named::Digest => {
                encode_argument(buffer, b"EVALSHA");
                encode_argument(buffer, self.sha[algorithm as usize].as_bytes());
            }
            Named::Source => {
                encode_argument(buffer, b"EVAL");
                encode_argument(buffer, source(algorithm).as_bytes());
            }
        }
        encode_argument(buffer, b"1");
        encode_argument(buffer, key);
        let (quota, window) = (f64::from(limit.quota), double(limit.window));
        if algorithm == Algorithm::TokenBucket {
            let (whole, fraction) = limit.refill_of(hits);
            encode_doubles(buffer, [quota, window, double(whole), double(fraction), calls]);
        } else {
            encode_doubles(buffer, [quota, window, double(hits.min(MOST)), calls]);
        }
        if constant {
            // A millisecond more for what is cut off.
            encode_argument(buffer, itoa::Buffer::new().format(limit.window / 1_000 + 1).as_bytes());
        }
        if let Some(now) = now {
            encode_argument(buffer, itoa::Buffer::new().format(now).as_bytes());
        }
    }
}

/// What a script is asked.
struct Ask<'a> {
    key: &'a [u8],
    algorithm: Algorithm,
    limit: Limit,
    /// Of one call, or of all that is given back.
    hits: u64,
    /// 0 looks, -1 gives back.
    calls: f64,
    /// Instead of the server's clock.
    now: Option<u64>,
}

/// Numbers travel as doubles, together in one argument: as digits, a check would cost the server half as much again.
fn encode_doubles<const COUNT: usize>(buffer: &mut BytesMut, numbers: [f64; COUNT]) {
    encode_argument(buffer, numbers.map(f64::to_le_bytes).as_flattened());
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, and what is beyond is more than any debt")]
fn double(number: u64) -> f64 {
    number as f64
}

/// So many doubles that are whole numbers, and nothing else.
fn numbers<const COUNT: usize>(bytes: &[u8]) -> Option<[u64; COUNT]> {
    let (doubles, rest) = bytes.as_chunks::<8>();
    let doubles: &[[u8; 8]; COUNT] = doubles.try_into().ok().filter(|_| rest.is_empty())?;
    let mut numbers = [0; COUNT];
    for (number, bytes) in numbers.iter_mut().zip(doubles) {
        let double = f64::from_le_bytes(*bytes);
        if !(0.0..=9e15).contains(&double) || double.fract() != 0.0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and in range")]
        let whole = double as u64;
        *number = whole;
    }
    Some(numbers)
}

fn source(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::SlidingWindow => include_str!("sliding_window.lua"),
        Algorithm::TokenBucket => include_str!("token_bucket.lua"),
        Algorithm::FixedWindow => include_str!("fixed_window.lua"),
    }
}

/// What the reply to a check says: the server's clock, and what was decided.
pub fn understand(algorithm: Algorithm, reply: &Value) -> Option<(u64, Taken)> {
    let Value::Text(bytes) = reply else { return None };
    let (now, admitted, reading) = match algorithm {
        Algorithm::TokenBucket => {
            let [now, admitted, debt, fraction] = numbers(bytes)?;
            (now, admitted, Reading::Bucket { debt, fraction })
        }
        Algorithm::SlidingWindow | Algorithm::FixedWindow => {
            let [now, admitted, used, wait, clear] = numbers(bytes)?;
            (now, admitted, Reading::Window { used, wait, clear })
        }
    };
    Some((now, Taken { admitted: u32::try_from(admitted).ok()?, reading }))
}

/// Appends the command that reads what a key remembers of the last check.
pub fn recall(buffer: &mut BytesMut, algorithm: Algorithm, key: &[u8]) {
    match algorithm {
        Algorithm::SlidingWindow => {
            encode_head(buffer, 3);
            encode_argument(buffer, b"LINDEX");
            encode_argument(buffer, key);
            encode_argument(buffer, b"0");
        }
        Algorithm::TokenBucket | Algorithm::FixedWindow => {
            encode_head(buffer, 2);
            encode_argument(buffer, b"GET");
            encode_argument(buffer, key);
        }
    }
}

/// The limit of the last check, from the reply to [`recall`]; `None` if nothing of ours is there.
pub fn remembered(algorithm: Algorithm, reply: &Value) -> Option<Limit> {
    let Value::Text(bytes) = reply else { return None };
    let state = bytes.strip_prefix(&[FORMAT_VERSION])?;
    let [quota, window] = match algorithm {
        Algorithm::SlidingWindow => numbers(state).map(|[quota, window, _, _]| [quota, window])?,
        Algorithm::TokenBucket | Algorithm::FixedWindow => {
            numbers(state).map(|[_, _, _, quota, window]| [quota, window])?
        }
    };
    let quota = u32::try_from(quota).ok()?;
    Some(Limit { quota, window }).filter(|limit| limit.quota > 0 && limit.window > 0)
}

#[cfg(test)]
mod tests;
