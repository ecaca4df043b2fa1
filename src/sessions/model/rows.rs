//! The Postgres of the model: the rows, the questions to it, and what it tells.

use super::SECOND;
use super::TOKENS;
use super::state::{News, Shared, State, lost};
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use crate::session::{Session, SessionWithUser, UserSessionStats};
use crate::stores::{Found, Named, SessionRows, Which};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tokio::task::{Id, try_id};
use uuid::Uuid;

/// Whose all sessions are.
pub const USER: &str = "22222222-2222-4222-8222-222222222222";

#[derive(Clone)]
pub struct Row {
    pub id: String,
    pub ends: u64,
}

/// What a process asks.
#[derive(Debug, Clone)]
pub enum Asked {
    Find(usize),
    FindAll(Vec<usize>),
    Named { named: Naming, announce: bool, delete: bool },
    Rotate { token: usize, new: usize },
}

/// [`Which`], owned.
#[derive(Debug, Clone)]
pub enum Naming {
    Id(String),
    Token(usize),
    User,
    Others(String),
    Expired,
}

pub enum Said {
    Found(Option<Box<Found>>),
    All(Vec<(TokenHash, Found)>),
    Named(Named),
    Rotated(bool),
}

/// A question on its way.
pub struct Question {
    pub process: usize,
    /// Which call it belongs to.
    pub task: Option<Id>,
    pub asked: Asked,
    pub reply: oneshot::Sender<Result<Said>>,
}

impl State {
    /// Changes a row, as anybody does.
    pub fn put(&mut self, token: usize, row: Option<Row>) {
        self.oracle.changed(token, row.as_ref().map_or(0, |row| row.ends));
        self.rows[token] = row;
    }

    /// A new session under a token.
    pub fn sign_in(&mut self, token: usize, life: u64) {
        self.sessions += 1;
        let id = format!("{:08x}-0000-4000-8000-000000000000", self.sessions);
        let ends = self.now() + life;
        self.put(token, Some(Row { id, ends }));
    }

    /// Tells all who listen.
    pub fn tell(&mut self, news: News) {
        if let News::Forget(token, epoch) = news {
            self.oracle.announced(token, epoch);
        }
        for listener in self.listeners.iter_mut().filter(|listener| listener.connected && !listener.cut) {
            listener.news.push_back(news);
        }
    }

    fn tokens(&self, named: &Naming) -> Vec<usize> {
        let meant = |token: &usize| {
            self.rows[*token].as_ref().is_some_and(|row| match named {
                Naming::Id(id) => row.id == *id,
                Naming::Token(wanted) => token == wanted,
                Naming::User => true,
                Naming::Others(except) => row.id != *except,
                Naming::Expired => row.ends <= self.now(),
            })
        };
        (0..TOKENS).filter(meant).collect()
    }

    /// A statement of a call was about a token, in whose epoch it is now.
    fn did(&mut self, task: Option<Id>, token: usize) -> u64 {
        let epoch = self.oracle.epoch(token);
        self.done.extend(task.map(|task| (task, token, epoch)));
        epoch
    }

    /// What Postgres has for a token; whoever wants it for a copy only is `warming`.
    fn find(&mut self, token: usize, warming: bool) -> Option<Found> {
        let now = self.now();
        let row = self.rows[token].clone().filter(|row| now < row.ends)?;
        let read = self.oracle.reads(token, row.ends, self.ttl, warming);
        let session = session(&self.names.hashes[token], row.id, read);
        Some(Found { session, remaining: Duration::from_micros(row.ends - now) })
    }

    /// Postgres executes a statement.
    pub fn execute(&mut self, asked: &Asked, task: Option<Id>) -> Said {
        let now = self.now();
        match asked {
            Asked::Find(token) => Said::Found(self.find(*token, false).map(Box::new)),
            Asked::FindAll(tokens) => {
                let found = |token: &usize| Some((self.names.hashes[*token], self.find(*token, true)?));
                Said::All(tokens.iter().filter_map(found).collect())
            }
            Asked::Named { named, announce, delete } => {
                let tokens = self.tokens(named);
                for token in &tokens {
                    if *delete {
                        self.put(*token, None);
                    }
                    if *announce {
                        let epoch = self.did(task, *token);
                        self.tell(News::Forget(*token, epoch));
                    }
                }
                Said::Named(Named {
                    rows: tokens.len() as u64,
                    tokens: tokens.into_iter().map(|token| self.names.hashes[token]).collect(),
                })
            }
            Asked::Rotate { token, new } => {
                let taken = self.rows[*new].is_some();
                let Some(row) = self.rows[*token].clone().filter(|row| now < row.ends && !taken) else {
                    return Said::Rotated(false);
                };
                self.put(*token, None);
                self.put(*new, Some(Row { ends: now + 60 * SECOND, ..row }));
                for (token, told) in [(*token, true), (*new, self.triggers)] {
                    let epoch = self.did(task, token);
                    if told {
                        self.tell(News::Forget(token, epoch));
                    }
                }
                Said::Rotated(true)
            }
        }
    }
}

