//! What this package keeps for each JavaScript environment: the main thread, each worker, each load of the file.

use super::checks::Checks;
use super::client::{self, Client, Tied};
use super::completions::Completions;
use super::events::Handlers;
use super::hot::Hot;
use super::limit_stores;
use super::limits::CheckLimit;
use super::sessions::Validate;
use super::subscriptions::{self, Subscription};
use super::tick::{EndTick, Tick};
use super::values::{Js, Kind, Reference, Value};
use super::{batch, error, returned};
use crate::config::{Environment, VARIABLES};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::process;
use bytes::BytesMut;
use napi::sys;
use napi::{Env, bindgen_prelude::Unknown};
use napi_derive::napi;
use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::rc::Rc;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What `index.js` hands over. Jest has a realm a test file and one native module for all of them: the last realm counts.
struct Realm {
    environment: Reference,
    error: Reference,
    type_error: Reference,
    range_error: Reference,
    parse: Reference,
    soon: Reference,
    limit: Reference,
    limited: Reference,
}

impl Realm {
    fn of(js: Js<'_>, realm: Value<'_>) -> Result<Self> {
        let keep = |name| js.keep(js.get(realm, name)?);
        Ok(Self {
            environment: keep(c"env")?,
            error: keep(c"Error")?,
            type_error: keep(c"TypeError")?,
            range_error: keep(c"RangeError")?,
            parse: keep(c"parse")?,
            soon: keep(c"soon")?,
            limit: keep(c"limit")?,
            limited: keep(c"limited")?,
        })
    }

    fn release(self, js: Js<'_>) {
        let Self { environment, error, type_error, range_error, parse, soon, limit, limited } = self;
        for reference in [environment, error, type_error, range_error, parse, soon, limit, limited] {
            js.release(reference);
        }
    }
}

/// Which of the realm's values is asked for.
#[derive(Clone, Copy)]
pub enum Intrinsic {
    Environment,
    Error,
    TypeError,
    RangeError,
    Parse,
    /// Calls a function when the code that runs now is done.
    Soon,
    /// Makes the answer to a check of a limit.
    Limit,
    /// The same as a promise, which costs less to make there than here.
    Limited,
}

/// The state of one environment. Lives as its instance data until the environment has gone; used on its thread only.
///
/// No borrow is held across a call into JavaScript, which may come back here.
pub struct State {
    realm: RefCell<Realm>,
    completions: OnceCell<Completions>,
    log_handler: RefCell<Option<Reference>>,
    /// The handler threw, which is reported once.
    pub log_handler_failed: Cell<bool>,
    /// Functions and classes of our own, which this environment has once.
    own: Own,
    /// Promises for sessions that were handed out before.
    pub hot: Hot,
    /// Commands that this tick sends.
    pub tick: Tick,
    /// Checks of limits that this tick asks.
    pub checks: Checks,
    /// A buffer for the arguments of the next command.
    pub scratch: Cell<BytesMut>,
    /// What the constructor of a batch is called for: JavaScript cannot pass it.
    pub making_batch: Cell<Option<(Rc<Client>, bool)>>,
    pub making_subscription: Cell<Option<Arc<Subscription>>>,
    /// The constructor of a client is called for the one of `REDIS_URL`.
    pub making_own_client: Cell<bool>,
    own_client: RefCell<Option<Reference>>,
    /// Cancelled when the environment goes away: nobody waits any more for what lasts.
    pub ending: CancellationToken,
    /// What events are for.
    pub handlers: Handlers,
    /// Of `onBreakerChange`: each handler, and the listener that calls it.
    pub breaker_listeners: RefCell<Vec<(u64, u64)>>,
}

struct Own {
    end_tick: Reference,
    client_class: Reference,
    batch_class: Reference,
    subscription_class: Reference,
    /// What `attach` gives beside the class of clients, in its order.
    given: Vec<Reference>,
}

impl Own {
    fn new(js: Js<'_>) -> Result<Self> {
        let functions =
            [js.function::<Validate>("validateSessionWithCache")?, js.function::<CheckLimit>("checkLimit")?];
        let given = functions.into_iter().chain(limit_stores::classes(js)?).map(|value| js.keep(value));
        Ok(Self {
            given: given.collect::<Result<_>>()?,
            end_tick: js.keep(js.function::<EndTick>("endTick")?)?,
            client_class: js.keep(client::class(js)?)?,
            batch_class: js.keep(batch::class(js)?)?,
            subscription_class: js.keep(subscriptions::class(js)?)?,
        })
    }
}

