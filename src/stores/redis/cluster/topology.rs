//! What is known of a cluster: which primary serves which slot.
//!
//! One task asks whichever node answers, at first, when somebody doubts what is known, and every few seconds besides.

use super::redirect::Redirect;
use super::slots::SlotMap;
use crate::config::REDIS_DEADLINE;
use crate::error::{Error, Result};
use crate::random;
use crate::redis_url::Address;
use crate::redis_value::Value;
use crate::stores::redis::origin::{Access, Origin, Role};
use crate::stores::redis::replication::info_field;
use crate::stores::redis::wire::{Purpose, Wire};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// How often a cluster is asked that nobody doubts.
const PERIOD: Duration = Duration::from_secs(5);

/// Least time between two questions: news of a failover come in many pieces.
const PAUSE: Duration = Duration::from_millis(50);

/// While no node answers: doubled from the first to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// So many rounds in which nobody but nodes that are behind have answered say that they are right.
const SET_UP_ANEW: u32 = 5;

/// A node that has not answered after this long is not waited for alone.
const NEXT_AFTER: Duration = Duration::from_millis(200);

/// What is known.
#[derive(Clone)]
enum Known {
    Nothing,
    Map(Arc<SlotMap>),
    /// No node answers, or none is one of a cluster.
    Not(Error),
}

/// The nodes of one cluster, for everything that connects to them.
pub struct Topology {
    seeds: Vec<Address>,
    access: Access,
    server: Arc<str>,
    known: watch::Sender<Known>,
    /// Of the newest answer that was believed: a node that is behind the others knows an older one.
    epoch: AtomicU64,
    /// Answers since then that were older.
    behind: AtomicU64,
    doubted: Arc<Notify>,
    /// How many want it to be kept up with.
    users: AtomicUsize,
    /// Whom to ask next, because it said something new.
    witness: Mutex<Option<Address>>,
    task: OnceLock<AbortHandle>,
}

/// What a node said.
struct Answer {
    wire: Wire,
    map: SlotMap,
    epoch: u64,
}

impl Topology {
    /// Connects nothing. `server` names the cluster in errors and in the log.
    pub fn new(seeds: Vec<Address>, access: Access, server: Arc<str>) -> Self {
        Self {
            seeds,
            access,
            server,
            known: watch::Sender::new(Known::Nothing),
            epoch: AtomicU64::new(0),
            behind: AtomicU64::new(0),
            doubted: Arc::default(),
            users: AtomicUsize::new(0),
            witness: Mutex::default(),
            task: OnceLock::new(),
        }
    }

    pub fn server(&self) -> &Arc<str> {
        &self.server
    }

    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Begins to ask, and goes on until every user has left.
    pub fn join(self: &Arc<Self>, runtime: &Handle) {
        self.users.fetch_add(1, Relaxed);
        self.task.get_or_init(|| runtime.spawn(keep_up(Arc::downgrade(self))).abort_handle());
        self.doubt();
    }

    /// One of those who joined needs it no more.
    pub fn leave(&self) {
        self.users.fetch_sub(1, Relaxed);
        self.doubt();
    }

    /// What is known at this moment.
    pub fn map(&self) -> Option<Arc<SlotMap>> {
        match &*self.known.borrow() {
            Known::Map(map) => Some(map.clone()),
            Known::Nothing | Known::Not(_) => None,
        }
    }

    /// Waits until something is known; fails at once while no node answers.
    pub async fn known(self: &Arc<Self>) -> Result<Arc<SlotMap>> {
        if let Some(map) = self.map() {
            return Ok(map);
        }
        self.join(&Handle::current());
        let _leaving = Leaving(self);
        let mut known = self.known.subscribe();
        let known = known.wait_for(|known| !matches!(known, Known::Nothing)).await;
        match known.as_deref() {
            Ok(Known::Map(map)) => Ok(map.clone()),
            Ok(Known::Not(error)) => Err(error.clone()),
            Ok(Known::Nothing) | Err(_) => Err(self.lost("it was closed")),
        }
    }

    /// Changes when what is known does.
    pub fn changes(&self) -> TopologyChanges {
        TopologyChanges(self.known.subscribe())
    }

    /// Resolves when the node there is no part of the cluster any more: on its own it would be silent for ever.
    pub async fn without(self: &Arc<Self>, address: &Address) {
        self.join(&Handle::current());
        let _leaving = Leaving(self);
        let mut changes = self.changes();
        while self.map().is_none_or(|map| map.has(address)) && changes.next().await {}
    }

    /// Something is not as it was said to be: the cluster is asked again soon.
    pub fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// A node said where a slot is served now.
    pub fn redirected(&self, redirect: &Redirect) {
        if let Redirect::Moved { slot, to } = redirect {
            self.known.send_if_modified(|known| match known {
                Known::Map(map) if map.primary(*slot) != Some(to) => {
                    Arc::make_mut(map).moved(*slot, to.clone());
                    true
                }
                _ => false,
            });
            *self.witness.lock().unwrap_or_else(PoisonError::into_inner) = Some(to.clone());
            self.doubt();
        }
    }

    fn lost(&self, reason: impl Into<String>) -> Error {
        Error::Connection { server: self.server.clone(), reason: reason.into() }
    }

