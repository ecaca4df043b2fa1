//! Arguments from JavaScript, checked by hand: the conversions of napi throw where a promise must be rejected, and with
//! codes of their own.

use super::values::{Js, Kind, Value};
use crate::error::{Error, Result};
use crate::keys::{MAX_TOKEN_BYTES, TokenHash};
use crate::rate_limit::arguments::written;
use bytes::Bytes;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

/// Room for a token, the four bytes by which `Js::read_short` tells that there is more, and the closing zero.
const BUFFER: usize = MAX_TOKEN_BYTES + 8;

/// Arguments of one Redis command.
pub const MAX_COMMAND_ARGUMENTS: u32 = 1_000_000;

/// The largest whole number that JavaScript can tell from its neighbours.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// A bearer token; `None` if it is empty or oversized, which is nobody's. Only its hash goes on.
pub fn token(js: Js<'_>, value: Value<'_>, name: &str) -> Result<Option<TokenHash>> {
    short(js, value, name, |token| token.and_then(TokenHash::of))
}

/// A bearer token that may be left out.
pub fn optional_token(js: Js<'_>, value: Value<'_>, name: &str) -> Result<Option<TokenHash>> {
    match js.kind(value)? {
        Kind::Undefined | Kind::Null => Ok(None),
        _ => token(js, value, name),
    }
}

/// A token that is about to be given to a session, so it must be one.
pub fn new_token(js: Js<'_>, value: Value<'_>, name: &str) -> Result<TokenHash> {
    token(js, value, name)?.ok_or_else(|| Error::range_error(format!("{name} must have 1 to {MAX_TOKEN_BYTES} bytes.")))
}

/// An id; empty if it is longer than any id can be. Whether it is one is decided below.
pub fn id(js: Js<'_>, value: Value<'_>, name: &str) -> Result<String> {
    short(js, value, name, |id| id.map(|id| String::from_utf8_lossy(id).into_owned()).unwrap_or_default())
}

/// What a limit counts; `None` if it is longer than any key can be.
pub fn key<R>(js: Js<'_>, value: Value<'_>, name: &str, read: impl FnOnce(Option<&[u8]>) -> Result<R>) -> Result<R> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    if let Some(key) = js.try_read_short(value, &mut buffer)? {
        return read(Some(key));
    }
    expect(js, value, name, Kind::String, "a string")?;
    read(None)
}

fn short<R>(js: Js<'_>, value: Value<'_>, name: &str, read: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
    expect(js, value, name, Kind::String, "a string")?;
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    Ok(read(js.read_short(value, &mut buffer)?))
}

