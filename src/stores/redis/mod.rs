//! Redis, over connections of our own ([`link`]): the only room that knows its protocol.

mod blocking;
mod connection;
mod decoder;
mod entries;
mod lane;
mod limits;
mod link;
mod outbox;
mod pool;
mod script;
mod seal;
mod sessions;
mod stream;
mod subscriber;
#[cfg(test)]
mod testing;
mod topics;
mod wire;

pub use blocking::Blocking;
pub use connection::Ears;
#[cfg(test)]
pub use entries::{Entries, FILL, READ_OR_LEASE, look};
pub use lane::{Lane, Owner, Plan};
pub use limits::{GiveBack, LimitScripts, Named, Take, recall, remembered, understand};
pub use link::{Departure, Link, ServerInfo};
pub use pool::{Pool, Sizes};
pub use seal::Seal;
pub use sessions::{RedisSessions, pushed_tokens};
pub use subscriber::{Listener, Message, Subscriber, Topic};
