//! A pool of lanes to one server, database and user. Any number of commands travel on each lane at once.
//!
//! A pool opens as many lanes as its least size at the first command, more while the least busy one is very busy, and
//! closes those again that nobody needed for a while.

use super::connection::Ears;
use super::lane::{Lane, Owner, Plan, Status};
use super::link::{Departure, Link, ServerInfo};
use crate::config::REDIS_DEADLINE;
use crate::error::Error;
use crate::random;
use crate::redis_request::Batch;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// With fewer missing replies than this a lane is as good as an idle one: what goes out together stays together, which
/// saves more system calls than a second connection would win.
const BUSY: usize = 128;

/// A pool grows when its least busy lane misses this many replies.
const VERY_BUSY: usize = 512;

/// A lane beyond the least size that was not needed for this long is closed.
const IDLE_LANE: Duration = Duration::from_secs(30);

/// How many lanes a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub least: usize,
    pub most: usize,
}

impl Sizes {
    /// The sizes that do for both.
    pub fn max(self, other: Self) -> Self {
        Self { least: self.least.max(other.least), most: self.most.max(other.most) }
    }
}

/// Open lanes, those of them that have answered everything, and replies that are missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneStats {
    pub open: usize,
    pub idle: usize,
    pub unanswered: usize,
}

/// Where a pool stands among several, of which another one may be able to do what this one cannot.
pub trait Home: Send + Sync {
    /// What is on no connection, because it never left or may be sent again. Without an error one is being made, or was lost at this
    /// moment.
    fn homeless(&self, batch: Batch, error: Option<&Error>);

    /// A lane has changed.
    fn changed(&self) {}
}

/// What is told of a connection to another life of the server than the one before.
pub type OnNewLife = Arc<dyn Fn() + Send + Sync>;

impl std::ops::Add for LaneStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            idle: self.idle + other.idle,
            unanswered: self.unanswered + other.unanswered,
        }
    }
}

/// A handle to a pool. Its lanes end with the last one.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    home: Option<Weak<dyn Home>>,
    on_new_life: Option<OnNewLife>,
    plan: Arc<Plan>,
    runtime: Handle,
    lanes: Mutex<Lanes>,
    /// Changes when any lane does.
    changed: watch::Sender<()>,
    /// The life of the server that was connected to last.
    life: AtomicU64,
    this: Weak<Self>,
}

struct Lanes {
    sizes: Sizes,
    members: Vec<Member>,
    closed: Option<Error>,
}

struct Member {
    lane: Lane,
    needed: Instant,
}

/// Where a batch can go at this moment.
enum Way {
    On(Link),
    /// A connection is being made.
    Wait,
    None(Error),
}

impl Pool {
    /// Plans a pool on `runtime`; connects nothing.
    pub fn new(plan: Plan, sizes: Sizes, runtime: Handle, on_new_life: Option<OnNewLife>) -> Self {
        Self::planned(plan, sizes, runtime, None, on_new_life)
    }

    /// The same for one of several.
    pub fn at_home(
        plan: Plan,
        sizes: Sizes,
        runtime: Handle,
        home: Weak<dyn Home>,
        on_new_life: Option<OnNewLife>,
    ) -> Self {
        Self::planned(plan, sizes, runtime, Some(home), on_new_life)
    }

    fn planned(
        plan: Plan,
        sizes: Sizes,
        runtime: Handle,
        home: Option<Weak<dyn Home>>,
        on_new_life: Option<OnNewLife>,
    ) -> Self {
        let lanes = Mutex::new(Lanes { sizes, members: Vec::new(), closed: None });
        let changed = watch::Sender::new(());
        let plan = Arc::new(plan);
        Self(Arc::new_cyclic(|this| Shared {
            home,
            on_new_life,
            plan,
            runtime,
            lanes,
            changed,
            life: AtomicU64::new(0),
            this: this.clone(),
        }))
    }

