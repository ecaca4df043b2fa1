//! A cluster: commands go to the primaries that serve their slots, and follow these when they move.
//!
//! | file | what |
//! |---|---|
//! | [`slots`], [`keys`], [`command`], [`route`], [`redirect`], [`join`] | pure: what belongs where, what an answer says of it, how answers become one |
//! | [`topology`] | asks the nodes which of them serves what |
//! | [`leg`] | one command on its way, until it has its answer from the right node |

mod collector;
mod command;
mod join;
mod keys;
mod leg;
mod redirect;
mod route;
mod slots;
#[cfg(test)]
mod tests;
mod topology;

use super::link::Departure;
use super::nodes::{NodePlan, Nodes};
use super::origin::Role;
use super::pool::{Home, LaneStats, OnNewLife, Pool, Sizes};
use crate::config::REDIS_DEADLINE;
use crate::error::{Error, Result};
use crate::redis_request::{Batch, Replies, Request, Target, encode};
use crate::redis_url::Address;
use bytes::{Bytes, BytesMut};
use command::Command;
pub use keys::may_read_a_replica;
use leg::{About, Errand, Leg};
pub use redirect::Redirect;
use route::{Part, Split, To, split};
use slots::SlotMap;
pub use slots::slot;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
pub use topology::Topology;

/// A wait for news is never longer, so that none that came meanwhile is missed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Sends commands to the nodes of a cluster. A clone is a handle to the same.
#[derive(Clone)]
pub struct Cluster(Arc<Shared>);

struct Shared {
    topology: Arc<Topology>,
    nodes: Nodes,
    runtime: Handle,
    /// Changes when the map or any lane does.
    changed: watch::Sender<()>,
    on_new_life: OnNewLife,
    /// How often a server of it was replaced by another one or another life of it.
    lives: Arc<AtomicU64>,
    turn: AtomicUsize,
    /// What keeps up with the cluster, once it runs.
    follower: OnceLock<AbortHandle>,
    closed: OnceLock<Error>,
    this: Weak<Self>,
}

impl Cluster {
    /// Connects nothing. `on_new_life` is told when a node is another one than before.
    pub fn new(
        topology: Arc<Topology>,
        name: String,
        limit: usize,
        sizes: Sizes,
        runtime: Handle,
        on_new_life: OnNewLife,
    ) -> Self {
        let lives = Arc::new(AtomicU64::new(0));
        let told: OnNewLife = {
            let (lives, on_new_life) = (lives.clone(), on_new_life.clone());
            Arc::new(move || {
                lives.fetch_add(1, Relaxed);
                on_new_life();
            })
        };
        Self(Arc::new_cyclic(|this: &Weak<Shared>| {
            let plan = NodePlan {
                access: topology.access().clone(),
                name,
                limit,
                runtime: runtime.clone(),
                home: this.clone(),
                on_new_life: Some(told.clone()),
            };
            Shared {
                nodes: Nodes::new(plan, sizes),
                topology,
                runtime,
                changed: watch::Sender::new(()),
                on_new_life: told,
                lives,
                turn: AtomicUsize::new(0),
                follower: OnceLock::new(),
                closed: OnceLock::new(),
                this: this.clone(),
            }
        }))
    }

    /// Sends a batch: each of its requests to the node or the nodes that it belongs to. Each is answered once.
    pub fn send(&self, batch: Batch, departure: Departure) {
        self.0.send(batch, departure);
    }

    pub fn enlarge(&self, sizes: Sizes) {
        self.0.nodes.enlarge(sizes);
    }

    pub fn stats(&self) -> LaneStats {
        self.0.nodes.stats()
    }

    /// Another number after a node was replaced or has restarted; 0 before anything is known.
    pub fn life(&self) -> u64 {
        self.0.topology.map().map_or(0, |_| 1 + self.0.lives.load(Relaxed))
    }

    /// Closes what was not needed for a while.
    pub fn tend(&self, now: Instant) {
        let Some(map) = self.0.topology.map() else { return };
        self.0.nodes.tend(now, |address, role| match role {
            Role::Replica => !map.primaries().any(|primary| map.replicas(primary).contains(address)),
            Role::Any | Role::Primary | Role::Sentinel => !map.primaries().any(|primary| primary == address),
        });
    }

    /// Ends everything; what is unanswered, and what is sent from now on, fails with `error`.
    pub fn close(&self, error: &Error) {
        let first = self.0.closed.set(error.clone()).is_ok();
        if let (true, Some(follower)) = (first, self.0.follower.get()) {
            follower.abort();
            self.0.topology.leave();
        }
        self.0.nodes.close(error);
        self.0.changed.send_replace(());
    }
}

