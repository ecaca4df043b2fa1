//! What the application calls.

use super::oracle::read_of;
use super::process::Tested;
use super::rows::{Row, USER};
use super::state::Shared;
use super::world::World;
use crate::resilience::breaker::State;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

impl World<'_> {
    pub fn validate(&mut self, number: usize, token: usize) {
        let process = &self.processes[number];
        let (sessions, shared, guard) = (process.sessions.clone(), self.shared.clone(), process.guard.clone());
        let hash = shared.names.hashes[token];
        process.wake(self.now());
        let entered = process.runtime.enter();
        let asked = {
            let mut state = shared.lock();
            if guard.state() != State::Closed {
                state.oracle.trouble(number);
            }
            state.oracle.asks(number, token)
        };
        match sessions.immediate(Some(&hash)).unwrap() {
            Some(Some(known)) => {
                let mut state = shared.lock();
                state.oracle.saw("local hit");
                state.oracle.would_say(number, token, &known);
            }
            Some(None) => {
                let mut state = shared.lock();
                state.oracle.saw("known to be nobody's");
                state.oracle.answered(&asked, &Ok(None));
            }
            None => {
                shared.lock().calls += 1;
                process.runtime.spawn(async move {
                    let answer = sessions.validate(hash).await;
                    let mut state = shared.lock();
                    state.calls -= 1;
                    if guard.state() != State::Closed {
                        state.oracle.trouble(number);
                    }
                    let read = answer.as_ref().ok().map(|known| known.as_ref().map(|known| read_of(&known.json)));
                    state.note(|| format!("process {number} says of {token}: {read:?}"));
                    state.oracle.answered(&asked, &answer);
                });
            }
        }
        drop(entered);
        self.run(number);
    }

    /// Calls something that forgets tokens, among them those that it is given, or ends sessions. It says whether it has resolved.
    fn call<F>(&mut self, number: usize, given: &[usize], call: impl FnOnce(Arc<Tested>) -> F)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let process = &self.processes[number];
        process.wake(self.now());
        let (shared, begun) = (self.shared.clone(), Begun::new(&self.shared, number, given));
        let called = call(process.sessions.clone());
        process.runtime.spawn(async move {
            let resolved = called.await;
            begun.ends(&shared, resolved);
        });
        self.run(number);
    }

    pub fn revoke_token(&mut self, number: usize, token: usize) {
        let hash = self.shared.names.hashes[token];
        self.call(number, &[token], |sessions| async move { sessions.revoke_token(Some(hash)).await.is_ok() });
    }

    pub fn revoke(&mut self, number: usize, token: usize, with_token: bool) {
        let Some(Row { id, .. }) = self.shared.lock().rows[token].clone() else { return };
        let (hash, given) = (self.shared.names.hashes[token], [token]);
        let given = if with_token { &given[..] } else { &[] };
        let call =
            |sessions: Arc<Tested>| async move { sessions.revoke(&id, with_token.then_some(hash)).await.is_ok() };
        self.call(number, given, call);
    }

    pub fn revoke_user(&mut self, number: usize) {
        self.call(number, &[], |sessions| async move { sessions.revoke_user(USER).await.is_ok() });
    }

    /// Ends all sessions but that of a token.
    pub fn revoke_others(&mut self, number: usize, token: usize) {
        let Some(Row { id, .. }) = self.shared.lock().rows[token].clone() else { return };
        self.call(number, &[], |sessions| async move { sessions.revoke_others(USER, &id).await.is_ok() });
    }

    pub fn rotate(&mut self, number: usize, token: usize, new: usize) {
        let (hashes, shared) = (self.shared.names.hashes, self.shared.clone());
        let call = |sessions: Arc<Tested>| async move {
            let soon = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
            let rotated = sessions.rotate(Some(hashes[token]), hashes[new], soon).await;
            if matches!(rotated, Ok(true)) {
                shared.lock().oracle.saw("rotated");
            }
            rotated.is_ok()
        };
        self.call(number, &[token, new], call);
    }

    pub fn forget(&mut self, number: usize, token: usize) {
        let hash = self.shared.names.hashes[token];
        let call = |sessions: Arc<Tested>| async move {
            sessions.forget(Some(hash)).await;
            true
        };
        self.call(number, &[token], call);
    }

    pub fn forget_user(&mut self, number: usize) {
        self.call(number, &[], |sessions| async move { sessions.forget_user(USER).await.is_ok() });
    }

    pub fn clean_up(&mut self, number: usize) {
        self.call(number, &[], |sessions| async move { sessions.cleanup_expired().await.is_ok() });
    }

    pub fn warm(&mut self, number: usize, token: usize) {
        let (hash, shared) = (self.shared.names.hashes[token], self.shared.clone());
        let call = |sessions: Arc<Tested>| async move {
            if matches!(sessions.warm_one(Some(hash)).await, Ok(true)) {
                shared.lock().oracle.saw("warmed");
            }
            false
        };
        self.call(number, &[], call);
    }
}

/// A call that forgets tokens or ends sessions.
struct Begun {
    process: usize,
    turn: u64,
    /// Those that it was given, and their epochs when it began.
    tokens: Vec<(usize, u64)>,
}

impl Begun {
    fn new(shared: &Shared, process: usize, tokens: &[usize]) -> Self {
        let mut state = shared.lock();
        state.calls += 1;
        let tokens = tokens.iter().map(|token| (*token, state.oracle.epoch(*token))).collect();
        Self { process, turn: state.oracle.turn(), tokens }
    }

    /// It has resolved, or rejected. Called on the task of the call.
    fn ends(&self, shared: &Shared, resolved: bool) {
        let mut state = shared.lock();
        state.calls -= 1;
        state.note(|| format!("process {} has forgotten {:?}: {resolved}", self.process, self.tokens));
        let call = tokio::task::id();
        let named: Vec<_> =
            state.done.iter().filter(|(task, ..)| *task == call).map(|(_, token, epoch)| (*token, *epoch)).collect();
        for (token, epoch) in self.tokens.iter().chain(named.iter().filter(|_| resolved)) {
            if resolved {
                state.oracle.forgot(self.process, *token, *epoch);
            }
            state.oracle.owes(self.process, *token, self.turn);
        }
    }
}
