//! What arrives at a process: replies, pushes and news, and the ends of the links that they come on.

use super::SECOND;
use super::process::moment;
use super::state::{Command, Incoming, Listener, News, Phase, Request};
use super::world::World;
use crate::error::Error;
use crate::redis_value::Value;
use crate::stores::redis::pushed_tokens;
use bytes::Bytes;
use tokio::sync::oneshot;

impl World<'_> {
    pub fn deliver(&mut self, process: usize, at_once: bool) {
        self.push();
        let Some(incoming) = self.shared.lock().links[process].incoming.pop_front() else { return };
        self.processes[process].wake(self.now());
        let memory = self.processes[process].memory.clone();
        let mut state = self.shared.lock();
        match incoming {
            Incoming::Reply(value, reply) if !at_once => {
                state.lagging.push((process, Box::new(move || drop(reply.send(Ok(value))))));
            }
            Incoming::Reply(value, reply) => drop(reply.send(Ok(value))),
            Incoming::Failure(text, reply) => drop(reply.send(Err(Error::Reply { server: "model".into(), text }))),
            Incoming::Alive(asked) => {
                let link = &mut state.links[process];
                link.unanswered = false;
                memory.lane_alive(moment(asked), link.pushes);
            }
            Incoming::Push(tokens, removals, all) => {
                let text = |text: String| Value::Text(Bytes::from(text));
                let names = tokens.iter().map(|token| text(self.shared.names.keys[*token].clone())).collect();
                let names = if all { Value::Null } else { Value::Array(names) };
                match pushed_tokens(&self.keys, &[text("invalidate".into()), names]) {
                    Some(tokens) => tokens.iter().for_each(|token| memory.pushed(token)),
                    None => memory.forget_all(),
                }
                for (token, removal) in removals {
                    state.oracle.told(process, token, removal);
                }
            }
        }
        drop(state);
        if at_once {
            self.run(process);
        }
    }

    pub fn hear(&mut self, process: usize) {
        let now = self.now();
        let Some(news) = self.shared.lock().listeners[process].news.pop_front() else { return };
        self.note(|| format!("{process} hears {news:?}"));
        let this = &mut self.processes[process];
        this.wake(now);
        let (triggers, memory) = (self.config.triggers, this.memory.clone());
        match news {
            News::Listening(asked) => memory.listener_up(moment(asked), triggers),
            News::Forget(token, _) => {
                let _runtime = this.runtime.enter();
                this.sessions.heard_of(&[self.shared.names.hashes[token]]);
            }
            News::ForgetAll => memory.doubt(),
            News::Alive(asked) => memory.listener_alive(moment(asked), triggers),
        }
        let mut state = self.shared.lock();
        match news {
            News::Listening(_) if triggers || !this.with_redis => state.oracle.doubts(process),
            News::Forget(token, epoch) => state.oracle.forgot(process, token, epoch),
            News::ForgetAll => state.oracle.doubts(process),
            News::Alive(_) => state.listeners[process].unanswered = false,
            News::Listening(_) => {}
        }
        drop(state);
        self.run(process);
    }

    pub fn connect(&mut self, process: usize) {
        let mut state = self.shared.lock();
        let now = state.now();
        let link = &mut state.links[process];
        link.set(Phase::Shaken { asked: now });
        link.cut = false;
        link.life = self.life;
        link.pushes = self.config.processes[process].1;
        link.number += 1;
        link.unanswered = false;
        link.probed = now;
    }

    pub fn shake(&mut self, process: usize) {
        let now = self.now();
        self.processes[process].wake(now);
        let mut state = self.shared.lock();
        let link = &mut state.links[process];
        let Phase::Shaken { asked } = link.phase else { return };
        // Pushes that come during the handshake are passed over.
        link.incoming.clear();
        self.processes[process].memory.lane_up(moment(asked), link.pushes);
        link.set(Phase::Up);
        state.oracle.relinked(process);
        drop(state);
        self.run(process);
    }

    pub fn lose_link(&mut self, process: usize, bits: u64) {
        {
            let mut state = self.shared.lock();
            let link = &mut state.links[process];
            link.cut = true;
            link.incoming.clear();
            link.outgoing.clear();
            // Who is woken by that may run before the memory is told.
        }
        if bits & 4 != 0 {
            self.run(process);
        }
        let now = self.now();
        self.processes[process].wake(now);
        self.processes[process].memory.lane_down();
        let mut state = self.shared.lock();
        state.links[process].set(if bits & 8 != 0 { Phase::Down } else { Phase::Connecting });
        state.oracle.relinked(process);
        drop(state);
        self.run(process);
    }

    /// Closes what a process has, and opens it again.
    pub fn reopen(&mut self, process: usize) {
        self.processes[process].reopen(process, &self.config, &self.shared);
        if !matches!(self.shared.lock().links[process].phase, Phase::Down) {
            self.lose_link(process, 0);
        }
        let listened = {
            let listener = &self.shared.lock().listeners[process];
            listener.connected && !listener.news.iter().any(|news| matches!(news, News::Listening(_)))
        };
        if listened {
            self.lose_listener(process);
        } else {
            self.shared.lock().listeners[process] = Listener::default();
        }
    }

    pub fn lose_listener(&mut self, process: usize) {
        let now = self.now();
        self.processes[process].wake(now);
        self.processes[process].memory.listener_down();
        let mut state = self.shared.lock();
        let listener = &mut state.listeners[process];
        listener.connected = false;
        listener.cut = false;
        listener.unanswered = false;
        listener.news.clear();
        state.oracle.doubts(process);
        drop(state);
        self.run(process);
    }

    /// Probes the links of a process, and gives up those that are silent.
    pub fn tend(&mut self, process: usize) {
        let (silent, deaf) = {
            let mut state = self.shared.lock();
            let now = state.now();
            let link = &mut state.links[process];
            let silent = link.is_up() && link.is_silent(now);
            if link.is_up() && !link.unanswered && now >= link.probed + SECOND {
                link.probed = now;
                link.unanswered = true;
                link.outgoing.push_back(Request { command: Command::Probe(now), reply: oneshot::channel().0 });
            }
            let listener = &mut state.listeners[process];
            let deaf = listener.connected && listener.is_silent(now);
            if listener.connected && !listener.unanswered && now >= listener.probed + SECOND {
                listener.probed = now;
                listener.unanswered = true;
                if !listener.cut {
                    listener.news.push_back(News::Alive(now));
                }
            }
            (silent, deaf)
        };
        if silent {
            self.lose_link(process, 0);
        }
        if deaf {
            self.lose_listener(process);
        }
    }
}
