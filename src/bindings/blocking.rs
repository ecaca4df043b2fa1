//! Commands that wait for something that others do, each on a connection of its own.

use super::client::Client;
use super::command::Arguments;
use super::reply::{Encoding, Reply};
use super::values::Value;
use super::{Call, promise_of};
use crate::client::shape::Shape;
use crate::engine::redis::ENDED;
use crate::error::Result;

/// Sends one command and waits as long as it takes, or until the client is closed.
pub fn wait<'scope>(
    call: Call<'scope>,
    client: &Client,
    encoding: Encoding,
    arguments: impl FnOnce() -> Result<Arguments<'scope>>,
) -> Result<Value<'scope>> {
    promise_of(call, |call| {
        let command = arguments()?.plain();
        let shape = command.first().map_or(Shape::Plain, |name| Shape::of(name));
        let lasting = client.lasting(call)?;
        let ending = client.ending.clone();
        Ok(async move {
            tokio::select! {
                reply = lasting.wait(command) => Reply::redis(shape.of_reply(reply?), encoding, lasting.server()),
                () = ending.cancelled() => Err(ENDED),
            }
        })
    })
}
