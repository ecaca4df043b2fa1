//! Rate limits, as JavaScript calls them.

use super::checks::{Check, Form, Subject};
use super::raw::{Frame, Function};
use super::reply::{Reply, Sessions};
use super::values::{Js, Kind, Value};
use super::{Call, Start, answer, answer_value, args, begin, promise, rejected};
use crate::error::{Error, Result};
use crate::limit::{Algorithm, Limit};
use crate::rate_limit::{Limiter, OnOutage, Place, arguments, tiers};
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use serde::Serialize;
use std::future::Ready;
use std::rc::Rc;

/// `checkLimit(key, limit, windowSeconds, options)`.
pub struct CheckLimit;

impl Function for CheckLimit {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let call = frame.call;
        rejected(call, || {
            let (subject, cost) = match call.js.kind(frame.argument(3))? {
                Kind::Undefined => (call.state.checks.usual(), None),
                _ => from_options(call, frame.argument(3))?,
            };
            let check = check(call, &frame, &subject, cost)?;
            call.state.checks.ask(call, &subject, check, Form::Result)
        })
    }
}

/// Whose count a check with options is about, and its cost.
fn from_options<'scope>(call: Call<'scope>, options: Value<'scope>) -> Result<(Rc<Subject>, Option<Value<'scope>>)> {
    let names = [c"algorithm", c"cost", c"onOutage", c"shadow", c"name"];
    let [algorithm, cost, on_outage, shadow, name] = args::options(call.js, options, "options", names)?;
    let settings = Settings { algorithm, on_outage, shadow, name };
    let limiter = settings.read(call.js, "options", Limiter::named(DEFAULT_NAME))?;
    Ok((call.state.checks.subject(limiter), Some(cost)))
}

/// The name of whatever was given none.
pub const DEFAULT_NAME: &str = "default";

/// Settings that limiters have in common, as they were given.
pub struct Settings<'scope> {
    pub algorithm: Value<'scope>,
    pub on_outage: Value<'scope>,
    pub shadow: Value<'scope>,
    pub name: Value<'scope>,
}

impl Settings<'_> {
    /// What was given, and for the rest what `limiter` has.
    pub fn read(&self, js: Js<'_>, of: &str, mut limiter: Limiter) -> Result<Limiter> {
        let option = |name| format!("{of}.{name}");
        let algorithms = Algorithm::ALL.map(|algorithm| (algorithm.name(), algorithm));
        if let Some(algorithm) = one_of(js, self.algorithm, &option("algorithm"), &algorithms)? {
            limiter.algorithm = algorithm;
        }
        let outages = [("local", OnOutage::Local), ("allow", OnOutage::Allow), ("deny", OnOutage::Deny)];
        if let Some(on_outage) = one_of(js, self.on_outage, &option("onOutage"), &outages)? {
            limiter.on_outage = on_outage;
        }
        if let Some(shadow) = args::optional_boolean(js, self.shadow, &option("shadow"))? {
            limiter.shadow = shadow;
        }
        if js.kind(self.name)? != Kind::Undefined {
            let option = option("name");
            limiter.name = arguments::name(&args::text(js, self.name, &option)?, &option)?.to_owned();
        }
        Ok(limiter)
    }
}

/// One of several words; `None` if it was left out.
fn one_of<T: Copy>(js: Js<'_>, value: Value<'_>, name: &str, words: &[(&str, T)]) -> Result<Option<T>> {
    if js.kind(value)? == Kind::Undefined {
        return Ok(None);
    }
    let found = args::text(js, value, name)?;
    if let Some((_, meant)) = words.iter().find(|(word, _)| *word == found) {
        return Ok(Some(*meant));
    }
    let words: Vec<_> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
    Err(Error::range_error(format!("{name} must be one of {}.", words.join(", "))))
}

