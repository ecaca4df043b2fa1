//! Errors of this crate as errors of the realm that loaded it, so that `instanceof TypeError` holds there.

use super::environment::{Intrinsic, State};
use super::values::{Js, Value};
use crate::error::{Error, Misuse, Result};
use napi::sys;
use std::any::Any;

/// The error object: with `code`, `retryAfterMs` of an open breaker, `statusCode` and `retryAfter` of a limit, `reply` of a
/// server's answer, and the `cause`.
///
/// `undefined` where not even an error can be made; `None` only in an environment that is going away.
pub fn to_value<'scope>(js: Js<'scope>, state: &State, error: &Error) -> Option<Value<'scope>> {
    build(js, state, error).or_else(|_| js.undefined()).ok()
}

fn build<'scope>(js: Js<'scope>, state: &State, error: &Error) -> Result<Value<'scope>> {
    let class = match error {
        Error::InvalidArgument { misuse: Misuse::Type, .. } => Intrinsic::TypeError,
        Error::InvalidArgument { misuse: Misuse::Range, .. } => Intrinsic::RangeError,
        _ => Intrinsic::Error,
    };
    let class = state.intrinsic(js, class)?;
    let message = js.string(error.to_string().as_bytes())?;
    let object = match error {
        Error::SessionStore { source: Some(source), .. } => {
            let options = js.object()?;
            js.set(options, c"cause", build(js, state, source)?)?;
            js.construct(class, &[message, options])?
        }
        _ => js.construct(class, &[message])?,
    };
    js.set(object, c"code", js.string(error.code().as_bytes())?)?;
    if let Error::CircuitOpen { retry_after, .. } = error {
        let whole = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        js.set(object, c"retryAfterMs", js.number(f64::from(whole))?)?;
    }
    if let Error::RateLimited { retry_after, .. } = error {
        js.set(object, c"statusCode", js.number(429.0)?)?;
        js.set(object, c"retryAfter", js.number(f64::from(*retry_after))?)?;
    }
    if let Some(word) = error.reply_kind() {
        js.set(object, c"reply", js.string(word.as_bytes())?)?;
    }
    Ok(object)
}

/// Throws an error of the realm.
pub fn throw(js: Js<'_>, state: &State, failure: &Error) -> napi::Error {
    if let Some(error) = to_value(js, state, failure) {
        js.throw(error);
    }
    thrown()
}

/// Throws `failure` in an environment that has no realm to take a class from.
pub fn throw_plain(js: Js<'_>, failure: &Error) -> napi::Error {
    let code = js.string(failure.code().as_bytes());
    if let (Ok(code), Ok(message)) = (code, js.string(failure.to_string().as_bytes())) {
        let error = js.make("an error", |env, result| {
            // SAFETY: `make` passes a live environment and a place for the result; both strings are live.
            unsafe { sys::napi_create_error(env, code.raw(), message.raw(), result) }
        });
        if let Ok(error) = error {
            js.throw(error);
        }
    }
    thrown()
}

/// What an exported function returns once its exception has been thrown: napi then adds none of its own.
pub fn thrown() -> napi::Error {
    napi::Error::from_status(napi::Status::PendingException)
}

/// A panic that was caught at the boundary.
pub fn from_panic(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::Internal(format!("the work on a call panicked: {}", text.unwrap_or("no text")))
}
