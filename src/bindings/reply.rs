//! Answers on their way to JavaScript: made ready on any thread, turned into values on the one of their environment.

use super::checks::Form;
use super::environment::{Intrinsic, State};
use super::subscriptions::Subscription;
use super::values::{Js, Value};
use super::{admission, error};
use crate::error::{Error, Result};
use crate::rate_limit::Answer;
use crate::redis_value::Value as RedisValue;
use crate::sessions::Known;
use bytes::Bytes;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// How deep an answer of Redis may be nested; a value is built by recursion.
const MAX_DEPTH: usize = 210;

/// Longest JSON text; V8 has no string of twice this length.
const MAX_JSON: usize = 256 * 1024 * 1024;

/// The answer to one call.
pub enum Reply {
    Undefined,
    Null,
    Boolean(bool),
    Integer(i64),
    /// A fresh object, as its JSON text: parsing it costs less than half of setting its properties one by one.
    Json(String),
    Session(Arc<Known>),
    Text(Bytes),
    Tree(Box<Tree>),
    Subscription(Arc<Subscription>),
    Limit(Answer, Form),
}

impl Reply {
    /// A session or `null`.
    pub fn session(session: Option<Arc<Known>>) -> Self {
        session.map_or(Self::Null, Self::Session)
    }

    /// A fresh object with the fields of `value`.
    pub fn object(value: &impl Serialize) -> Result<Self> {
        json(value).map(Self::Json)
    }

    /// A reply of Redis. Arrays and objects become JSON here, which is not the JavaScript thread, where that can be.
    pub fn redis(value: RedisValue, encoding: Encoding, server: &Arc<str>) -> Result<Self> {
        Ok(match (value, encoding) {
            (RedisValue::Null, _) => Self::Null,
            (RedisValue::Int(number), _) => Self::Integer(number),
            (RedisValue::Bool(value), _) => Self::Boolean(value),
            (RedisValue::Text(bytes), Encoding::Text) => Self::Text(bytes),
            (value, encoding) => {
                if encoding == Encoding::Text
                    && let Ok(text) = serde_json::to_string(&AsJson(&value, MAX_DEPTH))
                    && text.len() <= MAX_JSON
                {
                    return Ok(Self::Json(text));
                }
                Self::Tree(Box::new(Tree { value, encoding, server: server.clone() }))
            }
        })
    }

    /// How many there were.
    pub fn count(count: u64) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// The JavaScript value.
    pub fn into_value<'scope>(
        self,
        js: Js<'scope>,
        state: &State,
        sessions: &mut Sessions<'scope>,
    ) -> Result<Value<'scope>> {
        match self {
            Self::Undefined => js.undefined(),
            Self::Null => js.null(),
            Self::Boolean(value) => js.boolean(value),
            Self::Integer(value) => js.integer(value),
            Self::Json(text) => parse(js, state, &text),
            Self::Session(session) => sessions.value(js, state, &session),
            Self::Text(bytes) => js.string(&bytes),
            Self::Subscription(subscription) => state.subscription(js, subscription),
            Self::Limit(answer, form) => limit(js, state, &answer, &form),
            Self::Tree(tree) => tree.value(js, state, &tree.value, MAX_DEPTH),
        }
    }
}

/// The last session of a batch: the callers who joined one read stand side by side and get the same object.
#[derive(Default)]
pub struct Sessions<'scope> {
    last: Option<(*const Known, Value<'scope>)>,
}

impl<'scope> Sessions<'scope> {
    /// The frozen object of a session. All sessions of a batch are alive when it is taken, so an address means one.
    fn value(&mut self, js: Js<'scope>, state: &State, session: &Arc<Known>) -> Result<Value<'scope>> {
        if let Some((address, value)) = self.last
            && std::ptr::eq(address, Arc::as_ptr(session))
        {
            return Ok(value);
        }
        let value = frozen(js, state, &session.json)?;
        self.last = Some((Arc::as_ptr(session), value));
        Ok(value)
    }
}

/// The answer to a check, as the caller wants it.
fn limit<'scope>(js: Js<'scope>, state: &State, answer: &Answer, form: &Form) -> Result<Value<'scope>> {
    match form {
        Form::Result => limit_value(js, state, answer, Intrinsic::Limit),
        Form::Info => js.get(limit_value(js, state, answer, Intrinsic::Limit)?, c"info"),
        Form::Over => js.boolean(!answer.allowed),
        Form::Admission(policy, limit) => admission::value(js, state, answer, policy, *limit),
    }
}

