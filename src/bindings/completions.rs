//! The way back into JavaScript: one queue and one threadsafe function an environment, many results a wake-up.
//!
//! A `#[napi] async fn` would make its own threadsafe function for each call and wake the event loop once for each.
//! The function here keeps the process alive while promises are pending, and only then. Log lines travel in the same
//! queue, but keep nothing alive.

use super::environment::State;
use super::events::Event;
use super::reply::{Reply, Sessions};
use super::values::{Deferred, Js, Value};
use super::{error, events, log};
use crate::error::{Error, Result};
use napi::sys;
use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Log lines that may wait for JavaScript. Beyond it they are dropped and counted: a log must not become a leak.
const MAX_LINES: usize = 1_000;

/// Results that share a handle scope: enough to make its cost vanish, few enough to keep its garbage small.
const RESULTS_A_SCOPE: usize = 128;

/// Room for results that is kept for the next ones.
const MAX_SPARE: usize = 4_096;

/// What came of a call.
type Outcome = (Deferred, Result<Reply>);

/// The threadsafe function of an environment. It may be called from anywhere, but only as long as it is in its [`Inbox`].
#[derive(Clone, Copy)]
struct Bell(sys::napi_threadsafe_function);

// SAFETY: Node allows calls of a threadsafe function from every thread, until it is finalised; see `Queue::close`.
unsafe impl Send for Bell {}

/// What waits for the JavaScript thread.
struct Inbox {
    /// `None` once the environment goes away. Rung under the mutex only, so never after its end.
    bell: Option<Bell>,
    /// The bell was rung, and nobody has emptied the inbox since.
    rung: bool,
    results: Vec<Outcome>,
    lines: VecDeque<String>,
    dropped_lines: u64,
    events: Vec<Event>,
}

/// What was taken out of an inbox.
struct Waiting {
    results: Vec<Outcome>,
    lines: VecDeque<String>,
    dropped_lines: u64,
    events: Vec<Event>,
}

/// The inbox of one environment, as other threads see it.
pub struct Queue(Mutex<Inbox>);

