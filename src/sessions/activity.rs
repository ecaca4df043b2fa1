//! When sessions were last active: kept in the process, and written in batches.
//!
//! A hit leaves its time in the session object. Only the first one since the last flush takes a lock, to put the object on
//! the list of those that were used. A flush takes the list, then the time of each object on it, and keeps the newest of each
//! session until Postgres has it.

use super::Guarded;
use super::local::Known;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::stores::SessionRows;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// Sessions that are kept, about 10 MB. What is used beyond it while Postgres is away is not remembered.
const MOST: usize = 100_000;

/// With so many on the list, a flush does not wait for its time.
const ENOUGH: usize = 10_000;

/// Sessions of one statement.
const BATCH: usize = 1_000;

/// Objects that are taken off the list under one lock: hits that want to be on it wait for a fraction of a millisecond.
const STEP: usize = 500;

/// How often it is said at most that something got lost.
const SAID_AT_MOST: Duration = Duration::from_secs(60);

/// When a session object was used last, as far as no flush has taken it: a [`Moment`], or zero.
///
/// Who turns it from zero must put the object on the list, and only who takes the object off the list turns it back to
/// zero. So an object with a time is on the list, or in the hands of somebody who will put it there, or in those of a flush
/// that has yet to take its time; it is never in two of these places. A hit that meets a flush comes either before its
/// swap, which then takes the time of the hit, or after it, finds zero, and puts the object on the list anew. The order of
/// changes of this one number decides which, so that no stronger ordering is needed.
#[derive(Debug, Default)]
pub struct Seen(AtomicU64);

impl Seen {
    /// Notes a time, which is not [`Moment::NEVER`]. True if the object has to be put on the list.
    fn note(&self, now: Moment) -> bool {
        // The largest rather than the last: two threads may come in another order than their times.
        self.0.fetch_max(now.as_micros(), Relaxed) == 0
    }

    fn take(&self) -> Moment {
        Moment::from_micros(self.0.swap(0, Relaxed))
    }
}

/// Times that Postgres does not have yet. It outlives an engine: what one could not write, the next one writes.
#[derive(Default)]
pub struct Activity {
    waiting: Mutex<Waiting>,
    /// There are [`ENOUGH`].
    enough: Notify,
    /// Who holds it writes: one statement at a time.
    writing: tokio::sync::Mutex<Writing>,
}

impl Activity {
    /// A session was used.
    pub fn touch(&self, known: &Arc<Known>, now: Moment) {
        if known.seen.note(now) && self.waiting().add(known) {
            self.enough.notify_one();
        }
    }

    /// Flushes at each `interval`, and as soon as there are [`ENOUGH`]; for as long as it is polled.
    pub async fn run<R, N>(&self, rows: &Guarded<R>, now: N, interval: Duration)
    where
        R: SessionRows,
        N: Fn() -> Moment + Sync,
    {
        let (mut due, mut failing) = (Instant::now() + interval, false);
        loop {
            let early = timeout_at(due, self.enough.notified()).await.is_ok();
            if early && failing {
                // It is tried again when it is due. Until then the list is kept short.
                self.collect();
                continue;
            }
            failing = self.flush_all(rows, &now).await.is_err();
            due = Instant::now() + interval;
        }
    }

    /// Writes all that was noted before the call. May be dropped at any time, and then forgets nothing.
    ///
    /// # Errors
    /// Why something could not be written: now, or since the last statement that succeeded. What Postgres could not be asked
    /// for, and what a trigger refuses, is kept for the next time.
    pub async fn flush_all<R, N>(&self, rows: &Guarded<R>, now: N) -> Result<()>
    where
        R: SessionRows,
        N: Fn() -> Moment + Sync,
    {
        let mut writing = self.writing.lock().await;
        self.collect();
        let (mut after, mut lost) = (None, None);
        loop {
            let batch = self.waiting().batch(after, BATCH);
            let Some((last, _)) = batch.last() else { break };
            after = Some(*last);
            let write = async {
                // Only when it is this statement's turn, which may take a while.
                let now = now();
                let active: Vec<_> = batch.iter().map(|(id, seen)| (*id, now.since(*seen))).collect();
                rows.store.write_activity(&active).await
            };
            let written = rows.ask(write).await;
            if let Some(news) = writing.note(&written, Instant::now()) {
                news.say(&written, batch.len());
            }
            match written {
                Err(error) if is_kept(&error) => return Err(error),
                Err(error) => lost = Some(error),
                Ok(()) => {}
            }
            self.waiting().settle(&batch);
        }
        let dropped = std::mem::take(&mut self.waiting().dropped);
        if dropped > 0 {
            tracing::warn!(dropped, "sessions were used while no more of them could be kept: when, was not written");
        }
        lost.or_else(|| writing.failing.clone()).map_or(Ok(()), Err)
    }

