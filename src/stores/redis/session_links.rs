//! The connections that carry sessions and nothing else: one to each primary.

use super::cluster::{Redirect, Topology, slot};
use super::lane::{Lane, Owner, Plan, Status};
use super::link::Link;
use super::origin::Origin;
use super::pool::LaneStats;
use crate::error::{Error, Result};
use crate::redis_url::Address;
use crate::redis_value::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// How often it is looked for links that nobody needs.
const LOOK_FOR_STRANGERS: Duration = Duration::from_secs(10);

/// How long is waited for a slot that is being moved.
const TRY_AGAIN: Duration = Duration::from_millis(15);

/// So often others' word is followed. More of it is nodes that disagree.
const MOST_HOPS: u8 = 16;

/// Names a link among those of an engine.
pub type LinkId = u64;

/// Who is told what happens to the links, of which there may be others from time to time.
pub trait Followers: Send + Sync + 'static {
    /// From now on these are all there are. What others have pushed may be lost.
    fn links(&self, all: &[LinkId]);

    /// Who is told what happens to this one.
    fn of_link(self: Arc<Self>, link: LinkId) -> Arc<dyn Owner>;
}

/// The links of an engine.
pub struct SessionLinks {
    origin: Origin,
    name: String,
    limit: usize,
    /// How the keys of sessions begin.
    pushes: String,
    followers: Arc<dyn Followers>,
    lanes: Mutex<Lanes>,
    task: OnceLock<AbortHandle>,
}

#[derive(Default)]
struct Lanes {
    /// `None` for the one of a server that stands alone.
    all: HashMap<Option<Address>, (LinkId, Arc<Lane>)>,
    made: LinkId,
    closed: Option<Error>,
}