impl Queue {
    fn new(bell: Option<Bell>) -> Self {
        let (results, lines, events) = (Vec::new(), VecDeque::new(), Vec::new());
        Self(Mutex::new(Inbox { bell, rung: false, results, lines, dropped_lines: 0, events }))
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // No line of a critical section can leave the inbox half changed, so a panic in one changes nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a result; it is dropped if the environment has gone, and its promise with it.
    fn settle(&self, deferred: Deferred, result: Result<Reply>) {
        let mut inbox = self.lock();
        if inbox.bell.is_none() {
            // What the result holds may take a while to free, or call back here.
            drop(inbox);
            return drop(result);
        }
        inbox.results.push((deferred, result));
        inbox.ring();
    }

    /// Adds a log line. Gives it back if the environment has gone.
    pub fn notify(&self, line: String) -> std::result::Result<(), String> {
        let mut inbox = self.lock();
        if inbox.bell.is_none() {
            return Err(line);
        }
        if inbox.lines.len() >= MAX_LINES {
            inbox.dropped_lines += 1;
            return Ok(());
        }
        inbox.lines.push_back(line);
        inbox.ring();
        Ok(())
    }

    /// Adds an event; it is dropped if the environment has gone. Who tells many bounds them.
    pub fn tell(&self, event: Event) {
        let mut inbox = self.lock();
        if inbox.bell.is_none() {
            drop(inbox);
            return drop(event);
        }
        inbox.events.push(event);
        inbox.ring();
    }

    /// Takes all that waits, and lets the bell be rung again.
    ///
    /// `spare` is an empty vector that takes the place of the results: a fresh one for each of a hundred thousand
    /// wake-ups a second kept the allocator busy (5 % of the main thread).
    fn empty(&self, spare: Vec<Outcome>) -> Waiting {
        let mut inbox = self.lock();
        inbox.rung = false;
        Waiting {
            results: mem::replace(&mut inbox.results, spare),
            lines: mem::take(&mut inbox.lines),
            dropped_lines: mem::take(&mut inbox.dropped_lines),
            events: mem::take(&mut inbox.events),
        }
    }

    /// Drops what waits and whatever will come. The bell is not rung again once this returns.
    fn close(&self) {
        self.lock().bell = None;
        drop(self.empty(Vec::new()));
    }

    /// Calls `work` with the bell, if it is still there.
    fn with_bell(&self, work: impl FnOnce(sys::napi_threadsafe_function)) {
        if let Some(Bell(function)) = self.lock().bell {
            work(function);
        }
    }
}

impl Inbox {
    /// Wakes the JavaScript thread, unless it is on its way.
    fn ring(&mut self) {
        let Some(Bell(function)) = self.bell else { return };
        if self.rung {
            return;
        }
        // SAFETY: the function is alive: `close` takes it away before Node finalises it, under the mutex held here. The
        // call only adds to Node's queue; no JavaScript runs in it.
        let status = unsafe {
            let mode = sys::ThreadsafeFunctionCallMode::nonblocking;
            sys::napi_call_threadsafe_function(function, null_mut(), mode)
        };
        self.rung = status == sys::Status::napi_ok;
        if status == sys::Status::napi_closing {
            // Node has taken back this thread's right to call.
            self.bell = None;
        }
    }
}

/// The right and the duty to answer one call. Dropped without an answer, it rejects: no promise is left hanging.
pub struct Ticket {
    queue: Arc<Queue>,
    deferred: Option<Deferred>,
}

impl Ticket {
    /// Answers the call. May be called on any thread.
    pub fn settle(mut self, result: Result<Reply>) {
        if let Some(deferred) = self.deferred.take() {
            self.queue.settle(deferred, result);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(deferred) = self.deferred.take() {
            let what = if std::thread::panicking() { "the work on a call panicked" } else { "a call was abandoned" };
            self.queue.settle(deferred, Err(Error::Internal(what.into())));
        }
    }
}

/// The completions of one environment, on its own thread.
pub struct Completions {
    queue: Arc<Queue>,
    /// Promises handed out and not settled. Node's ref and unref are a flag, not a count; this is the count.
    pending: Cell<usize>,
    /// An empty vector for the next results.
    spare: Cell<Vec<Outcome>>,
}

impl Completions {
    /// Makes the threadsafe function, unreferenced, and the hook that closes the queue before Node finalises it.
    pub fn new(js: Js<'_>) -> Result<Self> {
        let name = js.string(b"studio-redis-native")?;
        let (env, mut function) = (js.env(), null_mut());
        // SAFETY: environment and name are live, the result is local; `deliver` has the right signature and needs no
        // context. Without a function of its own it is given none to call.
        let status = unsafe {
            sys::napi_create_threadsafe_function(
                env,
                null_mut(),
                null_mut(),
                name.raw(),
                0,
                1,
                null_mut(),
                None,
                null_mut(),
                Some(deliver),
                &raw mut function,
            )
        };
        js.check(status, "making a threadsafe function")?;
        let queue = Arc::new(Queue::new(Some(Bell(function))));
        let hook_data = Arc::into_raw(Arc::clone(&queue)).cast_mut().cast::<c_void>();
        // SAFETY: the function was made above in this environment, on this thread. Hooks run in reverse order of adding,
        // so ours runs before the one by which Node closes the function. `hook_data` is a counted reference that the hook
        // takes over; no other hook has the same address.
        let status = unsafe {
            sys::napi_unref_threadsafe_function(env, function);
            sys::napi_add_env_cleanup_hook(env, Some(close_queue), hook_data)
        };
        if let Err(error) = js.check(status, "adding a cleanup hook") {
            queue.close();
            // SAFETY: the hook was not added, so its reference is still ours; the bell is out of every inbox, so this is
            // the last use of the function.
            unsafe {
                drop(Arc::from_raw(hook_data.cast::<Queue>().cast_const()));
                sys::napi_release_threadsafe_function(function, sys::ThreadsafeFunctionReleaseMode::abort);
            }
            return Err(error);
        }
        Ok(Self { queue, pending: Cell::new(0), spare: Cell::default() })
    }

    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Takes over a promise. From now until it is settled the process stays alive.
    pub fn ticket(&self, js: Js<'_>, deferred: Deferred) -> Ticket {
        self.hold(js);
        Ticket { queue: Arc::clone(&self.queue), deferred: Some(deferred) }
    }

    /// Keeps the process alive for one thing more.
    pub fn hold(&self, js: Js<'_>) {
        let pending = self.pending.get();
        self.pending.set(pending + 1);
        if pending == 0 {
            self.queue.with_bell(|function| {
                // SAFETY: this is the environment's own thread, and the function is alive while it is in the inbox.
                unsafe { sys::napi_ref_threadsafe_function(js.env(), function) };
            });
        }
    }

