//! A request that is taken apart, executed by several servers and put together is as if one server had executed it.

use super::super::command::Command;
use super::super::route::{Part, Split, To, split};
use super::super::slots::slot;
use crate::error::{Error, Result};
use crate::redis_request::{Replies, encode};
use crate::redis_value::Value;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A server that knows some commands.
#[derive(Default, Clone)]
struct Server(BTreeMap<Vec<u8>, Vec<u8>>);

impl Server {
    fn run(&mut self, bytes: &[u8]) -> Result<Value> {
        let command = Command::read(bytes).unwrap();
        assert_eq!(command.length(), Some(bytes.len()));
        let arguments: Vec<&[u8]> = command.arguments().skip(1).collect();
        let text = |bytes: &[u8]| Value::Text(Bytes::copy_from_slice(bytes));
        let count = |number: usize| Value::Int(i64::try_from(number).unwrap());
        Ok(match &*command.name() {
            b"MGET" => Value::Array(
                arguments.iter().map(|key| self.0.get(*key).map_or(Value::Null, |value| text(value))).collect(),
            ),
            b"MSET" => {
                for pair in arguments.chunks(2) {
                    self.0.insert(pair[0].to_vec(), pair[1].to_vec());
                }
                text(b"OK")
            }
            b"DEL" => count(arguments.iter().filter(|key| self.0.remove(**key).is_some()).count()),
            b"EXISTS" => count(arguments.iter().filter(|key| self.0.contains_key(**key)).count()),
            b"APPEND" => {
                let value = self.0.entry(arguments[0].to_vec()).or_default();
                value.extend_from_slice(arguments[1]);
                count(value.len())
            }
            b"DBSIZE" => count(self.0.len()),
            _ => return Err(Error::Reply { server: "Redis".into(), text: "ERR unknown command".into() }),
        })
    }
}

/// Some of them, each with every n-th slot.
struct Cluster(Vec<Server>);

impl Cluster {
    fn owner(&mut self, slot: u16) -> &mut Server {
        let count = self.0.len();
        &mut self.0[usize::from(slot) % count]
    }

    fn answer(&mut self, part: &Part) -> Vec<Result<Value>> {
        match part.to {
            To::Slot(own) => {
                // A server refuses keys that are another's.
                let command = Command::read(&part.bytes).unwrap();
                let step = if &*command.name() == b"MSET" { 2 } else { 1 };
                let several: [&[u8]; 4] = [b"MGET", b"MSET", b"DEL", b"EXISTS"];
                let keys = if several.contains(&&*command.name()) { usize::MAX } else { 1 };
                assert!(command.arguments().skip(1).step_by(step).take(keys).all(|key| slot(key) == own));
                vec![self.owner(own).run(&part.bytes)]
            }
            To::AnyPrimary => vec![self.0[0].run(&part.bytes)],
            To::EveryPrimary => self.0.iter_mut().map(|server| server.run(&part.bytes)).collect(),
            To::Nth(index) => self.0.get_mut(index).map(|server| server.run(&part.bytes)).into_iter().collect(),
        }
    }

    fn run(&mut self, bytes: Bytes, replies: Replies) -> Result<Value> {
        match split(bytes, replies)? {
            Split::One(part) => self.answer(&part).remove(0),
            Split::Many { parts, join } => {
                let answers = parts.iter().flat_map(|part| self.answer(part)).collect();
                join.apply(answers, self.0.len())
            }
        }
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof!["[a-f]", "\\{[ab]\\}[a-c]", "[a-c]{2}"].prop_map(String::into_bytes)
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let with = |name: &'static str, arguments: Vec<Vec<u8>>| [vec![name.as_bytes().to_vec()], arguments].concat();
    let keys = || prop::collection::vec(key(), 1..8);
    let value = || prop::collection::vec(any::<u8>(), 0..4);
    prop_oneof![
        keys().prop_map(move |keys| with("MGET", keys)),
        keys().prop_map(move |keys| with("DEL", keys)),
        keys().prop_map(move |keys| with("EXISTS", keys)),
        prop::collection::vec((key(), value()), 1..8)
            .prop_map(move |pairs| with("MSET", pairs.into_iter().flat_map(|(key, value)| [key, value]).collect())),
        (key(), value()).prop_map(move |(key, value)| with("APPEND", vec![key, value])),
        key().prop_map(move |key| with("UNKNOWN", vec![key])),
        Just(with("DBSIZE", vec![])),
    ]
}

/// As one server answers it.
fn alone(server: &mut Server, bytes: &[Bytes], replies: Replies) -> Result<Value> {
    if replies == Replies::One {
        return server.run(&bytes[0]);
    }
    let items = bytes.iter().map(|bytes| match server.run(bytes) {
        Err(Error::Reply { text, .. }) => Value::Error(text),
        other => other.unwrap(),
    });
    Ok(Value::Array(items.collect()))
}

proptest! {
    #[test]
    fn several_servers_are_as_one(
        servers in 1usize..5,
        requests in prop::collection::vec(prop::collection::vec(command(), 1..6), 1..12),
    ) {
        let (mut one, mut several) = (Server::default(), Cluster(vec![Server::default(); servers]));
        for request in requests {
            let commands: Vec<Bytes> = request.iter().map(|command| {
                let mut bytes = BytesMut::new();
                encode(&mut bytes, command);
                bytes.freeze()
            }).collect();
            let replies = if request.len() == 1 { Replies::One } else { Replies::Array(request.len()) };
            let together = several.run(Bytes::from(commands.concat()), replies);
            let expected = alone(&mut one, &commands, replies);
            prop_assert_eq!(together.map_err(|error| error.to_string()), expected.map_err(|error| error.to_string()));
        }
        let left: BTreeMap<_, _> = several.0.into_iter().flat_map(|server| server.0).collect();
        prop_assert_eq!(left, one.0);
    }
}
