//! Warming the session cache: what JavaScript is told on the way, and how it stops it.

use super::completions::Queue;
use super::environment::State;
use super::events::Event;
use super::reply::Reply;
use super::signal::{Heard, Signal};
use super::values::{Js, Kind, Value};
use super::{Call, Start, args, begin, promise};
use crate::error::Result;
use crate::sessions::{Progress, Status};
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const DEFAULT_LIMIT: u32 = 1_000;
const MAX_LIMIT: u32 = 100_000;

const DEFAULT_HOURS: u32 = 24;
const MAX_HOURS: u32 = 8_760;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// What JavaScript gets in the end.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarmingResult {
    success: bool,
    #[serde(flatten)]
    progress: Progress,
    duration_ms: u64,
    status: &'static str,
}

impl WarmingResult {
    fn reply(progress: Progress, status: Status, took: Duration) -> Result<Reply> {
        Reply::object(&Self {
            success: status == Status::Completed,
            progress,
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            status: status.as_str(),
        })
    }
}

/// What the environment keeps while the cache is warmed.
#[derive(Default)]
pub struct Warming {
    on_progress: Option<u64>,
    signal: Option<Heard>,
}

impl Warming {
    /// Nobody is told anything more, and nothing stops it.
    pub fn over(&self, js: Js<'_>, state: &State) {
        if let Some(signal) = &self.signal {
            signal.leave(js, state);
        }
        if let Some(handler) = self.on_progress {
            state.handlers.remove(js, handler);
        }
    }
}

/// Tells the environment when it is dropped that the warming is over: before its promise is settled, and on any way out.
struct Over {
    queue: Arc<Queue>,
    warming: Option<Box<Warming>>,
}

impl Drop for Over {
    fn drop(&mut self) {
        if let Some(warming) = self.warming.take() {
            self.queue.tell(Event::Warmed { warming });
        }
    }
}

/// Options, checked.
struct Options<'scope> {
    limit: u32,
    within: Duration,
    signal: Option<Signal<'scope>>,
    on_progress: Option<Value<'scope>>,
}

impl<'scope> Options<'scope> {
    fn of(js: Js<'scope>, options: Value<'_>) -> Result<Self> {
        let names = [c"limit", c"recentHours", c"signal", c"onProgress"];
        let [limit, hours, signal, on_progress] = match js.kind(options)? {
            Kind::Undefined => [js.undefined()?; 4],
            _ => args::options(js, options, "options", names)?,
        };
        let hours = args::optional_within(js, hours, "options.recentHours", 1..=MAX_HOURS)?;
        Ok(Self {
            limit: args::optional_within(js, limit, "options.limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT),
            within: HOUR * hours.unwrap_or(DEFAULT_HOURS),
            signal: Signal::of(js, signal, SIGNAL)?,
            on_progress: args::optional_function(js, on_progress, "options.onProgress")?,
        })
    }
}

const SIGNAL: &str = "options.signal";

/// Leaves copies of sessions in Redis before they are asked for.
#[napi(catch_unwind)]
pub fn warm_session_cache(env: Env, options: Unknown) -> napi::Result<Unknown<'static>> {
    begin(env, |call| {
        let Call { js, state } = call;
        let options = Options::of(js, options.into())?;
        if options.signal.is_some_and(|signal| signal.aborted) {
            return WarmingResult::reply(Progress::default(), Status::Stopped, Duration::ZERO).map(Start::Answered);
        }
        // Without the engine itself: its shutdown does not wait, but stops this.
        let sessions = call.engine()?.sessions().clone();
        let queue = state.completions(js)?.queue().clone();
        // Nobody waits for it any more once the environment goes away.
        let stop = state.ending.child_token();
        let mut warming = Box::new(Warming::default());
        warming.on_progress = options.on_progress.map(|handler| state.handlers.add(js, handler)).transpose()?;
        if let Some(signal) = options.signal {
            let heard = signal.hear(js, state, SIGNAL, stop.clone());
            warming.signal = Some(heard.inspect_err(|_| warming.over(js, state))?);
        }
        let (on_progress, (limit, within)) = (warming.on_progress, (options.limit, options.within));
        let over = Over { queue, warming: Some(warming) };
        Ok(Start::UnderWay(async move {
            let begun = Instant::now();
            let tell = |progress| {
                if let Some(handler) = on_progress {
                    over.queue.tell(Event::Progress { handler, progress });
                }
            };
            let warmed = sessions.warm(limit, within, &stop, tell).await?;
            WarmingResult::reply(warmed.progress, warmed.status, begun.elapsed())
        }))
    })
}

/// Leaves a copy of one session in Redis.
#[napi(catch_unwind)]
pub fn warm_session(env: Env, token: Unknown) -> napi::Result<Unknown<'static>> {
    promise(env, |call| {
        let token = args::token(call.js, token.into(), "token")?;
        let engine = call.engine()?;
        Ok(async move { engine.sessions().warm_one(token).await.map(Reply::Boolean) })
    })
}
