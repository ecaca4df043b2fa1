//! What this process knows of sessions and of reads under way, and the decisions that keep it coherent: what may be used,
//! what may be kept, and what has to be forgotten when. No I/O and no waiting; the model test (`model.rs`) drives the same
//! decisions through every order of events.
//!
//! It outlives an engine: a revocation that one began must hold in the next one.

use super::Answered;
use super::activity::Activity;
use super::local::{Known, Local};
use super::missed::Missed;
use super::undelivered::Undelivered;
use super::unknown::Unknown;
use crate::clock::{Clock, Moment};
use crate::keys::TokenHash;
use crate::resilience::single_flight::{Flight, SingleFlight, Stored};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::time::Instant;

/// Until when a link is proven alive by a probe that was answered: this long after the probe was sent.
pub const PROOF: Duration = Duration::from_secs(3);

/// Life of an entry that nobody would tell this process to forget.
pub const UNTOLD_LIFE: Duration = Duration::from_secs(5);

/// Clones are handles to the same memory.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    /// Copies in Redis are what keeps the processes together; without it, it is Postgres alone.
    with_redis: bool,
    clock: Clock,
    flights: SingleFlight<TokenHash, Answered>,
    local: Local,
    unknown: Unknown,
    /// On which pushes of Redis come.
    lane: Link,
    /// On which Postgres tells.
    listener: Link,
    undelivered: Undelivered,
    heard: Undelivered,
    missed: Missed,
    activity: Activity,
}

impl Memory {
    /// An empty memory with room for so many sessions.
    pub fn new(with_redis: bool, entries: u32) -> Self {
        Self::with_clock(Clock::default(), with_redis, entries)
    }

    pub(super) fn with_clock(clock: Clock, with_redis: bool, entries: u32) -> Self {
        Self(Arc::new(Inner {
            with_redis,
            clock,
            flights: SingleFlight::default(),
            local: Local::new(entries),
            unknown: Unknown::default(),
            lane: Link::default(),
            listener: Link::default(),
            undelivered: Undelivered::default(),
            heard: Undelivered::default(),
            missed: Missed::default(),
            activity: Activity::default(),
        }))
    }

    pub fn now(&self) -> Moment {
        self.0.clock.now()
    }

    pub fn flights(&self) -> &SingleFlight<TokenHash, Answered> {
        &self.0.flights
    }

    /// Invalidations that Redis has not confirmed. While there is one, nothing that came from it is used.
    pub fn undelivered(&self) -> &Undelivered {
        &self.0.undelivered
    }

    /// What Postgres said to forget, and this process has not removed from Redis yet. Copies of it are not read: whoever
    /// revoked it may not have been able to remove them.
    pub fn heard(&self) -> &Undelivered {
        &self.0.heard
    }

    pub fn missed(&self) -> &Missed {
        &self.0.missed
    }

    pub fn activity(&self) -> &Activity {
        &self.0.activity
    }

    pub fn local(&self) -> &Local {
        &self.0.local
    }

    // -- What may be used ---------------------------------------------------------------------------------------------

    /// The session of a token, if this process knows it and may say so.
    pub fn hit(&self, token: &TokenHash, now: Moment) -> Option<Arc<Known>> {
        let this = &*self.0;
        let untold = if this.with_redis {
            // What came from Redis is used as long as Redis itself would be read.
            if !this.lane.is_proven(now) || !self.may_read_copies() {
                return None;
            }
            false
        } else {
            !this.listener.is_proven(now)
        };
        let known = this.local.get(token)?;
        let fresh = now < known.ends && !(untold && now.since(known.read) >= UNTOLD_LIFE);
        fresh.then_some(known)
    }

    /// Whether Postgres has said just now that the token is nobody's.
    pub fn is_unknown(&self, token: &TokenHash, now: Moment) -> bool {
        self.0.unknown.contains(token, now)
    }

    /// Whether copies are to be used without asking Postgres: every invalidation was delivered, and no news were missed.
    pub fn may_read_copies(&self) -> bool {
        self.0.undelivered.none() && !self.0.missed.is_open()
    }

    // -- What may be kept ---------------------------------------------------------------------------------------------

    /// Keeps what Redis had, unless the key was touched or forgotten since it was asked (`nudges`). Only a copy that was read on
    /// the link that pushes come on (`pushed`) is kept: what happens to it from now on will be heard, and in order.
    pub fn keep_copy(
        &self,
        flight: &Answering,
        nudges: u32,
        token: TokenHash,
        known: &Arc<Known>,
        pushed: bool,
    ) -> Stored {
        flight.store(nudges, || {
            if pushed {
                self.0.local.insert(token, known.clone());
            }
        })
    }

    /// Keeps what Postgres said, where there is no Redis by which a copy would come back in order.
    pub fn keep_row(&self, flight: &Answering, token: TokenHash, known: &Arc<Known>) {
        if !self.0.with_redis {
            flight.store(flight.nudges(), || self.0.local.insert(token, known.clone()));
        }
    }

    /// Remembers that Postgres, asked at `asked`, did not know the token.
    pub fn keep_unknown(&self, flight: &Answering, token: TokenHash, asked: Moment) {
        flight.store(flight.nudges(), || self.0.unknown.insert(token, asked));
    }

