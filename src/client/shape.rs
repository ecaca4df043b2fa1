//! Shapes of replies: those of ioredis, which are those of RESP2, whatever the connection speaks.
//!
//! RESP3 tells maps, sets, booleans and doubles apart; and a few commands have another nesting there. What Studio was
//! written for is the older form. <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use crate::redis_value::Value;

/// How the reply to a command is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As RESP2 has it: a map is an array of keys and values by turns.
    Plain,
    /// An object: `HGETALL`.
    Object,
    /// Pairs are laid flat: member and score by turns.
    Pairs,
    /// Each entry of the map is a pair: streams and their entries.
    Streams,
}

impl Shape {
    /// The shape for a command, whose name is in upper case.
    pub const fn of(command: &[u8]) -> Self {
        match command {
            b"HGETALL" => Self::Object,
            b"ZDIFF" | b"ZINTER" | b"ZUNION" | b"ZPOPMAX" | b"ZPOPMIN" | b"ZRANDMEMBER" | b"ZRANGE"
            | b"ZRANGEBYSCORE" | b"ZREVRANGE" | b"ZREVRANGEBYSCORE" | b"HRANDFIELD" | b"VSIM" => Self::Pairs,
            b"XREAD" | b"XREADGROUP" => Self::Streams,
            _ => Self::Plain,
        }
    }

    /// The reply in this shape.
    pub fn of_reply(self, value: Value) -> Value {
        match (self, value) {
            (Self::Object, Value::Map(pairs)) => {
                Value::Map(pairs.into_iter().map(|(key, value)| (plain(key), plain(value))).collect())
            }
            (Self::Pairs, Value::Array(items)) => Value::Array(items.into_iter().flat_map(flattened).collect()),
            (Self::Streams, Value::Map(pairs)) => {
                let pair = |(key, value)| Value::Array(vec![plain(key), plain(value)]);
                Value::Array(pairs.into_iter().map(pair).collect())
            }
            (_, value) => plain(value),
        }
    }
}

fn flattened(item: Value) -> Vec<Value> {
    match plain(item) {
        Value::Array(items) => items,
        item => vec![item],
    }
}

/// Only as deep as the decoder allows.
fn plain(value: Value) -> Value {
    match value {
        Value::Bool(truth) => Value::Int(truth.into()),
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        Value::Map(pairs) => {
            Value::Array(pairs.into_iter().flat_map(|(key, value)| [plain(key), plain(value)]).collect())
        }
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> Value {
        Value::Text(text.into())
    }

    fn list(items: &[&'static str]) -> Value {
        Value::Array(items.iter().copied().map(text).collect())
    }

    #[test]
    fn maps_are_laid_flat_unless_the_command_has_an_object_or_pairs() {
        let map =
            || Value::Map(vec![(text("a"), Value::Bool(true)), (text("b"), Value::Map(vec![(text("c"), text("d"))]))]);
        let inner = list(&["c", "d"]);
        let pair = |key, value| Value::Array(vec![text(key), value]);
        assert_eq!(
            Shape::of(b"CONFIG").of_reply(map()),
            Value::Array(vec![text("a"), Value::Int(1), text("b"), inner.clone()])
        );
        assert_eq!(
            Shape::of(b"HGETALL").of_reply(map()),
            Value::Map(vec![(text("a"), Value::Int(1)), (text("b"), inner.clone())])
        );
        assert_eq!(Shape::of(b"XREAD").of_reply(map()), Value::Array(vec![pair("a", Value::Int(1)), pair("b", inner)]));
    }

    #[test]
    fn pairs_are_laid_flat_by_one_level() {
        let pairs = || Value::Array(vec![list(&["a", "1"]), list(&["b", "2"])]);
        assert_eq!(Shape::of(b"ZRANGE").of_reply(pairs()), list(&["a", "1", "b", "2"]));
        assert_eq!(Shape::of(b"EVAL").of_reply(pairs()), pairs());
        assert_eq!(Shape::of(b"ZRANGE").of_reply(Value::Null), Value::Null);
    }
}