/// `{ allowed, info }`, or a promise of it. A function of JavaScript makes it, whose objects have their shape from the beginning: several times
/// faster than setting properties one by one.
pub fn limit_value<'scope>(js: Js<'scope>, state: &State, answer: &Answer, maker: Intrinsic) -> Result<Value<'scope>> {
    let Answer { allowed, limit, remaining, reset, retry_after, .. } = *answer;
    let number = |number: u32| js.number(f64::from(number));
    let reset = js.integer(i64::try_from(reset).unwrap_or(i64::MAX))?;
    let values = [js.boolean(allowed)?, number(limit)?, number(remaining)?, reset];
    let make = state.intrinsic(js, maker)?;
    match retry_after {
        None => js.call(make, &values),
        Some(seconds) => {
            let [allowed, limit, remaining, reset] = values;
            js.call(make, &[allowed, limit, remaining, reset, number(seconds)?])
        }
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Internal(format!("an answer is no JSON: {error}")))
}

/// What the realm's own `JSON.parse` makes of a text: an object of that realm.
pub fn parse<'scope>(js: Js<'scope>, state: &State, text: &str) -> Result<Value<'scope>> {
    js.call(state.intrinsic(js, Intrinsic::Parse)?, &[js.string(text.as_bytes())?])
}

/// The same, frozen.
pub fn frozen<'scope>(js: Js<'scope>, state: &State, text: &str) -> Result<Value<'scope>> {
    let value = parse(js, state, text)?;
    js.freeze(value)?;
    Ok(value)
}

/// What strings of a reply become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Text,
    Buffers,
}

/// A reply of Redis, made into values one by one.
pub struct Tree {
    value: RedisValue,
    encoding: Encoding,
    server: Arc<str>,
}

impl Tree {
    fn value<'scope>(&self, js: Js<'scope>, state: &State, value: &RedisValue, depth: usize) -> Result<Value<'scope>> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Error::Internal(format!("an answer of Redis is nested more than {MAX_DEPTH} deep")));
        };
        match value {
            RedisValue::Null => js.null(),
            RedisValue::Int(number) => js.integer(*number),
            RedisValue::Text(bytes) if self.encoding == Encoding::Buffers => js.buffer(bytes),
            RedisValue::Text(bytes) => js.string(bytes),
            RedisValue::Bool(value) => js.boolean(*value),
            RedisValue::Array(items) => {
                let array = js.array(items.len())?;
                for (index, item) in (0..).zip(items) {
                    js.scope(|js| js.set_index(array, index, self.value(js, state, item, depth)?))??;
                }
                Ok(array)
            }
            RedisValue::Map(entries) => {
                let object = js.object()?;
                for (key, item) in entries {
                    js.scope(|js| {
                        // A property has a name, whatever its value is.
                        let key = match key {
                            RedisValue::Text(name) => js.string(name)?,
                            other => self.value(js, state, other, depth)?,
                        };
                        js.define(object, key, self.value(js, state, item, depth)?)
                    })??;
                }
                Ok(object)
            }
            RedisValue::Error(text) => {
                let error = Error::Reply { server: self.server.clone(), text: text.clone() };
                error::to_value(js, state, &error).ok_or_else(|| Error::Internal("no error could be made".into()))
            }
        }
    }
}

/// A reply as JSON; fails where it has what JSON has not.
struct AsJson<'a>(&'a RedisValue, usize);

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let Some(depth) = self.1.checked_sub(1) else { return Err(S::Error::custom("too deep")) };
        match self.0 {
            RedisValue::Null => to.serialize_unit(),
            RedisValue::Int(number) => to.serialize_i64(*number),
            RedisValue::Bool(value) => to.serialize_bool(*value),
            RedisValue::Text(bytes) => to.serialize_str(&String::from_utf8_lossy(bytes)),
            RedisValue::Array(items) => to.collect_seq(items.iter().map(|item| AsJson(item, depth))),
            RedisValue::Map(entries) => {
                to.collect_map(entries.iter().map(|(key, item)| (AsJson(key, depth), AsJson(item, depth))))
            }
            RedisValue::Error(_) => Err(S::Error::custom("an error")),
        }
    }
}