    // -- What has to be forgotten -------------------------------------------------------------------------------------

    /// Forgets tokens: reads that are under way become unjoinable and their results unstorable, then what they left goes.
    pub fn forget(&self, tokens: &[TokenHash]) {
        for token in tokens {
            self.0.flights.forget(token);
            self.0.local.remove(token);
            self.0.unknown.remove(token);
        }
    }

    /// Postgres said that a session was ended or changed.
    pub fn heard_of(&self, tokens: &[TokenHash], now: Instant) {
        self.forget(tokens);
        if self.0.with_redis {
            self.0.heard.add(tokens, now);
        }
    }

    /// A write to the key of a token was pushed: this process's own ones, too.
    pub fn pushed(&self, token: &TokenHash) {
        self.0.flights.nudge(token);
        self.0.local.remove(token);
    }

    /// Everything may have changed.
    pub fn forget_all(&self) {
        self.0.flights.forget_all();
        self.0.local.clear();
        self.0.unknown.clear();
    }

    /// Something may have been said by Postgres that nobody here has heard. What is known from before the present is not used any
    /// more; how long that is, by the clock of Redis, has to be found out.
    pub fn doubt(&self) {
        if self.0.with_redis {
            self.0.missed.begin();
        }
        self.forget_all();
    }

    /// Postgres tells nothing from now on.
    pub fn listener_down(&self) {
        self.0.listener.lose();
        self.0.missed.set_listening(false);
        self.doubt();
    }

    /// Postgres tells from now on, and has told what happened since it was `asked`: with `triggers` of every write, without
    /// only what other processes do. Where it tells of every write, what is known from before is not used any more: nobody
    /// may have listened then.
    pub fn listener_up(&self, asked: Moment, triggers: bool) {
        self.0.missed.set_listening(true);
        self.0.listener.prove(asked, triggers);
        if triggers || !self.0.with_redis {
            self.doubt();
        }
    }

    /// Postgres has told everything that happened before it was `asked`.
    pub fn listener_alive(&self, asked: Moment, triggers: bool) {
        let before = self.0.listener.whole.load(SeqCst);
        self.0.listener.prove(asked, triggers);
        if triggers && !before {
            self.doubt();
        }
    }

    /// The link to Redis is up; `pushes` if writes to the keys of sessions will be pushed on it.
    ///
    /// Nobody has asked on it yet, and what was asked on the one before it was forgotten with it. (In a cluster there are
    /// several links; what came on the others while one was missing goes here.) Reads that wait for a link go on; those
    /// that have asked Postgres may have missed something.
    pub fn lane_up(&self, asked: Moment, pushes: bool) {
        self.0.flights.forget_gone_on();
        self.0.local.clear();
        self.0.lane.prove(asked, pushes);
    }

    /// Redis has pushed everything that happened before it was `asked`.
    pub fn lane_alive(&self, asked: Moment, pushes: bool) {
        self.0.lane.prove(asked, pushes);
    }

    /// The link to Redis is lost: what happens from now on is not told.
    pub fn lane_down(&self) {
        self.0.lane.lose();
        self.forget_all();
    }
}

/// A read of a token that is under way.
pub type Answering = Flight<TokenHash, Answered>;

/// A link by which others tell this process what to forget. It counts only while it is proven alive, by a clock that goes on
/// while the process is stopped.
#[derive(Default)]
struct Link {
    /// When the newest probe that was answered was sent; zero while there is none.
    proven: AtomicU64,
    /// It tells everything that has to be known.
    whole: AtomicBool,
}

impl Link {
    fn prove(&self, asked: Moment, whole: bool) {
        self.whole.store(whole, SeqCst);
        self.proven.store(asked.as_micros(), SeqCst);
    }

    fn lose(&self) {
        self.proven.store(Moment::NEVER.as_micros(), SeqCst);
    }

