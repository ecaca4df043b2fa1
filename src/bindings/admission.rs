//! Limits of requests: what `index.js` makes middleware of.

use super::checks::{Form, Subject};
use super::environment::{Intrinsic, State};
use super::limits::Settings;
use super::raw::{Frame, Function};
use super::reply::limit_value;
use super::values::{Js, Kind, Value};
use super::{Call, answer_value, args, error, rejected};
use crate::error::{Error, Result};
use crate::limit::Limit;
use crate::rate_limit::{Answer, Client, HEADERS, Limiter, Policy, arguments, client, tiers};
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use std::cell::RefCell;
use std::ffi::CStr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The name of the limiter that goes by the tier of the user.
const BY_TIER: &str = "api";

/// Policies of one limiter whose headers are kept: each tier has one, and each custom limit.
const MOST_POLICIES: usize = 16;

/// What a function `admit(req, res, next, customLimit)` owns.
struct Admission {
    subject: Rc<Subject>,
    /// `None` goes by the tier of the user.
    limit: Option<Limit>,
    policies: RefCell<Vec<(Limit, Arc<Policy>)>>,
}

/// Makes the function that admits requests by the tier of the user.
#[napi(catch_unwind)]
pub fn admission_by_tier(env: Env) -> napi::Result<Unknown<'static>> {
    answer_value(env, |call| admit(call, Limiter::named(BY_TIER), None))
}

/// Makes the function that admits requests by a configuration, and gives what that says of errors: `[admit, error]`.
#[napi(catch_unwind)]
pub fn create_admission(env: Env, config: Unknown) -> napi::Result<Unknown<'static>> {
    answer_value(env, |call| {
        let (limiter, limit, error) = configured(call.js, config.into())?;
        let made = call.js.array(2)?;
        call.js.set_index(made, 0, admit(call, limiter, Some(limit))?)?;
        call.js.set_index(made, 1, error)?;
        Ok(made)
    })
}

fn admit<'scope>(call: Call<'scope>, limiter: Limiter, limit: Option<Limit>) -> Result<Value<'scope>> {
    let (subject, policies) = (call.state.checks.subject(limiter), RefCell::default());
    call.js.function_with::<Admit, _>("admit", Admission { subject, limit, policies })
}

/// The configuration of `createRateLimiter`.
fn configured<'scope>(js: Js<'scope>, config: Value<'scope>) -> Result<(Limiter, Limit, Value<'scope>)> {
    let names = [c"requests", c"window", c"name", c"algorithm", c"onOutage", c"shadow", c"error"];
    let [requests, window, name, algorithm, on_outage, shadow, error] = args::options(js, config, "config", names)?;
    args::optional_function(js, error, "config.error")?;
    let (requests, window) =
        (args::number(js, requests, "config.requests")?, args::number(js, window, "config.window")?);
    // As JavaScript writes them: 10/60, 5/0.5.
    let limiter = Limiter::named(&format!("{requests}/{window}"));
    let limiter = Settings { algorithm, on_outage, shadow, name }.read(js, "config", limiter)?;
    let quota = arguments::limit(requests, limiter.algorithm, "config.requests")?;
    Ok((limiter, Limit { quota, window: arguments::window(window, "config.window")? }, error))
}

/// The names of the headers of a response.
#[napi(catch_unwind)]
pub fn rate_limit_headers(env: Env) -> napi::Result<Unknown<'static>> {
    answer_value(env, |Call { js, .. }| {
        let names = js.array(HEADERS.len())?;
        for (index, (name, _)) in (0..).zip(HEADERS) {
            js.set_index(names, index, js.string(name.as_bytes())?)?;
        }
        Ok(names)
    })
}

struct Admit;

impl Function for Admit {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        // SAFETY: `create_admission` made every `Admit` with an `Admission`.
        let admission = unsafe { frame.own::<Admission>() };
        let call = frame.call;
        rejected(call, || {
            let js = call.js;
            let [request, response, next] = [0, 1, 2].map(|index| frame.argument(index));
            // What is wrong with them is said before anything is counted.
            let headers = js.kind(request)? == Kind::Object && property(js, request, c"headers")?.is_some();
            if !headers {
                return Err(args::wrong_type(js, request, "req", "a request with headers"));
            }
            let set_header = property(js, response, c"setHeader")?;
            if set_header.is_none_or(|value| !js.kind(value).is_ok_and(|kind| kind == Kind::Function)) {
                return Err(args::wrong_type(js, response, "res", "a response with setHeader()"));
            }
            args::function(js, next, "next")?;
            let user = property(js, request, c"user")?;
            let limit = match admission.limit {
                Some(limit) => limit,
                None => admission.limit_of(js, user, frame.argument(3))?,
            };
            let key = key(call, request, user)?;
            let check = admission.subject.check_of(admission.subject.key_of(call, &key)?, limit, 1);
            let form = Form::Admission(admission.policy(limit), limit);
            call.state.checks.ask(call, &admission.subject, check, form)
        })
    }
}

