//! Every Redis server that is in use: one breaker a server; one pool for a server, a database and credentials.

use super::redis::{Membership, Redis};
use crate::config::{MAX_IN_FLIGHT, REDIS_DEADLINE};
use crate::error::Error;
use crate::redis_url::{Login, Place, RedisUrl, UrlDefaults};
use crate::resilience::breaker::{Policy, State};
use crate::resilience::guard::{Guard, OnChange};
use crate::stores::redis::{
    Access, Cluster, Connector, Fleet, OnNewLife, Origin, Plan, Pool, Replicas, Role, Sentinels, Sizes, Topology,
};
use crate::tls::Tls;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// A pool that nobody used for this long is closed.
const IDLE_POOL: Duration = Duration::from_secs(5 * 60);

/// The same for a pool all of whose clients are gone without having been closed.
const IDLE_POOL_OF_NOBODY: Duration = Duration::from_secs(5);

/// Pools at most; beyond it the least recently used idle one goes, or soon goes if all are in use at the moment.
const MAX_POOLS: usize = 32;

/// Calls that may be unanswered on one connection. The guard bounds those that somebody waits for; those whose deadline
/// has come stand in the line until a silent connection is given up, after 3 s.
const MAX_ON_A_LINK: usize = 4 * MAX_IN_FLIGHT;

/// Makes what a guard tells of its breaker's changes.
pub type Changes = Arc<dyn Fn(&Arc<str>, State) + Send + Sync>;

/// The pools and breakers of one engine.
pub struct Servers {
    registry: Mutex<Registry>,
    changes: Changes,
    /// What the environment says about every URL.
    defaults: UrlDefaults,
    connector: Arc<Connector>,
}

#[derive(Default)]
struct Registry {
    guards: HashMap<Place, Arc<Guard>>,
    /// By whom and how they are asked.
    sentinels: HashMap<(Place, Login, bool), Weak<Sentinels>>,
    topologies: HashMap<(Place, Login, bool), Weak<Topology>>,
    pools: HashMap<RedisUrl, Arc<Redis>>,
    closed: bool,
}

impl Servers {
    pub fn new(changes: Changes, defaults: UrlDefaults, tls: Arc<Tls>) -> Self {
        Self { registry: Mutex::default(), changes, defaults, connector: Arc::new(Connector::new(tls)) }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guard of a server, whoever asks it and for whatever.
    pub fn guard(&self, url: &RedisUrl) -> Arc<Guard> {
        self.registry().guard(url, &self.changes)
    }

    /// What lets a deployment be tried again at once when another server stands in for the one that failed: no need to wait
    /// until the breaker would try. `None` for a server that stands alone.
    pub fn revive(&self, url: &RedisUrl) -> Option<OnNewLife> {
        let guard = self.guard(url);
        (!matches!(url.place, Place::Single(_))).then(|| -> OnNewLife { Arc::new(move || guard.try_soon()) })
    }

    /// Where connections for a URL are made to.
    pub fn origin(&self, url: &RedisUrl) -> Origin {
        self.registry().origin(url, &self.connector)
    }

    /// The state of a server's breaker; that of a server that nobody has asked yet is closed.
    pub fn breaker(&self, url: &RedisUrl) -> State {
        let url = url.clone().completed(&self.defaults);
        self.registry().guards.get(&url.place).map_or(State::Closed, |guard| guard.state())
    }

    /// The pool for a URL, with at least these sizes; `None` once all was closed.
    pub fn join(&self, url: &RedisUrl, sizes: Sizes, runtime: &Handle) -> Option<Membership> {
        let url = url.clone().completed(&self.defaults);
        let mut registry = self.registry();
        if registry.closed {
            return None;
        }
        if let Some(redis) = registry.pools.get(&url) {
            redis.fleet.enlarge(sizes);
            return Some(Membership::new(redis.clone()));
        }
        let outdated = if registry.pools.len() < MAX_POOLS { None } else { registry.least_recently_used() };
        let guard = registry.guard(&url, &self.changes);
        let origin = registry.origin(&url, &self.connector);
        let name = format!("studio-redis-native:{}:commands", std::process::id());
        let fleet = fleet(&origin, name, sizes, runtime, &guard, matches!(url.place, Place::Single(_)));
        let redis = Arc::new(Redis::new(url.clone(), &origin, fleet, guard));
        registry.pools.insert(url, redis.clone());
        let membership = Membership::new(redis);
        drop(registry);
        if let Some(outdated) = outdated {
            outdated.close(&CLOSED_AS_IDLE);
        }
        Some(membership)
    }

    /// Gives a share back for good. The last one ends the pool.
    pub fn leave(&self, membership: &Membership) {
        let mut registry = self.registry();
        let redis = membership.redis();
        let last = membership.leave();
        if last {
            redis.retire();
            registry.forget(redis);
        }
        drop(registry);
        if last {
            redis.close(&Error::Closed("This client was closed."));
        }
    }

    /// Closes lanes and pools that nobody has used for a while, and forgets breakers that nobody needs.
    pub fn tend(&self) {
        let mut registry = self.registry();
        let pools: Vec<_> = registry.pools.values().cloned().collect();
        let outdated =
            |redis: &Arc<Redis>| redis.idle_for() > if redis.has_clients() { IDLE_POOL } else { IDLE_POOL_OF_NOBODY };
        let (mut idle, used): (Vec<_>, Vec<_>) =
            pools.into_iter().partition(|redis| outdated(redis) && redis.retire_if_idle());
        for redis in &idle {
            registry.forget(redis);
        }
        while registry.pools.len() > MAX_POOLS
            && let Some(outdated) = registry.least_recently_used()
        {
            idle.push(outdated);
        }
        registry.guards.retain(|_, guard| Arc::strong_count(guard) > 1 || guard.state() == State::Open);
        drop(registry);
        for redis in idle {
            redis.close(&CLOSED_AS_IDLE);
        }
        for redis in used {
            redis.fleet.tend(Instant::now());
        }
    }

    /// No new call gets in from now on.
    pub fn retire(&self) {
        let mut registry = self.registry();
        registry.closed = true;
        for redis in registry.pools.values() {
            redis.retire();
        }
    }

    /// Nobody waits for an answer.
    pub fn is_idle(&self) -> bool {
        self.registry().pools.values().all(|redis| redis.is_idle())
    }

    /// Ends every pool; what is unanswered fails with `error`.
    pub fn close(&self, error: &Error) {
        let pools = {
            let mut registry = self.registry();
            registry.closed = true;
            std::mem::take(&mut registry.pools)
        };
        for redis in pools.values() {
            redis.close(error);
        }
    }
}

/// What answers the commands for an origin.
fn fleet(origin: &Origin, name: String, sizes: Sizes, runtime: &Handle, guard: &Arc<Guard>, single: bool) -> Fleet {
    let runtime = runtime.clone();
    let again = guard.clone();
    // Another server stands in for the one that failed: no need to wait until the breaker would try.
    let on_new_life: OnNewLife = Arc::new(move || again.try_soon());
    if let Some(topology) = origin.topology() {
        let cluster = Cluster::new(topology.clone(), name, MAX_ON_A_LINK, sizes, runtime, on_new_life);
        return Fleet::Cluster(cluster);
    }
    let plan = Plan::new(origin.clone(), name.clone(), MAX_ON_A_LINK);
    let primary = Pool::new(plan, sizes, runtime, (!single).then_some(on_new_life));
    let replicas = Box::new(Replicas::new(origin.clone(), primary.clone(), name, MAX_ON_A_LINK));
    Fleet::One { primary, replicas }
}

/// Nobody sees this one: a pool is only closed as idle when it is.
const CLOSED_AS_IDLE: Error = Error::Closed("The pool was closed, because nobody used it.");

impl Registry {
    fn guard(&mut self, url: &RedisUrl, changes: &Changes) -> Arc<Guard> {
        let new = || {
            let changes = changes.clone();
            let on_change: OnChange = Box::new(move |server, state| changes(server, state));
            let guard = Guard::new(server(url), Policy::REDIS, REDIS_DEADLINE, MAX_IN_FLIGHT);
            Arc::new(guard.with_on_change(on_change))
        };
        self.guards.entry(url.place.clone()).or_insert_with(new).clone()
    }

