//! The optional triggers in Postgres.

use super::reply::Reply;
use super::values::{Js, Kind, Value};
use super::{args, promise};
use crate::engine::Triggers;
use crate::error::Result;
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;

/// Lets Postgres tell every process of writes by anyone.
#[napi(catch_unwind)]
pub fn install_triggers(env: Env, options: Unknown) -> napi::Result<Unknown<'static>> {
    run(env, options, Triggers::Install)
}

/// Removes what [`install_triggers`] made.
#[napi(catch_unwind)]
pub fn uninstall_triggers(env: Env, options: Unknown) -> napi::Result<Unknown<'static>> {
    run(env, options, Triggers::Uninstall)
}

fn run(env: Env, options: Unknown, what: Triggers) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let dry_run = dry_run(call.js, options.into())?;
        let engine = call.engine()?;
        Ok(async move { engine.triggers(what, dry_run).await.map(|sql| Reply::Text(sql.into())) })
    })
}

fn dry_run(js: Js<'_>, options: Value<'_>) -> Result<bool> {
    if js.kind(options)? == Kind::Undefined {
        return Ok(false);
    }
    let [dry_run] = args::options(js, options, "options", [c"dryRun"])?;
    Ok(args::optional_boolean(js, dry_run, "options.dryRun")?.unwrap_or(false))
}
