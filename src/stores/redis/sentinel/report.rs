//! What one sentinel says of a primary, or why it says nothing.

use crate::error::{Error, Result};
use crate::redis_url::Address;
use crate::redis_value::Value;
use crate::stores::redis::link::Link;

/// What makes a replica one that is not to be read from.
const AWAY: &[&str] = &["s_down", "o_down", "disconnected"];

/// What a sentinel says of a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub primary: Address,
    /// Counts the failovers that this sentinel has heard of.
    pub epoch: u64,
    /// The sentinels that it knows beside itself.
    pub others: Vec<Address>,
    /// Replicas that serve.
    pub replicas: Vec<Address>,
}

/// Why a sentinel says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It watches no primary of that name.
    UnknownName,
    /// Its own words.
    Password(String),
    NoSentinel,
    /// Anything else.
    Other(String),
}

impl Report {
    /// Asks a sentinel for the primary `name`.
    pub async fn of(name: &str, link: &Link) -> std::result::Result<Self, Refusal> {
        // The epoch before the address: what changes in between is then taken for older than it is, never for newer.
        let ask = async |what| link.send(&["SENTINEL", what, name]).await;
        let (master, address, others, replicas) =
            tokio::join!(ask("MASTER"), ask("GET-MASTER-ADDR-BY-NAME"), ask("SENTINELS"), ask("REPLICAS"));
        let master = master.map_err(|error| Refusal::of(&error))?;
        let address = address.map_err(|error| Refusal::of(&error))?;
        let parts = address.as_array().and_then(|parts| Some((parts.first()?.as_str()?, parts.get(1)?.as_str()?)));
        let primary = parts.and_then(|(host, port)| tcp(host, port));
        let epoch = field(&master, "config-epoch").and_then(|epoch| epoch.parse().ok());
        let (Some(primary), Some(epoch)) = (primary, epoch) else {
            return Err(Refusal::Other("it does not say where the primary is".to_owned()));
        };
        let mut others = all(&others);
        others.retain(|(address, _)| *address != primary);
        let replicas = all(&replicas).into_iter().filter(|(_, instance)| serves(instance));
        Ok(Self {
            primary,
            epoch,
            others: others.into_iter().map(|(address, _)| address).collect(),
            replicas: replicas.map(|(address, _)| address).collect(),
        })
    }
}

impl Refusal {
    /// What an error says of the sentinel.
    pub fn of(error: &Error) -> Self {
        let text = match error {
            // A refused handshake is one, too.
            Error::Reply { text, .. } | Error::Connection { reason: text, .. } => text.as_str(),
            other => return Self::Other(other.to_string()),
        };
        let begins = |start: &str| text.starts_with(start);
        if begins("NOAUTH") || begins("WRONGPASS") || begins("ERR AUTH") {
            Self::Password(text.split(' ').next().unwrap_or_default().to_owned())
        } else if begins("ERR No such master") {
            Self::UnknownName
        } else if begins("ERR unknown command") {
            Self::NoSentinel
        } else {
            Self::Other(text.to_owned())
        }
    }
}

/// Where an instance is, with what is said of it; of each that the reply lists.
fn all(reply: &Result<Value>) -> Vec<(Address, &Value)> {
    // A sentinel that tells the primary, but not this, is asked again soon.
    let instances = reply.as_ref().ok().and_then(Value::as_array).unwrap_or_default();
    let place = |instance| tcp(field(instance, "ip")?, field(instance, "port")?);
    instances.iter().filter_map(|instance| Some((place(instance)?, instance))).collect()
}

fn serves(replica: &Value) -> bool {
    let away = |flag: &str| AWAY.contains(&flag);
    field(replica, "master-link-status") == Some("ok")
        && field(replica, "role-reported") == Some("slave")
        && !field(replica, "flags").unwrap_or_default().split(',').any(away)
}

fn tcp(host: &str, port: &str) -> Option<Address> {
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| Address::Tcp { host: host.to_owned(), port })
}

/// A field of what a sentinel says of an instance.
fn field<'a>(instance: &'a Value, name: &str) -> Option<&'a str> {
    let named = |key: &Value| key.as_str() == Some(name);
    match instance {
        Value::Map(fields) => fields.iter().find(|(key, _)| named(key))?.1.as_str(),
        Value::Array(fields) => fields.chunks_exact(2).find(|pair| named(&pair[0]))?[1].as_str(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn text(text: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn replica(status: &str, role: &str, flags: &str) -> Value {
        let fields =
            [("ip", "h"), ("port", "1"), ("flags", flags), ("master-link-status", status), ("role-reported", role)];
        Value::Map(fields.iter().map(|(key, value)| (text(key), text(value))).collect())
    }

    #[test]
    fn only_replicas_that_are_there_and_in_touch_with_their_primary_serve() {
        assert!(serves(&replica("ok", "slave", "slave")));
        for (status, role, flags) in [
            ("err", "slave", "slave"),
            ("ok", "master", "slave"),
            ("ok", "slave", "s_down,slave"),
            ("ok", "slave", "slave,disconnected"),
            ("ok", "slave", "s_down,o_down,slave"),
        ] {
            assert!(!serves(&replica(status, role, flags)), "{status} {role} {flags}");
        }
        assert!(!serves(&Value::Null));
    }

    #[test]
    fn instances_are_read_as_maps_and_as_lists_and_those_without_an_address_are_left_out() {
        let list = Value::Array(["ip", "::1", "port", "7"].map(text).to_vec());
        let none = Value::Array(["ip", "", "port", "0"].map(text).to_vec());
        let read = Ok(Value::Array(vec![replica("ok", "slave", "slave"), list, none, Value::Int(1)]));
        let places: Vec<_> = all(&read).into_iter().map(|(address, _)| address.to_string()).collect();
        assert_eq!(places, ["h:1", "[::1]:7"]);
    }

    #[test]
    fn refusals_are_told_apart() {
        let reply = |text: &str| Refusal::of(&Error::Reply { server: "s".into(), text: text.to_owned() });
        assert_eq!(reply("ERR No such master with that name"), Refusal::UnknownName);
        assert_eq!(reply("ERR unknown command 'SENTINEL', with args"), Refusal::NoSentinel);
        assert_eq!(reply("NOAUTH Authentication required."), Refusal::Password("NOAUTH".to_owned()));
        assert_eq!(reply("NOPERM x"), Refusal::Other("NOPERM x".to_owned()));
        let lost = Error::Connection { server: "s".into(), reason: "WRONGPASS invalid".to_owned() };
        assert_eq!(Refusal::of(&lost), Refusal::Password("WRONGPASS".to_owned()));
    }
}
