//! The process-wide engine, as JavaScript sees it.

use super::reply::Reply;
use super::{Start, answer, args, begin};
use crate::process;
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use serde::Serialize;

/// How long `shutdown()` may take if nothing else is said.
const DEFAULT_SHUTDOWN_MS: u32 = 5_000;

/// What a timer of Node can be set to.
const MAX_SHUTDOWN_MS: u32 = i32::MAX as u32;

#[derive(Serialize)]
struct BreakerStates {
    redis: &'static str,
    postgres: &'static str,
}

/// Writes what is buffered and closes everything. The next call opens it again.
#[napi(catch_unwind)]
pub fn shutdown(env: Env, timeout_ms: Unknown) -> napi::Result<Unknown<'static>> {
    begin(env, |call| {
        let timeout =
            args::milliseconds(call.js, timeout_ms.into(), "timeoutMs", DEFAULT_SHUTDOWN_MS, MAX_SHUTDOWN_MS)?;
        // Where nothing is open, no thread is started to close it.
        if process::idle() {
            return Ok(Start::Answered(Reply::Undefined));
        }
        Ok(Start::UnderWay(async move {
            process::shutdown(timeout).await;
            Ok(Reply::Undefined)
        }))
    })
}

/// The breakers of `REDIS_URL` and `DATABASE_URL`.
#[napi(catch_unwind)]
pub fn get_breaker_state(env: Env) -> napi::Result<Unknown<'static>> {
    answer(env, |call| {
        let breakers = call.engine()?.breakers();
        Reply::object(&BreakerStates { redis: breakers.redis.as_str(), postgres: breakers.postgres.as_str() })
    })
}
