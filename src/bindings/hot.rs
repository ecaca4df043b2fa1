//! Promises for sessions that this environment has handed out before: already resolved, of a frozen object.
//!
//! Making the object anew for each call costs several times as much as all the rest of a hit (1.8 us instead of 0.25 us).
//! What is here says nothing about validity: it is used only for the very session that the tier in the process, which all
//! threads share, has given for this call.

use super::environment::State;
use super::reply::frozen;
use super::values::{Js, Reference, Value};
use crate::error::Result;
use crate::keys::TokenHash;
use crate::random;
use crate::sessions::Known;
use quick_cache::unsync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};
use std::cell::RefCell;
use std::sync::Arc;

/// Promises an environment: some 16 MB of JavaScript's memory.
const MOST: usize = 16_384;

/// When there is no more room, one in so many is kept.
const KEPT_OF: u64 = 8;

struct Promised {
    known: Arc<Known>,
    promise: Reference,
}

/// Hands back what leaves the cache: a reference has to be released by its environment.
#[derive(Clone, Default)]
struct Leaving;

impl Lifecycle<TokenHash, Promised> for Leaving {
    type RequestState = Vec<Promised>;

    fn on_evict(&self, state: &mut Vec<Promised>, _: TokenHash, promised: Promised) {
        state.push(promised);
    }
}

type Promises = Cache<TokenHash, Promised, UnitWeighter, DefaultHashBuilder, Leaving>;

/// The promises of one environment. Used on its thread only; no borrow is held while JavaScript runs.
pub struct Hot(RefCell<Promises>);

impl Default for Hot {
    fn default() -> Self {
        let cache = Cache::with(MOST, MOST as u64, UnitWeighter, DefaultHashBuilder::default(), Leaving);
        Self(RefCell::new(cache))
    }
}

impl Hot {
    /// The promise for a session.
    pub fn promise<'scope>(
        &self,
        js: Js<'scope>,
        state: &State,
        token: TokenHash,
        known: Arc<Known>,
    ) -> Result<Value<'scope>> {
        if let Some(promised) = self.0.borrow().get(&token)
            && Arc::ptr_eq(&promised.known, &known)
        {
            return js.kept(&promised.promise);
        }
        let (deferred, promise) = js.promise()?;
        js.resolve(deferred, frozen(js, state, &known.json)?);
        // Of more sessions than have room, most would leave before they are asked for again: keeping all of them costs more
        // than it saves. Who is asked for often gets in soon.
        if self.0.borrow().len() >= MOST && !random::number().is_multiple_of(KEPT_OF) {
            return Ok(promise);
        }
        let promised = Promised { known, promise: js.keep(promise)? };
        let mut leaving = Vec::new();
        {
            let mut cache = self.0.borrow_mut();
            leaving.extend(cache.remove(&token).map(|(_, outdated)| outdated));
            cache.insert_with_lifecycle(token, promised, &mut leaving);
        }
        for Promised { promise, .. } in leaving {
            js.release(promise);
        }
        Ok(promise)
    }

    /// Gives everything back.
    pub fn clear(&self, js: Js<'_>) {
        let all: Vec<_> = self.0.borrow_mut().drain().collect();
        for (_, Promised { promise, .. }) in all {
            js.release(promise);
        }
    }
}
