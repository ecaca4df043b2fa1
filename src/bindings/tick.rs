//! Commands of one tick of JavaScript leave together: collected while its code runs, and written by this thread before
//! it goes to sleep. Waking another thread to write them would cost more than writing.

use super::Call;
use super::environment::{Intrinsic, State};
use super::raw::{Frame, Function};
use super::values::{Js, Value};
use crate::engine::redis::{Entered, Link, Redis};
use crate::error::Result;
use crate::redis_request::{Batch, Request};
use bytes::BytesMut;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// So many commands leave before the tick ends, and then each time as many as have left: Redis works on them while
/// JavaScript makes the next ones. (GET with 50 in flight: 188 thousand a second without, 287 thousand with it.)
const PART: usize = 16;

/// What the present tick has to send to one pool.
struct Outgoing {
    redis: Arc<Redis>,
    batch: Batch,
    /// How many have left, and the lane that they took.
    left: usize,
    lane: Option<Link>,
}

/// What the present tick has to send.
#[derive(Default)]
pub struct Tick {
    outgoing: RefCell<Vec<Outgoing>>,
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
            let mut all = self.outgoing.borrow_mut();
            let known = all.iter().position(|outgoing| Arc::ptr_eq(&outgoing.redis, entered.redis()));
            let index = known.unwrap_or_else(|| {
                all.push(Outgoing { redis: entered.redis().clone(), batch: Batch::with_room(), left: 0, lane: None });
                all.len() - 1
            });
            let Outgoing { redis, batch, left, lane } = &mut all[index];
            let before = batch.bytes.len();
            encode(&mut batch.bytes);
            let length = batch.bytes.len() - before;
            batch.requests.push(request(entered, length));
            if batch.requests.len() >= PART.max(*left) {
                *left += batch.requests.len();
                redis.send_part(batch, lane);
            }
        }
        self.will_end(js, state);
    }

    /// Makes sure that the end of this tick is noticed.
    pub fn will_end(&self, js: Js<'_>, state: &State) {
        // In an environment that is going away nothing can be asked of JavaScript.
        if !self.ends.replace(true) && self.call_back(js, state).is_err() {
            state.checks.leave(js, state);
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
        for Outgoing { redis, batch, lane, .. } in self.outgoing.take() {
            if !batch.requests.is_empty() {
                redis.send_rest(batch, lane);
            }
        }
    }
}

/// What JavaScript calls at the end of a tick.
pub struct EndTick;

impl Function for EndTick {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Call { js, state } = frame.call;
        state.checks.leave(js, state);
        state.tick.end();
        js.undefined()
    }
}