    /// Lets the pool have these sizes, if they are larger than its own.
    pub fn enlarge(&self, sizes: Sizes) {
        let mut lanes = self.0.lanes();
        lanes.sizes = lanes.sizes.max(sizes);
    }

    /// Sends a batch. Each of its requests is answered: by the server, or with an error.
    pub fn send(&self, batch: Batch, departure: Departure) {
        let (batch, error) = match self.0.way() {
            Way::On(link) => match link.send_batch(batch, departure) {
                Ok(()) => return,
                Err((error @ Error::Overloaded { .. }, batch)) => return batch.settle(&Err(error)),
                // Lost at this moment, which its lane will tell.
                Err((_, batch)) => (batch, None),
            },
            Way::Wait => (batch, None),
            Way::None(error) => (batch, Some(error)),
        };
        self.0.give_up(batch, error);
    }

    /// The same on the first lane, however busy that is: what is sent in this way leaves in its order.
    pub fn send_in_order(&self, batch: Batch) {
        let first = self.0.lanes().members.iter().find_map(|member| member.lane.up());
        match first {
            Some(link) => {
                if let Err((error, batch)) = link.send_batch(batch, Departure::Soon) {
                    match error {
                        Error::Overloaded { .. } => batch.settle(&Err(error)),
                        _ => self.0.give_up(batch, None),
                    }
                }
            }
            None => self.send(batch, Departure::Soon),
        }
    }

    /// Where it runs.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The lane that a batch would take now, if one is up.
    pub fn up(&self) -> Option<Link> {
        match self.0.way() {
            Way::On(link) => Some(link),
            Way::Wait | Way::None(_) => None,
        }
    }

    /// Connections and commands at this moment.
    pub fn stats(&self) -> LaneStats {
        let lanes = self.0.lanes();
        lanes.members.iter().filter_map(|member| member.lane.up()).fold(LaneStats::default(), |stats, link| {
            let unanswered = link.unanswered();
            LaneStats {
                open: stats.open + 1,
                idle: stats.idle + usize::from(unanswered == 0),
                unanswered: stats.unanswered + unanswered,
            }
        })
    }

    /// Which life of the server this is: a number that is another one after a restart, and of another server. 0 if none was
    /// ever connected to.
    pub fn life(&self) -> u64 {
        self.0.life.load(Relaxed)
    }

    /// Closes lanes that were not needed for a while.
    pub fn tend(&self, now: Instant) {
        let mut lanes = self.0.lanes();
        let mut extra = lanes.members.len().saturating_sub(lanes.sizes.least);
        let (closed, kept) = std::mem::take(&mut lanes.members).into_iter().partition(|member| {
            let idle = member.lane.up().is_none_or(|link| link.unanswered() == 0);
            let close = extra > 0 && idle && now.saturating_duration_since(member.needed) > IDLE_LANE;
            extra -= usize::from(close);
            close
        });
        lanes.members = kept;
        drop(lanes);
        // What a lane that ends has to tell may come back here.
        drop::<Vec<Member>>(closed);
    }

