//! Concurrent reads of one key share one run, which is called a flight here.
//!
//! Sharing must not bring back what was forgotten. A flight that was under way when its key was forgotten may carry an
//! answer from before. Those who already wait for it asked before the forgetting, so they may have it; but nobody may
//! join it any more, and its answer may not be stored. That also holds for flights that new callers no longer join
//! because of their age: they are kept until they end, so that a forgetting reaches every one of them.
//!
//! A nudge says that something happened to the key, and it may have been the flight's own doing. As long as a flight looks
//! for what others have left, it takes nudges into account by itself ([`Flight::store`], [`Flight::go_on`]); after that a
//! nudge forgets it.

use crate::clock::Moment;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// A flight may be joined in its first 2 s only. A deletion elsewhere that found nothing to delete tells nobody, so that
/// a flight which missed it must not go on answering new calls for long: by a clock that goes on while the machine sleeps.
pub const MAX_JOIN_AGE: Duration = Duration::from_secs(2);

/// The flights of all keys. Clones are handles to the same flights.
pub struct SingleFlight<K: Eq + Hash, V> {
    flights: Arc<Flights<K, V>>,
}

/// What a caller who wants a key has to do.
pub enum Joined<K: Eq + Hash, V> {
    /// Run the read and [`Flight::publish`] its answer.
    Leader(Flight<K, V>),
    /// Wait for the leader's answer.
    Follower(Follower<V>),
}

/// The leader's side of a flight. Dropped without an answer, it tells the followers that nothing will come.
///
/// The leader keeps it until its answer is stored, so that who comes meanwhile does not read once more.
pub struct Flight<K: Eq + Hash, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
    live: Arc<Live<V>>,
}

/// The side of one who joined a flight.
pub struct Follower<V> {
    answer: watch::Receiver<Option<V>>,
}

/// Of each key the flights that have not ended, oldest first. Only the newest may be joined. No list is ever empty.
type Flights<K, V> = Mutex<HashMap<K, Vec<Arc<Live<V>>>>>;

struct Live<V> {
    begun: Moment,
    /// Locked after the map, where both are.
    standing: Mutex<Standing>,
    nudged: Notify,
    answer: watch::Sender<Option<V>>,
}

struct Standing {
    /// No forgetting came.
    storable: bool,
    /// It looks for what others have left; the truth has not been asked yet.
    looking: bool,
    nudges: u32,
}

/// What became of an attempt to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    Yes,
    /// The key was forgotten meanwhile. Those who joined may have the answer; nobody may keep it.
    Forgotten,
    /// Something happened to the key since the answer was asked for: it may be out of date.
    Overtaken,
}

impl<K: Eq + Hash, V> Clone for SingleFlight<K, V> {
    fn clone(&self) -> Self {
        Self { flights: self.flights.clone() }
    }
}

impl<K: Eq + Hash, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self { flights: Arc::default() }
    }
}

impl<K: Eq + Hash + Clone, V: Clone + Send + Sync> SingleFlight<K, V> {
    /// Joins the newest flight of `key` if it is young enough and was not forgotten, and begins a new one if not.
    pub fn join(&self, key: K, now: Moment) -> Joined<K, V> {
        let mut flights = locked(&self.flights);
        let of_key = flights.entry(key.clone()).or_default();
        if let Some(newest) = of_key.last().filter(|newest| newest.may_be_joined(now)) {
            return Joined::Follower(Follower { answer: newest.answer.subscribe() });
        }
        let standing = Mutex::new(Standing { storable: true, looking: true, nudges: 0 });
        let live = Arc::new(Live { begun: now, standing, nudged: Notify::new(), answer: watch::Sender::new(None) });
        of_key.push(live.clone());
        Joined::Leader(Flight { flights: self.flights.clone(), key, live })
    }

    /// Lets nobody join the flights of `key` that are under way, and nobody store their answers.
    pub fn forget(&self, key: &K) {
        for live in locked(&self.flights).get(key).into_iter().flatten() {
            live.forget();
        }
    }

    /// Forgets every key.
    pub fn forget_all(&self) {
        for live in locked(&self.flights).values().flatten() {
            live.forget();
        }
    }

    /// Forgets every key, but for flights that still look: they have not asked for anything that may be out of date.
    pub fn forget_gone_on(&self) {
        for live in locked(&self.flights).values().flatten() {
            let mut standing = locked(&live.standing);
            standing.storable &= standing.looking;
        }
    }

    /// Something happened to the key.
    pub fn nudge(&self, key: &K) {
        for live in locked(&self.flights).get(key).into_iter().flatten() {
            live.nudge();
        }
    }
}

