//! The client of `REDIS_URL`, which the whole of Studio shares.

use super::client::Tied;
use super::completions::resolved;
use super::options::OWN_SIZES;
use super::reply::Reply;
use super::{Call, error, guarded, promise, returned};
use crate::engine::redis::Redis;
use crate::error::Result;
use crate::process;
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use std::sync::Arc;

/// The client of `REDIS_URL`; `null` if that is not set.
#[napi(catch_unwind)]
pub fn get_redis_client(env: Env) -> napi::Result<Unknown<'static>> {
    let call = Call::begin(env)?;
    let Call { js, state } = call;
    let client = guarded(|| match call.engine()?.redis_url() {
        Some(_) => state.own_client(js),
        None => js.null(),
    });
    client.map(|client| returned(env, client)).map_err(|failure| error::throw(js, state, &failure))
}

/// Closes the client of `REDIS_URL`.
#[napi(catch_unwind)]
pub fn close_redis_client(env: Env) -> napi::Result<Unknown<'static>> {
    let Call { js, state } = Call::begin(env)?;
    let closed = guarded(|| {
        if let Some(client) = state.take_own_client(js)? {
            js.unwrap_tagged::<Tied>(client)?.0.close();
        }
        resolved(js, state, Reply::Undefined)
    });
    closed.map(|promise| returned(env, promise)).map_err(|failure| error::throw(js, state, &failure))
}

/// True if Redis answers a `PING`; false also where `REDIS_URL` is not set.
#[napi(catch_unwind)]
pub fn check_redis_health(env: Env) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let redis = own_pool(call)?;
        Ok(async move {
            Ok(Reply::Boolean(match redis {
                Some(redis) => redis.health().await,
                None => false,
            }))
        })
    })
}

/// The pool of `REDIS_URL`.
fn own_pool(call: Call<'_>) -> Result<Option<Arc<Redis>>> {
    let engine = call.engine()?;
    let Some(url) = engine.redis_url() else { return Ok(None) };
    let membership = engine.servers().join(url, OWN_SIZES, &process::runtime()?);
    Ok(membership.map(|membership| membership.redis().clone()))
}
