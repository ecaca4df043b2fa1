//! A Redis of the model: the commands that the real scripts use, and the scripts themselves in a real Lua.

use crate::redis_value::Value;
use crate::stores::redis::{FILL, READ_OR_LEASE};
use bytes::Bytes;
use mlua::{Function, Lua, LuaString, Table, Variadic};
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Which writes are refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Refuses {
    #[default]
    Nothing,
    /// As to a user who may not do this.
    Del,
    /// As a replica does, or a server whose memory is full.
    Writes,
}

type Fields = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is under a key: a hash, or something of another type.
#[derive(Clone)]
pub struct Entry {
    fields: Option<Fields>,
    /// Milliseconds of the server's clock.
    expires: Option<u64>,
}

/// The keys of the server.
#[derive(Default)]
pub struct Keyspace {
    pub keys: BTreeMap<String, Entry>,
    /// The server's clock in microseconds. It stands still within a command.
    pub micros: u64,
    pub refuses: Refuses,
    /// Keys that were written since their pushes were sent.
    pub written: BTreeSet<String>,
    /// Keys that were removed since somebody looked.
    pub removed: Vec<String>,
}

enum Answer {
    Number(i64),
    Text(Option<Vec<u8>>),
    Texts(Vec<Option<Vec<u8>>>),
}

impl Keyspace {
    /// Removes a key as a command, an eviction or an expiry does.
    pub fn remove(&mut self, key: &str) {
        if self.keys.remove(key).is_some() {
            self.written.insert(key.to_owned());
        }
        self.removed.push(key.to_owned());
    }

    /// Puts something of another type there.
    pub fn garble(&mut self, key: &str) {
        self.remove(key);
        self.keys.insert(key.to_owned(), Entry { fields: None, expires: None });
        self.written.insert(key.to_owned());
    }

    /// Takes the expiry from a key.
    pub fn persist(&mut self, key: &str) {
        if let Some(entry) = self.keys.get_mut(key) {
            entry.expires = None;
            self.written.insert(key.to_owned());
        }
    }

    /// Removes the keys whose time has come.
    pub fn expire(&mut self) {
        let now = self.micros / 1000;
        let ended = |entry: &Entry| entry.expires.is_some_and(|expires| expires <= now);
        let over: Vec<_> = self.keys.iter().filter(|(_, entry)| ended(entry)).map(|(key, _)| key.clone()).collect();
        for key in over {
            self.remove(&key);
        }
    }

    fn run(&mut self, command: &[LuaString]) -> Result<Answer, String> {
        let arguments: Vec<_> = command.iter().map(|argument| argument.as_bytes().to_vec()).collect();
        let [name, rest @ ..] = arguments.as_slice() else { return Err("ERR empty".into()) };
        let name = String::from_utf8_lossy(name).into_owned();
        if name == "TIME" {
            let parts = [self.micros / 1_000_000, self.micros % 1_000_000];
            return Ok(Answer::Texts(parts.map(|part| Some(part.to_string().into_bytes())).to_vec()));
        }
        let [key, rest @ ..] = rest else { return Err("ERR wrong number of arguments".into()) };
        let key = String::from_utf8_lossy(key).into_owned();
        self.expire();
        if self.refuses == Refuses::Writes && !matches!(name.as_str(), "HGET" | "HMGET") {
            return Err("READONLY You can't write against a read only replica.".into());
        }
        match name.as_str() {
            "DEL" if self.refuses == Refuses::Del => Err("NOPERM this user has no permissions to run 'del'".into()),
            "DEL" => {
                let was_there = self.keys.contains_key(&key);
                self.remove(&key);
                Ok(Answer::Number(was_there.into()))
            }
            "HGET" => Ok(Answer::Text(self.fields(&key)?.and_then(|fields| fields.get(&rest[0]).cloned()))),
            "HMGET" => {
                let fields = self.fields(&key)?.cloned().unwrap_or_default();
                Ok(Answer::Texts(rest.iter().map(|name| fields.get(name).cloned()).collect()))
            }
            "HSET" => {
                self.fields(&key)?;
                let new = Entry { fields: Some(Fields::new()), expires: None };
                let fields = self.keys.entry(key.clone()).or_insert(new).fields.get_or_insert_default();
                for pair in rest.chunks(2) {
                    fields.insert(pair[0].clone(), pair[1].clone());
                }
                self.written.insert(key);
                Ok(Answer::Number(1))
            }
            "HDEL" => {
                self.fields(&key)?;
                let Some(entry) = self.keys.get_mut(&key) else { return Ok(Answer::Number(0)) };
                let fields = entry.fields.get_or_insert_default();
                fields.retain(|name, _| !rest.contains(name));
                if fields.is_empty() {
                    self.remove(&key);
                }
                self.written.insert(key);
                Ok(Answer::Number(1))
            }
            "PEXPIRE" | "PEXPIREAT" => {
                let Some(entry) = self.keys.get_mut(&key) else { return Ok(Answer::Number(0)) };
                let text = String::from_utf8_lossy(&rest[0]);
                let time: u64 = text.parse().map_err(|_| format!("ERR value is not an integer: {text}"))?;
                let start = if name == "PEXPIRE" { self.micros / 1000 } else { 0 };
                entry.expires = Some(start + time);
                self.written.insert(key);
                self.expire();
                Ok(Answer::Number(1))
            }
            _ => Err(format!("ERR unknown command '{name}'")),
        }
    }

