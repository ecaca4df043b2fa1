//! Looking after sessions, as JavaScript calls it.

use super::reply::Reply;
use super::{args, promise};
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;

/// Sessions that nobody has used for so many days are inactive, if nothing else is said.
const DEFAULT_DAYS: u32 = 30;

const MAX_DAYS: u32 = 3_650;

/// The sessions of a user.
#[napi(catch_unwind)]
pub fn get_user_sessions(env: Env, user_id: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let user = args::id(call.js, user_id.into(), "userId")?;
        let engine = call.engine()?;
        Ok(async move { Reply::object(&engine.sessions().sessions_of(&user).await?) })
    })
}

/// How many sessions a user has, and since when.
#[napi(catch_unwind)]
pub fn get_user_session_stats(env: Env, user_id: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let user = args::id(call.js, user_id.into(), "userId")?;
        let engine = call.engine()?;
        Ok(async move { Reply::object(&engine.sessions().stats_of(&user).await?) })
    })
}

/// Deletes sessions that have expired.
#[napi(catch_unwind)]
pub fn cleanup_expired_sessions(env: Env) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let engine = call.engine()?;
        Ok(async move { engine.sessions().cleanup_expired().await.map(Reply::count) })
    })
}

/// Deletes sessions that nobody has used for a while.
#[napi(catch_unwind)]
pub fn cleanup_inactive_sessions(env: Env, days: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let days = args::optional_within(call.js, days.into(), "days", 1..=MAX_DAYS)?.unwrap_or(DEFAULT_DAYS);
        let engine = call.engine()?;
        Ok(async move { engine.sessions().cleanup_inactive(days).await.map(Reply::count) })
    })
}