impl SessionLinks {
    /// Connects nothing.
    pub fn new(origin: Origin, name: String, limit: usize, pushes: String, followers: Arc<dyn Followers>) -> Self {
        Self { origin, name, limit, pushes, followers, lanes: Mutex::default(), task: OnceLock::new() }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link to whoever has this key.
    pub async fn of(self: &Arc<Self>, key: &str) -> Result<Link> {
        let Some(topology) = self.origin.topology() else { return self.lane(None).link().await };
        self.follow(topology);
        let map = topology.known().await?;
        match map.primary(slot(key.as_bytes())) {
            Some(address) => self.lane(Some(address)).link().await,
            None => {
                topology.doubt();
                Err(self.lost("no node serves the slot of the session"))
            }
        }
    }

    /// A link to each primary.
    pub async fn all(self: &Arc<Self>) -> Result<Vec<Link>> {
        let Some(topology) = self.origin.topology() else { return Ok(vec![self.lane(None).link().await?]) };
        self.follow(topology);
        let map = topology.known().await?;
        let mut links = Vec::new();
        for address in map.primaries() {
            links.push(self.lane(Some(address)).link().await?);
        }
        Ok(links)
    }

    fn lost(&self, reason: &str) -> Error {
        Error::Connection { server: self.origin.server().clone(), reason: reason.to_owned() }
    }

    /// Whom to ask after an answer, if it says that somebody else is to be asked; `None` if it is final.
    pub async fn elsewhere(self: &Arc<Self>, key: &str, answer: &Result<Value>, hops: &mut u8) -> Option<Result<Way>> {
        *hops += 1;
        if *hops > MOST_HOPS {
            return None;
        }
        let (Err(Error::Reply { text, .. }), Some(topology)) = (answer, self.origin.topology()) else { return None };
        let asked = topology.map().and_then(|map| map.primary(slot(key.as_bytes())).cloned());
        match Redirect::read(text, &asked.unwrap_or_else(Address::unknown))? {
            moved @ Redirect::Moved { .. } => topology.redirected(&moved),
            Redirect::Ask { to, .. } => {
                return Some(self.lane(Some(&to)).link().await.map(|link| Way { link, asking: true }));
            }
            Redirect::TryAgain | Redirect::NotPrimary => {
                topology.doubt();
                sleep(TRY_AGAIN).await;
            }
        }
        Some(self.of(key).await.map(Way::to))
    }

    /// The lane to the server there, which is made if there is none.
    fn lane(&self, address: Option<&Address>) -> Arc<Lane> {
        let mut lanes = self.lanes();
        if let Some((_, lane)) = lanes.all.get(&address.cloned()) {
            return lane.clone();
        }
        let lane = self.made(&mut lanes, address);
        let ids: Vec<_> = lanes.all.values().map(|(id, _)| *id).collect();
        // Under the lock, so that what it is told last is how it is.
        self.followers.links(&ids);
        lane
    }

    fn made(&self, lanes: &mut Lanes, address: Option<&Address>) -> Arc<Lane> {
        let id = lanes.made;
        lanes.made += 1;
        let origin = address.map_or_else(|| self.origin.clone(), |address| self.origin.at_member(address));
        let mut plan = Plan::new(origin, self.name.clone(), self.limit);
        plan.pushes = Some(self.pushes.clone());
        let lane = Arc::new(Lane::owned(Arc::new(plan), self.followers.clone().of_link(id)));
        if let Some(closed) = &lanes.closed {
            lane.close(closed);
        }
        lanes.all.insert(address.cloned(), (id, lane.clone()));
        lane
    }

    /// Keeps a link to each primary of a cluster, also to those that nothing is asked of: each may push.
    fn follow(self: &Arc<Self>, topology: &Arc<Topology>) {
        self.task.get_or_init(|| {
            let (links, topology) = (Arc::downgrade(self), topology.clone());
            topology.join(&Handle::current());
            Handle::current().spawn(follow(links, topology)).abort_handle()
        });
    }

    /// Makes the links those of a map.
    fn fit(&self, topology: &Topology, runtime: &Handle) {
        let Some(map) = topology.map() else { return };
        let mut lanes = self.lanes();
        if lanes.closed.is_some() {
            return;
        }
        let is_primary = |address: &Option<Address>| map.primaries().any(|primary| Some(primary) == address.as_ref());
        let (kept, gone): (HashMap<_, _>, HashMap<_, _>) =
            std::mem::take(&mut lanes.all).into_iter().partition(|(address, _)| is_primary(address));
        lanes.all = kept;
        let missing = map.primaries().filter(|address| !lanes.all.contains_key(&Some((*address).clone())));
        let new: Vec<_> = missing.collect::<Vec<_>>().into_iter().map(|new| self.made(&mut lanes, Some(new))).collect();
        let ids: Vec<_> = lanes.all.values().map(|(id, _)| *id).collect();
        // Before any of them can be up, and under the lock, so that what it is told last is how it is.
        self.followers.links(&ids);
        drop(lanes);
        new.iter().for_each(|lane| lane.start(runtime));
        drop(gone);
    }

    /// Connections and commands at this moment.
    pub fn stats(&self) -> LaneStats {
        let lanes = self.lanes();
        lanes.all.values().fold(LaneStats::default(), |stats, (_, lane)| match lane.status() {
            Status::Up(link) => {
                let unanswered = link.unanswered();
                stats + LaneStats { open: 1, idle: usize::from(unanswered == 0), unanswered }
            }
            Status::Connecting | Status::Down(_) => stats,
        })
    }

    /// Ends every link; what is unanswered, and whatever is asked from now on, fails with `error`.
    pub fn close(&self, error: &Error) {
        let mut lanes = self.lanes();
        let first = lanes.closed.is_none();
        lanes.closed.get_or_insert_with(|| error.clone());
        if let (Some(task), Some(topology), true) = (self.task.get(), self.origin.topology(), first) {
            task.abort();
            topology.leave();
        }
        let all: Vec<_> = lanes.all.values().map(|(_, lane)| lane.clone()).collect();
        drop(lanes);
        all.iter().for_each(|lane| lane.close(error));
    }
}

impl Drop for SessionLinks {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

async fn follow(weak: Weak<SessionLinks>, topology: Arc<Topology>) {
    let mut changes = topology.changes();
    loop {
        let Some(links) = weak.upgrade() else { return };
        links.fit(&topology, &Handle::current());
        drop(links);
        tokio::select! {
            more = changes.next() => if !more { return },
            () = strangers(&weak, &topology) => {}
        }
    }
}

/// Resolves when there is a link to somebody who serves no slot, and has served none for long: one to whom a slot was about
/// to move, until that was given up.
async fn strangers(links: &Weak<SessionLinks>, topology: &Topology) {
    let mut before = 0;
    loop {
        sleep(LOOK_FOR_STRANGERS).await;
        let (Some(links), Some(map)) = (links.upgrade(), topology.map()) else { continue };
        let all = |address: &Option<Address>| map.primaries().all(|primary| Some(primary) != address.as_ref());
        let now = links.lanes().all.keys().filter(|address| all(address)).count();
        if now > 0 && before > 0 {
            return;
        }
        before = now;
    }
}

/// A link, and whether the server has to be told that it is asked for what is on its way to it.
#[derive(Clone)]
pub struct Way {
    pub link: Link,
    asking: bool,
}

impl Way {
    pub fn to(link: Link) -> Self {
        Self { link, asking: false }
    }

    /// Sends one command and waits for its reply.
    pub async fn send<A: AsRef<[u8]>>(&self, arguments: &[A]) -> Result<Value> {
        if self.asking { self.link.send_asking(arguments).await } else { self.link.send(arguments).await }
    }
}