fn session(token: &TokenHash, id: String, read: usize) -> SessionWithUser {
    SessionWithUser {
        id,
        user_id: USER.into(),
        token: token.to_hex(),
        expires_at: String::new(),
        last_activity_at: String::new(),
        ip_address: None,
        user_agent: Some(read.to_string()),
        created_at: String::new(),
        email: String::new(),
        first_name: None,
        last_name: None,
        username: None,
    }
}

/// The store of rows of one process.
pub struct Rows {
    pub process: usize,
    pub shared: Shared,
}

/// Notes it if Postgres did not answer a question, or not in time; also when nobody waits for the answer any more.
struct Watch<'a> {
    rows: &'a Rows,
    asked: u64,
    reads: Option<(usize, usize)>,
    failed: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut state = self.rows.shared.lock();
        state.oracle.asked_postgres(self.rows.process, self.asked, self.failed);
        if let Some(index) = self.reads.and_then(|reads| state.reading.iter().position(|one| *one == reads)) {
            state.reading.swap_remove(index);
        }
    }
}

impl Rows {
    async fn ask(&self, asked: Asked) -> Result<Said> {
        let reads = if let Asked::Find(token) = asked { Some((self.process, token)) } else { None };
        let since = {
            let mut state = self.shared.lock();
            state.oracle.asks_postgres(self.process);
            if reads.is_some_and(|reads| state.reading.contains(&reads)) {
                state.oracle.saw("read beside one that may not be joined");
            }
            state.reading.extend(reads);
            state.now()
        };
        let mut watch = Watch { rows: self, asked: since, reads, failed: false };
        self.shared.gate(self.process).await;
        let (reply, answer) = oneshot::channel();
        self.shared.lock().questions.push(Question { process: self.process, task: try_id(), asked, reply });
        let said = answer.await.unwrap_or_else(|_| Err(lost()));
        watch.failed = said.is_err();
        said
    }

    async fn named(&self, which: Which<'_>, announce: bool, delete: bool) -> Result<Named> {
        let named = match which {
            Which::Id(id) => Naming::Id(id.into()),
            Which::Token(token) => Naming::Token(self.shared.names.number(token)),
            Which::User(_) => Naming::User,
            Which::Others { except, .. } => Naming::Others(except.into()),
        };
        self.about(named, announce, delete).await
    }

    async fn about(&self, named: Naming, announce: bool, delete: bool) -> Result<Named> {
        match self.ask(Asked::Named { named, announce, delete }).await? {
            Said::Named(named) => Ok(named),
            _ => Err(Error::Internal("another answer".into())),
        }
    }
}

impl SessionRows for Rows {
    async fn find(&self, token: TokenHash) -> Result<Option<Found>> {
        match self.ask(Asked::Find(self.shared.names.number(token))).await? {
            Said::Found(found) => Ok(found.map(|found| *found)),
            _ => Err(Error::Internal("another answer".into())),
        }
    }

    async fn name(&self, which: Which<'_>) -> Result<Named> {
        self.named(which, false, false).await
    }

    async fn announce(&self, which: Which<'_>) -> Result<Named> {
        self.named(which, true, false).await
    }

    async fn delete(&self, which: Which<'_>) -> Result<Named> {
        self.named(which, true, true).await
    }

    async fn rotate(&self, token: TokenHash, new: TokenHash, _: SystemTime) -> Result<bool> {
        match self
            .ask(Asked::Rotate { token: self.shared.names.number(token), new: self.shared.names.number(new) })
            .await?
        {
            Said::Rotated(rotated) => Ok(rotated),
            _ => Err(Error::Internal("another answer".into())),
        }
    }

    async fn find_all(&self, tokens: &[TokenHash]) -> Result<Vec<(TokenHash, Found)>> {
        let tokens = tokens.iter().map(|token| self.shared.names.number(*token)).collect();
        match self.ask(Asked::FindAll(tokens)).await? {
            Said::All(found) => Ok(found),
            _ => Err(Error::Internal("another answer".into())),
        }
    }

    async fn newest(&self, _: u32, _: Duration) -> Result<Vec<TokenHash>> {
        Ok(Vec::new())
    }

    async fn of_user(&self, _: &str) -> Result<Vec<Session>> {
        Ok(Vec::new())
    }

    async fn stats_of_user(&self, _: &str) -> Result<UserSessionStats> {
        Ok(UserSessionStats { total_active: 0, oldest_session: None, newest_session: None, devices_count: 0 })
    }

    async fn delete_expired(&self, _: u32) -> Result<Named> {
        self.about(Naming::Expired, true, true).await
    }

    async fn delete_inactive(&self, _: Duration, _: u32) -> Result<Named> {
        Ok(Named::default())
    }

    async fn write_activity(&self, _: &[(Uuid, Duration)]) -> Result<()> {
        Ok(())
    }
}
