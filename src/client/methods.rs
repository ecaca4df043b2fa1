//! The typed methods of the client: what each is called, which command it is, and what it takes.
//!
//! A new one is a line here and its type in `index.d.ts`.

use super::rules::{Rule, rule_of_name};
use super::shape::Shape;

/// An argument of a method, by the name that messages have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A string, a number or a Buffer.
    One(&'static str),
    /// One or more of these.
    Many(&'static str),
    /// Text only.
    Text(&'static str),
    /// Text that may be left out.
    OptionalText(&'static str),
    /// A whole number, or a string, which Redis judges.
    Whole(&'static str),
    /// A whole number from 0, or a string, which Redis judges.
    Cursor(&'static str),
    /// The end of a range of scores: a number, infinity included, or a string, which Redis judges.
    Score(&'static str),
    /// Two or more: scores, members and words by turns.
    ScoresAndMembers(&'static str),
    /// Zero or more seconds, with fractions.
    Seconds(&'static str),
    /// `EX` and whole seconds, if there are any and they are not 0.
    Expiry(&'static str),
    /// A word of Redis and the text or number that follows it, if there is one.
    Option(&'static str, &'static str),
    /// `WITHSCORES`, if it is true or that word.
    WithScores(&'static str),
    /// An object: its keys and values by turns.
    Record(&'static str),
    /// A field and its value, or an object of them.
    FieldsOrRecord,
    /// `GET` or `SET`, the parameter, and with `SET` the value.
    Config,
}

/// A method of the client.
#[derive(Debug)]
pub struct Method {
    /// As JavaScript calls it.
    pub name: &'static str,
    /// As Redis calls it.
    pub command: &'static str,
    pub takes: &'static [Takes],
    pub rule: Rule,
    pub shape: Shape,
}

const fn method(name: &'static str, command: &'static str, takes: &'static [Takes]) -> Method {
    let bytes = command.as_bytes();
    Method { name, command, takes, rule: rule_of_name(bytes), shape: Shape::of(bytes) }
}

use Takes::{
    Config, Cursor, Expiry, FieldsOrRecord, Many, One, Option, OptionalText, Record, Score, ScoresAndMembers, Seconds,
    Text, Whole, WithScores,
};

/// Every typed method that is one command.
pub const METHODS: &[Method] = &[
    method("get", "GET", &[One("key")]),
    method("set", "SET", &[One("key"), One("value"), Expiry("expirationSeconds")]),
    method("del", "DEL", &[Many("keys")]),
    method("exists", "EXISTS", &[Many("keys")]),
    method("mget", "MGET", &[Many("keys")]),
    method("mset", "MSET", &[Record("record")]),
    method("incr", "INCR", &[One("key")]),
    method("incrby", "INCRBY", &[One("key"), Whole("increment")]),
    method("decr", "DECR", &[One("key")]),
    method("decrby", "DECRBY", &[One("key"), Whole("decrement")]),
    method("expire", "EXPIRE", &[One("key"), Whole("seconds")]),
    method("ttl", "TTL", &[One("key")]),
    method("scan", "SCAN", &[Cursor("cursor"), Option("MATCH", "pattern"), Option("COUNT", "count")]),
    method("keys", "KEYS", &[Text("pattern")]),
    method("hset", "HSET", &[One("key"), FieldsOrRecord]),
    method("hget", "HGET", &[One("key"), One("field")]),
    method("hgetall", "HGETALL", &[One("key")]),
    method("hdel", "HDEL", &[One("key"), Many("fields")]),
    method("hexists", "HEXISTS", &[One("key"), One("field")]),
    method("lpush", "LPUSH", &[One("key"), Many("values")]),
    method("rpush", "RPUSH", &[One("key"), Many("values")]),
    method("lpop", "LPOP", &[One("key")]),
    method("rpop", "RPOP", &[One("key")]),
    method("lrange", "LRANGE", &[One("key"), Whole("start"), Whole("stop")]),
    method("llen", "LLEN", &[One("key")]),
    method("blpop", "BLPOP", &[One("key"), Seconds("timeoutSeconds")]),
    method("brpop", "BRPOP", &[One("key"), Seconds("timeoutSeconds")]),
    method("sadd", "SADD", &[One("key"), Many("members")]),
    method("srem", "SREM", &[One("key"), Many("members")]),
    method("smembers", "SMEMBERS", &[One("key")]),
    method("sismember", "SISMEMBER", &[One("key"), One("member")]),
    method("zadd", "ZADD", &[One("key"), ScoresAndMembers("scoreMember")]),
    method("zrange", "ZRANGE", &[One("key"), Score("start"), Score("stop"), WithScores("withScores")]),
    method("zrangebyscore", "ZRANGEBYSCORE", &[One("key"), Score("min"), Score("max"), WithScores("withScores")]),
    method("zremrangebyscore", "ZREMRANGEBYSCORE", &[One("key"), Score("min"), Score("max")]),
    method("zcard", "ZCARD", &[One("key")]),
    method("zrem", "ZREM", &[One("key"), Many("members")]),
    method("zscore", "ZSCORE", &[One("key"), One("member")]),
    method("publish", "PUBLISH", &[One("channel"), One("message")]),
    method("ping", "PING", &[]),
    method("info", "INFO", &[OptionalText("section")]),
    method("dbsize", "DBSIZE", &[]),
    method("config", "CONFIG", &[Config]),
    method("flushdb", "FLUSHDB", &[]),
    method("flushall", "FLUSHALL", &[]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_method_is_there_once_and_is_a_command_that_may_be_sent() {
        let names: HashSet<_> = METHODS.iter().map(|method| method.name).collect();
        assert_eq!(names.len(), METHODS.len());
        for method in METHODS {
            assert!(!matches!(method.rule, Rule::Refused(_)), "{}", method.name);
            assert_eq!(method.command, method.command.to_uppercase());
        }
    }
}
