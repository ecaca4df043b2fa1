//! Commands of one tick of JavaScript leave together: collected while its code runs, and written by this thread before
//! it goes to sleep. Waking another thread to write them would cost more than writing.

use super::environment::{Intrinsic, State};
use super::raw::{Frame, Function};
use super::values::{Js, Value};
use crate::engine::redis::{Departure, Entered, Redis};
use crate::error::Result;
use crate::redis_request::{Batch, Request};
use bytes::BytesMut;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// What the present tick has to send, a batch for each pool.
#[derive(Default)]
pub struct Tick {
    batches: RefCell<Vec<(Arc<Redis>, Batch)>>,
    ends: Cell<bool>,
}

impl Tick {
    /// Adds a request for a call that was let in, whose bytes `encode` appends.
    pub fn push(
        &self,
        js: Js<'_>,
        state: &State,
        entered: Entered,
        encode: impl FnOnce(&mut BytesMut),
        request: impl FnOnce(Entered, usize) -> Request,
    ) {
        {
            let mut batches = self.batches.borrow_mut();
            let known = batches.iter().position(|(known, _)| Arc::ptr_eq(known, entered.redis()));
            let index = known.unwrap_or_else(|| {
                batches.push((entered.redis().clone(), Batch::with_room()));
                batches.len() - 1
            });
            let batch = &mut batches[index].1;
            let before = batch.bytes.len();
            encode(&mut batch.bytes);
            let length = batch.bytes.len() - before;
            batch.requests.push(request(entered, length));
        }
        // In an environment that is going away nothing can be asked of JavaScript.
        if !self.ends.replace(true) && self.call_back(js, state).is_err() {
            self.end();
        }
    }

    /// Has JavaScript call [`Self::end`] when the code that runs now is done: a promise's job. A timer would come later,
    /// and tests replace those, and `queueMicrotask` too.
    fn call_back(&self, js: Js<'_>, state: &State) -> Result<()> {
        js.scope(|js| js.call(state.intrinsic(js, Intrinsic::Soon)?, &[state.end_tick(js)?]).map(drop))?
    }

    /// Sends what was collected.
    pub fn end(&self) {
        self.ends.set(false);
        for (redis, batch) in self.batches.take() {
            redis.send(batch, Departure::Now);
        }
    }
}

/// What JavaScript calls at the end of a tick.
pub struct EndTick;

impl Function for EndTick {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        frame.call.state.tick.end();
        frame.call.js.undefined()
    }
}