    /// Nodes to ask, those that are most likely to know first.
    fn candidates(&self) -> Vec<Address> {
        let witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner).take();
        let map = self.map();
        let primaries: Vec<_> = map.iter().flat_map(|map| map.primaries()).collect();
        let replicas = map.iter().flat_map(|map| primaries.iter().flat_map(|primary| map.replicas(primary)));
        let mut all: Vec<Address> = Vec::new();
        let known = primaries.iter().copied().chain(replicas).chain(&self.seeds);
        for address in witness.iter().chain(known) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    async fn ask(&self, last: Option<Wire>) -> Result<Answer> {
        if let Some(wire) = last
            && let Ok(answer) = self.ask_on(wire).await
        {
            return Ok(answer);
        }
        let mut asking = JoinSet::new();
        for (turn, address) in self.candidates().into_iter().enumerate() {
            let origin = Origin::at(address, Role::Any, self.access.clone(), self.server.clone());
            asking.spawn(async move {
                sleep(NEXT_AFTER.saturating_mul(u32::try_from(turn).unwrap_or(u32::MAX))).await;
                let name = format!("studio-redis-native:{}:topology", std::process::id());
                Wire::open(&origin, &name, Purpose::Questions).await
            });
        }
        let mut error = self.lost("no node is known");
        while let Some(opened) = asking.join_next().await {
            let Ok(opened) = opened else { continue };
            match opened {
                Ok(wire) => match self.ask_on(wire).await {
                    Ok(answer) => return Ok(answer),
                    Err(wrong) => error = wrong,
                },
                Err(wrong) => error = wrong,
            }
        }
        Err(error)
    }

    async fn ask_on(&self, wire: Wire) -> Result<Answer> {
        let ask = async |what: &'static str| {
            let command = [Bytes::from_static(b"CLUSTER"), Bytes::from_static(what.as_bytes())];
            let late = |_| Error::Timeout { server: self.server.clone(), after: REDIS_DEADLINE };
            timeout(REDIS_DEADLINE, wire.command(&command)).await.map_err(late)?
        };
        let info = ask("INFO").await.map_err(|error| match error {
            Error::Reply { text, .. } if text.contains("cluster support disabled") => {
                self.lost("the server is not part of a cluster; use redis: for a single server")
            }
            error => error,
        })?;
        if info_field(&info, "cluster_state") == Some("fail") && self.map().is_some() {
            return Err(self.lost("the node that was asked is cut off from the others"));
        }
        let epoch = info_field(&info, "cluster_current_epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
        if epoch < self.epoch.load(Relaxed) {
            self.behind.fetch_add(1, Relaxed);
            return Err(self.lost("the node that was asked is behind the others"));
        }
        let slots: Value = ask("SLOTS").await?;
        let map = SlotMap::read(&slots, wire.address())
            .ok_or_else(|| self.lost("the server's list of slots is not understood"))?;
        if map.primaries().next().is_none() {
            return Err(self.lost("no slot of the cluster is served"));
        }
        Ok(Answer { wire, map, epoch })
    }

    fn learn(&self, map: SlotMap, epoch: u64) {
        self.epoch.store(epoch, Relaxed);
        self.behind.store(0, Relaxed);
        self.known.send_if_modified(|known| match known {
            Known::Map(old) if **old == map => false,
            _ => {
                *known = Known::Map(Arc::new(map));
                true
            }
        });
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Leaves when it is dropped.
struct Leaving<'a>(&'a Topology);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Tells that what is known of a cluster has changed.
pub struct TopologyChanges(watch::Receiver<Known>);

impl TopologyChanges {
    /// Waits for the next change; `false` once there will be none.
    pub async fn next(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

async fn keep_up(topology: Weak<Topology>) {
    let (mut last, mut backoff, mut rounds) = (None, FIRST_BACKOFF, 0);
    loop {
        let Some(topology) = topology.upgrade() else { return };
        if topology.users.load(Relaxed) == 0 {
            // Nobody wants to know: no connection either.
            last = None;
            let doubted = topology.doubted.clone();
            drop(topology);
            doubted.notified().await;
            continue;
        }
        let pause = match topology.ask(last.take()).await {
            Ok(Answer { wire, map, epoch }) => {
                topology.learn(map, epoch);
                last = Some(wire);
                (backoff, rounds) = (FIRST_BACKOFF, 0);
                PERIOD
            }
            Err(error) => {
                rounds += 1;
                if rounds >= SET_UP_ANEW && topology.behind.load(Relaxed) > 0 {
                    tracing::warn!(server = %topology.server, "every node that answers is behind what was known: the cluster was \
                        set up anew, and is believed from now on");
                    topology.epoch.store(0, Relaxed);
                }
                topology.known.send_if_modified(|known| match known {
                    Known::Map(_) => false,
                    Known::Nothing | Known::Not(_) => {
                        if matches!(known, Known::Nothing) {
                            tracing::warn!(server = %topology.server, "no node of the cluster answers: {error}");
                        }
                        *known = Known::Not(error);
                        true
                    }
                });
                let pause = random::shortened(backoff);
                backoff = (backoff * 2).min(LAST_BACKOFF);
                pause
            }
        };
        let doubted = topology.doubted.clone();
        // While it waits, it keeps nothing alive.
        drop(topology);
        tokio::select! {
            () = sleep(pause) => {}
            () = doubted.notified(), if pause == PERIOD => sleep(PAUSE).await,
        }
    }
}