    /// Whether all that happened until [`PROOF`] ago has been told for certain.
    fn is_proven(&self, now: Moment) -> bool {
        let proven = Moment::from_micros(self.proven.load(SeqCst));
        proven != Moment::NEVER && self.whole.load(SeqCst) && now.since(proven) < PROOF
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::single_flight::Joined;
    use crate::session::SessionWithUser;

    fn token() -> TokenHash {
        TokenHash::of(b"t").unwrap()
    }

    fn known(read: Moment, ends: Moment) -> Arc<Known> {
        let session: SessionWithUser = serde_json::from_value(serde_json::json!({
            "id": "11111111-1111-4111-8111-111111111111", "userId": "u", "token": token().to_hex(), "expiresAt": "",
            "lastActivityAt": "", "createdAt": "", "email": "", "firstName": null, "lastName": null, "username": null,
        }))
        .unwrap();
        Known::new(&session, read, ends).unwrap()
    }

    fn flight(memory: &Memory) -> Answering {
        match memory.flights().join(token(), memory.now()) {
            Joined::Leader(flight) => flight,
            Joined::Follower(_) => panic!("it joined"),
        }
    }

    /// A memory with Redis that has read a copy on a living link, and the time of that.
    fn with_copy() -> (Memory, Moment) {
        let memory = Memory::new(true, 100);
        let now = memory.now();
        memory.lane_up(now, true);
        let kept =
            memory.keep_copy(&flight(&memory), 0, token(), &known(now, now.after(Duration::from_secs(60))), true);
        assert_eq!(kept, Stored::Yes);
        assert!(memory.hit(&token(), now).is_some());
        (memory, now)
    }

    #[test]
    fn a_hit_needs_a_link_that_was_proven_alive_less_than_three_seconds_ago() {
        let (memory, now) = with_copy();
        assert!(memory.hit(&token(), now.after(PROOF - Duration::from_micros(1))).is_some());
        assert!(memory.hit(&token(), now.after(PROOF)).is_none());
        memory.lane_alive(now.after(Duration::from_secs(2)), true);
        assert!(memory.hit(&token(), now.after(PROOF)).is_some(), "it is not emptied meanwhile");
        memory.lane_alive(now.after(Duration::from_secs(2)), false);
        assert!(memory.hit(&token(), now).is_none(), "nothing is pushed on it");
    }

    #[test]
    fn an_entry_ends_when_its_time_has_come() {
        let (memory, now) = with_copy();
        let end = now.after(Duration::from_secs(60));
        memory.lane_alive(end, true);
        assert!(memory.hit(&token(), end).is_none());
    }

    #[test]
    fn whatever_may_have_happened_unheard_empties_it() {
        for (what, happens) in [
            ("a push", &(|memory: &Memory| memory.pushed(&token())) as &dyn Fn(&Memory)),
            ("a flush", &|memory| memory.forget_all()),
            ("a call", &|memory| memory.forget(&[token()])),
            ("news", &|memory| memory.heard_of(&[token()], Instant::now())),
            ("a lost link", &|memory| memory.lane_down()),
            ("a new link", &|memory| memory.lane_up(memory.now(), true)),
            ("a lost listener", &|memory| memory.listener_down()),
            ("a listener with triggers", &|memory| memory.listener_up(memory.now(), true)),
            ("triggers that were made", &|memory| memory.listener_alive(memory.now(), true)),
        ] {
            let (memory, now) = with_copy();
            let under_way = flight(&memory);
            happens(&memory);
            assert!(memory.hit(&token(), now).is_none(), "{what}");
            assert_eq!(memory.local().len(), 0, "{what}");
            let late = memory.keep_copy(&under_way, 0, token(), &known(now, now.after(PROOF)), true);
            // What was asked on the link before went with that; what waits for a link may use the new one.
            assert_eq!(late == Stored::Yes, what == "a new link", "{what}");
        }
        let (memory, now) = with_copy();
        memory.listener_up(now, false);
        memory.listener_alive(now, false);
        assert!(memory.hit(&token(), now).is_some(), "a listener without triggers changes nothing");
    }

    #[test]
    fn nothing_of_redis_is_used_before_it_has_forgotten_what_it_has_to() {
        let (memory, now) = with_copy();
        memory.undelivered().add(&[TokenHash::of(b"other").unwrap()], Instant::now());
        assert!(memory.hit(&token(), now).is_none());
        memory.undelivered().delivered(&memory.undelivered().some(1));
        assert!(memory.hit(&token(), now).is_some());
    }

    #[test]
    fn only_what_will_be_pushed_is_kept_and_never_what_postgres_said() {
        let memory = Memory::new(true, 100);
        let now = memory.now();
        memory.lane_up(now, true);
        let (flight, known) = (flight(&memory), known(now, now.after(PROOF)));
        memory.keep_copy(&flight, 0, token(), &known, false);
        memory.keep_row(&flight, token(), &known);
        assert_eq!(memory.local().len(), 0);
    }

    #[test]
    fn without_redis_an_entry_lives_five_seconds_and_longer_only_while_everything_is_told() {
        let memory = Memory::new(false, 100);
        let now = memory.now();
        memory.keep_row(&flight(&memory), token(), &known(now, now.after(Duration::from_secs(60))));
        let (early, late) = (now.after(UNTOLD_LIFE - Duration::from_micros(1)), now.after(UNTOLD_LIFE));
        assert!(memory.hit(&token(), early).is_some() && memory.hit(&token(), late).is_none());
        memory.listener_up(memory.now(), true);
        memory.keep_row(&flight(&memory), token(), &known(now, now.after(Duration::from_secs(60))));
        memory.listener_alive(late, true);
        assert!(memory.hit(&token(), late).is_some());
        assert!(memory.hit(&token(), late.after(PROOF)).is_none());
        memory.listener_alive(late.after(PROOF), false);
        assert!(memory.hit(&token(), late.after(PROOF)).is_none(), "the triggers are gone");
    }

    #[test]
    fn an_unknown_token_that_comes_to_be_is_known() {
        let memory = Memory::new(true, 100);
        let now = memory.now();
        memory.keep_unknown(&flight(&memory), token(), now);
        assert!(memory.is_unknown(&token(), now));
        memory.forget(&[token()]);
        assert!(!memory.is_unknown(&token(), now));
    }
}
