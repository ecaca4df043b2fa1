//! What limits are made of, checked: by these functions and nowhere else. Messages name the argument and what was found, but for
//! keys, which may be addresses or names of people.

use crate::error::{Error, Result};
use crate::limit::Algorithm;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// Longest key that is taken, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;

/// Longest key that is used as it is, in bytes.
const MAX_PLAIN_KEY_BYTES: usize = 256;

const MAX_NAME_BYTES: usize = 64;

const MAX_LIMIT: u32 = 1_000_000_000;

/// A sliding window remembers each call that it has admitted.
const MAX_SLIDING_WINDOW: u32 = 100_000;

/// The name of a policy.
pub fn name<'a>(name: &'a str, argument: &str) -> Result<&'a str> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte)) {
        return Ok(name);
    }
    let found = name.chars().take(MAX_NAME_BYTES + 1).flat_map(char::escape_debug).collect::<String>();
    Err(Error::range_error(format!(
        "{argument} must have 1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 . _ / -, got '{found}'."
    )))
}

/// A key, in the form in which it is used; `None` is more than can be read.
pub fn key<'a>(key: Option<&'a [u8]>, argument: &str) -> Result<Cow<'a, [u8]>> {
    match key {
        Some(key) if key.len() > MAX_KEY_BYTES => {}
        Some(key) if key.len() > MAX_PLAIN_KEY_BYTES => return Ok(Cow::Owned(hashed(key).into_bytes())),
        Some(key) if !key.is_empty() => return Ok(Cow::Borrowed(key)),
        _ => {}
    }
    Err(Error::range_error(format!("{argument} must have 1 to {MAX_KEY_BYTES} bytes.")))
}

/// A key of our own making, which may be of any length.
pub fn shortened(key: String) -> String {
    if key.len() > MAX_PLAIN_KEY_BYTES { hashed(key.as_bytes()) } else { key }
}

/// SHA-256, in lower-case hex. Whoever can choose a key to be this hash could also choose the one that was hashed.
fn hashed(key: &[u8]) -> String {
    hex::encode(Sha256::digest(key))
}

/// How many calls are allowed.
pub fn limit(number: f64, algorithm: Algorithm, argument: &str) -> Result<u32> {
    if algorithm != Algorithm::SlidingWindow {
        return whole(number, 1..=MAX_LIMIT, argument);
    }
    whole(number, 1..=MAX_SLIDING_WINDOW, argument).map_err(|error| match whole(number, 1..=MAX_LIMIT, argument) {
        Err(_) => error,
        Ok(number) => Error::range_error(format!(
            "{argument} is at most {MAX_SLIDING_WINDOW} with 'sliding-window', got {number}: use 'token-bucket' for more."
        )),
    })
}

/// For how many calls one call counts. A cost above the limit could never be allowed.
pub fn cost(number: f64, limit: u32, argument: &str) -> Result<u32> {
    whole(number, 1..=limit, argument)
}

/// A window, in seconds; gives whole microseconds.
pub fn window(seconds: f64, argument: &str) -> Result<u64> {
    duration(seconds, 0.001..=2_678_400.0, 1e6, argument)
}

/// A window, in milliseconds; gives whole microseconds.
pub fn window_of_millis(milliseconds: f64, argument: &str) -> Result<u64> {
    duration(milliseconds, 1.0..=2_678_400_000.0, 1e3, argument)
}

/// 1 ms to 31 days, in units of `micros`.
fn duration(number: f64, allowed: RangeInclusive<f64>, micros: f64, argument: &str) -> Result<u64> {
    if !allowed.contains(&number) {
        let (min, max) = allowed.into_inner();
        let number = written(number);
        return Err(Error::range_error(format!("{argument} must be a number from {min} to {max}, got {number}.")));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded and within the range, see above"
    )]
    Ok((number * micros).round() as u64)
}

fn whole(number: f64, allowed: RangeInclusive<u32>, argument: &str) -> Result<u32> {
    let (min, max) = allowed.into_inner();
    if number.fract() != 0.0 || !(f64::from(min)..=f64::from(max)).contains(&number) {
        let number = written(number);
        return Err(Error::range_error(format!(
            "{argument} must be a whole number from {min} to {max}, got {number}."
        )));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and within the range, see above"
    )]
    Ok(number as u32)
}