impl State {
    /// The state of the environment whose callback is running.
    pub fn of(js: Js<'_>) -> Result<&State> {
        let mut data = null_mut();
        // SAFETY: the environment is live, the result is local.
        let status = unsafe { sys::napi_get_instance_data(js.env(), &raw mut data) };
        js.check(status, "reading the instance data")?;
        // SAFETY: only `attach` sets instance data, to a `State` that `end` frees when no callback can run any more.
        unsafe { data.cast::<State>().as_ref() }
            .ok_or_else(|| Error::Internal("binding.js was required; require @studio/redis-native instead".into()))
    }

    /// One of the values that `index.js` handed over.
    pub fn intrinsic<'scope>(&self, js: Js<'scope>, which: Intrinsic) -> Result<Value<'scope>> {
        let realm = self.realm.borrow();
        js.kept(match which {
            Intrinsic::Environment => &realm.environment,
            Intrinsic::Error => &realm.error,
            Intrinsic::TypeError => &realm.type_error,
            Intrinsic::RangeError => &realm.range_error,
            Intrinsic::Parse => &realm.parse,
            Intrinsic::Soon => &realm.soon,
            Intrinsic::Limit => &realm.limit,
            Intrinsic::Limited => &realm.limited,
        })
    }

    /// The completions of this environment, made at the first call that needs them.
    pub fn completions(&self, js: Js<'_>) -> Result<&Completions> {
        if let Some(completions) = self.completions.get() {
            return Ok(completions);
        }
        let completions = Completions::new(js)?;
        Ok(self.completions.get_or_init(|| completions))
    }

    /// The completions, if anything has needed them yet.
    pub fn existing_completions(&self) -> Option<&Completions> {
        self.completions.get()
    }

    pub fn end_tick<'scope>(&self, js: Js<'scope>) -> Result<Value<'scope>> {
        js.kept(&self.own.end_tick)
    }

    pub fn client_class<'scope>(&self, js: Js<'scope>) -> Result<Value<'scope>> {
        js.kept(&self.own.client_class)
    }

    pub fn batch_class<'scope>(&self, js: Js<'scope>) -> Result<Value<'scope>> {
        js.kept(&self.own.batch_class)
    }

    /// An object for a subscription.
    pub fn subscription<'scope>(&self, js: Js<'scope>, subscription: Arc<Subscription>) -> Result<Value<'scope>> {
        self.making_subscription.set(Some(subscription));
        js.construct(js.kept(&self.own.subscription_class)?, &[])
    }

    /// The client of `REDIS_URL`, made at the first call.
    pub fn own_client<'scope>(&self, js: Js<'scope>) -> Result<Value<'scope>> {
        if let Some(known) = &*self.own_client.borrow() {
            let client = js.kept(known)?;
            if !js.unwrap_tagged::<Tied>(client)?.0.is_closed() {
                return Ok(client);
            }
        }
        self.take_own_client(js)?;
        self.making_own_client.set(true);
        let client = js.construct(self.client_class(js)?, &[])?;
        self.own_client.replace(Some(js.keep(client)?));
        Ok(client)
    }

    /// Takes the client of `REDIS_URL` away from here.
    pub fn take_own_client<'scope>(&self, js: Js<'scope>) -> Result<Option<Value<'scope>>> {
        let Some(known) = self.own_client.take() else { return Ok(None) };
        let client = js.kept(&known);
        js.release(known);
        client.map(Some)
    }

    /// The function that gets the log lines of this environment.
    pub fn log_handler<'scope>(&self, js: Js<'scope>) -> Option<Value<'scope>> {
        let handler = self.log_handler.borrow();
        handler.as_ref().and_then(|handler| js.kept(handler).ok())
    }

    pub fn set_log_handler(&self, js: Js<'_>, handler: Option<Value<'_>>) -> Result<()> {
        let handler = handler.map(|handler| js.keep(handler)).transpose()?;
        let previous = self.log_handler.replace(handler);
        self.log_handler_failed.set(false);
        if let Some(previous) = previous {
            js.release(previous);
        }
        Ok(())
    }
}

