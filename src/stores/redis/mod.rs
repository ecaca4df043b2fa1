//! Redis, over connections of our own ([`link`]): the only room that knows its protocol.

mod blocking;
mod connection;
mod decoder;
mod lane;
mod link;
mod outbox;
mod pool;
mod script;
mod sessions;
mod stream;
mod subscriber;
#[cfg(test)]
mod testing;
mod topics;
mod wire;

pub use blocking::Blocking;
pub use lane::{Lane, Plan};
pub use link::{Departure, Link};
pub use pool::{Pool, Sizes};
pub use sessions::RedisSessions;
pub use subscriber::{Listener, Message, Subscriber, Topic};