/// A number as JavaScript writes it.
pub fn written(number: f64) -> String {
    let size = number.abs();
    if number.is_infinite() {
        format!("{}Infinity", if number < 0.0 { "-" } else { "" })
    } else if size >= 1e21 {
        format!("{number:e}").replace('e', "e+")
    } else if size < 1e-6 && size > 0.0 {
        format!("{number:e}")
    } else {
        (number + 0.0).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.code(), "ERR_INVALID_ARG");
        error.to_string()
    }

    #[test]
    fn names() {
        for good in ["a", "default", "10/60", "api.v2_x-Y", &"x".repeat(64)] {
            assert_eq!(name(good, "options.name").unwrap(), good);
        }
        let sentence = "options.name must have 1 to 64 characters of A-Z a-z 0-9 . _ / -, got '";
        for (bad, found) in [
            ("", "'."),
            ("a b", "a b'."),
            ("a:b", "a:b'."),
            ("a\"b", "a\\\"b'."),
            ("a\nb\u{1b}", "a\\nb\\u{1b}'."),
            ("é", "é'."),
            (&"x".repeat(65), &format!("{}'.", "x".repeat(65))),
            (&"x".repeat(100_000), &format!("{}'.", "x".repeat(65))),
        ] {
            assert_eq!(message(name(bad, "options.name")), format!("{sentence}{found}"));
        }
    }

    #[test]
    fn keys() {
        assert_eq!(key(Some(b"\0 any"), "key").unwrap(), &b"\0 any"[..]);
        let longest = [b'x'; MAX_KEY_BYTES + 1];
        assert_eq!(key(Some(&longest[..256]), "key").unwrap(), &longest[..256]);
        let hash = key(Some(&longest[..257]), "key").unwrap();
        // head -c 257 /dev/zero | tr '\0' x | sha256sum
        assert_eq!(hash, &b"15eb95a462ee20bd91a415ae2d4aed341288186ddaa2b37908f7d592f0c3f85f"[..]);
        assert_eq!(key(Some(&longest[..4096]), "key").unwrap().len(), 64);
        for bad in [Some(&b""[..]), Some(&longest[..]), None] {
            assert_eq!(message(key(bad, "key")), "key must have 1 to 4096 bytes.");
        }
    }

    #[test]
    fn limits() {
        assert_eq!(limit(1e9, Algorithm::TokenBucket, "limit").unwrap(), 1_000_000_000);
        assert_eq!(limit(1.0, Algorithm::FixedWindow, "limit").unwrap(), 1);
        assert_eq!(limit(1e5, Algorithm::SlidingWindow, "limit").unwrap(), 100_000);
        for (bad, found) in [
            (0.0, "0"),
            (-0.0, "0"),
            (-5.0, "-5"),
            (1.5, "1.5"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (1e9 + 1.0, "1000000001"),
            (1e21, "1e+21"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
        ] {
            for (algorithm, max) in [
                (Algorithm::TokenBucket, MAX_LIMIT),
                (Algorithm::FixedWindow, MAX_LIMIT),
                (Algorithm::SlidingWindow, 100_000),
            ] {
                let expected = format!("limit must be a whole number from 1 to {max}, got {found}.");
                assert_eq!(message(limit(bad, algorithm, "limit")), expected);
            }
        }
        let advice =
            "config.requests is at most 100000 with 'sliding-window', got 100001: use 'token-bucket' for more.";
        assert_eq!(message(limit(100_001.0, Algorithm::SlidingWindow, "config.requests")), advice);
    }

    #[test]
    fn costs() {
        assert_eq!(cost(10.0, 10, "options.cost").unwrap(), 10);
        for (bad, found) in [(11.0, "11"), (0.0, "0"), (0.5, "0.5"), (-1.0, "-1"), (f64::NAN, "NaN")] {
            let expected = format!("options.cost must be a whole number from 1 to 10, got {found}.");
            assert_eq!(message(cost(bad, 10, "options.cost")), expected);
        }
    }

    #[test]
    fn windows() {
        for (seconds, micros) in
            [(0.001, 1_000), (0.1, 100_000), (0.1 + 0.2, 300_000), (60.0, 60_000_000), (2_678_400.0, 2_678_400_000_000)]
        {
            assert_eq!(window(seconds, "windowSeconds").unwrap(), micros);
            assert_eq!(window_of_millis(seconds * 1e3, "windowMs").unwrap(), micros);
        }
        for (bad, found) in [
            (0.0, "0"),
            (-1.0, "-1"),
            (0.000_999, "0.000999"),
            (2_678_400.1, "2678400.1"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
        ] {
            let expected = format!("windowSeconds must be a number from 0.001 to 2678400, got {found}.");
            assert_eq!(message(window(bad, "windowSeconds")), expected);
        }
        let expected = "windowMs must be a number from 1 to 2678400000, got 0.5.";
        assert_eq!(message(window_of_millis(0.5, "windowMs")), expected);
    }

    proptest! {
        #[test]
        fn no_number_comes_through_that_does_not_belong(number in any::<f64>(), most in 1..=MAX_LIMIT) {
            for algorithm in Algorithm::ALL {
                if let Ok(limit) = limit(number, algorithm, "limit") {
                    prop_assert!(f64::from(limit) == number && (1..=MAX_LIMIT).contains(&limit));
                }
            }
            if let Ok(cost) = cost(number, most, "cost") {
                prop_assert!(f64::from(cost) == number && (1..=most).contains(&cost));
            }
            for window in [window(number, "window"), window_of_millis(number, "window")].into_iter().flatten() {
                prop_assert!((1_000..=2_678_400_000_000).contains(&window));
            }
        }

        #[test]
        fn each_number_within_the_range_comes_through(number in 1..=MAX_LIMIT, micros in 1_000..=2_678_400_000_000_u64) {
            let number = f64::from(number);
            prop_assert_eq!(f64::from(limit(number, Algorithm::TokenBucket, "limit").unwrap()), number);
            prop_assert_eq!(f64::from(cost(number, MAX_LIMIT, "cost").unwrap()), number);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            let micro = micros as f64;
            prop_assert_eq!(window(micro / 1e6, "window").unwrap(), micros);
            prop_assert_eq!(window_of_millis(micro / 1e3, "window").unwrap(), micros);
        }

        #[test]
        fn any_text_is_a_name_or_an_error(text in any::<String>(), long in prop::collection::vec(any::<u8>(), 0..6000)) {
            if let Ok(name) = name(&text, "name") {
                prop_assert!(name.is_ascii() && (1..=64).contains(&name.len()));
            }
            match key(Some(&long), "key") {
                Ok(key) => prop_assert!((1..=256).contains(&key.len()) && long.len() <= 4096),
                Err(_) => prop_assert!(long.is_empty() || long.len() > 4096),
            }
        }
    }
}
