//! One whole engine from one [`Config`]: the only place that knows which store is behind which feature.

pub mod limits;
mod news;
pub mod redis;
mod servers;

use crate::config::{Config, MAX_IN_FLIGHT, POSTGRES_DEADLINE};
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::metrics::SessionCounters;
use crate::rate_limit::{self, Limits, Trust};
use crate::redis_url::RedisUrl;
use crate::resilience::breaker::{Policy, State};
use crate::resilience::guard::Guard;
use crate::sessions::{Guarded, Memory, Settings};
use crate::stores::postgres::{INSTALL_TRIGGERS, Postgres, PostgresOptions, UNINSTALL_TRIGGERS};
use crate::stores::redis::{RedisSessions, Seal, SessionLinks};
use limits::SharedLimits;
use news::{FromPostgres, FromRedis};
use redis::PoolStats;
pub use servers::Changes;
use servers::Servers;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// The session cache over Redis and Postgres.
pub type Sessions = crate::sessions::Sessions<RedisSessions, Postgres>;

/// How often `close` looks whether the last call has its answer.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// How often idle connections are looked for.
const TEND_STEP: Duration = Duration::from_secs(5);

/// Why what is cut off by `close` fails.
const SHUT_DOWN: Error = Error::Closed("It was ended by shutdown().");