impl Shared {
    fn send(self: &Arc<Self>, batch: Batch, departure: Departure) {
        if let Some(closed) = self.closed.get() {
            return batch.settle(&Err(closed.clone()));
        }
        self.start();
        let Some(map) = self.topology.map() else { return self.send_once_known(batch) };
        let mut legs = Vec::with_capacity(batch.requests.len());
        let mut bytes = batch.bytes.freeze();
        for request in batch.requests {
            let piece = bytes.split_to(request.length);
            match split(piece, request.replies) {
                Ok(Split::One(part)) => {
                    let (target, about) = (target(part.to), About::of(&request));
                    let errand = Errand { target, bytes: part.bytes, replies: part.replies, about };
                    legs.push(self.leg(errand, request.answered));
                }
                Ok(Split::Many { parts, join }) => self.add_parts(&mut legs, &map, parts, join, request),
                Err(error) => (request.answered)(Err(error)),
            }
        }
        self.dispatch(legs, departure);
    }

    /// Adds the parts of a request, whose answers become one.
    fn add_parts(
        self: &Arc<Self>,
        legs: &mut Vec<Leg>,
        map: &SlotMap,
        parts: Vec<Part>,
        join: join::Join,
        request: Request,
    ) {
        let primaries: Vec<_> = map.primaries().map(|address| Arc::new(address.clone())).collect();
        let mut targets = Vec::new();
        for part in &parts {
            match part.to {
                To::EveryPrimary => targets.extend(primaries.iter().map(|node| (Target::Node(node.clone()), part))),
                // Nobody is asked for one that is not there.
                To::Nth(index) => targets.extend(primaries.get(index).map(|node| (Target::Node(node.clone()), part))),
                to => targets.push((target(to), part)),
            }
        }
        let about = About::of(&request);
        let joined = Box::new(move |answers| (request.answered)(join.apply(answers, primaries.len())));
        let answers = collector::collect(targets.len(), joined);
        for ((target, part), answered) in targets.into_iter().zip(answers) {
            let errand = Errand { target, bytes: part.bytes.clone(), replies: part.replies, about: about.clone() };
            legs.push(self.leg(errand, answered));
        }
    }

    /// Sends each to where it belongs by what is known now.
    fn dispatch(self: &Arc<Self>, legs: impl IntoIterator<Item = Leg>, departure: Departure) {
        for (pool, batch) in self.place(legs) {
            pool.send(batch, departure);
        }
    }

    /// The same for one that was sent elsewhere by its answer. Answers come in order, and so do those who follow them: all of
    /// them take the same lane.
    fn forward(self: &Arc<Self>, leg: Leg) {
        for (pool, batch) in self.place([leg]) {
            pool.send_in_order(batch);
        }
    }

    /// What goes to which pool by what is known now.
    fn place(self: &Arc<Self>, legs: impl IntoIterator<Item = Leg>) -> Vec<(Pool, Batch)> {
        if let Some(closed) = self.closed.get() {
            legs.into_iter().for_each(|leg| (leg.request.answered)(Err(closed.clone())));
            return Vec::new();
        }
        let map = self.topology.map();
        let mut groups: Vec<(Pool, Batch)> = Vec::new();
        let mut unserved = Batch::default();
        for leg in legs {
            let (leg, pool) = match self.replica(map.as_deref(), leg) {
                (leg, Some(pool)) => (leg, Some(pool)),
                (leg, None) => {
                    let pool = self.pool(map.as_deref(), &leg.request.target);
                    (leg, pool)
                }
            };
            let Some(pool) = pool else {
                unserved.push(&leg.bytes, leg.request);
                continue;
            };
            let known = groups.iter().position(|(group, _)| group.is(&pool));
            let index = known.unwrap_or_else(|| {
                groups.push((pool, Batch::with_room()));
                groups.len() - 1
            });
            groups[index].1.push(&leg.bytes, leg.request);
        }
        if !unserved.requests.is_empty() {
            let reason = "no node serves its slot".to_owned();
            let error = Error::Connection { server: self.topology.server().clone(), reason };
            self.homeless(unserved, Some(&error));
        }
        groups
    }

    /// The pool of a target, by what is known now.
    fn pool(&self, map: Option<&SlotMap>, target: &Target) -> Option<Pool> {
        let map = map?;
        let address = match target {
            Target::Slot(slot) => map.primary(*slot)?,
            Target::Any => {
                let count = map.primaries().count().max(1);
                map.primaries().nth(self.turn.fetch_add(1, Relaxed) % count)?
            }
            Target::Node(address) => address,
        };
        Some(self.nodes.pool(address, Role::Primary))
    }

    /// A replica for a read that one may answer.
    fn replica(self: &Arc<Self>, map: Option<&SlotMap>, mut leg: Leg) -> (Leg, Option<Pool>) {
        let wanted = std::mem::take(&mut leg.request.by_replica)
            && Command::read(&leg.bytes).is_some_and(|command| may_read_a_replica(&command.name()));
        let (Some(map), Target::Slot(slot), true) = (map, &leg.request.target, wanted) else { return (leg, None) };
        let Some(primary) = map.primary(*slot) else { return (leg, None) };
        let ready = self.nodes.ready_replicas(map.replicas(primary).iter());
        if ready.is_empty() {
            return (leg, None);
        }
        let (address, pool) = ready[self.turn.fetch_add(1, Relaxed) % ready.len()].clone();
        let (shared, Leg { request, bytes }) = (self.clone(), leg);
        let otherwise = move |request, bytes| {
            shared.nodes.set_aside(&address);
            shared.dispatch([Leg { request, bytes }], Departure::Soon);
        };
        let request = super::replicas::ask_first(request, &bytes, otherwise);
        (Leg { request, bytes }, Some(pool))
    }