    /// Ends every lane; what is unanswered, and whatever is sent from now on, fails with `error`.
    pub fn close(&self, error: &Error) {
        let members = {
            let mut lanes = self.0.lanes();
            lanes.closed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut lanes.members)
        };
        for member in &members {
            member.lane.close(error);
        }
        self.0.changed.send_replace(());
    }
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The least busy lane. Lanes that are not really busy count as equal, so that the first of them is kept busy and
    /// the last ones can be closed.
    fn way(&self) -> Way {
        let mut lanes = self.lanes();
        if let Some(error) = &lanes.closed {
            return Way::None(error.clone());
        }
        while lanes.members.len() < lanes.sizes.least {
            self.add_lane(&mut lanes);
        }
        let (mut best, mut connecting, mut down) = (None, false, None);
        for (index, member) in lanes.members.iter().enumerate() {
            match member.lane.status() {
                Status::Up(link) => {
                    let unanswered = link.unanswered();
                    if best.as_ref().is_none_or(|(_, _, least)| unanswered < *least) {
                        best = Some((index, link, unanswered));
                    }
                    if unanswered < BUSY {
                        break;
                    }
                }
                Status::Connecting => connecting = true,
                Status::Down(error) => down = Some(error),
            }
        }
        let Some((index, link, unanswered)) = best else {
            return match down {
                Some(error) if !connecting => Way::None(error),
                _ => Way::Wait,
            };
        };
        if unanswered >= VERY_BUSY && !connecting && down.is_none() && lanes.members.len() < lanes.sizes.most {
            self.add_lane(&mut lanes);
        }
        lanes.members[index].needed = Instant::now();
        Way::On(link)
    }

    /// Lets a batch wait that has no lane now, or fail, or has it sent by others.
    fn give_up(&self, batch: Batch, error: Option<Error>) {
        match (&self.home, error) {
            (Some(home), error) => match home.upgrade() {
                Some(home) => home.homeless(batch, error.as_ref()),
                None => batch.settle(&Err(Error::Closed("The pool was closed meanwhile."))),
            },
            (None, Some(error)) if !batch.is_again() => batch.settle(&Err(error)),
            (None, _) => {
                if let Some(pool) = self.this.upgrade() {
                    self.runtime.spawn(wait(pool, batch));
                }
            }
        }
    }

    fn add_lane(&self, lanes: &mut Lanes) {
        let lane = Lane::owned(self.plan.clone(), Arc::new(Parent(self.this.clone())));
        lane.start(&self.runtime);
        lanes.members.push(Member { lane, needed: Instant::now() });
    }
}

/// What a lane sees of its pool.
struct Parent(Weak<Shared>);

impl Ears for Parent {}

impl Owner for Parent {
    fn changed(&self) {
        if let Some(pool) = self.0.upgrade() {
            pool.changed.send_replace(());
            if let Some(home) = pool.home.as_ref().and_then(Weak::upgrade) {
                home.changed();
            }
        }
    }

    fn connected(&self, info: &ServerInfo) {
        if let Some(pool) = self.0.upgrade() {
            // One that does not say which it is may be another one each time.
            let life = info.life.as_ref().map_or_else(random::number, |life| {
                let mut hasher = DefaultHasher::new();
                life.hash(&mut hasher);
                hasher.finish()
            });
            let before = pool.life.swap(life.max(1), Relaxed);
            if before != 0
                && before != life.max(1)
                && let Some(on_new_life) = &pool.on_new_life
            {
                on_new_life();
            }
        }
    }

    fn orphaned(&self, batch: Batch, error: &Error) {
        match self.0.upgrade() {
            Some(pool) => pool.give_up(batch, pool.home.is_some().then(|| error.clone())),
            None => batch.settle(&Err(error.clone())),
        }
    }
}

/// Sends a batch as soon as a lane is up, until its deadlines come. What was on no connection yet gives up when none can be.
async fn wait(pool: Arc<Shared>, mut batch: Batch) {
    let mut changed = pool.changed.subscribe();
    let missed = Error::Timeout { server: pool.plan.server().clone(), after: REDIS_DEADLINE };
    loop {
        let way = pool.way();
        let (late, rest) = batch.split_late(Instant::now());
        let reason = if let Way::None(error) = &way { error } else { &missed };
        for request in late {
            (request.answered)(Err(reason.clone()));
        }
        let Some(rest) = rest else { return };
        batch = match way {
            Way::On(link) => match link.send_batch(rest, Departure::Soon) {
                Ok(()) => return,
                Err((error @ Error::Overloaded { .. }, batch)) => return batch.settle(&Err(error)),
                Err((_, batch)) => batch,
            },
            Way::None(error) if !rest.is_again() || pool.lanes().closed.is_some() => return rest.settle(&Err(error)),
            Way::None(_) | Way::Wait => rest,
        };
        let deadline = batch.deadline().unwrap_or_else(|| Instant::now() + REDIS_DEADLINE);
        tokio::select! {
            _ = changed.changed() => {}
            () = sleep_until(deadline) => {}
        }
    }
}
