//! Answers on their way to JavaScript: made ready on any thread, turned into values on the one of their environment.

use super::environment::{Intrinsic, State};
use super::error;
use super::values::{Js, Value};
use crate::error::{Error, Result};
use crate::redis_value::Value as RedisValue;
use crate::session::SessionWithUser;
use serde::Serialize;
use std::sync::Arc;

/// How deep an answer of Redis may be nested; a value is built by recursion.
const MAX_DEPTH: usize = 64;

/// The answer to one call.
pub enum Reply {
    Undefined,
    Null,
    Boolean(bool),
    Integer(i64),
    /// A fresh object, as its JSON text: parsing it costs less than half of setting its properties one by one.
    Json(String),
    /// A session, with its JSON text.
    Session {
        session: Arc<SessionWithUser>,
        json: String,
    },
    Redis(RedisValue),
}

impl Reply {
    /// A session or `null`. The JSON text is made here, which is not the JavaScript thread.
    pub fn session(session: Option<Arc<SessionWithUser>>) -> Result<Self> {
        let Some(session) = session else { return Ok(Self::Null) };
        let json = json(&*session)?;
        Ok(Self::Session { session, json })
    }

    /// A fresh object with the fields of `value`.
    pub fn object(value: &impl Serialize) -> Result<Self> {
        json(value).map(Self::Json)
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
            Self::Session { session, json } => sessions.value(js, state, &session, &json),
            Self::Redis(value) => from_redis(js, state, &value, MAX_DEPTH),
        }
    }
}

/// The last session of a batch: the callers who joined one read stand side by side and get the same object.
#[derive(Default)]
pub struct Sessions<'scope> {
    last: Option<(*const SessionWithUser, Value<'scope>)>,
}

impl<'scope> Sessions<'scope> {
    /// The frozen object of a session. All sessions of a batch are alive when it is taken, so an address means one.
    fn value(
        &mut self,
        js: Js<'scope>,
        state: &State,
        session: &Arc<SessionWithUser>,
        json: &str,
    ) -> Result<Value<'scope>> {
        if let Some((address, value)) = self.last
            && std::ptr::eq(address, Arc::as_ptr(session))
        {
            return Ok(value);
        }
        let value = parse(js, state, json)?;
        js.freeze(value)?;
        self.last = Some((Arc::as_ptr(session), value));
        Ok(value)
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Internal(format!("an answer is no JSON: {error}")))
}

/// What the realm's own `JSON.parse` makes of a text: an object of that realm.
pub fn parse<'scope>(js: Js<'scope>, state: &State, text: &str) -> Result<Value<'scope>> {
    js.call(state.intrinsic(js, Intrinsic::Parse)?, &[js.string(text.as_bytes())?])
}

fn from_redis<'scope>(js: Js<'scope>, state: &State, value: &RedisValue, depth: usize) -> Result<Value<'scope>> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Error::Internal(format!("an answer of Redis is nested more than {MAX_DEPTH} deep")));
    };
    match value {
        RedisValue::Null => js.null(),
        RedisValue::Int(number) => js.integer(*number),
        RedisValue::Text(bytes) => js.string(bytes),
        RedisValue::Double(number) => js.number(*number),
        RedisValue::Bool(value) => js.boolean(*value),
        RedisValue::Array(items) => {
            let array = js.array(items.len())?;
            for (index, item) in (0..).zip(items) {
                js.scope(|js| js.set_index(array, index, from_redis(js, state, item, depth)?))??;
            }
            Ok(array)
        }
        RedisValue::Map(entries) => {
            let object = js.object()?;
            for (key, item) in entries {
                js.scope(|js| {
                    let key = from_redis(js, state, key, depth)?;
                    js.define(object, key, from_redis(js, state, item, depth)?)
                })??;
            }
            Ok(object)
        }
        RedisValue::Error(text) => {
            let error = Error::Reply { server: "Redis".into(), text: text.clone() };
            error::to_value(js, state, &error).ok_or_else(|| Error::Internal("no error could be made".into()))
        }
    }
}
