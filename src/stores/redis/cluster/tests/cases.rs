//! What becomes of single requests.

use super::super::join::Join;
use super::super::route::{Part, Split, To, split};
use super::super::slots::{SLOTS, slot};
use crate::error::{Error, Result};
use crate::redis_request::{Replies, encode};
use crate::redis_value::Value;
use bytes::{Bytes, BytesMut};

fn encoded(commands: &[&str]) -> Bytes {
    let mut bytes = BytesMut::new();
    for command in commands {
        encode(&mut bytes, &command.split(' ').collect::<Vec<_>>());
    }
    bytes.freeze()
}

fn of(command: &str) -> Result<Split> {
    split(encoded(&[command]), Replies::One)
}

fn part(to: To, command: &str) -> Part {
    Part { to, bytes: encoded(&[command]), replies: Replies::One }
}

fn at(key: &str) -> To {
    To::Slot(slot(key.as_bytes()))
}

fn text(text: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn texts(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|each| text(each)).collect())
}

fn refusal(text: &str) -> Error {
    Error::Reply { server: "Redis".into(), text: text.into() }
}

fn lost() -> Error {
    Error::Connection { server: "Redis".into(), reason: "gone".into() }
}

fn misuse(split: Result<Split>) -> String {
    let error = split.unwrap_err();
    assert_eq!(error.code(), "ERR_INVALID_ARG");
    error.to_string()
}

#[test]
fn one_key_goes_to_its_server() {
    for command in ["GET k", "get k", "SET k v", "MGET k", "DEL k", "FOO k x", "MGET {k}a {k}b", "MSET {k}a 1 {k}b 2"] {
        let Split::One(whole) = of(command).unwrap() else { panic!("{command}") };
        assert_eq!(whole, part(at("k"), command));
    }
    for command in [
        "RENAME k other",
        "EVAL return 1 k other",
        "BITOP AND k a b",
        "XREAD COUNT 2 STREAMS k other 0 0",
        "xreadgroup GROUP g c streams k >",
        "ZUNION 2 k other",
        "BLMPOP 1 1 k LEFT",
        "XGROUP CREATE k g $",
        "OBJECT encoding k",
        "MEMORY USAGE k",
        "DEBUG OBJECT k",
        "EVALSHA abc 2 k {k}2 x",
        "FCALL f 1 k",
    ] {
        let command = command.replace("EVAL return 1 k other", "EVAL return 1 k");
        assert_eq!(of(&command).unwrap(), Split::One(part(at("k"), &command)), "{command}");
    }
}

#[test]
fn no_key_goes_anywhere() {
    for command in [
        "PING",
        "INFO",
        "GET",
        "MGET",
        "MSET",
        "EVAL return 0 arg",
        "EVAL return many k",
        "EVAL return -1 k",
        "EVAL return",
        "XREAD COUNT 2",
        "OBJECT HELP",
        "CONFIG GET maxmemory",
        "SCRIPT KILL",
        "SCAN nonsense",
        "SCAN -1",
        "SCAN",
        "PUBLISH channel message",
    ] {
        assert_eq!(of(command).unwrap(), Split::One(part(To::AnyPrimary, command)), "{command}");
    }
    // Pairs that are none are the server's to refuse.
    assert_eq!(of("MSET a 1 b").unwrap(), Split::One(part(at("a"), "MSET a 1 b")));
}

#[test]
fn keys_of_one_slot_stay_together() {
    let Split::Many { parts, join } = of("mget foo bar {foo}2 bar").unwrap() else { panic!() };
    assert_eq!(parts, [part(at("bar"), "mget bar bar"), part(at("foo"), "mget foo {foo}2")]);
    let answers = vec![Ok(texts(&["b", "b"])), Ok(texts(&["f", "f2"]))];
    assert_eq!(join.apply(answers, 3).unwrap(), texts(&["f", "b", "f2", "b"]));
    let Split::Many { parts, join } = of("MSET foo 1 bar 2 {foo}2 3").unwrap() else { panic!() };
    assert_eq!(parts, [part(at("bar"), "MSET bar 2"), part(at("foo"), "MSET foo 1 {foo}2 3")]);
    assert_eq!(join, Join::First);
    let Split::Many { parts, join } = of("UNLINK foo bar").unwrap() else { panic!() };
    assert_eq!(parts, [part(at("bar"), "UNLINK bar"), part(at("foo"), "UNLINK foo")]);
    assert_eq!(join.clone().apply(vec![Ok(Value::Int(1)), Ok(Value::Int(2))], 3).unwrap(), Value::Int(3));
    assert_eq!(join.apply(vec![Ok(Value::Int(1)), Err(lost())], 3).unwrap_err().code(), "ERR_CONNECTION");
}