impl<V> Live<V> {
    fn may_be_joined(&self, now: Moment) -> bool {
        now.since(self.begun) < MAX_JOIN_AGE && locked(&self.standing).storable
    }

    fn forget(&self) {
        locked(&self.standing).storable = false;
    }

    fn nudge(&self) {
        let mut standing = locked(&self.standing);
        standing.nudges += 1;
        standing.storable &= standing.looking;
        drop(standing);
        self.nudged.notify_one();
    }
}

impl<K: Eq + Hash, V> Flight<K, V> {
    /// Whether the answer may be stored, as far as is known now.
    ///
    /// A forgetting may come right after this was asked and before the answer is stored. The store has to refuse a write
    /// that was overtaken, as Redis does for a fill whose lease is gone.
    pub fn storable(&self) -> bool {
        locked(&self.live.standing).storable
    }

    /// How often the key was nudged since the flight began.
    pub fn nudges(&self) -> u32 {
        locked(&self.live.standing).nudges
    }

    /// Stores what was asked for when there had been `nudges` of them, unless something happened since. A forgetting that comes
    /// while `store` runs waits for its end, so it can remove what was stored.
    pub fn store(&self, nudges: u32, store: impl FnOnce()) -> Stored {
        let mut standing = locked(&self.live.standing);
        match (standing.storable, standing.nudges == nudges) {
            (_, false) => Stored::Overtaken,
            (false, true) => Stored::Forgotten,
            (true, true) => {
                store();
                // What comes now finds an answer that is given to whoever joins.
                standing.looking = false;
                Stored::Yes
            }
        }
    }

    /// Ends the time of looking: from now on a nudge is a forgetting. Waits first until the key was nudged `beyond` so often,
    /// where the flight itself has caused a nudge that is still on its way.
    pub async fn go_on(&self, beyond: Option<u32>) {
        loop {
            let nudged = self.live.nudged.notified();
            {
                let mut standing = locked(&self.live.standing);
                if beyond.is_none_or(|beyond| standing.nudges > beyond) {
                    standing.looking = false;
                    return;
                }
            }
            nudged.await;
        }
    }

    /// Gives `answer` to all who joined, and to those who join until the flight is dropped.
    pub fn publish(&self, answer: V) {
        self.live.answer.send_replace(Some(answer));
    }
}

impl<K: Eq + Hash, V> Drop for Flight<K, V> {
    /// Without an answer, the end of the sender wakes the followers.
    fn drop(&mut self) {
        let mut flights = locked(&self.flights);
        if let Some(of_key) = flights.get_mut(&self.key) {
            of_key.retain(|live| !Arc::ptr_eq(live, &self.live));
            if of_key.is_empty() {
                flights.remove(&self.key);
            }
        }
    }
}