/// The check that the first three arguments describe.
pub fn check<'scope>(
    call: Call<'scope>,
    frame: &Frame<'scope>,
    subject: &Rc<Subject>,
    cost: Option<Value<'scope>>,
) -> Result<Check> {
    let js = call.js;
    let (quota, window) =
        (args::number(js, frame.argument(1), "limit")?, args::number(js, frame.argument(2), "windowSeconds")?);
    let quota = arguments::limit(quota, subject.limiter().algorithm, "limit")?;
    let limit = Limit { quota, window: arguments::window(window, "windowSeconds")? };
    let cost = match cost {
        Some(cost) => args::optional_number(js, cost, "options.cost")?.unwrap_or(1.0),
        None => 1.0,
    };
    let cost = arguments::cost(cost, limit.quota, "options.cost")?;
    subject.check(call, frame.argument(0), "key", limit, cost)
}

/// Forgets every count of every limit.
#[napi(catch_unwind)]
pub fn clear_rate_limits(env: Env) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let (redis, process) = (call.engine()?.limits().all(Place::Redis), call.engine()?.limits().all(Place::Process));
        let counts = call.state.checks.counts(call, Place::Redis)?;
        Ok(async move {
            counts.forget_all(&redis).await;
            counts.forget_all_here(&process);
            Ok(Reply::Undefined)
        })
    })
}

/// What was decided under each name.
#[napi(catch_unwind)]
pub fn get_rate_limit_metrics(env: Env) -> napi::Result<Unknown<'static>> {
    answer(env, |call| Reply::object(&call.engine()?.limits().metrics()))
}

/// The name of attempts to sign in.
const SIGN_IN: &str = "sign-in";

/// Attempts to sign in, and in how many milliseconds, if nothing else is said.
const SIGN_IN_LIMIT: (f64, f64) = (5.0, 900_000.0);

/// Counts an attempt to sign in; true if it is over the limit.
#[napi(catch_unwind)]
pub fn check_rate_limit(
    env: Env,
    identifier: Unknown,
    max_attempts: Unknown,
    window_ms: Unknown,
) -> napi::Result<Unknown<'static>> {
    begin::<Ready<Result<Reply>>>(env, |call| {
        let js = call.js;
        let quota = args::optional_number(js, max_attempts.into(), "maxAttempts")?.unwrap_or(SIGN_IN_LIMIT.0);
        let window = args::optional_number(js, window_ms.into(), "windowMs")?.unwrap_or(SIGN_IN_LIMIT.1);
        let subject = call.state.checks.subject(Limiter::named(SIGN_IN));
        let quota = arguments::limit(quota, subject.limiter().algorithm, "maxAttempts")?;
        let limit = Limit { quota, window: arguments::window_of_millis(window, "windowMs")? };
        let check = subject.check(call, identifier.into(), "identifier", limit, 1)?;
        call.state.checks.ask(call, &subject, check, Form::Over).map(Start::Promised)
    })
}

/// Forgets attempts to sign in.
#[napi(catch_unwind)]
pub fn clear_rate_limit(env: Env, identifier: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let subject = call.state.checks.subject(Limiter::named(SIGN_IN));
        let key = subject.key(call, identifier.into(), "identifier")?;
        let algorithm = subject.limiter().algorithm;
        let counts = call.state.checks.counts(call, Place::Redis)?;
        Ok(async move {
            counts.forget(key, algorithm).await;
            Ok(Reply::Undefined)
        })
    })
}

/// Calls in so many seconds, as `RATE_LIMITS` has them.
#[derive(Serialize)]
struct Rate {
    requests: u32,
    window: u64,
}

/// The limits of each tier.
#[napi(catch_unwind)]
pub fn rate_limits(env: Env) -> napi::Result<Unknown<'static>> {
    answer_value(env, |Call { js, state }| {
        let rate = |limit: Limit| Rate { requests: limit.quota, window: limit.window / 1_000_000 };
        let all = js.object()?;
        for (name, limit) in tiers::TIERS {
            let rate = Reply::object(&rate(limit))?.into_value(js, state, &mut Sessions::default())?;
            js.freeze(rate)?;
            js.define(all, js.string(name.as_bytes())?, rate)?;
        }
        js.freeze(all)?;
        Ok(all)
    })
}
