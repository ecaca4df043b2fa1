//! Who wants to listen to what, and who waits to hear that the server knows. Pure: no connection, no clock.

use super::subscriber::{Listener, Message, Topic};
use crate::error::{Error, Result};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Tells what became of a call.
pub type Outcome = oneshot::Receiver<Result<()>>;

/// One listener of one topic.
pub struct Subscription {
    id: u64,
    /// Gone when nothing more may reach it. Held while it is called, so that nothing is under way after that.
    listener: Mutex<Option<Arc<dyn Listener>>>,
}

impl Subscription {
    fn listener(&self) -> MutexGuard<'_, Option<Arc<dyn Listener>>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn message(&self, message: &Message) {
        if let Some(listener) = &*self.listener() {
            listener.message(message);
        }
    }

    /// Says goodbye.
    pub fn end(&self, error: &Error) {
        if let Some(listener) = self.listener().take() {
            listener.ended(error);
        }
    }

    /// Nothing more, not even a goodbye.
    pub fn silence(&self) {
        self.listener().take();
    }
}

/// A topic that somebody listens to, or that the server has yet to be told the end of.
#[derive(Default)]
struct Entry {
    subscriptions: Vec<Arc<Subscription>>,
    confirmed: bool,
    /// Calls of `subscribe`, each with its subscription.
    beginning: Vec<(u64, oneshot::Sender<Result<()>>)>,
    ending: Vec<oneshot::Sender<Result<()>>>,
}

impl Entry {
    fn is_wanted(&self) -> bool {
        !self.subscriptions.is_empty()
    }
}

/// Topics to tell the server of.
#[derive(Debug, Default, PartialEq)]
pub struct Work {
    pub begin: Vec<Topic>,
    pub end: Vec<Topic>,
}

impl Work {
    pub fn is_empty(&self) -> bool {
        self.begin.is_empty() && self.end.is_empty()
    }
}

/// Everything that is wanted.
#[derive(Default)]
pub struct Topics {
    entries: HashMap<Topic, Entry>,
    of_id: HashMap<u64, Topic>,
    last_id: u64,
    /// To be looked at.
    touched: BTreeSet<Topic>,
    /// Somebody works on this.
    running: bool,
    /// There is a connection.
    online: bool,
    /// Why the server cannot be reached.
    down: Option<Error>,
    closed: Option<Error>,
}

impl Topics {
    /// Adds a listener. Fails at once while the server is away, or after [`Topics::close`].
    pub fn add(&mut self, topic: Topic, listener: Arc<dyn Listener>) -> Result<(u64, Outcome)> {
        if let Some(error) = self.closed.as_ref().or(self.down.as_ref()) {
            return Err(error.clone());
        }
        self.last_id += 1;
        let id = self.last_id;
        let (tell, outcome) = oneshot::channel();
        let entry = self.entries.entry(topic.clone()).or_default();
        entry.subscriptions.push(Arc::new(Subscription { id, listener: Mutex::new(Some(listener)) }));
        entry.beginning.push((id, tell));
        // Who left it need not wait for an end that may not come.
        entry.ending.clear();
        self.of_id.insert(id, topic.clone());
        self.touched.insert(topic);
        Ok((id, outcome))
    }

    /// Removes a listener, which the caller silences. The outcome comes when the server need not know, or knows.
    pub fn remove(&mut self, id: u64) -> Option<(Arc<Subscription>, Outcome)> {
        let topic = self.of_id.remove(&id)?;
        let entry = self.entries.get_mut(&topic)?;
        let at = entry.subscriptions.iter().position(|subscription| subscription.id == id)?;
        let subscription = entry.subscriptions.remove(at);
        entry.beginning.retain(|(waiting, _)| *waiting != id);
        let (tell, outcome) = oneshot::channel();
        if entry.is_wanted() {
            let _ = tell.send(Ok(()));
        } else if self.online {
            entry.ending.push(tell);
            self.touched.insert(topic);
        } else {
            self.entries.remove(&topic);
        }
        Some((subscription, outcome))
    }

    /// Ends everything, and returns who is to be told.
    pub fn close(&mut self, error: &Error) -> Vec<Arc<Subscription>> {
        self.closed = Some(error.clone());
        self.of_id.clear();
        self.touched.clear();
        let mut ended = Vec::new();
        for (_, entry) in std::mem::take(&mut self.entries) {
            let waiting: HashSet<u64> = entry.beginning.iter().map(|(id, _)| *id).collect();
            // Who waits for `subscribe` gets the error as its result.
            ended.extend(entry.subscriptions.into_iter().filter(|subscription| !waiting.contains(&subscription.id)));
            for (_, tell) in entry.beginning {
                let _ = tell.send(Err(error.clone()));
            }
        }
        ended
    }

    /// True if somebody has to start working.
    pub fn begin(&mut self) -> bool {
        let begins = !self.running && !self.entries.is_empty();
        self.running |= begins;
        begins
    }

