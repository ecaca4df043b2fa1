//! One whole engine from one [`Config`]: the only place that knows which store is behind which feature.

use crate::config::{Config, MAX_IN_FLIGHT, POSTGRES_DEADLINE, REDIS_DEADLINE};
use crate::error::Result;
use crate::keys::Keys;
use crate::redis_url::RedisUrl;
use crate::redis_value::Value;
use crate::resilience::breaker::{Policy, State};
use crate::resilience::guard::Guard;
use crate::sessions::{Guarded, Memory};
use crate::stores::postgres::{Event, Postgres, PostgresOptions};
use crate::stores::redis::{Lane, RedisSessions};
use bytes::Bytes;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// The session cache over Redis and Postgres.
pub type Sessions = crate::sessions::Sessions<RedisSessions, Postgres>;

/// How often `close` looks whether the last call has its answer.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// Everything that lives until `shutdown()`.
pub struct Engine {
    sessions: Arc<Sessions>,
    redis: Option<Redis>,
    postgres: Option<Arc<Guarded<Postgres>>>,
    background: OnceLock<()>,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// The two breakers.
#[derive(Debug, Clone, Copy)]
pub struct Breakers {
    pub redis: State,
    pub postgres: State,
}

impl Engine {
    /// Plans everything; connects and starts nothing. `memory` is what an earlier engine on the same servers left.
    ///
    /// # Errors
    /// [`crate::error::Error::InvalidConfig`] if `DATABASE_URL` cannot be read.
    pub fn new(config: &Config, memory: Memory) -> Result<Self> {
        let redis = config.redis.clone().map(Redis::new);
        if redis.is_none() {
            tracing::warn!("REDIS_URL is not set: every session is read from Postgres");
        }
        let postgres = match &config.database {
            None => None,
            Some(database) => {
                let store = Postgres::new(PostgresOptions {
                    url: database.url.reveal().to_owned(),
                    pool_size: database.pool_size,
                    statement_cache: database.statement_cache,
                })?;
                let cap = database.pool_size as usize;
                let guard = Guard::new(store.server().clone(), Policy::POSTGRES, POSTGRES_DEADLINE, MAX_IN_FLIGHT);
                Some(Arc::new(Guarded { store, guard: Arc::new(guard.with_cap(cap)) }))
            }
        };
        let copies = redis.as_ref().map(|redis| Guarded {
            store: RedisSessions::new(redis.sessions.clone(), Keys::new(&config.key_prefix)),
            guard: redis.guard.clone(),
        });
        Ok(Self {
            sessions: Arc::new(Sessions::new(copies, postgres.clone(), memory, config.cache_enabled, config.cache_ttl)),
            redis,
            postgres,
            background: OnceLock::new(),
            tasks: Mutex::default(),
        })
    }

    /// Starts what runs beside the calls: delivery of invalidations, and the listener. Once.
    pub fn start(&self, runtime: &Handle) {
        self.background.get_or_init(|| {
            let sessions = self.sessions.clone();
            let mut tasks = vec![runtime.spawn(async move { sessions.run().await }).abort_handle()];
            if let Some(postgres) = &self.postgres {
                let (postgres, sessions) = (postgres.clone(), self.sessions.clone());
                let mut lost = false;
                let heard = move |event| match event {
                    Event::Forget(token) => sessions.forget_heard(token),
                    Event::Lost => lost = true,
                    Event::Connected if lost => sessions.missed_news(),
                    Event::Connected => {}
                };
                tasks.push(runtime.spawn(async move { postgres.store.listen(heard).await }).abort_handle());
            }
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
        });
    }

    /// The session cache.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Redis for commands; `None` if `REDIS_URL` is not set.
    pub fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    /// State of the breakers of `REDIS_URL` and `DATABASE_URL`; a server that is not configured has not failed.
    pub fn breakers(&self) -> Breakers {
        let state = |guard: Option<&Arc<Guard>>| guard.map_or(State::Closed, |guard| guard.state());
        Breakers {
            redis: state(self.redis.as_ref().map(|redis| &redis.guard)),
            postgres: state(self.postgres.as_ref().map(|postgres| &postgres.guard)),
        }
    }

    /// Lets calls that are under way finish, delivers invalidations, then closes every connection; all within `time`.
    pub async fn close(self: Arc<Self>, time: Duration) {
        let deadline = Instant::now() + time;
        let finish = async {
            // A call holds the engine until it has its answer.
            while Arc::strong_count(&self) > 1 {
                sleep(DRAIN_STEP).await;
            }
            self.sessions.finish().await;
        };
        if timeout_at(deadline, finish).await.is_err() {
            tracing::warn!("shutdown cut off what was not finished within {} ms", time.as_millis());
        }
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        if let Some(redis) = &self.redis {
            redis.sessions.close();
            redis.commands.close();
        }
        if let Some(postgres) = &self.postgres {
            // What is not closed by then, because the server is away, is closed by the operating system.
            let _ = timeout_at(deadline, postgres.store.close()).await;
        }
    }
}

/// What `getPoolStats()` returns. On a multiplexed connection nobody waits for a connection, only for answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Open connections.
    pub size: usize,
    /// Open connections on which every command was answered.
    pub available: usize,
    /// Commands that wait for an answer.
    pub pending: usize,
}

/// One Redis server: the session lane, a lane for commands, and the breaker that both share. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    sessions: Arc<Lane>,
    commands: Arc<Lane>,
    guard: Arc<Guard>,
}

impl Redis {
    fn new(url: RedisUrl) -> Self {
        let server: Arc<str> = format!("Redis at {url}").into();
        let lane = |role: &str| {
            let name = format!("studio-redis-native:{}:{role}", std::process::id());
            Arc::new(Lane::new(url.clone(), server.clone(), name, MAX_IN_FLIGHT))
        };
        let guard = Guard::new(server.clone(), Policy::REDIS, REDIS_DEADLINE, MAX_IN_FLIGHT);
        Self { sessions: lane("sessions"), commands: lane("commands"), guard: Arc::new(guard) }
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// The errors of the contract's fifth section that concern Redis.
    pub async fn command(&self, arguments: Vec<Bytes>) -> Result<Value> {
        let call = async { self.commands.link().await?.send(&arguments).await };
        self.guard.run(self.guard.deadline(), call).await
    }

    /// True if the server answers a PING within its deadline.
    pub async fn health(&self) -> bool {
        self.command(vec![Bytes::from_static(b"PING")]).await.is_ok()
    }

    /// Connections and commands at this moment.
    pub fn stats(&self) -> PoolStats {
        let open = [&self.sessions, &self.commands].into_iter().filter_map(|lane| lane.up());
        open.fold(PoolStats { size: 0, available: 0, pending: 0 }, |stats, link| {
            let unanswered = link.unanswered();
            PoolStats {
                size: stats.size + 1,
                available: stats.available + usize::from(unanswered == 0),
                pending: stats.pending + unanswered,
            }
        })
    }
}
