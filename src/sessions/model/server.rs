//! The server: commands, pushes, and what befalls it.

use super::oracle::read_of;
use super::redis::{Keyspace, Redis, Script};
use super::state::{Command, Incoming, Request};
use super::world::World;
use super::{OFFSET, TOKENS};
use crate::redis_value::Value;
use std::collections::BTreeMap;

impl World<'_> {
    /// Lets somebody do something on the server, and takes note of what it removed.
    pub fn on_server(&self, act: impl FnOnce(&Redis)) {
        self.redis.keyspace().micros = self.micros();
        act(self.redis);
        let removed = std::mem::take(&mut self.redis.keyspace().removed);
        let mut state = self.shared.lock();
        for key in removed {
            state.oracle.removed(self.shared.names.number_of(&key));
        }
    }

    pub fn on_key(&mut self, token: usize, act: impl FnOnce(&mut Keyspace, &str)) {
        let key = self.shared.names.keys[token].clone();
        self.on_server(|redis| act(&mut redis.keyspace(), &key));
        self.push();
    }

    fn micros(&self) -> u64 {
        OFFSET + self.now()
    }

    /// Ends the server's turn: what was written is pushed.
    pub fn push(&self) {
        let written = std::mem::take(&mut self.redis.keyspace().written);
        if written.is_empty() {
            return;
        }
        let tokens: Vec<_> = written.iter().map(|key| self.shared.names.number_of(key)).collect();
        let mut state = self.shared.lock();
        let removals: Vec<_> = tokens.iter().map(|token| (*token, state.oracle.removal(*token))).collect();
        for link in state.links.iter_mut().filter(|link| link.is_connected() && link.pushes) {
            link.incoming.push_back(Incoming::Push(tokens.clone(), removals.clone(), false));
        }
    }

    pub fn execute(&mut self, process: usize) {
        let Some(Request { command, reply }) = self.shared.lock().links[process].outgoing.pop_front() else { return };
        let answer = match command {
            Command::Probe(asked) => Incoming::Alive(asked),
            Command::Time => Incoming::Reply(Value::Int(self.micros() as i64), reply),
            Command::Script { script, token, arguments, read } => {
                let mut result = Err(String::new());
                self.on_server(|redis| {
                    result = redis.run(script, &self.shared.names.keys[token], &arguments);
                    self.note(|| format!("server executes {script:?} of {process} on {token}: {}", shown(&result)));
                    // Before what was removed: a copy whose end has come already goes at once.
                    if let Ok(value) = &result {
                        self.take_note(script, &arguments, read, value);
                    }
                });
                match result {
                    Ok(value) => Incoming::Reply(value, reply),
                    Err(text) => Incoming::Failure(text, reply),
                }
            }
        };
        self.shared.lock().links[process].incoming.push_back(answer);
    }

    fn take_note(&self, script: Script, arguments: &[Vec<u8>], read: Option<usize>, value: &Value) {
        let text = |argument: &[u8]| String::from_utf8_lossy(argument).into_owned();
        let mut state = self.shared.lock();
        match (script, value) {
            (Script::ReadOrLease, Value::Array(items))
                if items.get(1).is_some_and(|nonce| nonce.as_str() == Some(&text(&arguments[2]))) =>
            {
                state.leases.insert(text(&arguments[2]), self.life);
            }
            (Script::Fill, Value::Int(1)) => {
                // A lease that nobody gave is of no life.
                let life = state.leases.get(&text(&arguments[0])).copied().unwrap_or(usize::MAX);
                state.oracle.filled(read.unwrap(), life, self.life);
            }
            (Script::Fill, _) => state.oracle.saw("fill refused"),
            _ => {}
        }
    }

    /// The server dies, with some of what was sent executed, and is back with nothing, with what was saved, or, as a replica
    /// that takes its place, with everything.
    pub fn restart(&mut self, bits: u64) {
        for process in 0..self.processes.len() {
            self.cut(process, (bits >> (2 * process)) as usize & 3);
        }
        self.life += 1;
        let mut keyspace = self.redis.keyspace();
        let keys = match bits >> 8 & 3 {
            0 => BTreeMap::new(),
            1 => self.snapshot.clone(),
            _ => keyspace.keys.clone(),
        };
        *keyspace = Keyspace { keys, ..Keyspace::default() };
        drop(keyspace);
        self.frozen = false;
        let mut state = self.shared.lock();
        for token in 0..TOKENS {
            state.oracle.removed(token);
        }
        state.oracle.saw("restart");
    }

    /// The connection of a process breaks; the server executes so many of the commands that were on their way.
    pub fn cut(&mut self, process: usize, executed: usize) {
        if !self.shared.lock().links[process].is_connected() {
            return;
        }
        if !self.frozen {
            let sent = self.shared.lock().links[process].outgoing.len();
            for _ in 0..sent.min(executed) {
                self.execute(process);
                self.push();
            }
        }
        let mut state = self.shared.lock();
        state.links[process].cut = true;
        state.oracle.saw("link cut");
    }

    pub fn flush(&mut self) {
        let names = self.shared.names.clone();
        self.on_server(|redis| {
            let mut keyspace = redis.keyspace();
            names.keys.iter().for_each(|key| keyspace.remove(key));
            keyspace.written.clear();
        });
        let mut state = self.shared.lock();
        let removals: Vec<_> = (0..TOKENS).map(|token| (token, state.oracle.removal(token))).collect();
        for link in state.links.iter_mut().filter(|link| link.is_connected() && link.pushes) {
            link.incoming.push_back(Incoming::Push(Vec::new(), removals.clone(), true));
        }
    }
}

fn shown(result: &Result<Value, String>) -> String {
    match result {
        Ok(Value::Array(items)) => {
            let item = |item: &Value| {
                item.as_str().map_or_else(
                    || format!("{item:?}"),
                    |text| read_of(text).map_or_else(|| text.to_owned(), |read| format!("read {read}")),
                )
            };
            format!("{:?}", items.iter().map(item).collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}