/// Takes over `process.env`, the error classes, `JSON.parse` and promises of the realm that loads this package, and gives
/// what is made by hand: the class of clients, `validateSessionWithCache`, `checkLimit`, and the classes of stores.
#[napi(catch_unwind)]
pub fn attach(env: Env, realm: Unknown) -> napi::Result<Unknown<'static>> {
    // SAFETY: napi calls this with a live environment, on its thread, in a handle scope that ends after this call.
    let js = unsafe { Js::new(env.raw()) };
    let made = set_realm(js, realm.into()).and_then(|()| {
        let (state, made) = (State::of(js)?, js.array(0)?);
        js.set_index(made, 0, state.client_class(js)?)?;
        for (index, given) in (1..).zip(&state.own.given) {
            js.set_index(made, index, js.kept(given)?)?;
        }
        Ok(made)
    });
    made.map(|made| returned(env, made)).map_err(|failure| error::throw_plain(js, &failure))
}

fn set_realm(js: Js<'_>, realm: Value<'_>) -> Result<()> {
    let realm = Realm::of(js, realm)?;
    if let Ok(state) = State::of(js) {
        state.realm.replace(realm).release(js);
        // Its objects are of the realm of before.
        state.hot.clear(js);
        state.checks.clear(js);
        return Ok(());
    }
    let state = Box::into_raw(Box::new(State {
        realm: RefCell::new(realm),
        completions: OnceCell::new(),
        log_handler: RefCell::new(None),
        log_handler_failed: Cell::new(false),
        own: Own::new(js)?,
        hot: Hot::default(),
        tick: Tick::default(),
        checks: Checks::default(),
        scratch: Cell::default(),
        making_batch: Cell::default(),
        making_subscription: Cell::default(),
        making_own_client: Cell::default(),
        own_client: RefCell::default(),
        ending: CancellationToken::new(),
        handlers: Handlers::default(),
        breaker_listeners: RefCell::default(),
    }));
    // SAFETY: the environment is live and has no instance data yet; `end` takes over the box.
    let status = unsafe { sys::napi_set_instance_data(js.env(), state.cast(), Some(end), null_mut()) };
    js.check(status, "setting the instance data").inspect_err(|_| {
        // SAFETY: Node did not take the box, so it is still ours.
        drop(unsafe { Box::from_raw(state) });
    })
}

/// Node calls this when the environment is freed, after the last callback.
unsafe extern "C" fn end(env: sys::napi_env, data: *mut c_void, _: *mut c_void) {
    // SAFETY: `data` is the box that was given to Node, which calls this once; references can be given back until it
    // returns.
    let (js, state) = unsafe { (Js::new(env), Box::from_raw(data.cast::<State>())) };
    let State { realm, log_handler, own, own_client, ending, handlers, breaker_listeners, hot, checks, .. } = *state;
    ending.cancel();
    hot.clear(js);
    checks.clear(js);
    realm.into_inner().release(js);
    handlers.release_all(js);
    for (_, listener) in breaker_listeners.into_inner() {
        process::breakers().remove(listener);
    }
    let Own { end_tick, client_class, batch_class, subscription_class, given } = own;
    let optional = [log_handler.into_inner(), own_client.into_inner()].into_iter().flatten();
    for reference in [end_tick, client_class, batch_class, subscription_class].into_iter().chain(given).chain(optional)
    {
        js.release(reference);
    }
}

/// The engine, opened from this environment's `process.env` if it is not open.
///
/// The variables are read first: reading them may run JavaScript, which must not happen under the lock of `process`.
pub fn engine(js: Js<'_>, state: &State) -> Result<Arc<Engine>> {
    if let Some(engine) = process::opened() {
        return Ok(engine);
    }
    let environment = variables(js, state)?;
    process::engine(move || environment)
}

fn variables(js: Js<'_>, state: &State) -> Result<Environment> {
    let source = state.intrinsic(js, Intrinsic::Environment)?;
    let mut variables = Environment::new();
    for name in VARIABLES {
        let unreadable = |_| Error::InvalidConfig(format!("{name} could not be read from process.env."));
        let key = CString::new(*name).map_err(|_| Error::Internal(format!("{name:?} is no name")))?;
        let value = js.get(source, &key).map_err(unreadable)?;
        match js.kind(value)? {
            Kind::Undefined => {}
            Kind::String => drop(variables.insert((*name).to_string(), js.read_string(value)?)),
            other => {
                let found = other.name();
                return Err(Error::InvalidConfig(format!("{name} must be a string in process.env, got {found}.")));
            }
        }
    }
    Ok(variables)
}