impl<V: Clone + Send + Sync> Follower<V> {
    /// The leader's answer, or `None` if it ended without one: then the caller starts anew.
    pub async fn answer(mut self) -> Option<V> {
        self.answer.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// Nothing under these locks can be left half done by a panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    type Answer = Pin<Box<dyn Future<Output = Option<u32>>>>;

    fn leader(flights: &SingleFlight<u8, u32>, key: u8, now: Moment) -> Flight<u8, u32> {
        match flights.join(key, now) {
            Joined::Leader(flight) => flight,
            Joined::Follower(_) => panic!("it joined a flight"),
        }
    }

    fn finish(flight: Flight<u8, u32>, answer: u32) {
        flight.publish(answer);
        drop(flight);
    }

    fn follower(flights: &SingleFlight<u8, u32>, key: u8, now: Moment) -> Answer {
        match flights.join(key, now) {
            Joined::Leader(_) => panic!("it began a flight"),
            Joined::Follower(follower) => Box::pin(follower.answer()),
        }
    }

    /// How many flights have not ended.
    fn count(flights: &SingleFlight<u8, u32>) -> usize {
        let flights = locked(&flights.flights);
        assert!(flights.values().all(|of_key| !of_key.is_empty()), "a key without flights was left behind");
        flights.values().map(Vec::len).sum()
    }

    /// `None` while there is no answer.
    fn poll(answer: &mut Answer) -> Option<Option<u32>> {
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_thousand_followers_get_the_answer_of_one_leader() {
        let flights = SingleFlight::default();
        let now = Moment::from_micros(1);
        let flight = leader(&flights, 1, now);
        let tasks: Vec<_> = (0..1000)
            .map(|_| match flights.join(1, now) {
                Joined::Leader(_) => panic!("a second leader"),
                Joined::Follower(follower) => tokio::spawn(follower.answer()),
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(flight.storable());
        finish(flight, 7);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Some(7));
        }
        assert_eq!(count(&flights), 0);
    }

    #[tokio::test]
    async fn a_leader_that_vanishes_wakes_its_followers_who_start_anew() {
        let flights = SingleFlight::<u8, u32>::default();
        let now = Moment::from_micros(1);
        let flight = leader(&flights, 1, now);
        let waiting = tokio::spawn(follower_of(&flights, now).answer());
        tokio::task::yield_now().await;
        drop(flight);
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!(count(&flights), 0);
        drop(leader(&flights, 1, now));
    }

    fn follower_of(flights: &SingleFlight<u8, u32>, now: Moment) -> Follower<u32> {
        match flights.join(1, now) {
            Joined::Leader(_) => panic!("it began a flight"),
            Joined::Follower(follower) => follower,
        }
    }

    #[test]
    fn an_answer_that_is_being_stored_is_given_to_those_who_come_meanwhile() {
        let flights = SingleFlight::default();
        let now = Moment::from_micros(1);
        let flight = leader(&flights, 1, now);
        flight.publish(7);
        assert_eq!(poll(&mut follower(&flights, 1, now)), Some(Some(7)));
        flights.forget(&1);
        drop(leader(&flights, 1, now));
        drop(flight);
        assert_eq!(count(&flights), 0);
    }

    #[test]
    fn nobody_joins_after_the_first_two_seconds() {
        let flights = SingleFlight::default();
        let start = Moment::from_micros(1);
        let old = leader(&flights, 1, start);
        let mut early = follower(&flights, 1, start.after(MAX_JOIN_AGE - Duration::from_micros(1)));
        let young = leader(&flights, 1, start.after(MAX_JOIN_AGE));
        let mut late = follower(&flights, 1, start.after(MAX_JOIN_AGE));
        assert_eq!(count(&flights), 2);
        finish(young, 2);
        assert_eq!((poll(&mut early), poll(&mut late)), (None, Some(Some(2))));
        finish(old, 1);
        assert_eq!(poll(&mut early), Some(Some(1)));
        assert_eq!(count(&flights), 0);
    }

    #[test]
    fn forgetting_reaches_all_flights_of_the_key_and_no_other() {
        let flights = SingleFlight::default();
        let start = Moment::from_micros(1);
        let displaced = leader(&flights, 1, start);
        let current = leader(&flights, 1, start.after(MAX_JOIN_AGE));
        let other = leader(&flights, 2, start);
        let mut waiting = follower(&flights, 1, start.after(MAX_JOIN_AGE));
        flights.forget(&1);
        flights.forget(&3);
        assert_eq!((displaced.storable(), current.storable(), other.storable()), (false, false, true));
        let next = leader(&flights, 1, start.after(MAX_JOIN_AGE));
        assert!(next.storable());
        finish(current, 5);
        assert_eq!(poll(&mut waiting), Some(Some(5)), "who already waited still gets the answer");
    }

    #[test]
    fn what_was_nudged_since_it_was_asked_for_is_not_stored() {
        let flights = SingleFlight::default();
        let flight = leader(&flights, 1, Moment::from_micros(1));
        let (asked, mut stored) = (flight.nudges(), 0);
        flights.nudge(&1);
        flights.nudge(&2);
        assert_eq!(flight.store(asked, || stored += 10), Stored::Overtaken);
        assert_eq!(flight.store(flight.nudges(), || stored += 1), Stored::Yes, "asked again");
        flights.nudge(&1);
        drop(leader(&flights, 1, Moment::from_micros(1)));
        assert_eq!(
            flight.store(asked, || stored += 10),
            Stored::Overtaken,
            "whoever joined after the nudge must not get it"
        );
        assert_eq!(flight.store(flight.nudges(), || stored += 10), Stored::Forgotten);
        assert_eq!(stored, 1);
    }

    #[tokio::test]
    async fn a_nudge_is_a_forgetting_as_soon_as_a_flight_has_gone_on() {
        let flights = SingleFlight::default();
        let now = Moment::from_micros(1);
        let flight = leader(&flights, 1, now);
        flights.nudge(&1);
        drop(follower(&flights, 1, now));
        flights.forget_gone_on();
        drop(follower(&flights, 1, now));
        flight.go_on(None).await;
        drop(follower(&flights, 1, now));
        flights.nudge(&1);
        assert!(!flight.storable());
        drop(leader(&flights, 1, now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_waits_for_the_nudge_that_it_has_caused() {
        let flights = SingleFlight::default();
        let flight = leader(&flights, 1, Moment::from_micros(1));
        let nudges = flight.nudges();
        let waiting = flight.go_on(Some(nudges));
        assert!(tokio::time::timeout(Duration::from_secs(9), waiting).await.is_err());
        let (handle, soon) = (flights.clone(), Duration::from_secs(1));
        tokio::spawn(async move {
            tokio::time::sleep(soon).await;
            handle.nudge(&1);
        });
        tokio::time::timeout(soon * 2, flight.go_on(Some(nudges))).await.expect("it came");
        assert!(flight.storable());
        flights.nudge(&1);
        assert!(!flight.storable(), "the next one is somebody else's");
    }

    #[test]
    fn all_sides_can_be_sent_to_other_threads() {
        fn sendable<T: Send>(_: &T) {}
        let flights = SingleFlight::<u8, u32>::default();
        sendable(&flights);
        let flight = leader(&flights, 1, Moment::from_micros(1));
        sendable(&flight);
        sendable(&pin!(follower_of(&flights, Moment::from_micros(1)).answer()));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join { key: u8 },
        Forget { key: u8 },
        Finish { which: prop::sample::Index },
        Drop { which: prop::sample::Index },
        Advance { millis: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0..3_u8).prop_map(|key| Step::Join { key }),
            2 => (0..3_u8).prop_map(|key| Step::Forget { key }),
            3 => any::<prop::sample::Index>().prop_map(|which| Step::Finish { which }),
            1 => any::<prop::sample::Index>().prop_map(|which| Step::Drop { which }),
            3 => prop_oneof![0..1200_u64, Just(2000), Just(1999)].prop_map(|millis| Step::Advance { millis }),
        ];
        prop::collection::vec(step, 1..150)
    }

    /// What the model knows of a flight; its number is its place in the list of all flights that ever were.
    struct Known {
        key: u8,
        begun: u64,
        ended: bool,
        forgotten: bool,
        followers: Vec<Answer>,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn it_agrees_with_a_list_of_all_flights(steps in steps()) {
            let start = Moment::from_micros(1);
            let mut millis = 0;
            let flights = SingleFlight::<u8, u32>::default();
            let mut known: Vec<Known> = Vec::new();
            let mut leaders: Vec<(usize, Flight<u8, u32>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Advance { millis: by } => millis += by,
                    Step::Forget { key } => {
                        flights.forget(&key);
                        known.iter_mut().filter(|flight| flight.key == key).for_each(|flight| flight.forgotten = true);
                    }
                    Step::Join { key } => {
                        let joinable = known.iter().rposition(|flight| {
                            flight.key == key && !flight.ended && !flight.forgotten && millis - flight.begun < 2000
                        });
                        match (flights.join(key, start.after(Duration::from_millis(millis))), joinable) {
                            (Joined::Follower(follower), Some(number)) => {
                                known[number].followers.push(Box::pin(follower.answer()));
                            }
                            (Joined::Leader(flight), None) => {
                                leaders.push((known.len(), flight));
                                let followers = Vec::new();
                                known.push(Known { key, begun: millis, ended: false, forgotten: false, followers });
                            }
                            (Joined::Follower(_), None) => prop_assert!(false, "joined what must not be joined"),
                            (Joined::Leader(_), Some(_)) => prop_assert!(false, "a second leader"),
                        }
                    }
                    Step::Finish { which } | Step::Drop { which } if !leaders.is_empty() => {
                        let (number, flight) = leaders.swap_remove(which.index(leaders.len()));
                        let answer = matches!(step, Step::Finish { .. }).then_some(number as u32);
                        for follower in &mut known[number].followers {
                            prop_assert_eq!(poll(follower), None, "an answer before the end");
                        }
                        match answer {
                            Some(answer) => finish(flight, answer),
                            None => drop(flight),
                        }
                        known[number].ended = true;
                        for mut follower in known[number].followers.drain(..) {
                            prop_assert_eq!(poll(&mut follower), Some(answer));
                        }
                    }
                    Step::Finish { .. } | Step::Drop { .. } => {}
                }
                for (number, flight) in &leaders {
                    prop_assert_eq!(flight.storable(), !known[*number].forgotten);
                }
                prop_assert_eq!(count(&flights), leaders.len());
            }
            let keys: HashSet<u8> = leaders.iter().map(|(number, _)| known[*number].key).collect();
            prop_assert_eq!(locked(&flights.flights).len(), keys.len());
        }
    }
}
