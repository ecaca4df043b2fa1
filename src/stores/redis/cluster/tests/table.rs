//! The table of keys against that of a real server.

use super::super::super::testing::Server;
use super::super::command::Command;
use super::super::keys::{Way, may_read_a_replica};
use crate::redis_request::encode;
use crate::redis_value::Value;
use bytes::BytesMut;

/// A field of a reply that is a map, or pairs.
fn field<'a>(of: &'a Value, name: &str) -> &'a Value {
    let (keys, values): (Vec<_>, Vec<_>) = match of {
        Value::Map(pairs) => pairs.iter().map(|(key, value)| (key, value)).unzip(),
        Value::Array(items) => items.chunks(2).map(|pair| (&pair[0], &pair[1])).unzip(),
        other => panic!("no map: {other:?}"),
    };
    let at = keys.iter().position(|key| key.as_str() == Some(name)).unwrap_or_else(|| panic!("no {name} in {of:?}"));
    values[at]
}

fn number(value: &Value) -> usize {
    match value {
        Value::Int(number) => usize::try_from(*number).unwrap(),
        other => panic!("no number: {other:?}"),
    }
}

/// A call of the command whose first key, as the server describes it, is `KEY`; without keys if it has none.
fn example(name: &str, specification: Option<&Value>) -> Vec<String> {
    let mut call: Vec<String> = name.split('|').map(str::to_uppercase).collect();
    call.resize(12, "x".to_owned());
    let Some(specification) = specification else { return call };
    let (begin, find) = (field(specification, "begin_search"), field(specification, "find_keys"));
    let mut at = match field(begin, "type").as_str() {
        Some("index") => number(field(field(begin, "spec"), "index")),
        Some("keyword") => {
            let at = number(field(field(begin, "spec"), "startfrom"));
            call[at] = field(field(begin, "spec"), "keyword").as_str().unwrap().to_owned();
            at + 1
        }
        other => panic!("{name}: {other:?}"),
    };
    if field(find, "type").as_str() == Some("keynum") {
        let spec = field(find, "spec");
        call[at + number(field(spec, "keynumidx"))] = "1".to_owned();
        at += number(field(spec, "firstkey"));
    }
    call[at] = "KEY".to_owned();
    call
}

fn first_key(call: &[String]) -> Option<String> {
    let mut bytes = BytesMut::new();
    encode(&mut bytes, call);
    let command = Command::read(&bytes).unwrap();
    let way = Way::of(&command.name(), &command);
    way.keys(&command).next().map(|key| String::from_utf8(key.to_vec()).unwrap())
}

/// Checks a command and its subcommands; gives their number.
fn check(command: &Value) -> usize {
    let parts = command.as_array().unwrap();
    let name = parts[0].as_str().unwrap();
    let flags: Vec<_> = parts[2].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let (specifications, subcommands) = (parts[8].as_array().unwrap(), parts[9].as_array().unwrap());
    // What only has subcommands has no keys of its own.
    if subcommands.is_empty() {
        let call = example(name, specifications.first());
        let expected = (!specifications.is_empty()).then(|| "KEY".to_owned());
        // HELP is a subcommand like others here: what follows it makes no sense to anybody.
        if !name.ends_with("|help") {
            assert_eq!(first_key(&call), expected, "{call:?}");
        }
    }
    if may_read_a_replica(name.to_uppercase().as_bytes()) {
        let reads = |command: &Value| {
            let flags = command.as_array().unwrap()[2].as_array().unwrap();
            flags.iter().any(|flag| flag.as_str() == Some("readonly"))
        };
        let all_read = flags.contains(&"readonly")
            || subcommands.iter().all(|each| reads(each) || each.as_array().unwrap()[0].as_str() == Some("xinfo|help"));
        assert!(all_read, "{name} {flags:?}");
    }
    1 + subcommands.iter().map(check).sum::<usize>()
}

#[tokio::test]
async fn the_keys_of_every_command_are_where_the_server_says() {
    let commands = Server::new().run(&["COMMAND"]).await;
    let checked: usize = commands.as_array().unwrap().iter().map(check).sum();
    assert!(checked > 300, "{checked}");
}

#[tokio::test]
async fn the_server_finds_the_same_keys_in_real_calls() {
    let server = Server::new();
    for call in [
        "EVAL x 2 KEY other arg",
        "BZMPOP 0 1 KEY MIN",
        "XREADGROUP GROUP streams consumer COUNT 1 STREAMS KEY >",
        "XREAD BLOCK 0 STREAMS KEY 0",
        "MIGRATE host 1 KEY 0 1",
        "ZINTERCARD 2 KEY b LIMIT 1",
        "SORT KEY BY x STORE y",
        "GEORADIUS KEY 1 1 1 m STORE x",
        "ZUNIONSTORE KEY 1 b",
        "XGROUP CREATE KEY g $",
        "OBJECT FREQ KEY",
        "MEMORY USAGE KEY",
    ] {
        let call: Vec<String> = call.split(' ').map(str::to_owned).collect();
        let asked: Vec<&str> = ["COMMAND", "GETKEYS"].into_iter().chain(call.iter().map(String::as_str)).collect();
        let keys = server.run(&asked).await;
        assert_eq!(keys.as_array().unwrap()[0].as_str().map(str::to_owned), first_key(&call), "{call:?}");
    }
}
