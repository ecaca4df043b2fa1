//! The store of copies of one process: the real entries and replies, on a link of the model.

use super::oracle::read_of;
use super::redis::Script;
use super::state::{Command, Phase, Request, Shared, lost};
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use crate::redis_value::Value;
use crate::stores::redis::{Entries, look};
use crate::stores::{Lease, Lookup, SessionCopies};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

pub struct Copies {
    pub process: usize,
    pub shared: Shared,
    pub entries: Arc<Entries>,
}

/// What is known of the connection that something is sent on.
struct Seen {
    number: u64,
    life: usize,
    pushes: bool,
}

/// Names a life of the server.
pub fn run(life: usize) -> String {
    format!("life-{life}")
}

impl Copies {
    async fn link(&self) -> Result<Seen> {
        loop {
            let changed = {
                let state = self.shared.lock();
                let link = &state.links[self.process];
                match link.phase {
                    Phase::Up => return Ok(Seen { number: link.number, life: link.life, pushes: link.pushes }),
                    Phase::Down => return Err(lost()),
                    Phase::Connecting | Phase::Shaken { .. } => link.changed.clone().notified_owned(),
                }
            };
            changed.await;
        }
    }

    fn submit(&self, link: &Seen, command: Command) -> Result<oneshot::Receiver<Result<Value>>> {
        let (reply, receiver) = oneshot::channel();
        let mut state = self.shared.lock();
        let here = &mut state.links[self.process];
        if !here.is_up() || here.number != link.number {
            return Err(lost());
        }
        here.outgoing.push_back(Request { command, reply });
        Ok(receiver)
    }

    async fn send(&self, link: &Seen, command: Command) -> Result<Value> {
        let reply = self.submit(link, command)?;
        reply.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn remove(&self, link: &Seen, tokens: &[TokenHash]) -> Result<()> {
        let mut replies = Vec::new();
        for token in tokens {
            let (script, token) = (Script::Del, self.shared.names.number(*token));
            replies.push(self.submit(link, Command::Script { script, token, arguments: Vec::new(), read: None })?);
        }
        for reply in replies {
            reply.await.unwrap_or_else(|_| Err(lost()))?;
        }
        Ok(())
    }
}

fn owned(arguments: &[&[u8]]) -> Vec<Vec<u8>> {
    arguments.iter().map(|argument| argument.to_vec()).collect()
}

impl SessionCopies for Copies {
    async fn read_or_lease(&self, token: TokenHash, after: u64) -> Result<Lookup> {
        let number = self.shared.names.number(token);
        self.shared.lock().oracle.asks_redis(self.process, number);
        self.shared.gate(self.process).await;
        let link = self.link().await?;
        let (run, after) = (run(link.life), after.to_string());
        let nonce = format!("{}-{}", self.process, self.shared.lock().oracle.turn());
        let arguments = owned(&look(&run, &nonce, &after));
        let command = Command::Script { script: Script::ReadOrLease, token: number, arguments, read: None };
        let reply = self.send(&link, command).await?;
        match self.entries.understand(token, (&run, &nonce), link.pushes, &reply) {
            Ok(lookup) => {
                if let Lookup::Copy { session, .. } = &lookup {
                    let json = serde_json::to_string(session).unwrap();
                    self.shared.lock().oracle.believes(self.process, &json, link.life);
                }
                Ok(lookup)
            }
            Err(disbelief) => {
                self.remove(&link, &[token]).await?;
                Ok(Lookup::Miss { lease: None, disbelief: Some(disbelief) })
            }
        }
    }

    async fn now(&self) -> Result<u64> {
        self.shared.gate(self.process).await;
        let reply = self.send(&self.link().await?, Command::Time).await?;
        let Value::Int(micros) = reply else { return Err(Error::Internal("no time".into())) };
        Ok(micros as u64)
    }

    async fn fill(&self, token: TokenHash, lease: &Lease, session: &str, life: Duration) -> Result<bool> {
        self.shared.lock().oracle.leaves(self.process, session);
        self.shared.gate(self.process).await;
        let Some(fill) = self.entries.fill(token, lease, session, life) else { return Ok(false) };
        let link = self.link().await?;
        let (arguments, read) = (owned(&fill.arguments()), read_of(session));
        let command = Command::Script { script: Script::Fill, token: self.shared.names.number(token), arguments, read };
        Ok(self.send(&link, command).await? == Value::Int(1))
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn forget(&self, tokens: &[TokenHash]) -> Result<()> {
        let turn = self.shared.lock().oracle.turn();
        self.shared.gate(self.process).await;
        let mut tokens = tokens.to_vec();
        tokens.sort_unstable();
        self.remove(&self.link().await?, &tokens).await?;
        let mut state = self.shared.lock();
        for token in tokens {
            state.oracle.delivered(self.process, self.shared.names.number(token), turn);
        }
        Ok(())
    }
}