    /// Takes what is on the list now. What is put there meanwhile comes behind it.
    fn collect(&self) {
        let mut left = self.waiting().used.len();
        while left > 0 {
            self.waiting().collect(STEP);
            left = left.saturating_sub(STEP);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in it can be left half done by a panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has to be written. Decides, and holds neither clock nor lock.
struct Waiting {
    /// Room for objects and times.
    most: usize,
    /// Objects with a time of their own. Several may be of one session.
    used: VecDeque<Arc<Known>>,
    /// The newest time of each session that a flush has taken.
    times: BTreeMap<Uuid, Moment>,
    /// Times for which there was no room.
    dropped: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { most: MOST, used: VecDeque::new(), times: BTreeMap::new(), dropped: 0 }
    }
}

impl Waiting {
    /// Puts an object on the list, or drops its time if there is no room. True if there are [`ENOUGH`] just now.
    fn add(&mut self, known: &Arc<Known>) -> bool {
        if self.used.len() + self.times.len() < self.most {
            self.used.push_back(known.clone());
            return self.used.len() == ENOUGH;
        }
        // The time is taken back, or the object would pass for one that is on the list.
        let seen = known.seen.take();
        match self.times.get_mut(&known.id) {
            Some(time) => *time = seen.max(*time),
            None => self.dropped += 1,
        }
        false
    }

    /// Takes at most so many objects off the list, and their times.
    fn collect(&mut self, most: usize) {
        for known in self.used.drain(..most.min(self.used.len())) {
            let seen = known.seen.take();
            let time = self.times.entry(known.id).or_insert(seen);
            *time = seen.max(*time);
        }
    }

    /// The next batch behind a session. In the order of ids, in which every instance asks for the rows' locks.
    fn batch(&self, after: Option<Uuid>, most: usize) -> Vec<(Uuid, Moment)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.times.range((from, Bound::Unbounded)).take(most).map(|(id, seen)| (*id, *seen)).collect()
    }

    /// Drops a batch, but for sessions that were used meanwhile.
    fn settle(&mut self, batch: &[(Uuid, Moment)]) {
        for (id, seen) in batch {
            if self.times.get(id) == Some(seen) {
                self.times.remove(id);
            }
        }
    }
}

/// Whether a batch that failed like this may be written another time: Postgres could not be asked, or a trigger makes
/// every update fail until it is cured.
fn is_kept(error: &Error) -> bool {
    let refused = matches!(error, Error::CircuitOpen { .. } | Error::Overloaded { .. } | Error::SessionStore { .. });
    refused || error.is_outage()
}

/// How writing goes, and what was said of it.
#[derive(Default)]
struct Writing {
    /// Why the last statement failed.
    failing: Option<Error>,
    refusal_said: bool,
    loss_said: Option<Instant>,
}

/// What is worth a line.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Refused,
    Lost,
    Again,
}

impl Writing {
    /// Notes what became of a batch.
    fn note(&mut self, written: &Result<()>, now: Instant) -> Option<News> {
        self.failing = written.as_ref().err().cloned();
        match written {
            Ok(()) => std::mem::take(&mut self.refusal_said).then_some(News::Again),
            Err(Error::SessionStore { .. }) => {
                (!std::mem::replace(&mut self.refusal_said, true)).then_some(News::Refused)
            }
            Err(error) if is_kept(error) => None,
            Err(_) if self.loss_said.is_some_and(|said| now.duration_since(said) < SAID_AT_MOST) => None,
            Err(_) => {
                self.loss_said = Some(now);
                Some(News::Lost)
            }
        }
    }
}

