//! A lane: one connection after another to the same server, each replaced when it is lost, until the lane is closed.

use super::link::{CLOSED, Connection, Link};
use crate::error::{Error, Result};
use crate::random;
use crate::redis_url::RedisUrl;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// Waits between attempts: doubled from the first to the last, each shortened by up to half at random, so that the
/// clients of a server that restarts do not all come at once.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// Oldest server with everything that is relied on (`SET ... GET`, `LPOS`, the RESP3 of `EVALSHA` replies).
const OLDEST_VERSION: (u32, u32) = (6, 2);

#[derive(Clone)]
enum Status {
    Connecting,
    Up(Link),
    Down(Error),
}

/// Hands out the living [`Link`] to a server. Connects at the first use.
pub struct Lane {
    plan: Arc<Plan>,
    status: watch::Receiver<Status>,
    tell: watch::Sender<Status>,
    supervisor: OnceLock<AbortHandle>,
    closed: AtomicBool,
}

struct Plan {
    url: RedisUrl,
    server: Arc<str>,
    name: String,
    limit: usize,
    advised: AtomicBool,
}

impl Lane {
    /// Plans a lane to `url`, whose connections call themselves `name`; at most `limit` commands may be unanswered.
    pub fn new(url: RedisUrl, server: Arc<str>, name: String, limit: usize) -> Self {
        let (tell, status) = watch::channel(Status::Connecting);
        let plan = Arc::new(Plan { url, server, name, limit, advised: AtomicBool::new(false) });
        Self { plan, status, tell, supervisor: OnceLock::new(), closed: AtomicBool::new(false) }
    }

    /// The living link; waits while a connection is being made, fails at once while none can be.
    pub async fn link(&self) -> Result<Link> {
        if self.closed.load(Relaxed) {
            return Err(self.down());
        }
        self.supervisor.get_or_init(|| tokio::spawn(supervise(self.plan.clone(), self.tell.clone())).abort_handle());
        let mut status = self.status.clone();
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

    /// The living link, if there is one at this moment.
    pub fn up(&self) -> Option<Link> {
        match &*self.status.borrow() {
            Status::Up(link) => Some(link.clone()),
            _ => None,
        }
    }

    fn down(&self) -> Error {
        Error::Connection { server: self.plan.server.clone(), reason: CLOSED.to_owned() }
    }

    /// Closes the connection; what is unanswered fails. The lane is of no more use.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.abort();
        }
        self.tell.send_replace(Status::Down(self.down()));
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.close();
    }
}

async fn supervise(plan: Arc<Plan>, tell: watch::Sender<Status>) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let begun = Instant::now();
        let error = match Connection::open(&plan.url, &plan.server, &plan.name, plan.limit).await {
            Ok(connection) => {
                plan.advise(&connection.link());
                tell.send_replace(Status::Up(connection.link()));
                let lost = connection.drive().await;
                tracing::warn!(server = %plan.server, connection = plan.name, "lost: {lost}");
                if begun.elapsed() > LAST_BACKOFF {
                    // It was a connection worth having: the next one is tried at once, and may be waited for.
                    backoff = FIRST_BACKOFF;
                    tell.send_replace(Status::Connecting);
                    continue;
                }
                lost
            }
            Err(error) => {
                tracing::warn!(server = %plan.server, connection = plan.name, "cannot connect: {error}");
                error
            }
        };
        // Stays `Down` during the next attempt: a server that is away must cost its callers nothing.
        tell.send_replace(Status::Down(error));
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
        if info.run_id.is_none() {
            tracing::warn!(server = %self.server, "does not tell its run id, so no session is read from it; \
                allow INFO to this user (ACL SETUSER ... +info).");
        }
        if info.version.as_deref().and_then(major_minor).is_some_and(|version| version < OLDEST_VERSION) {
            let version = info.version.as_deref().unwrap_or_default();
            tracing::warn!(server = %self.server, version, "is older than Redis 6.2, with which nothing here is tested; \
                upgrade the server.");
        }
    }
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
