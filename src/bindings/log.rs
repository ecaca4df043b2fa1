//! Log lines, handed to a function of JavaScript.

use super::environment::State;
use super::reply::{Reply, parse};
use super::values::Js;
use super::{answer, args};
use crate::process;
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

/// Sends the log lines of the process to a function of this environment, or back to standard error.
#[napi(catch_unwind)]
pub fn set_log_handler(env: Env, handler: Unknown) -> napi::Result<Unknown<'static>> {
    answer(env, |call| {
        let handler = args::function_or_null(call.js, handler.into(), "handler")?;
        call.state.set_log_handler(call.js, handler)?;
        if handler.is_none() {
            process::log().set_sink(None);
            return Ok(Reply::Undefined);
        }
        let queue = Arc::clone(call.state.completions(call.js)?.queue());
        // Another environment may have its own handler by the time that this one ends, so nothing is taken back then:
        // lines for an environment that has gone find their way to standard error by themselves.
        process::log().set_sink(Some(Arc::new(move |line| {
            if let Err(line) = queue.notify(line) {
                to_stderr(&line);
            }
        })));
        Ok(Reply::Undefined)
    })
}

/// Calls the handler once a line. What it throws is its own affair, and is mentioned once.
pub fn hand_out(js: Js<'_>, state: &State, lines: VecDeque<String>, dropped: u64) {
    for line in lines {
        let called = js.scope(|js| {
            let Some(handler) = state.log_handler(js) else {
                to_stderr(&line);
                return Ok(());
            };
            js.call(handler, &[parse(js, state, &line)?]).map(drop)
        });
        if !matches!(called, Ok(Ok(()))) && !state.log_handler_failed.get() && still_runs(js, state) {
            state.log_handler_failed.set(true);
            to_stderr("The function given to setLogHandler() threw; its errors are ignored from now on.");
        }
    }
    if dropped > 0 {
        tracing::warn!(dropped, "log lines were dropped, because JavaScript was busy for too long");
    }
}

/// Tells a handler that threw from an environment that was ended in the middle of it, where every call fails.
fn still_runs(js: Js<'_>, state: &State) -> bool {
    js.scope(|js| parse(js, state, "null").is_ok()).is_ok_and(|runs| runs)
}

fn to_stderr(line: &str) {
    // There is no place left to complain if this fails.
    let _ = writeln!(std::io::stderr(), "{line}");
}
