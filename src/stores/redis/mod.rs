//! Redis, over connections of our own ([`link`]): the only room that knows its protocol.

mod blocking;
mod cluster;
mod connection;
mod decoder;
mod entries;
mod fleet;
mod lane;
mod limits;
mod link;
mod nodes;
mod origin;
mod outbox;
mod pool;
mod replicas;
mod replication;
mod script;
mod seal;
mod sentinel;
mod session_links;
mod sessions;
mod stream;
mod subscriber;
#[cfg(test)]
mod testing;
mod tls;
mod topics;
mod wire;

pub use blocking::Blocking;
pub use cluster::{Cluster, Topology};
pub use connection::Ears;
#[cfg(test)]
pub use entries::{Entries, FILL, READ_OR_LEASE, look};
pub use fleet::Fleet;
pub use lane::{Owner, Plan};
pub use limits::{GiveBack, LimitScripts, Named, Take, recall, remembered, understand};
pub use link::{Departure, Link, ServerInfo};
pub use origin::{Access, Origin, Role};
pub use pool::{LaneStats, OnNewLife, Pool, Sizes};
pub use replicas::Replicas;
pub use seal::Seal;
pub use sentinel::Sentinels;
pub use session_links::{Followers, LinkId, SessionLinks};
pub use sessions::{RedisSessions, pushed_tokens};
pub use subscriber::{Listener, Message, Subscriber, Topic};
pub use tls::Connector;