/// Everything that lives until `shutdown()`.
pub struct Engine {
    sessions: Arc<Sessions>,
    limits: Arc<SharedLimits>,
    memory: Memory,
    /// Where `REDIS_URL` points, and the connections there that carry sessions and nothing else.
    redis: Option<(RedisUrl, Arc<SessionLinks>)>,
    servers: Arc<Servers>,
    postgres: Option<Arc<Guarded<Postgres>>>,
    trust: Trust,
    background: OnceLock<()>,
    warned: OnceLock<()>,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What to do about the triggers by which Postgres tells of writes by anyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Triggers {
    Install,
    Uninstall,
}

/// The two breakers.
#[derive(Debug, Clone, Copy)]
pub struct Breakers {
    pub redis: State,
    pub postgres: State,
}

impl Engine {
    /// Plans everything; connects and starts nothing. `memory` is what an earlier engine on the same servers left, `limits`
    /// what any earlier one left; `changes` is told of every breaker that changes.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if `DATABASE_URL` cannot be read.
    pub fn new(config: &Config, memory: Memory, limits: rate_limit::Memory, changes: Changes) -> Result<Self> {
        let servers = Arc::new(Servers::new(changes.clone(), config.url_defaults.clone(), config.tls.clone()));
        let (keys, counters) = (Keys::new(&config.key_prefix), Arc::new(SessionCounters::default()));
        let redis = config.redis.clone().map(|url| {
            let name = format!("studio-redis-native:{}:sessions", std::process::id());
            let revive = servers.revive(&url);
            let followers = Arc::new(FromRedis::new(memory.clone(), counters.clone(), keys.clone(), revive));
            let origin = servers.origin(&url);
            (url, Arc::new(SessionLinks::new(origin, name, MAX_IN_FLIGHT, keys.sessions(), followers)))
        });
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
                let on_change = Box::new(move |server: &Arc<str>, state| changes(server, state));
                Some(Arc::new(Guarded { store, guard: Arc::new(guard.with_cap(cap).with_on_change(on_change)) }))
            }
        };
        let copies = redis.as_ref().map(|(url, links)| Guarded {
            store: RedisSessions::new(links.clone(), keys.clone(), Seal::new(&config.cache_secrets)),
            guard: servers.guard(url),
        });
        let (most_keys, share) = (config.limit_keys as usize, config.instance_share);
        let limits = Limits::new(limits, keys.clone(), redis.is_some(), most_keys, share);
        let settings = Settings {
            enabled: config.cache_enabled,
            local_enabled: config.local_enabled,
            ttl: config.cache_ttl,
            flush: config.activity_flush,
        };
        memory.local().limit(config.local_entries);
        Ok(Self {
            sessions: Arc::new(Sessions::new(copies, postgres.clone(), memory.clone(), counters, settings)),
            limits: Arc::new(SharedLimits::new(limits)),
            memory,
            redis,
            servers,
            postgres,
            trust: Trust { hops: config.proxy_hops, real_ip: config.trust_real_ip },
            background: OnceLock::new(),
            warned: OnceLock::new(),
            tasks: Mutex::default(),
        })
    }

    /// Starts what runs beside the calls: delivery of invalidations, the listener, the end of idle connections. Once.
    pub fn start(&self, runtime: &Handle) {
        self.background.get_or_init(|| {
            let sessions = self.sessions.clone();
            let mut tasks = vec![runtime.spawn(async move { sessions.run().await }).abort_handle()];
            let servers = self.servers.clone();
            let tend = async move {
                loop {
                    sleep(TEND_STEP).await;
                    servers.tend();
                }
            };
            tasks.push(runtime.spawn(tend).abort_handle());
            if let Some(postgres) = &self.postgres {
                let postgres = postgres.clone();
                let mut news = FromPostgres::new(self.memory.clone(), self.sessions.clone(), postgres.clone());
                let heard = move |event| news.hear(event);
                tasks.push(runtime.spawn(async move { postgres.store.listen(heard).await }).abort_handle());
            }
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
        });
    }

    /// The session cache.
    pub fn sessions(&self) -> &Arc<Sessions> {
        self.warn_without_redis();
        &self.sessions
    }

    /// The rate limits.
    pub fn limits(&self) -> &Arc<SharedLimits> {
        &self.limits
    }

    /// Who is believed to say where a request comes from.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Says once, to those who count on it, that there is no `REDIS_URL`.
    fn warn_without_redis(&self) {
        if self.redis.is_none() {
            self.warned.get_or_init(|| {
                tracing::warn!(
                    "REDIS_URL is not set: there is no client for it, no copies of sessions that processes share, and limits hold \
                     for each process alone"
                );
            });
        }
    }

    /// Where `REDIS_URL` points; `None` if it is not set.
    pub fn redis_url(&self) -> Option<&RedisUrl> {
        self.warn_without_redis();
        self.redis.as_ref().map(|(url, _)| url)
    }

    /// The connections of sessions; `None` without `REDIS_URL`.
    pub fn session_connections(&self) -> Option<PoolStats> {
        self.sessions.copies().map(|copies| copies.stats().into())
    }

    /// Every Redis server in use.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// State of the breakers of `REDIS_URL` and `DATABASE_URL`; a server that is not configured has not failed.
    pub fn breakers(&self) -> Breakers {
        Breakers {
            redis: self.redis.as_ref().map_or(State::Closed, |(url, _)| self.servers.breaker(url)),
            postgres: self.postgres.as_ref().map_or(State::Closed, |postgres| postgres.guard.state()),
        }
    }

    /// Installs or removes the triggers, and returns the SQL; with `dry_run` it is only returned.
    ///
    /// # Errors
    /// [`Error::SessionStore`] with the cure if Postgres refuses or does not answer.
    pub async fn triggers(&self, what: Triggers, dry_run: bool) -> Result<&'static str> {
        let postgres = self.postgres.as_deref().ok_or(Error::NotConfigured("DATABASE_URL"))?;
        let run = async {
            match what {
                Triggers::Install => postgres.store.install_triggers().await,
                Triggers::Uninstall => postgres.store.uninstall_triggers().await,
            }
        };
        if !dry_run {
            postgres.guard.run(postgres.guard.deadline(), run).await.map_err(Error::session_store)?;
        }
        Ok(match what {
            Triggers::Install => INSTALL_TRIGGERS,
            Triggers::Uninstall => UNINSTALL_TRIGGERS,
        })
    }

    /// Lets calls that are under way finish, delivers invalidations, then closes every connection; all within `time`.
    pub async fn close(self: Arc<Self>, time: Duration) {
        let deadline = Instant::now() + time;
        self.servers.retire();
        let finish = async {
            // A call holds the engine, or is counted by its pool, until it has its answer.
            while Arc::strong_count(&self) > 1 || !self.servers.is_idle() {
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
        if let Some((_, links)) = &self.redis {
            links.close(&SHUT_DOWN);
        }
        self.servers.close(&SHUT_DOWN);
        // Nobody tells it anything from now on.
        self.memory.forget_all();
        if let Some(postgres) = &self.postgres {
            // What is not closed by then, because the server is away, is closed by the operating system.
            let _ = timeout_at(deadline, postgres.store.close()).await;
        }
    }
}