    /// Starts what keeps up with the cluster. Once.
    fn start(self: &Arc<Self>) {
        self.follower.get_or_init(|| {
            self.topology.join(&self.runtime);
            let (shared, mut changes) = (self.this.clone(), self.topology.changes());
            let follower = self.runtime.spawn(async move {
                let mut primaries: Vec<Address> = Vec::new();
                while changes.next().await {
                    let Some(shared) = shared.upgrade() else { return };
                    let now: Vec<Address> = shared
                        .topology
                        .map()
                        .iter()
                        .flat_map(|map| map.primaries().cloned().collect::<Vec<_>>())
                        .collect();
                    if !primaries.is_empty() && now.iter().any(|address| !primaries.contains(address)) {
                        (shared.on_new_life)();
                    }
                    primaries = now;
                    shared.changed.send_replace(());
                }
            });
            follower.abort_handle()
        });
    }

    /// Sends a batch when the cluster is known; fails while no node of it answers.
    fn send_once_known(self: &Arc<Self>, batch: Batch) {
        let shared = self.clone();
        self.runtime.spawn(async move {
            let mut waiting = batch;
            loop {
                let deadline = waiting.deadline().unwrap_or_else(|| Instant::now() + REDIS_DEADLINE);
                tokio::select! {
                    known = shared.topology.known() => return match known {
                        Ok(_) => shared.send(waiting, Departure::Soon),
                        Err(error) => waiting.settle(&Err(error)),
                    },
                    () = sleep_until(deadline) => {}
                }
                match shared.without_late(waiting, None) {
                    Some(rest) => waiting = rest,
                    None => return,
                }
            }
        });
    }

    /// Tells those whose deadline has come, and gives back the others, if there are any.
    fn without_late(&self, batch: Batch, reason: Option<Error>) -> Option<Batch> {
        let (late, rest) = batch.split_late(Instant::now());
        let (server, after) = (self.topology.server().clone(), REDIS_DEADLINE);
        let reason = reason.unwrap_or(Error::Timeout { server, after });
        for request in late {
            (request.answered)(Err(reason.clone()));
        }
        rest
    }

    /// Sends what could not be sent as soon as something has changed, until its deadline comes.
    async fn retry(self: Arc<Self>, batch: Batch, error: Option<Error>) {
        let mut changed = self.changed.subscribe();
        let next = batch
            .deadline()
            .map_or(LOOK_AGAIN, |deadline| deadline.saturating_duration_since(Instant::now()).min(LOOK_AGAIN));
        tokio::select! {
            _ = changed.changed() => {}
            () = sleep(next) => {}
        }
        if let Some(rest) = self.without_late(batch, error) {
            self.dispatch(Leg::of_batch(rest), Departure::Soon);
        }
    }
}

fn target(to: To) -> Target {
    match to {
        To::Slot(slot) => Target::Slot(slot),
        To::AnyPrimary | To::EveryPrimary | To::Nth(_) => Target::Any,
    }
}

/// The slot of a command's first key; `None` if it has none.
///
/// # Errors
/// As of [`split`].
pub fn slot_of(command: &[Bytes]) -> Result<Option<u16>> {
    let mut bytes = BytesMut::new();
    encode(&mut bytes, command);
    Ok(match split(bytes.freeze(), Replies::One)? {
        Split::One(Part { to: To::Slot(slot), .. }) => Some(slot),
        Split::One(_) | Split::Many { .. } => None,
    })
}

/// The names of the commands of a request, in upper case.
pub fn names(mut bytes: &[u8]) -> impl Iterator<Item = command::Word> {
    std::iter::from_fn(move || {
        let command = Command::read(bytes)?;
        bytes = bytes.get(command.length()?..)?;
        Some(command.name())
    })
}

impl Home for Shared {
    /// What has left a lost connection waits for the next one, or for another node; what never was on one fails where
    /// none can be made.
    fn homeless(&self, batch: Batch, error: Option<&Error>) {
        let Some(shared) = self.this.upgrade() else {
            return batch.settle(&Err(Error::Closed("The pool was closed meanwhile.")));
        };
        if let Some(closed) = self.closed.get() {
            return batch.settle(&Err(closed.clone()));
        }
        self.topology.doubt();
        let mut waiting = Batch::default();
        for Leg { request, bytes } in Leg::of_batch(batch) {
            match error {
                Some(error) if !request.again => (request.answered)(Err(error.clone())),
                _ => waiting.push(&bytes, request),
            }
        }
        if !waiting.requests.is_empty() {
            self.runtime.spawn(shared.retry(waiting, error.cloned()));
        }
    }

    fn changed(&self) {
        self.changed.send_replace(());
    }
}