impl Admission {
    /// The custom limit, or that of the user's tier.
    fn limit_of(&self, js: Js<'_>, user: Option<Value<'_>>, custom: Value<'_>) -> Result<Limit> {
        if js.kind(custom)? != Kind::Undefined {
            let [requests, window] = args::options(js, custom, "customLimit", [c"requests", c"window"])?;
            let requests = args::number(js, requests, "customLimit.requests")?;
            let window = args::number(js, window, "customLimit.window")?;
            let quota = arguments::limit(requests, self.subject.limiter().algorithm, "customLimit.requests")?;
            return Ok(Limit { quota, window: arguments::window(window, "customLimit.window")? });
        }
        let metadata = property_of(js, user, c"user_metadata")?;
        let tier = property_of(js, metadata, c"tier")?.map(|tier| word(js, tier)).transpose()?.flatten();
        Ok(tiers::limit(tier.as_deref()))
    }

    fn policy(&self, limit: Limit) -> Arc<Policy> {
        let mut policies = self.policies.borrow_mut();
        if let Some((_, policy)) = policies.iter().find(|(known, _)| *known == limit) {
            return policy.clone();
        }
        let policy = Arc::new(Policy::new(&self.subject.limiter().name, limit));
        if policies.len() < MOST_POLICIES {
            policies.push((limit, policy.clone()));
        }
        policy
    }
}

/// Whose count a request goes to.
fn key(call: Call<'_>, request: Value<'_>, user: Option<Value<'_>>) -> Result<String> {
    let js = call.js;
    let id = match property_of(js, user, c"sub")? {
        Some(sub) => Some(sub),
        None => property_of(js, user, c"id")?,
    };
    if let Some(id) = id.map(|id| word(js, id)).transpose()?.flatten().filter(|id| !id.is_empty()) {
        return Ok(tiers::key(Some(&id), || Client::Unknown));
    }
    let trust = call.engine()?.trust();
    let headers = property(js, request, c"headers")?;
    let header = |name, wanted: bool| {
        let value = if wanted { property_of(js, headers, name)? } else { None };
        value.map_or(Ok(None), |value| text(js, value))
    };
    let forwarded = header(c"x-forwarded-for", trust.hops > 0)?;
    let real_ip = header(c"x-real-ip", trust.real_ip)?;
    let (forwarded, real_ip) = (forwarded.as_deref(), real_ip.as_deref());
    let mut from = client(forwarded, real_ip, None, trust);
    if from == Client::Unknown {
        let address = property_of(js, property(js, request, c"socket")?, c"remoteAddress")?;
        let socket = address.map_or(Ok(None), |address| text(js, address))?;
        from = client(forwarded, real_ip, socket.as_deref(), trust);
    }
    Ok(tiers::key(None, || from))
}

fn property_of<'scope>(js: Js<'scope>, object: Option<Value<'_>>, name: &CStr) -> Result<Option<Value<'scope>>> {
    object.map_or(Ok(None), |object| property(js, object, name))
}

/// A property of an object; `None` where there is no object, or nothing in it.
fn property<'scope>(js: Js<'scope>, object: Value<'_>, name: &CStr) -> Result<Option<Value<'scope>>> {
    if js.kind(object)? != Kind::Object {
        return Ok(None);
    }
    let unreadable = |_| Error::type_error(format!("{} of the request could not be read.", name.to_string_lossy()));
    let value = js.get(object, name).map_err(unreadable)?;
    Ok((!matches!(js.kind(value)?, Kind::Undefined | Kind::Null)).then_some(value))
}

/// A string, or a number as its text.
fn word(js: Js<'_>, value: Value<'_>) -> Result<Option<String>> {
    match js.kind(value)? {
        Kind::String => js.read_string(value).map(Some),
        Kind::Number => js.read_string(js.to_string(value)?).map(Some),
        _ => Ok(None),
    }
}

/// The value of a header: a string, or several of which Node would have made one.
fn text(js: Js<'_>, value: Value<'_>) -> Result<Option<String>> {
    let Some(length) = js.array_length(value)? else { return word(js, value) };
    let all = (0..length).filter_map(|index| js.get_index(value, index).and_then(|one| word(js, one)).transpose());
    all.collect::<Result<Vec<_>>>().map(|all| Some(all.join(",")))
}

/// The values of the headers, one a line, in the order of [`rate_limit_headers`], the last of which only who is denied gets:
/// one string that JavaScript splits costs half of several. For who is denied: `[values, denied, info]`, with the error.
pub fn value<'scope>(
    js: Js<'scope>,
    state: &State,
    answer: &Answer,
    policy: &Policy,
    limit: Limit,
) -> Result<Value<'scope>> {
    let values = js.string(policy.headers(answer).lines().as_bytes())?;
    if answer.allowed {
        return Ok(values);
    }
    let (quota, retry_after) = (answer.limit, answer.retry_after.unwrap_or(1));
    let denied = Error::RateLimited { quota, window: Duration::from_micros(limit.window), retry_after };
    let admission = js.array(3)?;
    js.set_index(admission, 0, values)?;
    if let Some(denied) = error::to_value(js, state, &denied) {
        js.set_index(admission, 1, denied)?;
    }
    js.set_index(admission, 2, js.get(limit_value(js, state, answer, Intrinsic::Limit)?, c"info")?)?;
    Ok(admission)
}
