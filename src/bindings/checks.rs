//! Checks of rate limits on their way: answered in the call, or asked of Redis together with equal ones of this tick.

use super::client::{Client, Target};
use super::completions::Ticket;
use super::environment::{Intrinsic, State};
use super::options::OWN_SIZES;
use super::reply::{Reply, limit_value};
use super::values::{Js, Reference, Value};
use super::{Call, args, completions};
use crate::engine::limits::{Asking, Counting, SharedLimits};
use crate::engine::redis::Entered;
use crate::error::Result;
use crate::limit::Limit;
pub use crate::rate_limit::Check;
use crate::rate_limit::{Answer, Caller, Key, Limiter, Place, Policy, Verdict, arguments};
use bytes::BytesMut;
use std::cell::{OnceCell, RefCell};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;

/// So many different checks leave before the tick ends; equal ones that come later are asked anew. Redis works on them
/// while JavaScript makes the next ones.
const PART: usize = 16;

/// Calls that are asked together at most: the script counts them one by one.
const MOST_TOGETHER: usize = 1_000;

/// Limiters of an environment that are kept.
const MOST_SUBJECTS: usize = 256;

/// Answers whose promises are kept: each denied key has one a second.
const MOST_ANSWERS: usize = 256;

/// What a caller wants of an answer.
#[derive(Clone)]
pub enum Form {
    /// `{ allowed, info }`.
    Result,
    Info,
    /// Whether it is over the limit.
    Over,
    /// The headers of a response, and why it is denied.
    Admission(Arc<Policy>, Limit),
}

/// A limiter in this environment, with what the engine that is open knows of it.
pub struct Subject {
    limiter: Limiter,
    ready: RefCell<Option<Rc<Ready>>>,
}

struct Ready {
    limits: Arc<SharedLimits>,
    beginning: String,
    caller: Caller,
}

impl Ready {
    fn key(&self, part: &[u8]) -> Key {
        Key::new(&self.beginning, part)
    }
}

impl Subject {
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    fn ready(&self, call: Call<'_>) -> Result<Rc<Ready>> {
        let engine = call.engine()?;
        let limits = engine.limits();
        if let Some(ready) = &*self.ready.borrow()
            && Arc::ptr_eq(&ready.limits, limits)
        {
            return Ok(ready.clone());
        }
        let caller = Caller { counters: limits.counters(&self.limiter), shadow: self.limiter.shadow };
        let beginning = limits.beginning(&self.limiter);
        let ready = Rc::new(Ready { limits: limits.clone(), beginning, caller });
        self.ready.replace(Some(ready.clone()));
        Ok(ready)
    }

    /// How the keys of its counts begin.
    pub fn beginning(&self, call: Call<'_>) -> Result<String> {
        self.ready(call).map(|ready| ready.beginning.clone())
    }

    /// The whole key of a count.
    pub fn key(&self, call: Call<'_>, value: Value<'_>, name: &str) -> Result<Key> {
        let ready = self.ready(call)?;
        args::key(call.js, value, name, |part| Ok(ready.key(&arguments::key(part, name)?)))
    }

    /// The whole key of a count whose own part is known already.
    pub fn key_of(&self, call: Call<'_>, part: &str) -> Result<Key> {
        self.ready(call).map(|ready| ready.key(part.as_bytes()))
    }

    /// What is to be checked for a key.
    pub fn check(&self, call: Call<'_>, value: Value<'_>, name: &str, limit: Limit, cost: u32) -> Result<Check> {
        self.key(call, value, name).map(|key| self.check_of(key, limit, cost))
    }

    /// The same for a whole key.
    pub fn check_of(&self, key: Key, limit: Limit, cost: u32) -> Check {
        let Limiter { place, algorithm, on_outage, .. } = self.limiter;
        Check { key, place, algorithm, on_outage, limit, cost }
    }
}

/// Who waits for the answer to a check.
struct Waiting {
    ticket: Ticket,
    caller: Caller,
    form: Form,
}

/// Equal checks of this tick. They were let in as one call.
struct Group {
    check: Check,
    limits: Arc<SharedLimits>,
    entered: Entered,
    waiting: Vec<Waiting>,
}

/// The checks of one environment. No borrow is held while JavaScript runs.
pub struct Checks {
    groups: RefCell<Vec<Group>>,
    usual: OnceCell<Rc<Subject>>,
    subjects: RefCell<Vec<Rc<Subject>>>,
    client: OnceCell<Client>,
    answers: RefCell<Vec<Option<(Answer, Reference)>>>,
    hasher: std::hash::RandomState,
}

impl Default for Checks {
    fn default() -> Self {
        let answers = RefCell::new(std::iter::repeat_with(|| None).take(MOST_ANSWERS).collect());
        let (usual, client) = (OnceCell::new(), OnceCell::new());
        let (groups, subjects, hasher) = (RefCell::default(), RefCell::default(), std::hash::RandomState::new());
        Self { groups, usual, subjects, client, answers, hasher }
    }
}

impl Checks {
    /// The limiter of checks without options.
    pub fn usual(&self) -> Rc<Subject> {
        self.usual.get_or_init(|| self.subject(Limiter::named(super::limits::DEFAULT_NAME))).clone()
    }