    fn origin(&mut self, url: &RedisUrl, connector: &Arc<Connector>) -> Origin {
        let tls = url.tls.then(|| connector.clone());
        let access = Access { login: url.login.clone(), database: url.database, tls: tls.clone() };
        match &url.place {
            Place::Single(address) => Origin::at(address.clone(), Role::Any, access, server(url)),
            Place::Sentinel { sentinels, master } => {
                let key = (url.place.clone(), url.sentinel_login.clone(), url.tls);
                let known = self.sentinels.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                    let login = url.sentinel_login.clone();
                    let sentinels = Arc::new(Sentinels::new(sentinels.clone(), master.clone(), login, tls));
                    self.sentinels.retain(|_, others| others.strong_count() > 0);
                    self.sentinels.insert(key, Arc::downgrade(&sentinels));
                    sentinels
                });
                Origin::primary(known, access, server(url))
            }
            Place::Cluster(seeds) => {
                let key = (url.place.clone(), url.login.clone(), url.tls);
                let known = self.topologies.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                    let topology = Arc::new(Topology::new(seeds.clone(), access, server(url)));
                    self.topologies.retain(|_, others| others.strong_count() > 0);
                    self.topologies.insert(key, Arc::downgrade(&topology));
                    topology
                });
                Origin::member(known)
            }
        }
    }

    /// Takes out the pool that was not used for the longest time, if any is idle.
    fn least_recently_used(&mut self) -> Option<Arc<Redis>> {
        let mut pools: Vec<_> = self.pools.values().cloned().collect();
        pools.sort_by_key(|redis| std::cmp::Reverse(redis.idle_for()));
        let outdated = pools.into_iter().find(|redis| redis.retire_if_idle())?;
        self.forget(&outdated);
        Some(outdated)
    }

    fn forget(&mut self, redis: &Arc<Redis>) {
        if self.pools.get(&redis.url).is_some_and(|known| Arc::ptr_eq(known, redis)) {
            self.pools.remove(&redis.url);
        }
    }
}

/// How messages name a server.
pub fn server(url: &RedisUrl) -> Arc<str> {
    format!("Redis at {url}").into()
}