    fn fields(&self, key: &str) -> Result<Option<&Fields>, String> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Entry { fields: Some(fields), .. }) => Ok(Some(fields)),
            Some(_) => Err("WRONGTYPE Operation against a key holding the wrong kind of value".into()),
        }
    }
}

/// The server, with its scripts compiled.
pub struct Redis {
    lua: Lua,
    read_or_lease: Function,
    fill: Function,
    del: Function,
    keyspace: Rc<RefCell<Keyspace>>,
}

/// Which script to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    ReadOrLease,
    Fill,
    /// A plain `DEL`.
    Del,
}

impl Redis {
    pub fn new() -> mlua::Result<Self> {
        let (lua, keyspace) = (Lua::new(), Rc::new(RefCell::new(Keyspace::default())));
        let redis = lua.create_table()?;
        for protected in [false, true] {
            let keyspace = keyspace.clone();
            let call = lua.create_function(move |lua, command: Variadic<LuaString>| {
                let answer = keyspace.borrow_mut().run(&command);
                match answer {
                    Ok(answer) => to_lua(lua, answer),
                    Err(error) if protected => {
                        let table = lua.create_table()?;
                        table.set("err", error)?;
                        Ok(mlua::Value::Table(table))
                    }
                    Err(error) => Err(mlua::Error::runtime(error)),
                }
            })?;
            redis.set(if protected { "pcall" } else { "call" }, call)?;
        }
        lua.globals().set("redis", redis)?;
        let script = |source: &str| lua.load(format!("local KEYS, ARGV = ...\n{source}")).into_function();
        let (read_or_lease, fill) = (script(READ_OR_LEASE)?, script(FILL)?);
        let del = script("return redis.call('DEL', KEYS[1])")?;
        Ok(Self { lua, read_or_lease, fill, del, keyspace })
    }

    pub fn keyspace(&self) -> RefMut<'_, Keyspace> {
        self.keyspace.borrow_mut()
    }

    /// Runs a script on one key.
    pub fn run(&self, script: Script, key: &str, arguments: &[Vec<u8>]) -> Result<Value, String> {
        let run = || {
            let function = match script {
                Script::ReadOrLease => &self.read_or_lease,
                Script::Fill => &self.fill,
                Script::Del => &self.del,
            };
            let strings: mlua::Result<Vec<_>> = arguments.iter().map(|text| self.lua.create_string(text)).collect();
            let keys = self.lua.create_sequence_from([key])?;
            let arguments = self.lua.create_sequence_from(strings?)?;
            function.call::<mlua::Value>((keys, arguments)).and_then(from_lua)
        };
        run().map_err(|error| error.to_string())
    }
}

fn to_lua(lua: &Lua, answer: Answer) -> mlua::Result<mlua::Value> {
    let text = |text: Option<Vec<u8>>| match text {
        // As Redis does it: nil is false.
        None => Ok(mlua::Value::Boolean(false)),
        Some(text) => lua.create_string(text).map(mlua::Value::String),
    };
    match answer {
        Answer::Number(number) => Ok(mlua::Value::Number(number as f64)),
        Answer::Text(one) => text(one),
        Answer::Texts(all) => {
            let all: mlua::Result<Vec<_>> = all.into_iter().map(text).collect();
            Ok(mlua::Value::Table(lua.create_sequence_from(all?)?))
        }
    }
}

fn from_lua(value: mlua::Value) -> mlua::Result<Value> {
    Ok(match value {
        mlua::Value::Integer(number) => Value::Int(number),
        mlua::Value::Number(number) => Value::Int(number as i64),
        mlua::Value::String(text) => Value::Text(Bytes::copy_from_slice(&text.as_bytes())),
        mlua::Value::Table(table) => Value::Array(items(&table)?),
        _ => Value::Null,
    })
}

fn items(table: &Table) -> mlua::Result<Vec<Value>> {
    table.clone().sequence_values::<mlua::Value>().map(|item| from_lua(item?)).collect()
}
