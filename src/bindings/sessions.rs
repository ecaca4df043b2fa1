//! Sessions, as JavaScript calls them.

use super::raw::{Frame, Function};
use super::reply::Reply;
use super::values::Value;
use super::{Start, answer, args, begin_in, promise};
use crate::error::Result;
use crate::sessions::Switches;
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;

/// `validateSessionWithCache(token)`: who a bearer token belongs to, from the cache or from Postgres.
///
/// Made by hand: what `#[napi]` does around a call took a fifth of a hit (0.12 of 0.57 us).
pub struct Validate;

impl Function for Validate {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        begin_in(frame.call, |call| {
            let token = args::token(call.js, frame.argument(0), "token")?;
            let engine = call.engine()?;
            Ok(match (token, engine.sessions().immediate(token.as_ref())?) {
                (Some(token), Some(Some(known))) => {
                    Start::Promised(call.state.hot.promise(call.js, call.state, token, known)?)
                }
                (None, _) | (_, Some(_)) => Start::Answered(Reply::Null),
                (Some(token), None) => {
                    Start::UnderWay(async move { engine.sessions().validate(token).await.map(Reply::session) })
                }
            })
        })
    }
}

/// Who a bearer token belongs to, from Postgres alone.
#[napi(catch_unwind)]
pub fn validate_session(env: Env, token: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let token = args::token(call.js, token.into(), "token")?;
        let engine = call.engine()?;
        Ok(async move { engine.sessions().validate_uncached(token).await.map(Reply::session) })
    })
}

/// Ends the session with this id.
#[napi(catch_unwind)]
pub fn revoke_session_with_cache(env: Env, session_id: Unknown, token: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let id = args::id(call.js, session_id.into(), "sessionId")?;
        let token = args::optional_token(call.js, token.into(), "token")?;
        let engine = call.engine()?;
        Ok(async move { engine.sessions().revoke(&id, token).await.map(Reply::Boolean) })
    })
}

/// Ends the session of this token.
#[napi(catch_unwind)]
pub fn revoke_session_by_token(env: Env, token: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let token = args::token(call.js, token.into(), "token")?;
        let engine = call.engine()?;
        Ok(async move { engine.sessions().revoke_token(token).await.map(Reply::Boolean) })
    })
}

/// Ends all sessions of a user.
#[napi(catch_unwind)]
pub fn revoke_all_user_sessions_with_cache(env: Env, user_id: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let user = args::id(call.js, user_id.into(), "userId")?;
        let engine = call.engine()?;
        Ok(async move { engine.sessions().revoke_user(&user).await.map(Reply::count) })
    })
}

/// Ends all sessions of a user but one.
#[napi(catch_unwind)]
pub fn revoke_other_sessions(env: Env, user_id: Unknown, except_session_id: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let user = args::id(call.js, user_id.into(), "userId")?;
        let except = args::id(call.js, except_session_id.into(), "exceptSessionId")?;
        let engine = call.engine()?;
        Ok(async move { engine.sessions().revoke_others(&user, &except).await.map(Reply::count) })
    })
}

/// Gives a session a new token and a new end.
#[napi(catch_unwind)]
pub fn rotate_session(
    env: Env,
    token: Unknown,
    new_token: Unknown,
    expires_at: Unknown,
) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let token = args::token(call.js, token.into(), "token")?;
        let new_token = args::new_token(call.js, new_token.into(), "newToken")?;
        let expires_at = args::future_date(call.js, expires_at.into(), "expiresAt")?;
        let engine = call.engine()?;
        Ok(async move { engine.sessions().rotate(token, new_token, expires_at).await.map(Reply::Boolean) })
    })
}

/// Forgets the copies of one session, without ending it.
#[napi(catch_unwind)]
pub fn invalidate_session_cache(env: Env, token: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let token = args::token(call.js, token.into(), "token")?;
        let engine = call.engine()?;
        Ok(async move {
            engine.sessions().forget(token).await;
            Ok(Reply::Undefined)
        })
    })
}

/// Forgets the copies of all sessions of a user, without ending them.
#[napi(catch_unwind)]
pub fn invalidate_user_sessions(env: Env, user_id: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let user = args::id(call.js, user_id.into(), "userId")?;
        let engine = call.engine()?;
        Ok(async move { engine.sessions().forget_user(&user).await.map(Reply::count) })
    })
}

/// What the session cache has done since it was opened or reset.
#[napi(catch_unwind)]
pub fn get_session_cache_metrics(env: Env) -> napi::Result<Unknown<'static>> {
    answer(env, |call| Reply::object(&call.engine()?.sessions().metrics()))
}

/// Sets the counters of the session cache to zero.
#[napi(catch_unwind)]
pub fn reset_session_cache_metrics(env: Env) -> napi::Result<Unknown<'static>> {
    answer(env, |call| {
        call.engine()?.sessions().reset_metrics();
        Ok(Reply::Undefined)
    })
}

/// Changes the switches of the session cache while it runs.
#[napi(catch_unwind)]
pub fn configure_session_cache(env: Env, options: Unknown) -> napi::Result<Unknown<'static>> {
    answer(env, |call| {
        let names = [c"enabled", c"ttlSeconds", c"localEnabled"];
        let [enabled, ttl_seconds, local_enabled] = args::options(call.js, options.into(), "options", names)?;
        let switches = Switches {
            enabled: args::optional_boolean(call.js, enabled, "options.enabled")?,
            local_enabled: args::optional_boolean(call.js, local_enabled, "options.localEnabled")?,
            ttl_seconds: args::optional_number(call.js, ttl_seconds, "options.ttlSeconds")?,
        };
        call.engine()?.sessions().configure(switches).map(|()| Reply::Undefined)
    })
}

/// Whether the session cache's connection to Redis answers.
#[napi(catch_unwind)]
pub fn session_cache_health_check(env: Env) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let engine = call.engine()?;
        Ok(async move { Ok(Reply::Boolean(engine.sessions().is_healthy().await)) })
    })
}

/// The session cache's connection to Redis.
#[napi(catch_unwind)]
pub fn get_session_cache_pool_stats(env: Env) -> napi::Result<Unknown<'static>> {
    answer(env, |call| match call.engine()?.session_connections() {
        Some(stats) => Reply::object(&stats),
        None => Ok(Reply::Null),
    })
}
