//! What a server says of its part in replication.

use crate::redis_url::Address;
use crate::redis_value::Value;
use std::sync::Arc;

/// What changes when a server is demoted or promoted, even where it goes on running and its connections stay open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    replica: bool,
    /// Names the history of writes. A promotion begins a new one.
    history: String,
}

impl Replication {
    /// Reads the reply to `INFO replication`; `None` if the server does not tell.
    pub fn of(info: &Value) -> Option<Self> {
        let replica = info_field(info, "role")? == "slave";
        Some(Self { replica, history: info_field(info, "master_replid").unwrap_or_default().to_owned() })
    }

    pub fn is_replica(&self) -> bool {
        self.replica
    }

    /// Names what is between two events that can bring lost writes back: a start of the server, a promotion. `None` for a
    /// replica, whose writes are somebody else's.
    ///
    /// The run id alone would not do: a primary that is demoted and promoted again keeps it, and may have missed what its
    /// successor was told. One that stood still meanwhile, and is promoted before it was demoted, keeps its history as well;
    /// only `term` is then another one.
    pub fn life(&self, run_id: &str, term: u64) -> Option<Arc<str>> {
        let term = if term == 0 { String::new() } else { format!(":{term}") };
        (!self.replica).then(|| format!("{run_id}:{}{term}", self.history).into())
    }
}

/// A field of a reply to `INFO`.
pub fn info_field<'a>(info: &'a Value, name: &str) -> Option<&'a str> {
    let lines = info.as_str()?.lines();
    let value = lines.filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name)?.1.trim();
    Some(value).filter(|value| !value.is_empty())
}

/// Where the replicas of a primary are that follow it: lines such as `slave0:ip=10.0.0.2,port=6379,state=online,...`.
pub fn replica_addresses(info: &Value) -> Vec<Address> {
    let lines = info.as_str().unwrap_or_default().lines().filter_map(|line| line.split_once(':'));
    let replicas =
        lines.filter(|(key, _)| key.strip_prefix("slave").is_some_and(|number| number.parse::<u32>().is_ok()));
    let replicas = replicas.filter_map(|(_, about)| {
        let field = |name: &str| {
            about
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        let address = Address::Tcp { host: field("ip")?.to_owned(), port: field("port")?.trim().parse().ok()? };
        (field("state") == Some("online")).then_some(address)
    });
    replicas.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &'static str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn a_promotion_begins_another_life_and_a_replica_has_none() {
        let of = |text| Replication::of(&info(text)).unwrap();
        let (first, second) = (of("role:master\r\nmaster_replid:a\r\n"), of("role:master\r\nmaster_replid:b\r\n"));
        assert_eq!(first.life("run", 0).as_deref(), Some("run:a"));
        assert_ne!(first.life("run", 0), second.life("run", 0));
        assert_ne!(first.life("run", 1), first.life("run", 2));
        assert!(of("role:slave\r\nmaster_replid:a\r\n").life("run", 0).is_none());
        assert_eq!(Replication::of(&Value::Error("NOPERM".into())), None);
    }

    #[test]
    fn replicas_that_follow_are_listed() {
        let info = info(
            "role:master\r\nconnected_slaves:3\r\nslave0:ip=::1,port=6380,state=online,offset=1,lag=0\r\n\
             slave1:ip=10.0.0.2,port=6381,state=wait_bgsave,offset=0,lag=0\r\nslave2:ip=h,port=x,state=online\r\n\
             slave_expires_tracked_keys:0\r\n",
        );
        assert_eq!(replica_addresses(&info), [Address::Tcp { host: "::1".to_owned(), port: 6380 }]);
    }
}