#[test]
fn every_primary_is_asked_for_what_is_everybodys() {
    let everybody = |command: &str, answers: Vec<Value>| {
        let Split::Many { parts, join } = of(command).unwrap() else { panic!("{command}") };
        assert_eq!(parts, [part(To::EveryPrimary, command)]);
        let count = answers.len();
        join.apply(answers.into_iter().map(Ok).collect(), count).unwrap()
    };
    let ints = |numbers: &[i64]| Value::Array(numbers.iter().copied().map(Value::Int).collect());
    assert_eq!(everybody("KEYS *", vec![texts(&["a"]), texts(&[]), texts(&["b", "c"])]), texts(&["a", "b", "c"]));
    assert_eq!(everybody("dbsize", vec![Value::Int(1), Value::Int(5)]), Value::Int(6));
    for command in ["FLUSHALL ASYNC", "FLUSHDB", "CONFIG SET a b", "CONFIG RESETSTAT", "FUNCTION FLUSH", "SCRIPT FLUSH"]
    {
        assert_eq!(everybody(command, vec![text("OK"), text("OK")]), text("OK"));
    }
    assert_eq!(everybody("SCRIPT LOAD x", vec![text("sha"), text("sha")]), text("sha"));
    // A script is there if it is there everywhere.
    assert_eq!(everybody("SCRIPT EXISTS a b c", vec![ints(&[1, 1, 0]), ints(&[1, 0, 1])]), ints(&[1, 0, 0]));
}

#[test]
fn a_cursor_says_which_primary_it_is_about() {
    let scan = |cursor: u128, to: usize, sent: u64, told: &str, primaries: usize| {
        let Split::Many { parts, join } = of(&format!("SCAN {cursor} MATCH x* COUNT 7")).unwrap() else { panic!() };
        assert_eq!(parts, [part(To::Nth(to), &format!("SCAN {sent} MATCH x* COUNT 7"))]);
        let answers = if to < primaries { vec![Ok(Value::Array(vec![text(told), texts(&["k"])]))] } else { vec![] };
        let Value::Array(items) = join.apply(answers, primaries).unwrap() else { panic!() };
        assert_eq!(items[1], if to < primaries { texts(&["k"]) } else { texts(&[]) });
        items[0].as_str().unwrap().parse::<u128>().unwrap()
    };
    let slots = u128::from(SLOTS);
    assert_eq!(scan(0, 0, 0, "17", 3), 17 * slots);
    assert_eq!(scan(17 * slots, 0, 17, "0", 3), 1);
    assert_eq!(scan(1, 1, 0, "18446744073709551615", 3), u128::from(u64::MAX) * slots + 1);
    assert_eq!(scan(u128::from(u64::MAX) * slots + 1, 1, u64::MAX, "0", 3), 2);
    assert_eq!(scan(2, 2, 0, "0", 3), 0);
    // There are fewer primaries than there were.
    assert_eq!(scan(9 * slots + 2, 2, 9, "0", 2), 0);
    let Split::Many { join, .. } = of("SCAN 0").unwrap() else { panic!() };
    for other in [text("0"), texts(&["0"]), texts(&["x", "y"]), Value::Array(vec![Value::Int(0), texts(&[])])] {
        assert_eq!(join.clone().apply(vec![Ok(other)], 3).unwrap_err().code(), "ERR_INTERNAL");
    }
}

