//! The one engine and the one runtime of this process, and the only static of the crate.
//!
//! However often the addon is loaded, and by however many threads, they share what is here.

use crate::config::{Config, DatabaseConfig, Environment};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::listeners::Listeners;
use crate::logging::Log;
use crate::rate_limit;
use crate::redis_url::Place;
use crate::sessions::Memory;
use once_cell::sync::{Lazy, OnceCell};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;

/// More than Redis and Postgres can keep busy; Node has the other cores.
const WORKERS: usize = 2;

static PROCESS: Lazy<Process> = Lazy::new(Process::default);

#[derive(Default)]
struct Process {
    runtime: OnceCell<Runtime>,
    state: Mutex<State>,
    breakers: Arc<Listeners>,
    log: Log,
}

#[derive(Default)]
struct State {
    open: Option<Arc<Engine>>,
    /// Of each pair of servers that was ever opened, what must outlive an engine.
    memories: HashMap<Servers, Memory>,
    /// What this process has counted for rate limits.
    limits: rate_limit::Memory,
    /// Closed when the shutdown that is under way has ended.
    closing: Option<watch::Receiver<()>>,
}

/// What decides whether two engines see the same sessions and copies.
///
/// Credentials do not: with better ones the same copies are read.
type Servers = (Option<(Place, u32)>, Option<String>, String);

fn servers(config: &Config) -> Servers {
    let redis = config.redis.as_ref().map(|redis| (redis.place.clone(), redis.database));
    (redis, config.database.as_ref().map(DatabaseConfig::place), config.key_prefix.clone())
}

impl Process {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open engine, or a new one from `environment`, which is asked only then. Connects and starts nothing.
///
/// # Errors
/// [`crate::error::Error::InvalidConfig`]; the next call tries anew.
pub fn engine(environment: impl FnOnce() -> Environment) -> Result<Arc<Engine>> {
    let mut state = PROCESS.state();
    if let Some(engine) = &state.open {
        return Ok(engine.clone());
    }
    let config = Config::try_new(&environment())?;
    PROCESS.log.start(&config.log_filter)?;
    let memory = || Memory::new(config.redis.is_some(), config.local_entries);
    let memory = state.memories.entry(servers(&config)).or_insert_with(memory).clone();
    let limits = state.limits.clone();
    let engine = Arc::new(Engine::new(&config, memory, limits, PROCESS.breakers.clone().changes())?);
    state.open = Some(engine.clone());
    Ok(engine)
}

/// The open engine, if there is one.
pub fn opened() -> Option<Arc<Engine>> {
    PROCESS.state().open.clone()
}

/// True if nothing is open and nothing is being closed.
pub fn idle() -> bool {
    let state = PROCESS.state();
    let closing = state.closing.as_ref().is_some_and(|closing| closing.has_changed().is_ok());
    state.open.is_none() && !closing
}

/// The process's runtime, which the first call starts together with the engine's background work.
///
/// # Errors
/// [`Error::Internal`] where the system refuses another thread.
pub fn runtime() -> Result<Handle> {
    let build = || Builder::new_multi_thread().worker_threads(WORKERS).thread_name("studio-redis").enable_all().build();
    let runtime = PROCESS.runtime.get_or_try_init(build);
    let runtime = runtime.map_err(|error| Error::Internal(format!("no thread can be started: {error}")))?;
    if let Some(engine) = opened() {
        engine.start(runtime.handle());
    }
    Ok(runtime.handle().clone())
}

/// Runs a future on the process's runtime; drops it, which whoever waits for it notices, where there can be none.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    match runtime() {
        Ok(runtime) => drop(runtime.spawn(future)),
        Err(error) => tracing::error!("{error}"),
    }
}

/// Closes the engine within `time`. The next call opens a new one. Callers of a second shutdown wait for the first.
pub async fn shutdown(time: Duration) {
    let (done, wait) = watch::channel(());
    let (engine, earlier) = {
        let mut state = PROCESS.state();
        let engine = state.open.take();
        let earlier = if engine.is_some() { state.closing.replace(wait) } else { state.closing.clone() };
        (engine, earlier)
    };
    let both = async {
        if let Some(engine) = engine {
            engine.close(time).await;
        }
        if let Some(mut earlier) = earlier {
            // Resolves when the other shutdown drops its end.
            let _ = earlier.changed().await;
        }
    };
    let _ = timeout(time + GRACE, both).await;
    drop(done);
}

/// What `close` may take beyond its time to drop what it cut off.
const GRACE: Duration = Duration::from_millis(100);

/// Who is told of breakers.
pub fn breakers() -> &'static Arc<Listeners> {
    &PROCESS.breakers
}

/// The log of this process.
pub fn log() -> &'static Log {
    &PROCESS.log
}
