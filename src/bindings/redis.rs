//! Redis commands, as JavaScript calls them.

use super::reply::Reply;
use super::{answer, args, promise};
use crate::engine::{Engine, Redis};
use crate::error::{Error, Result};
use bytes::Bytes;
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use serde::Serialize;

/// Longest expiry that Redis takes as seconds without overflowing its milliseconds.
const MAX_EXPIRY_SECONDS: u32 = u32::MAX;

#[derive(Serialize)]
struct PoolStats {
    size: usize,
    available: usize,
    pending: usize,
}

/// True if `REDIS_URL` is set.
#[napi(catch_unwind)]
pub fn is_redis_configured(env: Env) -> napi::Result<Unknown<'static>> {
    answer(env, |call| Ok(Reply::Boolean(call.engine()?.redis().is_some())))
}

/// One command: an array of its name and its arguments, which are strings, numbers and Buffers.
#[napi(catch_unwind)]
pub fn redis_command(env: Env, command: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let command = args::command(call.js, command.into())?;
        let engine = call.engine()?;
        Ok(async move { send(&engine, command).await })
    })
}

/// `SET`, with `EX` if `expirationSeconds` is more than zero.
#[napi(catch_unwind)]
pub fn redis_set(
    env: Env,
    key: Unknown,
    value: Unknown,
    expiration_seconds: Unknown,
) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let (name, max) = ("expirationSeconds", MAX_EXPIRY_SECONDS);
        let mut command = vec![
            Bytes::from_static(b"SET"),
            args::redis_argument(call.js, key.into(), &|| "key".into())?,
            args::redis_argument(call.js, value.into(), &|| "value".into())?,
        ];
        if let Some(seconds) = args::optional_whole(call.js, expiration_seconds.into(), name, max)?.filter(|s| *s > 0) {
            command.extend([Bytes::from_static(b"EX"), Bytes::from(seconds.to_string())]);
        }
        let engine = call.engine()?;
        Ok(async move { send(&engine, command).await })
    })
}

/// True if Redis answers a `PING`; false also where `REDIS_URL` is not set.
#[napi(catch_unwind)]
pub fn check_redis_health(env: Env) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let engine = call.engine()?;
        Ok(async move {
            Ok(Reply::Boolean(match engine.redis() {
                Some(redis) => redis.health().await,
                None => false,
            }))
        })
    })
}

/// The connections of the pool.
#[napi(catch_unwind)]
pub fn get_redis_pool_stats(env: Env) -> napi::Result<Unknown<'static>> {
    answer(env, |call| {
        let engine = call.engine()?;
        let stats = redis(&engine)?.stats();
        Reply::object(&PoolStats { size: stats.size, available: stats.available, pending: stats.pending })
    })
}

fn redis(engine: &Engine) -> Result<&Redis> {
    engine.redis().ok_or(Error::NotConfigured("REDIS_URL"))
}

async fn send(engine: &Engine, command: Vec<Bytes>) -> Result<Reply> {
    redis(engine)?.command(command).await.map(Reply::Redis)
}