/// A `Date` that is still to come.
pub fn future_date(js: Js<'_>, value: Value<'_>, name: &str) -> Result<SystemTime> {
    let Some(time) = js.read_date(value)? else {
        return Err(wrong_type(js, value, name, "a Date"));
    };
    if !time.is_finite() {
        return Err(Error::range_error(format!("{name} must be a valid Date, got an invalid one.")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a Date is whole and at most 8.64e15")]
    let date = SystemTime::UNIX_EPOCH + Duration::from_millis(time.max(0.0) as u64);
    if date <= SystemTime::now() {
        return Err(Error::range_error(format!("{name} must be in the future.")));
    }
    Ok(date)
}

/// A whole number of milliseconds up to `max`; `default` if it is left out.
pub fn milliseconds(js: Js<'_>, value: Value<'_>, name: &str, default: u32, max: u32) -> Result<Duration> {
    let milliseconds = optional_whole(js, value, name, max)?.unwrap_or(default);
    Ok(Duration::from_millis(milliseconds.into()))
}

/// A whole number from 0 to `max` that may be left out.
pub fn optional_whole(js: Js<'_>, value: Value<'_>, name: &str, max: u32) -> Result<Option<u32>> {
    optional_within(js, value, name, 0..=max)
}

/// A whole number within a range that may be left out.
pub fn optional_within(js: Js<'_>, value: Value<'_>, name: &str, allowed: RangeInclusive<u32>) -> Result<Option<u32>> {
    let Some(number) = optional_number(js, value, name)? else {
        return Ok(None);
    };
    let (min, max) = allowed.into_inner();
    if number.fract() != 0.0 || !(f64::from(min)..=f64::from(max)).contains(&number) {
        let number = written(number);
        return Err(Error::range_error(format!("{name} must be a whole number from {min} to {max}, got {number}.")));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and within the range, see above"
    )]
    Ok(Some(number as u32))
}

/// A number that may be left out. Its range is checked where its meaning is known.
pub fn optional_number(js: Js<'_>, value: Value<'_>, name: &str) -> Result<Option<f64>> {
    if js.kind(value)? == Kind::Undefined {
        return Ok(None);
    }
    expect(js, value, name, Kind::Number, "a number")?;
    js.read_number(value).map(Some)
}

/// A number. Its range is checked where its meaning is known.
pub fn number(js: Js<'_>, value: Value<'_>, name: &str) -> Result<f64> {
    js.try_read_number(value)?.ok_or_else(|| wrong_type(js, value, name, "a number"))
}

/// A boolean that may be left out.
pub fn optional_boolean(js: Js<'_>, value: Value<'_>, name: &str) -> Result<Option<bool>> {
    if js.kind(value)? == Kind::Undefined {
        return Ok(None);
    }
    expect(js, value, name, Kind::Boolean, "a boolean")?;
    js.read_boolean(value).map(Some)
}

/// A function, or `None` for `null`.
pub fn function_or_null<'scope>(js: Js<'_>, value: Value<'scope>, name: &str) -> Result<Option<Value<'scope>>> {
    if js.kind(value)? == Kind::Null {
        return Ok(None);
    }
    expect(js, value, name, Kind::Function, "a function or null")?;
    Ok(Some(value))
}

/// An object of options that has no other names than these; gives their values in this order.
pub fn options<'scope, const N: usize>(
    js: Js<'scope>,
    value: Value<'_>,
    name: &str,
    allowed: [&CStr; N],
) -> Result<[Value<'scope>; N]> {
    expect(js, value, name, Kind::Object, "an object")?;
    if js.array_length(value)?.is_some() {
        return Err(Error::type_error(format!("{name} must be an object, got an array.")));
    }
    let names = js.own_names(value).map_err(|_| Error::type_error(format!("{name} could not be read.")))?;
    for index in 0..js.array_length(names)?.unwrap_or(0) {
        let found = short(js, js.get_index(names, index)?, "a name", |found| found.map(<[u8]>::to_vec))?;
        let found = found.unwrap_or_default();
        if !allowed.iter().any(|allowed| allowed.to_bytes() == found) {
            let found = String::from_utf8_lossy(&found).chars().take(64).collect::<String>();
            return Err(Error::type_error(format!("{name} has no option '{found}'.")));
        }
    }
    let mut values = [js.undefined()?; N];
    for (place, allowed) in values.iter_mut().zip(allowed) {
        *place = js
            .get(value, allowed)
            .map_err(|_| Error::type_error(format!("{name}.{} could not be read.", allowed.to_string_lossy())))?;
    }
    Ok(values)
}

/// Text of any length.
pub fn text(js: Js<'_>, value: Value<'_>, name: &str) -> Result<String> {
    expect(js, value, name, Kind::String, "a string")?;
    js.read_string(value)
}

/// A whole number that JavaScript can tell from its neighbours, or a string for Redis to judge.
pub fn whole_or_text(js: Js<'_>, value: Value<'_>, name: &str) -> Result<()> {
    match js.kind(value)? {
        Kind::String => Ok(()),
        Kind::Number => {
            let number = js.read_number(value)?;
            if number.fract() == 0.0 && number.abs() <= MAX_SAFE_INTEGER {
                return Ok(());
            }
            let number = written(number);
            Err(Error::range_error(format!("{name} must be a whole number up to 2^53 - 1, got {number}.")))
        }
        _ => Err(wrong_type(js, value, name, "a whole number")),
    }
}

/// A time to wait, in seconds.
pub fn seconds(js: Js<'_>, value: Value<'_>, name: &str) -> Result<f64> {
    expect(js, value, name, Kind::Number, "a number")?;
    let number = js.read_number(value)?;
    if (0.0..=f64::from(i32::MAX)).contains(&number) {
        return Ok(number);
    }
    let (max, number) = (i32::MAX, written(number));
    Err(Error::range_error(format!("{name} must be a number from 0 to {max}, got {number}.")))
}

/// Whether scores are asked for.
pub fn with_scores(js: Js<'_>, value: Value<'_>, name: &str) -> Result<bool> {
    match js.kind(value)? {
        Kind::Undefined => Ok(false),
        Kind::Boolean => js.read_boolean(value),
        Kind::String if js.read_string(value)?.eq_ignore_ascii_case("WITHSCORES") => Ok(true),
        Kind::String => Err(Error::range_error(format!("{name} must be true, false or 'WITHSCORES'."))),
        _ => Err(wrong_type(js, value, name, "true, false or 'WITHSCORES'")),
    }
}

/// `true` for `SET`, `false` for `GET`.
pub fn config_action(js: Js<'_>, value: Value<'_>) -> Result<bool> {
    let action = text(js, value, "action")?;
    match action.to_ascii_uppercase().as_str() {
        "GET" => Ok(false),
        "SET" => Ok(true),
        _ => Err(Error::range_error("action must be 'GET' or 'SET'.")),
    }
}

/// A function that may be left out.
pub fn optional_function<'scope>(js: Js<'_>, value: Value<'scope>, name: &str) -> Result<Option<Value<'scope>>> {
    match js.kind(value)? {
        Kind::Undefined => Ok(None),
        _ => function(js, value, name).map(Some),
    }
}

/// A function.
pub fn function<'scope>(js: Js<'_>, value: Value<'scope>, name: &str) -> Result<Value<'scope>> {
    expect(js, value, name, Kind::Function, "a function")?;
    Ok(value)
}

/// One argument of a Redis command. A number is written as JavaScript writes it.
pub fn redis_argument(js: Js<'_>, value: Value<'_>, name: &dyn Fn() -> String) -> Result<Bytes> {
    match js.kind(value)? {
        Kind::String => js.read_string(value).map(Bytes::from),
        Kind::Number => {
            let number = js.read_number(value)?;
            if !number.is_finite() {
                let (name, number) = (name(), written(number));
                return Err(Error::range_error(format!("{name} must be a finite number, got {number}.")));
            }
            js.read_string(js.to_string(value)?).map(Bytes::from)
        }
        _ => js.read_bytes(value)?.ok_or_else(|| wrong_type(js, value, &name(), "a string, a number or a Buffer")),
    }
}

fn expect(js: Js<'_>, value: Value<'_>, name: &str, kind: Kind, wanted: &str) -> Result<()> {
    if js.kind(value)? == kind {
        return Ok(());
    }
    Err(wrong_type(js, value, name, wanted))
}

/// The error for a value of a wrong type.
pub fn wrong_type(js: Js<'_>, value: Value<'_>, name: &str, wanted: &str) -> Error {
    let is_array = js.array_length(value).is_ok_and(|length| length.is_some());
    let found = if is_array { "an array" } else { js.kind(value).map_or("something else", Kind::name) };
    Error::type_error(format!("{name} must be {wanted}, got {found}."))
}