    /// A limiter; the same for the same settings, as far as there is room.
    pub fn subject(&self, limiter: Limiter) -> Rc<Subject> {
        let mut subjects = self.subjects.borrow_mut();
        if let Some(known) = subjects.iter().find(|known| known.limiter == limiter) {
            return known.clone();
        }
        let subject = Rc::new(Subject { limiter, ready: RefCell::default() });
        if subjects.len() < MOST_SUBJECTS {
            subjects.push(subject.clone());
        }
        subject
    }

    /// What is asked one by one.
    pub fn counts(&self, call: Call<'_>, place: Place) -> Result<Counting> {
        let limits = call.engine()?.limits().clone();
        let redis = if limits.is_shared(place) { Some(self.client(call).redis(call)?) } else { None };
        Ok(Counting::new(limits, redis))
    }

    fn client(&self, call: Call<'_>) -> &Client {
        self.client.get_or_init(|| Client::new(call.state, Target::Own, OWN_SIZES, false))
    }

    /// Checks, and gives the promise of the answer.
    pub fn ask<'scope>(
        &self,
        call: Call<'scope>,
        subject: &Subject,
        check: Check,
        form: Form,
    ) -> Result<Value<'scope>> {
        let Ready { limits, caller, .. } = &*subject.ready(call)?;
        if let Some(answer) = limits.immediate(&check, caller) {
            return self.promise(call, answer, form);
        }
        let (deferred, promise) = call.js.promise()?;
        let ticket = call.state.completions(call.js)?.ticket(call.js, deferred);
        let waiting = Waiting { ticket, caller: caller.clone(), form };
        if let Some(group) = self.groups.borrow_mut().iter_mut().find(|group| group.takes(&check, limits)) {
            group.waiting.push(waiting);
            return Ok(promise);
        }
        match self.client(call).enter(call) {
            Err(failure) => waiting.settle(&limits.told(&check, 1, limits.now(), Err(failure)), 0),
            Ok(entered) => {
                let group = Group { check, limits: limits.clone(), entered, waiting: vec![waiting] };
                let groups = {
                    let mut groups = self.groups.borrow_mut();
                    groups.push(group);
                    groups.len()
                };
                call.state.tick.will_end(call.js, call.state);
                if groups >= PART {
                    self.leave(call.js, call.state);
                }
            }
        }
        Ok(promise)
    }

    /// A promise that is resolved already.
    fn promise<'scope>(&self, call: Call<'scope>, answer: Answer, form: Form) -> Result<Value<'scope>> {
        let Call { js, state } = call;
        if !matches!(form, Form::Result) {
            return completions::resolved(js, state, Reply::Limit(answer, form));
        }
        if answer.allowed {
            return limit_value(js, state, &answer, Intrinsic::Limited);
        }
        // A client that is denied comes again, often thousands of times a second, and is told the same.
        #[expect(clippy::cast_possible_truncation, reason = "what is cut off does not matter")]
        let place = self.hasher.hash_one(answer) as usize % MOST_ANSWERS;
        if let Some((known, promise)) = &self.answers.borrow()[place]
            && *known == answer
        {
            return js.kept(promise);
        }
        let (deferred, promise) = js.promise()?;
        let value = limit_value(js, state, &answer, Intrinsic::Limit)?;
        js.freeze(js.get(value, c"info")?)?;
        js.freeze(value)?;
        js.resolve(deferred, value);
        let kept = js.keep(promise)?;
        let previous = self.answers.borrow_mut()[place].replace((answer, kept));
        if let Some((_, previous)) = previous {
            js.release(previous);
        }
        Ok(promise)
    }

    /// Sends what was collected in this tick.
    pub fn leave(&self, js: Js<'_>, state: &State) {
        for Group { check, limits, entered, waiting } in self.groups.take() {
            let calls = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
            let asking = Arc::new(Asking { limits, check, calls });
            let done = move |verdict: &Verdict<'_>| {
                for (index, waiting) in (0..).zip(waiting) {
                    waiting.settle(verdict, index);
                }
            };
            let (encode, request) = (|bytes: &mut BytesMut| asking.encode(bytes), asking.clone());
            state.tick.push(js, state, entered, encode, |entered, length| request.request(entered, length, done));
        }
    }

    /// Gives everything back that belongs to the environment, or to the realm of before.
    pub fn clear(&self, js: Js<'_>) {
        for answer in self.answers.borrow_mut().iter_mut() {
            if let Some((_, promise)) = answer.take() {
                js.release(promise);
            }
        }
    }
}

impl Group {
    fn takes(&self, check: &Check, limits: &Arc<SharedLimits>) -> bool {
        self.check == *check && self.waiting.len() < MOST_TOGETHER && Arc::ptr_eq(&self.limits, limits)
    }
}

impl Waiting {
    fn settle(self, verdict: &Verdict<'_>, index: u32) {
        let answer = verdict.answer(index, &self.caller);
        self.ticket.settle(Ok(Reply::Limit(answer, self.form)));
    }
}