impl News {
    fn say(&self, written: &Result<()>, sessions: usize) {
        match (self, written) {
            // What was found of the database was said by who found it, with the cure.
            (Self::Refused, Err(Error::SessionStore { source: None, .. })) => {
                tracing::info!("when sessions were last active is not written");
            }
            (Self::Refused, Err(error)) => tracing::error!("when sessions were last active is not written: {error}"),
            (Self::Lost, Err(error)) => {
                tracing::error!(sessions, "when sessions were last active could not be written and is lost: {error}");
            }
            _ => tracing::info!("when sessions were last active is written again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Double, Tested, hold_up, let_go, one_session, row};
    use super::*;
    use crate::error::Misuse;
    use crate::session::SessionWithUser;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, HashMap};
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    const INTERVAL: Duration = Duration::from_secs(30);
    const MOMENT: Duration = Duration::from_millis(1);

    fn id(number: usize) -> Uuid {
        Uuid::from_u128(number as u128)
    }

    fn known(number: usize) -> Arc<Known> {
        let session = SessionWithUser { id: id(number).to_string(), ..row("t") };
        Known::new(&session, Moment::NEVER, Moment::NEVER).unwrap()
    }

    fn at(micros: u64) -> Moment {
        Moment::from_micros(micros)
    }

    /// A use of an object, as [`Activity::touch`] has it.
    fn touch(waiting: &mut Waiting, known: &Arc<Known>, now: Moment) -> bool {
        known.seen.note(now) && waiting.add(known)
    }

    #[test]
    fn the_newest_time_of_a_session_counts_whichever_object_has_it() {
        let (mut waiting, one, other) = (Waiting::default(), known(1), known(1));
        touch(&mut waiting, &one, at(5));
        touch(&mut waiting, &other, at(7));
        touch(&mut waiting, &one, at(6));
        assert_eq!(waiting.used.len(), 2, "an object is on the list once");
        waiting.collect(STEP);
        assert_eq!(waiting.batch(None, BATCH), [(id(1), at(7))]);
        touch(&mut waiting, &one, at(4));
        waiting.collect(STEP);
        assert_eq!(waiting.batch(None, BATCH), [(id(1), at(7))], "a time never moves backwards");
    }

    #[test]
    fn what_is_used_while_its_batch_is_written_is_written_again() {
        let (mut waiting, known) = (Waiting::default(), known(1));
        touch(&mut waiting, &known, at(5));
        waiting.collect(STEP);
        let batch = waiting.batch(None, BATCH);
        touch(&mut waiting, &known, at(6));
        waiting.collect(STEP);
        waiting.settle(&batch);
        assert_eq!(waiting.batch(None, BATCH), [(id(1), at(6))]);
        waiting.settle(&[(id(1), at(6))]);
        assert!(waiting.times.is_empty());
    }

    #[test]
    fn a_flush_is_wanted_once_when_there_are_enough() {
        let mut waiting = Waiting::default();
        let all: Vec<_> = (0..ENOUGH + 10).map(known).collect();
        let wanted: Vec<_> = all.iter().map(|known| touch(&mut waiting, known, at(1))).collect();
        assert_eq!(wanted.iter().filter(|wanted| **wanted).count(), 1);
        assert!(wanted[ENOUGH - 1]);
    }

    #[test]
    fn beyond_the_bound_new_sessions_are_dropped_and_known_ones_stay_up_to_date() {
        let mut waiting = Waiting::default();
        let all: Vec<_> = (0..MOST).map(known).collect();
        for known in &all {
            touch(&mut waiting, known, at(1));
        }
        waiting.collect(MOST);
        let stranger = known(MOST);
        touch(&mut waiting, &stranger, at(2));
        touch(&mut waiting, &all[3], at(3));
        assert_eq!((waiting.times.len(), waiting.used.len(), waiting.dropped), (MOST, 0, 1));
        assert_eq!(waiting.times[&id(3)], at(3));
        waiting.settle(&waiting.batch(None, MOST));
        touch(&mut waiting, &stranger, at(4));
        waiting.collect(STEP);
        assert_eq!(waiting.batch(None, BATCH), [(id(MOST), at(4))], "there is room again");
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// An object, two of which are of one session.
        Touch(usize),
        Collect(usize),
        Begin,
        /// Whether the batch that is under way was written.
        End(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..12usize).prop_map(Step::Touch),
            2 => (1..8usize).prop_map(Step::Collect),
            2 => Just(Step::Begin),
            2 => any::<bool>().prop_map(Step::End),
        ]
    }

    /// What Postgres was told: of each session the newest time, and all of them.
    #[derive(Default)]
    struct Told {
        newest: HashMap<Uuid, Moment>,
        all: BTreeSet<(Uuid, Moment)>,
    }

    impl Told {
        fn tell(&mut self, batch: &[(Uuid, Moment)]) {
            assert!(batch.is_sorted_by(|(one, _), (other, _)| one < other), "each session once, in the order of ids");
            for (id, seen) in batch {
                assert!(self.all.insert((*id, *seen)), "a time is written once");
                let newest = self.newest.entry(*id).or_insert(*seen);
                *newest = (*newest).max(*seen);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn of_each_session_the_newest_time_that_had_room_is_written(
            most in 1..9usize,
            size in 1..4usize,
            steps in prop::collection::vec(step(), 0..120),
        ) {
            let mut waiting = Waiting { most, ..Waiting::default() };
            let objects: Vec<_> = (0..12).map(|object| known(object / 2)).collect();
            let (mut expected, mut told) = (HashMap::new(), Told::default());
            let (mut under_way, mut after, mut now) = (Vec::new(), None, 0);
            for step in steps {
                now += 1;
                match step {
                    Step::Touch(object) => {
                        let dropped = waiting.dropped;
                        touch(&mut waiting, &objects[object], at(now));
                        if waiting.dropped == dropped {
                            expected.insert(id(object / 2), at(now));
                        }
                    }
                    Step::Collect(most) => waiting.collect(most),
                    Step::Begin => {
                        under_way = waiting.batch(after, size);
                        after = under_way.last().map(|(id, _)| *id);
                    }
                    Step::End(written) => {
                        let batch = std::mem::take(&mut under_way);
                        if written {
                            told.tell(&batch);
                            waiting.settle(&batch);
                        }
                    }
                }
                prop_assert!(waiting.used.len() + waiting.times.len() <= most);
                for object in &objects {
                    let listed = waiting.used.iter().filter(|used| Arc::ptr_eq(used, object)).count();
                    let dated = object.seen.0.load(Relaxed) > 0;
                    prop_assert_eq!(listed, usize::from(dated), "on the list if and only if there is a time to write");
                }
            }
            waiting.collect(usize::MAX);
            let rest = waiting.batch(None, usize::MAX);
            told.tell(&rest);
            waiting.settle(&rest);
            prop_assert!(waiting.times.is_empty());
            prop_assert_eq!(told.newest, expected);
        }
    }

    /// Two threads at the same moment, again and again: one notes a time, and the other one takes what was noted. Gives the
    /// rounds in which a time got lost.
    fn losses(rounds: usize, note: impl Fn(Moment) + Sync, take: impl Fn() -> Option<Moment>) -> usize {
        let (begun, noted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let until = |counter: &AtomicUsize, round| {
            while counter.load(SeqCst) < round {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for round in 1..=rounds {
                    until(&begun, round);
                    note(at(round as u64 * 2 + 1));
                    noted.store(round, SeqCst);
                }
            });
            let lost = |round: &usize| {
                note(at(*round as u64 * 2));
                begun.store(*round, SeqCst);
                (0..round % 256).for_each(|_| std::hint::spin_loop());
                let early = take();
                until(&noted, *round);
                early.max(take()) != Some(at(*round as u64 * 2 + 1))
            };
            (1..=rounds).filter(lost).count()
        })
    }

    #[test]
    fn no_hit_is_lost_to_a_flush_at_the_same_time() {
        let known = known(1);
        let note = |time| {
            known.seen.note(time);
        };
        assert_eq!(losses(100_000, note, || Some(known.seen.take()).filter(|seen| *seen > Moment::NEVER)), 0);
        let activity = Activity::default();
        let written = || {
            activity.collect();
            let batch = activity.waiting().batch(None, BATCH);
            activity.waiting().settle(&batch);
            batch.first().map(|(_, seen)| *seen)
        };
        assert_eq!(losses(20_000, |time| activity.touch(&known, time), written), 0);
    }

    /// A clock that goes with the paused one.
    fn clock() -> impl Fn() -> Moment + Sync + Clone {
        let begun = Instant::now();
        move || Moment::NEVER.after(begun.elapsed() + MOMENT)
    }

    /// Runs the keeping of activity, until the test ends.
    fn run(sessions: &Tested, now: impl Fn() -> Moment + Sync + Send + 'static) -> tokio::task::JoinHandle<()> {
        let sessions = sessions.clone();
        tokio::spawn(async move {
            let rows = sessions.rows().unwrap();
            sessions.memory.activity().run(rows, now, INTERVAL).await;
        })
    }

    fn written(double: &Double) -> Vec<Vec<(Uuid, Duration)>> {
        std::mem::take(&mut *double.activity.lock().unwrap())
    }

    fn refusal() -> Error {
        Error::SessionStore { reason: "A trigger makes every update fail; drop it.".into(), source: None }
    }

    #[tokio::test(start_paused = true)]
    async fn times_are_written_as_ages_every_interval_and_only_if_there_are_any() {
        let (sessions, double) = one_session();
        let (now, running) = (clock(), run(&sessions, clock()));
        tokio::time::sleep(INTERVAL / 3).await;
        sessions.memory.activity().touch(&known(1), now());
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(written(&double), [[(id(1), INTERVAL / 3 * 2)]]);
        tokio::time::sleep(INTERVAL * 10).await;
        assert!(written(&double).is_empty());
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn when_there_are_enough_they_are_written_at_once_in_ordered_batches() {
        let (sessions, double) = one_session();
        let (now, running) = (clock(), run(&sessions, clock()));
        tokio::time::sleep(MOMENT).await;
        for number in (0..ENOUGH).rev() {
            sessions.memory.activity().touch(&known(number), now());
        }
        tokio::time::sleep(MOMENT).await;
        let batches = written(&double);
        assert!(batches.iter().all(|batch| batch.len() == BATCH));
        let ids: Vec<_> = batches.into_iter().flatten().map(|(id, _)| id).collect();
        assert_eq!(ids, (0..ENOUGH).map(id).collect::<Vec<_>>());
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn while_postgres_is_away_the_newest_times_are_kept_and_tried_when_they_are_due() {
        let (sessions, double) = one_session();
        let (now, running) = (clock(), run(&sessions, clock()));
        let (first, activity) = (known(1), sessions.memory.activity());
        double.fail(Some("write_activity"));
        activity.touch(&first, now());
        tokio::time::sleep(INTERVAL + MOMENT).await;
        assert_eq!(double.writes.load(Relaxed), 1);
        for number in 0..ENOUGH {
            activity.touch(&known(number), now());
        }
        tokio::time::sleep(MOMENT).await;
        assert_eq!(double.writes.load(Relaxed), 1, "it is not due");
        assert_eq!(activity.waiting().used.len(), 0);
        assert_eq!(activity.waiting().times.len(), ENOUGH);
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(double.writes.load(Relaxed), 2, "the first failure ends a flush");
        double.fail(None);
        let last = now();
        activity.touch(&first, last);
        tokio::time::sleep(INTERVAL).await;
        let all: Vec<_> = written(&double).into_iter().flatten().collect();
        assert_eq!(all.len(), ENOUGH);
        assert_eq!(all[1], (id(1), INTERVAL - MOMENT * 2));
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_loses_nothing() {
        let (sessions, double) = one_session();
        let (rows, activity, now) = (sessions.rows().unwrap(), sessions.memory.activity(), clock());
        double.fail(Some("write_activity"));
        activity.touch(&known(1), now());
        while !matches!(activity.flush_all(rows, &now).await.unwrap_err(), Error::CircuitOpen { .. }) {}
        double.fail(None);
        tokio::time::sleep(INTERVAL * 2).await;
        activity.flush_all(rows, &now).await.unwrap();
        assert_eq!(written(&double).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_trigger_refuses_is_kept_until_it_is_cured() {
        let (sessions, double) = one_session();
        let (now, running) = (clock(), run(&sessions, clock()));
        double.fail_with("write_activity", refusal());
        sessions.memory.activity().touch(&known(1), now());
        tokio::time::sleep(INTERVAL * 3 + MOMENT).await;
        assert_eq!(double.writes.load(Relaxed), 3);
        double.fail(None);
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(written(&double).concat().len(), 1);
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_otherwise_is_lost_and_that_is_told_until_a_statement_succeeds() {
        let (sessions, double) = one_session();
        let (rows, activity, now) = (sessions.rows().unwrap(), sessions.memory.activity(), clock());
        double.fail_with("write_activity", Error::Reply { server: "double".into(), text: "42501 denied".into() });
        for number in 0..BATCH + 1 {
            activity.touch(&known(number), now());
        }
        assert_eq!(activity.flush_all(rows, &now).await.unwrap_err().code(), "ERR_REPLY");
        assert_eq!(double.writes.load(Relaxed), 2, "the next batch is tried all the same");
        assert!(activity.waiting().times.is_empty());
        double.fail(None);
        assert_eq!(activity.flush_all(rows, &now).await.unwrap_err().code(), "ERR_REPLY");
        activity.touch(&known(1), now());
        activity.flush_all(rows, &now).await.unwrap();
        activity.flush_all(rows, &now).await.unwrap();
        assert_eq!(written(&double).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_that_is_cut_off_forgets_nothing() {
        let (sessions, double) = one_session();
        let now = clock();
        hold_up(&double);
        let running = run(&sessions, clock());
        sessions.memory.activity().touch(&known(1), now());
        tokio::time::sleep(INTERVAL + MOMENT).await;
        assert_eq!(double.writes.load(Relaxed), 1);
        running.abort();
        let_go(&double);
        sessions.memory.activity().flush_all(sessions.rows().unwrap(), &now).await.unwrap();
        assert_eq!(written(&double).concat().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn two_who_flush_write_one_statement_at_a_time() {
        let (sessions, double) = one_session();
        let (rows, activity, now) = (sessions.rows().unwrap(), sessions.memory.activity(), clock());
        hold_up(&double);
        activity.touch(&known(1), now());
        let second = async {
            tokio::time::sleep(MOMENT).await;
            activity.touch(&known(2), now());
            let held = async {
                tokio::time::sleep(MOMENT).await;
                assert_eq!(double.writes.load(Relaxed), 1);
                let_go(&double);
            };
            tokio::join!(activity.flush_all(rows, &now), held).0
        };
        let (first, second) = tokio::join!(activity.flush_all(rows, &now), second);
        first.and(second).unwrap();
        assert_eq!(written(&double).concat().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(1), id(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_said_once_and_a_loss_once_a_minute() {
        let mut writing = Writing::default();
        let lost = Error::InvalidArgument { misuse: Misuse::Type, message: "no".into() };
        let away = Error::Timeout { server: "double".into(), after: MOMENT };
        let begun = Instant::now();
        let mut note = |result: &Result<()>, seconds| writing.note(result, begun + Duration::from_secs(seconds));
        assert_eq!(note(&Ok(()), 0), None);
        assert_eq!(note(&Err(refusal()), 0), Some(News::Refused));
        assert_eq!(note(&Err(refusal()), 30), None);
        assert_eq!(note(&Err(away), 60), None);
        assert_eq!(note(&Err(refusal()), 90), None);
        assert_eq!(note(&Ok(()), 120), Some(News::Again));
        assert_eq!(note(&Ok(()), 120), None);
        assert_eq!(note(&Err(refusal()), 150), Some(News::Refused));
        assert_eq!(note(&Err(lost.clone()), 150), Some(News::Lost));
        assert_eq!(note(&Err(lost.clone()), 209), None);
        assert_eq!(note(&Err(lost), 210), Some(News::Lost));
    }
}
