//! Sentinels: who knows where the primary is.
//!
//! All of them are asked at once, and [`verdict`] says who is right. While there are connections to a primary, they are also
//! listened to ([`mod@watch`]).

mod report;
#[cfg(test)]
mod tests;
mod verdict;
mod watch;

use super::connection::{Connection, Introduction};
use super::link::Link;
use super::origin::{Access, Role, Seat, Wanted};
use super::tls::Connector;
use crate::error;
use crate::redis_url::{Address, Login};
use report::{Refusal, Report};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch as channel};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use verdict::{Found, conclude, explain};

/// Time for the first answer. Connecting to the primary comes after it, and both are waited for.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The same where a primary is known, which most probably still is the one.
const PATIENCE_OF_ONE_WHO_KNOWS: Duration = Duration::from_millis(500);

/// Time for the others after the first answer: it may be that of a sentinel that was cut off.
const GRACE: Duration = Duration::from_millis(200);

/// Sentinels that are remembered beside those that were named.
const MOST_LEARNED: usize = 32;

/// Questions that may be unanswered on a connection to a sentinel.
const MOST_QUESTIONS: usize = 1000;

/// The sentinels of one primary.
pub struct Sentinels(Arc<Shared>);

struct Shared {
    /// Those that were named. They are never forgotten.
    named: Vec<Address>,
    name: String,
    access: Access,
    /// What connections call themselves.
    own_name: String,
    /// Names them in errors.
    server: Arc<str>,
    state: Mutex<State>,
    believed: channel::Sender<Option<Found>>,
    /// The last answer, and the turn of those who ask.
    answer: tokio::sync::Mutex<Result<Found, String>>,
    /// How often they were asked.
    answers: AtomicU64,
    /// Wakes the watcher: there may be another primary.
    news: Notify,
    /// Wakes the watcher: somebody does not wait for another primary any more.
    left: Notify,
}

#[derive(Default)]
struct State {
    /// Those that others know.
    learned: Vec<Address>,
    /// Those that did not answer in time when they were last asked. Nobody waits for them if others answer.
    silent: HashSet<Address>,
    /// Living connections of the watcher.
    links: HashMap<Address, Link>,
    /// It was told that none can be asked.
    warned: bool,
    /// Who wants to know of another primary.
    waiting: usize,
    /// Runs while anybody waits.
    watcher: Option<AbortHandle>,
}

/// What was heard in one round of questions.
#[derive(Default)]
struct Heard {
    reports: Vec<Report>,
    /// Whose these are.
    from: HashSet<Address>,
    refusals: Vec<(Address, Refusal)>,
    silent: HashSet<Address>,
}

impl Sentinels {
    /// Connects nothing.
    pub fn new(addresses: Vec<Address>, master: String, login: Login, tls: Option<Arc<Connector>>) -> Self {
        let shared = Shared {
            named: addresses,
            name: master,
            access: Access { login, database: 0, tls },
            own_name: format!("studio-redis-native:{}:sentinel", std::process::id()),
            server: "a sentinel".into(),
            state: Mutex::default(),
            believed: channel::Sender::new(None),
            answer: tokio::sync::Mutex::new(Err(String::new())),
            answers: AtomicU64::new(0),
            news: Notify::new(),
            left: Notify::new(),
        };
        Self(Arc::new(shared))
    }

    /// Where the primary is now. If no sentinel can be asked, where it was last. The error is a reason without secrets.
    pub async fn primary(&self) -> Result<Seat, String> {
        Ok(self.0.ask().await?.seat())
    }

    /// Where replicas of the primary are now that serve.
    pub async fn replicas(&self) -> Result<Vec<Address>, String> {
        Ok(self.0.ask().await?.replicas)
    }

    /// Resolves when another server than that at `seat` is said to be the primary, or that one again after another: with where
    /// it is.
    ///
    /// While anybody waits here, and a little longer, they are watched.
    pub async fn moved_from(&self, seat: &Seat) -> Seat {
        let _waiting = Waiting::new(&self.0);
        let mut believed = self.0.believed.subscribe();
        let moved = |found: &Option<Found>| found.as_ref().is_some_and(|found| !found.is_at(seat));
        let found = believed.wait_for(moved).await.ok().and_then(|found| found.clone());
        match found {
            Some(found) => found.seat(),
            // The sender lives as long as `self`.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        if let Some(watcher) = self.0.state().watcher.take() {
            watcher.abort();
        }
    }
}