    /// Keeps the process alive for so many things less.
    pub fn release(&self, js: Js<'_>, count: usize) {
        let pending = self.pending.get().saturating_sub(count);
        self.pending.set(pending);
        if count > 0 && pending == 0 {
            self.queue.with_bell(|function| {
                // SAFETY: this is the environment's own thread, and the function is alive while it is in the inbox.
                unsafe { sys::napi_unref_threadsafe_function(js.env(), function) };
            });
        }
    }

    /// Settles all that waits, then hands out events and log lines.
    fn deliver(&self, js: Js<'_>, state: &State) {
        let mut waiting = self.queue.empty(self.spare.take());
        let settled = waiting.results.len();
        let mut results = waiting.results.drain(..);
        while results.len() > 0 {
            let rest = results.by_ref().take(RESULTS_A_SCOPE);
            let scope = js.scope(|js| {
                let mut sessions = Sessions::default();
                for (deferred, result) in rest {
                    settle(js, state, deferred, result, &mut sessions);
                }
            });
            if scope.is_err() {
                // Without a scope there is no memory for a promise's value either; the rest stays unsettled.
                break;
            }
        }
        drop(results);
        if waiting.results.capacity() <= MAX_SPARE {
            self.spare.set(waiting.results);
        }
        self.release(js, settled);
        for event in waiting.events {
            events::hand_out(js, state, &event);
        }
        log::hand_out(js, state, waiting.lines, waiting.dropped_lines);
    }
}

/// Settles one promise, with the error where its value cannot be made. A panic costs this promise its value, no other.
pub fn settle<'scope>(
    js: Js<'scope>,
    state: &State,
    deferred: Deferred,
    result: Result<Reply>,
    sessions: &mut Sessions<'scope>,
) {
    let value = catch_unwind(AssertUnwindSafe(|| result.and_then(|reply| reply.into_value(js, state, sessions))))
        .unwrap_or_else(|panic| Err(error::from_panic(&*panic)));
    match value {
        Ok(value) => js.resolve(deferred, value),
        Err(failure) => {
            if let Some(error) = error::to_value(js, state, &failure) {
                js.reject(deferred, error);
            }
        }
    }
}

/// A promise that is resolved already.
pub fn resolved<'scope>(js: Js<'scope>, state: &State, reply: Reply) -> Result<Value<'scope>> {
    let (deferred, promise) = js.promise()?;
    settle(js, state, deferred, Ok(reply), &mut Sessions::default());
    Ok(promise)
}

/// Node calls this on the JavaScript thread after the bell was rung; at the end without an environment.
unsafe extern "C" fn deliver(env: sys::napi_env, _: sys::napi_value, _: *mut c_void, _: *mut c_void) {
    if env.is_null() {
        return;
    }
    // SAFETY: Node calls with a live environment, on its thread, in a handle scope that ends after this call.
    let js = unsafe { Js::new(env) };
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if let Ok(state) = State::of(js)
            && let Some(completions) = state.existing_completions()
        {
            completions.deliver(js, state);
        }
    }));
}

/// Node calls this once, when the environment begins to go away.
unsafe extern "C" fn close_queue(data: *mut c_void) {
    // SAFETY: `data` is the counted reference that was given to this hook, which runs once.
    let queue = unsafe { Arc::from_raw(data.cast::<Queue>().cast_const()) };
    let _ = catch_unwind(AssertUnwindSafe(|| queue.close()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue whose bell was rung and not heard yet, so that nothing calls into a Node that is not there.
    fn queue() -> Queue {
        let queue = Queue::new(Some(Bell(null_mut())));
        queue.lock().rung = true;
        queue
    }

    #[test]
    fn lines_are_bounded_and_counted_beyond() {
        let queue = queue();
        for line in 0..MAX_LINES + 7 {
            queue.notify(line.to_string()).unwrap();
        }
        let Waiting { lines, dropped_lines, .. } = queue.empty(Vec::new());
        assert_eq!((lines.len(), dropped_lines), (MAX_LINES, 7));
        assert_eq!(lines.front().map(String::as_str), Some("0"));
        assert_eq!(queue.empty(Vec::new()).dropped_lines, 0, "what was told is not told again");
    }

    #[test]
    fn a_closed_queue_takes_nothing_and_keeps_nothing() {
        let queue = queue();
        queue.notify("early".into()).unwrap();
        queue.close();
        assert_eq!(queue.notify("late".into()), Err("late".to_string()));
        let Waiting { results, lines, .. } = queue.empty(Vec::new());
        assert!(results.is_empty() && lines.is_empty());
    }
}