    /// There is a new connection, on which nothing was said yet.
    pub fn connected(&mut self) {
        (self.online, self.down) = (true, None);
        for entry in self.entries.values_mut() {
            entry.confirmed = false;
        }
        self.touched = self.entries.keys().cloned().collect();
    }

    /// The connection is gone, and with it what the server was told.
    pub fn lost(&mut self) {
        self.online = false;
        self.entries.retain(|_, entry| entry.is_wanted());
    }

    /// There is no connection, and the next may take a while: whoever waits for it, or will, gets the error.
    pub fn failed(&mut self, error: &Error) {
        self.down = Some(error.clone());
        for entry in self.entries.values_mut() {
            for (id, tell) in entry.beginning.drain(..) {
                entry.subscriptions.retain(|subscription| subscription.id != id);
                self.of_id.remove(&id);
                let _ = tell.send(Err(error.clone()));
            }
        }
        self.lost();
    }

    /// True if nobody listens any more: whoever works on this has to stop, and the connection ends.
    pub fn ends(&mut self) -> bool {
        let ends = self.of_id.is_empty();
        if ends {
            self.entries.clear();
            self.touched.clear();
            (self.running, self.online, self.down) = (false, false, None);
        }
        ends
    }

    /// What is wanted and was not `told` to the server, or the other way round.
    pub fn work(&mut self, told: &HashSet<Topic>, at_most: usize) -> Work {
        let mut work = Work::default();
        while work.begin.len() + work.end.len() < at_most {
            let Some(topic) = self.touched.pop_first() else { break };
            let Some(entry) = self.entries.get_mut(&topic) else { continue };
            match (entry.is_wanted(), entry.confirmed) {
                (true, true) => entry.beginning.drain(..).for_each(|(_, tell)| drop(tell.send(Ok(())))),
                (true, false) => work.begin.push(topic),
                (false, _) if told.contains(&topic) => work.end.push(topic),
                (false, _) => drop(self.entries.remove(&topic)),
            }
        }
        work
    }

    /// The server has confirmed `topics`, except those that it has `refused`. Returns whose subscription ends by that.
    pub fn begun(&mut self, topics: &[Topic], refused: &[(Topic, Error)]) -> Vec<(Arc<Subscription>, Error)> {
        let mut ended = Vec::new();
        for topic in topics {
            let Some(entry) = self.entries.get_mut(topic) else { continue };
            let error = refused.iter().find(|(one, _)| one == topic).map(|(_, error)| error);
            let Some(error) = error else {
                entry.confirmed = true;
                // Whoever left meanwhile has touched the topic again.
                entry.beginning.drain(..).for_each(|(_, tell)| drop(tell.send(Ok(()))));
                continue;
            };
            let Some(entry) = self.entries.remove(topic) else { continue };
            let waiting: HashSet<u64> = entry.beginning.iter().map(|(id, _)| *id).collect();
            for subscription in entry.subscriptions {
                self.of_id.remove(&subscription.id);
                if !waiting.contains(&subscription.id) {
                    ended.push((subscription, error.clone()));
                }
            }
            for (_, tell) in entry.beginning {
                let _ = tell.send(Err(error.clone()));
            }
        }
        ended
    }

    /// The server does not send `topic` any more.
    pub fn ended(&mut self, topic: &Topic) {
        let Some(entry) = self.entries.get_mut(topic) else { return };
        entry.confirmed = false;
        entry.ending.clear();
        // Somebody may have come back to it meanwhile, and touched it.
        if !entry.is_wanted() {
            self.entries.remove(topic);
        }
    }

    /// Looks at `topics` once more.
    pub fn again(&mut self, topics: Vec<Topic>) {
        self.touched.extend(topics);
    }