/// Somebody who wants to know of another primary.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Arc<Shared>) -> Self {
        let mut state = shared.state();
        state.waiting += 1;
        state.watcher.get_or_insert_with(|| tokio::spawn(watch::watch(shared.clone())).abort_handle());
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
        self.0.left.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that can be asked, each once.
    fn known(&self) -> Vec<Address> {
        self.named.iter().chain(&self.state().learned).cloned().collect()
    }

    /// The answer of a round of questions that was not over when this was called: callers at one time share one.
    async fn ask(self: &Arc<Self>) -> Result<Found, String> {
        let before = self.answers.load(SeqCst);
        let mut answer = self.answer.lock().await;
        if self.answers.load(SeqCst) == before {
            *answer = self.ask_all().await;
            self.answers.fetch_add(1, SeqCst);
        }
        answer.clone()
    }

    /// The answer of a round of questions that begins after this was called.
    async fn ask_anew(self: &Arc<Self>) -> Result<Found, String> {
        let mut answer = self.answer.lock().await;
        *answer = self.ask_all().await;
        self.answers.fetch_add(1, SeqCst);
        answer.clone()
    }

    async fn ask_all(self: &Arc<Self>) -> Result<Found, String> {
        let known = self.known();
        let believed = self.believed.borrow().clone();
        let patience = if believed.is_some() { PATIENCE_OF_ONE_WHO_KNOWS } else { PATIENCE };
        let heard = self.hear(&known, patience).await;
        self.learn(&heard);
        let concluded = conclude(&heard.reports, known.len(), believed.as_ref());
        if let Some(found) = &concluded {
            self.believed.send_if_modified(|believed| {
                let news = believed.as_ref() != Some(found);
                *believed = Some(found.clone());
                news
            });
        }
        self.warn(&heard, believed.as_ref());
        concluded.or(believed).ok_or_else(|| explain(&self.name, &heard.refusals))
    }

    /// Asks each of `known`. Waits for the first answer, for all that are not `silent`, and a little for those.
    async fn hear(self: &Arc<Self>, known: &[Address], patience: Duration) -> Heard {
        let mut questions = JoinSet::new();
        for address in known {
            let (shared, address) = (self.clone(), address.clone());
            questions.spawn(async move { (shared.ask_one(&address).await, address) });
        }
        let mut awaited: HashSet<Address> = {
            let state = self.state();
            known.iter().filter(|address| !state.silent.contains(address)).cloned().collect()
        };
        let mut end = Instant::now() + patience;
        let mut heard = Heard { silent: known.iter().cloned().collect(), ..Heard::default() };
        while heard.reports.is_empty() || !awaited.is_empty() {
            let Ok(Some(next)) = timeout_at(end, questions.join_next()).await else { break };
            let Ok((answer, address)) = next else { continue };
            awaited.remove(&address);
            heard.silent.remove(&address);
            match answer {
                Ok(report) => {
                    if heard.reports.is_empty() {
                        end = end.min(Instant::now() + GRACE);
                    }
                    heard.reports.push(report);
                    heard.from.insert(address);
                }
                Err(refusal) => heard.refusals.push((address, refusal)),
            }
        }
        for address in known.iter().filter(|address| heard.silent.contains(address)) {
            let late = Refusal::Other(format!("no answer within {} ms", patience.as_millis()));
            heard.refusals.push((address.clone(), late));
        }
        heard
    }

    /// By the connection that there is, or by one for this question.
    async fn ask_one(&self, address: &Address) -> Result<Report, Refusal> {
        let link = self.state().links.get(address).cloned();
        if let Some(link) = link {
            match Report::of(&self.name, &link).await {
                // It was lost, perhaps.
                Err(Refusal::Other(_)) => {}
                answer => return answer,
            }
        }
        let connection = self.open(address).await.map_err(|error| Refusal::of(&error))?;
        let link = connection.link();
        tokio::select! {
            lost = connection.drive() => Err(Refusal::of(&lost.error)),
            report = Report::of(&self.name, &link) => report,
        }
    }

    async fn open(&self, address: &Address) -> error::Result<Connection> {
        let Self { access, server, .. } = self;
        let wanted = Wanted { name: &self.own_name, limit: MOST_QUESTIONS, pushes: None };
        let seat = &Seat { address: address.clone(), term: 0 };
        Connection::open(Introduction { seat, access, server, role: Role::Sentinel, wanted }).await
    }

    /// Remembers whom they know, and forgets those of whom nobody knows any more.
    fn learn(&self, heard: &Heard) {
        let mut state = self.state();
        state.silent.clone_from(&heard.silent);
        if heard.reports.is_empty() {
            return;
        }
        let told: HashSet<&Address> = heard.reports.iter().flat_map(|report| &report.others).collect();
        state.learned.retain(|address| told.contains(address) || heard.from.contains(address));
        for address in heard.reports.iter().flat_map(|report| &report.others) {
            let new = !self.named.contains(address) && !state.learned.contains(address);
            if new && state.learned.len() < MOST_LEARNED {
                state.learned.push(address.clone());
            }
        }
    }

    /// Tells once that none can be asked, though all goes on as long as the primary lives.
    fn warn(&self, heard: &Heard, believed: Option<&Found>) {
        let none = heard.reports.is_empty();
        let warned = std::mem::replace(&mut self.state().warned, none);
        if let (true, false, Some(believed)) = (none, warned, believed) {
            let Found { primary, .. } = believed;
            let reason = explain(&self.name, &heard.refusals);
            tracing::warn!(primary = %primary, "a change of the primary will not be noticed: {reason}.");
        }
    }
}
