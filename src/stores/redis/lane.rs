//! A lane: one connection after another to the same server, each replaced when it is lost, until the lane is closed.

use super::connection::{Ears, Lost};
use super::link::{CLOSED, Link, ServerInfo};
use super::origin::{Origin, Wanted};
use crate::error::{Error, Result};
use crate::random;
use crate::redis_request::Batch;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// Waits between attempts: doubled from the first to the last, each shortened by up to half at random, so that the
/// clients of a server that restarts do not all come at once.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// Oldest server with everything that is relied on (`SET ... GET`, `LPOS`, the RESP3 of `EVALSHA` replies).
const OLDEST_VERSION: (u32, u32) = (6, 2);

/// Which server, as whom, and how much of it.
pub struct Plan {
    pub origin: Origin,
    /// What connections call themselves.
    pub name: String,
    /// Requests that may be unanswered on a connection.
    pub limit: usize,
    /// Writes to keys that begin like this are to be pushed.
    pub pushes: Option<String>,
    advised: AtomicBool,
}

impl Plan {
    pub fn new(origin: Origin, name: String, limit: usize) -> Self {
        Self { origin, name, limit, pushes: None, advised: AtomicBool::new(false) }
    }

    /// Names the server in errors and in the log.
    pub fn server(&self) -> &Arc<str> {
        self.origin.server()
    }
}

/// Whom a lane tells of what happens to it.
pub trait Owner: Ears + 'static {
    /// The lane is up, or down, or being connected.
    fn changed(&self) {}

    /// A connection is about to be made.
    fn connecting(&self) {}

    /// A connection was made, and nobody has got it yet.
    fn connected(&self, _: &ServerInfo) {}

    /// A connection was lost, and nobody gets replies from it any more.
    fn lost(&self) {}

    /// A connection was lost with requests that may be sent again.
    fn orphaned(&self, batch: Batch, error: &Error) {
        batch.settle(&Err(error.clone()));
    }
}

/// A lane that belongs to nobody: whoever sends on it decides himself what becomes of a lost command.
#[cfg(test)]
struct Nobody;

#[cfg(test)]
impl Ears for Nobody {}

#[cfg(test)]
impl Owner for Nobody {}

/// What a lane is doing.
#[derive(Clone)]
pub enum Status {
    Connecting,
    Up(Link),
    Down(Error),
}

/// Hands out the living [`Link`] to a server. Connects at the first use.
pub struct Lane {
    plan: Arc<Plan>,
    owner: Arc<dyn Owner>,
    status: watch::Sender<Status>,
    supervisor: OnceLock<AbortHandle>,
    closed: AtomicBool,
}

impl Lane {
    /// A lane of nobody's.
    #[cfg(test)]
    pub fn new(plan: Plan) -> Self {
        Self::owned(Arc::new(plan), Arc::new(Nobody))
    }

    pub fn owned(plan: Arc<Plan>, owner: Arc<dyn Owner>) -> Self {
        let status = watch::Sender::new(Status::Connecting);
        Self { plan, owner, status, supervisor: OnceLock::new(), closed: AtomicBool::new(false) }
    }

    /// Begins to connect.
    pub fn start(&self, runtime: &Handle) {
        if self.closed.load(Relaxed) {
            return;
        }
        self.supervisor.get_or_init(|| {
            let supervisor = supervise(self.plan.clone(), self.owner.clone(), self.status.clone());
            runtime.spawn(supervisor).abort_handle()
        });
    }

    /// The living link; waits while a connection is being made, fails at once while none can be.
    pub async fn link(&self) -> Result<Link> {
        if self.closed.load(Relaxed) {
            return Err(self.down());
        }
        self.start(&Handle::current());
        let mut status = self.status.subscribe();
        loop {
            match &*status.borrow_and_update() {
                Status::Up(link) => return Ok(link.clone()),
                Status::Down(error) => return Err(error.clone()),
                Status::Connecting => {}
            }
            // The sender lives as long as `self`.
            let _ = status.changed().await;
        }
    }

    /// What it is doing at this moment.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The living link, if there is one at this moment.
    pub fn up(&self) -> Option<Link> {
        match &*self.status.borrow() {
            Status::Up(link) => Some(link.clone()),
            _ => None,
        }
    }

    fn down(&self) -> Error {
        Error::Connection { server: self.plan.server().clone(), reason: CLOSED.to_owned() }
    }

    /// Closes the connection; what is unanswered fails with `error`. The lane is of no more use.
    pub fn close(&self, error: &Error) {
        self.owner.lost();
        self.closed.store(true, Relaxed);
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.abort();
        }
        if let Some(link) = self.up() {
            link.end(error).settle(&Err(error.clone()));
        }
        self.status.send_replace(Status::Down(self.down()));
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.close(&self.down());
    }
}

async fn supervise(plan: Arc<Plan>, owner: Arc<dyn Owner>, status: watch::Sender<Status>) {
    let mut backoff = FIRST_BACKOFF;
    // The first failure in a row is news, the others are not.
    let mut told = false;
    let tell = |new| {
        status.send_replace(new);
        owner.changed();
    };
    loop {
        let begun = Instant::now();
        owner.connecting();
        let Plan { origin, name, limit, pushes, .. } = &*plan;
        let wanted = Wanted { name, limit: *limit, pushes: pushes.as_deref() };
        let error = match origin.open(wanted).await {
            Ok((connection, seat)) => {
                told = false;
                plan.advise(&connection.link());
                let link = connection.link();
                let answered = || link.has_heard();
                owner.connected(link.info());
                tell(Status::Up(link.clone()));
                let ears: Arc<dyn Ears> = owner.clone();
                let Lost { error, again } = connection.hearing(ears).drive_until(origin.moved(&seat)).await;
                owner.lost();
                tracing::warn!(server = %plan.server(), connection = plan.name, "lost: {error}");
                // A server that has answered is worth waiting for: the next connection is tried at once, or after the
                // shortest pause if this one was short.
                tell(if answered() { Status::Connecting } else { Status::Down(error.clone()) });
                if !again.requests.is_empty() {
                    owner.orphaned(again, &error);
                }
                if answered() {
                    backoff = FIRST_BACKOFF;
                    if begun.elapsed() < LAST_BACKOFF {
                        sleep(random::shortened(FIRST_BACKOFF)).await;
                    }
                    continue;
                }
                error
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(server = %plan.server(), connection = plan.name, "cannot connect: {error}");
                }
                error
            }
        };
        // Stays `Down` during the next attempt: a server that is away must cost its callers nothing.
        tell(Status::Down(error));
        sleep(random::shortened(backoff)).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

impl Plan {
    /// Says once what the server lacks, with the cure. Never fatal.
    fn advise(&self, link: &Link) {
        let info = link.info();
        if self.advised.swap(true, Relaxed) {
            return;
        }
        if !info.tells {
            tracing::warn!(server = %self.server(), "does not tell its run id, so no session is read from it; \
                allow INFO to this user (ACL SETUSER ... +info).");
        }
        if let Some(reason) = &info.not_pushed {
            tracing::warn!(server = %self.server(), "does not push invalidations ({reason}), so no session is kept in the \
                process; allow CLIENT TRACKING to this user (ACL SETUSER ... +client|tracking).");
        }
        if info.version.as_deref().and_then(major_minor).is_some_and(|version| version < OLDEST_VERSION) {
            let version = info.version.as_deref().unwrap_or_default();
            tracing::warn!(server = %self.server(), version, "is older than Redis 6.2, with which nothing here is tested; \
                upgrade the server.");
        }
    }
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