    /// Who listens to `topic`.
    pub fn listeners(&self, topic: &Topic) -> Vec<Arc<Subscription>> {
        self.entries.get(topic).map(|entry| entry.subscriptions.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl Listener for Deaf {
        fn message(&self, _: &Message) {}
        fn ended(&self, _: &Error) {}
    }

    fn topic(name: &str) -> Topic {
        Topic::Channel(name.to_owned())
    }

    fn error(text: &str) -> Error {
        Error::Reply { server: "Redis".into(), text: text.to_owned() }
    }

    fn add(topics: &mut Topics, name: &str) -> (u64, Outcome) {
        topics.add(topic(name), Arc::new(Deaf)).unwrap()
    }

    /// What a worker would do if the server agreed.
    fn agree(topics: &mut Topics, told: &mut HashSet<Topic>) -> Work {
        let work = topics.work(told, 10);
        told.extend(work.begin.iter().cloned());
        topics.begun(&work.begin, &[]);
        for topic in &work.end {
            told.remove(topic);
            topics.ended(topic);
        }
        work
    }

    fn ok(mut outcome: Outcome) -> bool {
        matches!(outcome.try_recv(), Ok(Ok(())))
    }

    #[test]
    fn listeners_of_one_topic_are_one_subscription() {
        let (mut topics, mut told) = (Topics::default(), HashSet::new());
        let (first, told_first) = add(&mut topics, "a");
        let (second, told_second) = add(&mut topics, "a");
        assert!(topics.begin() && !topics.begin());
        topics.connected();
        assert_eq!(agree(&mut topics, &mut told), Work { begin: vec![topic("a")], end: vec![] });
        assert!(ok(told_first) && ok(told_second));
        let (third, at_once) = add(&mut topics, "a");
        assert!(agree(&mut topics, &mut told).is_empty() && ok(at_once));
        for id in [first, second] {
            assert!(ok(topics.remove(id).unwrap().1) && agree(&mut topics, &mut told).is_empty());
            assert!(topics.remove(id).is_none());
        }
        add(&mut topics, "b");
        topics.remove(third).unwrap();
        assert_eq!(agree(&mut topics, &mut told), Work { begin: vec![topic("b")], end: vec![topic("a")] });
        assert!(topics.entries.len() == 1 && !topics.ends());
    }

    #[test]
    fn who_comes_back_before_the_end_stays_and_after_it_begins_again() {
        let (mut topics, mut told) = (Topics::default(), HashSet::new());
        let (first, _) = add(&mut topics, "a");
        topics.connected();
        agree(&mut topics, &mut told);
        let (_, mut end) = topics.remove(first).unwrap();
        let (second, again) = add(&mut topics, "a");
        assert!(agree(&mut topics, &mut told).is_empty() && ok(again));
        assert!(end.try_recv().is_err(), "who left need not wait");

        add(&mut topics, "other");
        topics.remove(second).unwrap();
        let work = topics.work(&told, 10);
        assert_eq!(work.end, [topic("a")]);
        let (_, mut third) = add(&mut topics, "a");
        topics.ended(&topic("a"));
        assert!(third.try_recv().is_err());
        told.remove(&topic("a"));
        assert_eq!(agree(&mut topics, &mut told).begin, [topic("a")]);
        assert!(ok(third));
    }

    #[test]
    fn a_new_connection_is_told_what_is_wanted_then() {
        let (mut topics, mut told) = (Topics::default(), HashSet::new());
        let (gone, _) = add(&mut topics, "gone");
        let (_, _stays) = add(&mut topics, "stays");
        topics.connected();
        agree(&mut topics, &mut told);
        topics.lost();
        assert!(ok(topics.remove(gone).unwrap().1) || topics.entries.len() == 1);
        add(&mut topics, "new");
        topics.connected();
        told.clear();
        let mut begun = agree(&mut topics, &mut told).begin;
        begun.sort();
        assert_eq!(begun, [topic("new"), topic("stays")]);
    }

    #[test]
    fn a_failure_ends_those_who_wait_and_nobody_else() {
        let (mut topics, mut told) = (Topics::default(), HashSet::new());
        add(&mut topics, "a");
        topics.connected();
        agree(&mut topics, &mut told);
        let (waiting, mut outcome) = add(&mut topics, "b");
        topics.failed(&error("away"));
        assert!(matches!(outcome.try_recv(), Ok(Err(_))) && topics.remove(waiting).is_none());
        assert!(topics.add(topic("c"), Arc::new(Deaf)).is_err(), "the server is away");
        assert!(!topics.ends());
        topics.connected();
        told.clear();
        assert_eq!(agree(&mut topics, &mut told).begin, [topic("a")]);
    }

    #[test]
    fn a_refusal_is_the_result_of_who_waits_and_the_end_of_who_listened() {
        let (mut topics, mut told) = (Topics::default(), HashSet::new());
        let (old, _) = add(&mut topics, "a");
        topics.connected();
        agree(&mut topics, &mut told);
        topics.lost();
        let (_, mut outcome) = add(&mut topics, "a");
        topics.connected();
        let work = topics.work(&HashSet::new(), 10);
        let ended = topics.begun(&work.begin, &[(topic("a"), error("NOPERM"))]);
        assert_eq!(ended.iter().map(|(subscription, _)| subscription.id).collect::<Vec<_>>(), [old]);
        assert!(matches!(outcome.try_recv(), Ok(Err(Error::Reply { .. }))));
        assert!(topics.ends());
    }

    #[test]
    fn closing_is_for_good() {
        let mut topics = Topics::default();
        let (_, mut outcome) = add(&mut topics, "a");
        assert!(topics.close(&error("closed")).is_empty());
        assert!(matches!(outcome.try_recv(), Ok(Err(_))));
        assert!(topics.add(topic("a"), Arc::new(Deaf)).is_err() && !topics.begin() && topics.ends());
    }
}
