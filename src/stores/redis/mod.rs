//! Redis, over connections of our own ([`lane`]): the only room that knows its protocol.

mod decoder;
mod encoder;
mod lane;
mod link;
mod script;
mod sessions;

pub use lane::Lane;
pub use sessions::RedisSessions;