#[test]
fn what_runs_on_one_server_has_its_keys_there() {
    let message = misuse(of("EVAL return 2 secret1 secret2"));
    assert!(message.contains("this script") && message.contains("{tag}") && !message.contains("secret"), "{message}");
    let multi = |commands: &[&str]| {
        let commands = [&["MULTI"], commands, &["EXEC"]].concat();
        (split(encoded(&commands), Replies::Array(commands.len())), encoded(&commands), commands.len())
    };
    let (one, bytes, count) = multi(&["SET {k}a 1", "PING", "MGET {k}a k"]);
    assert_eq!(one.unwrap(), Split::One(Part { to: at("k"), bytes, replies: Replies::Array(count) }));
    let (one, bytes, count) = multi(&["PING"]);
    assert_eq!(one.unwrap(), Split::One(Part { to: To::AnyPrimary, bytes, replies: Replies::Array(count) }));
    for commands in [&["SET secret1 1", "INCR secret2"][..], &["DEL secret1 secret2"]] {
        let message = misuse(multi(commands).0);
        assert!(message.contains("multi()") && message.contains("{tag}") && !message.contains("secret"), "{message}");
    }
    for command in ["FLUSHALL", "scan 0"] {
        let message = misuse(multi(&["SET k v", command]).0);
        assert!(message.contains(&command.split(' ').next().unwrap().to_uppercase()), "{message}");
    }
    assert!(misuse(split(encoded(&["GET a", "EVAL x 2 a b"]), Replies::Array(2))).contains("this script"));
}

#[test]
fn of_a_pipeline_each_command_has_its_own_answer() {
    let commands = ["GET foo", "MGET foo bar", "DBSIZE", "SCAN 1", "SCAN 7", "INCR foo", "PING"];
    let Split::Many { parts, join } = split(encoded(&commands), Replies::Array(7)).unwrap() else { panic!() };
    let expected = [
        part(at("foo"), "GET foo"),
        part(at("bar"), "MGET bar"),
        part(at("foo"), "MGET foo"),
        part(To::EveryPrimary, "DBSIZE"),
        part(To::Nth(1), "SCAN 0"),
        part(To::Nth(7), "SCAN 0"),
        part(at("foo"), "INCR foo"),
        part(To::AnyPrimary, "PING"),
    ];
    assert_eq!(parts, expected);
    let answers = |get: Result<Value>, incr: Result<Value>| {
        let scan = Value::Array(vec![text("0"), texts(&["k"])]);
        let (one, two) = (Value::Int(1), Value::Int(2));
        vec![get, Ok(texts(&["b"])), Ok(texts(&["f"])), Ok(one), Ok(two), Ok(scan), incr, Ok(text("PONG"))]
    };
    let (wrong, right) = (|| refusal("WRONGTYPE no"), || text("f"));
    assert_eq!(
        join.clone().apply(answers(Ok(right()), Err(wrong())), 2).unwrap(),
        Value::Array(vec![
            right(),
            texts(&["f", "b"]),
            Value::Int(3),
            Value::Array(vec![text("0"), texts(&["k"])]),
            Value::Array(vec![text("0"), texts(&[])]),
            Value::Error("WRONGTYPE no".to_owned()),
            text("PONG"),
        ])
    );
    // What is not known of one command makes the whole unknown, whatever else was refused.
    let error = join.clone().apply(answers(Err(wrong()), Err(lost())), 2).unwrap_err();
    assert_eq!(error.code(), "ERR_CONNECTION");
    assert_eq!(join.apply(vec![Ok(right())], 2).unwrap_err().code(), "ERR_INTERNAL");
}

#[test]
fn answers_that_do_not_fit_are_errors() {
    let split = of("MGET foo bar").unwrap();
    let Split::Many { join: mget, .. } = split else { panic!() };
    for answers in [
        vec![texts(&["a"]), text("x")],
        vec![texts(&["a"]), texts(&[])],
        vec![texts(&["a"]), texts(&["a", "b"])],
        vec![texts(&["a"])],
    ] {
        let error = mget.clone().apply(answers.into_iter().map(Ok).collect(), 3).unwrap_err();
        assert_eq!(error.code(), "ERR_INTERNAL");
    }
    for (join, answers) in [
        (Join::Sum, vec![text("1")]),
        (Join::First, vec![]),
        (Join::Concatenate, vec![Value::Null]),
        (Join::Least, vec![Value::Array(vec![Value::Int(1)]), Value::Array(vec![])]),
    ] {
        assert!(join.apply(answers.into_iter().map(Ok).collect(), 3).is_err());
    }
    assert!(super::super::route::split(Bytes::from_static(b"*2\r\n$3\r\nGET"), Replies::Array(2)).is_err());
    assert!(super::super::route::split(encoded(&["GET a"]), Replies::Array(2)).is_err());
    assert!(super::super::route::split(Bytes::new(), Replies::One).is_err());
}
