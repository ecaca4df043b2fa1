//! The watch over a primary: a connection to each sentinel, on which it says when there is another one, and by which it is
//! asked.

use super::Shared;
use crate::random;
use crate::redis_url::Address;
use crate::redis_value::Value;
use crate::stores::redis::connection::Connection;
use crate::stores::redis::link::Link;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

/// What they say may be lost with a connection, so they are asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// Waits between attempts: doubled from the first to the last, each shortened by up to half at random.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// How long they are listened to when nobody is connected to the primary. A lane that is not tries again sooner.
const LINGER: Duration = Duration::from_millis(2500);

/// The first one comes earlier, but only from the sentinel that leads the failover.
const NEWS: &[&str] = &["+promoted-slave", "+switch-master"];

/// Keeps what is believed up to date while anybody wants to know. Dropping the future ends all that belongs to it.
pub async fn watch(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            never = listen(&shared) => match never {},
            () = deserted(&shared) => {}
        }
        // All connections are closed here. Somebody may have come meanwhile.
        let mut state = shared.state();
        if state.waiting == 0 {
            state.watcher = None;
            return;
        }
    }
}

/// Resolves when nobody has waited for a while: who reconnects comes back.
async fn deserted(shared: &Shared) {
    loop {
        while shared.state().waiting > 0 {
            shared.left.notified().await;
        }
        sleep(LINGER).await;
        if shared.state().waiting == 0 {
            return;
        }
    }
}

async fn listen(shared: &Arc<Shared>) -> Infallible {
    let mut posts = JoinSet::new();
    let mut manned: HashMap<Address, AbortHandle> = HashMap::new();
    loop {
        let known = shared.known();
        manned.retain(|address, post| {
            let stays = known.contains(address);
            if !stays {
                post.abort();
            }
            stays
        });
        for address in known {
            let post = |posts: &mut JoinSet<_>| posts.spawn(man(shared.clone(), address.clone()));
            manned.entry(address.clone()).or_insert_with(|| post(&mut posts));
        }
        while posts.try_join_next().is_some() {}
        let _ = timeout(random::shortened(ASK_AGAIN), shared.news.notified()).await;
        // Not one that was under way: it may have been asked before the news. Why nobody knows is told there.
        let _ = shared.ask_anew().await;
    }
}

/// One connection to a sentinel after another.
async fn man(shared: Arc<Shared>, address: Address) -> Infallible {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let begun = Instant::now();
        if let Ok(connection) = shared.open(&address).await {
            let link = connection.link();
            let ours = shared.clone();
            let heard = move |push: Vec<Value>| {
                if concerns(&push, &ours.name) {
                    ours.news.notify_one();
                }
            };
            let _at_hand = AtHand::new(&shared, &address, &link);
            drive(&shared, connection.hearing(Arc::new(heard)), &link).await;
        }
        if begun.elapsed() > LAST_BACKOFF {
            backoff = FIRST_BACKOFF;
        }
        sleep(random::shortened(backoff)).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

/// Listens until the connection is lost.
async fn drive(shared: &Shared, connection: Connection, link: &Link) {
    let listen = async {
        for channel in NEWS {
            // Who may not listen may ask.
            let _ = link.send(&["SUBSCRIBE", channel]).await;
        }
        // Something may have happened before.
        shared.news.notify_one();
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        _ = connection.drive() => {}
        never = listen => match never {},
    }
}

/// Whether a message is about the primary `name`. The sentinels may watch others, too.
fn concerns(push: &[Value], name: &str) -> bool {
    let text = push.last().and_then(Value::as_str).unwrap_or_default();
    text.split(' ').any(|word| word == name)
}

/// A link by which the sentinel is asked while it lives.
struct AtHand<'a> {
    shared: &'a Shared,
    address: &'a Address,
}

impl<'a> AtHand<'a> {
    fn new(shared: &'a Shared, address: &'a Address, link: &Link) -> Self {
        let mut state = shared.state();
        state.links.insert(address.clone(), link.clone());
        state.silent.remove(address);
        drop(state);
        Self { shared, address }
    }
}

impl Drop for AtHand<'_> {
    fn drop(&mut self) {
        self.shared.state().links.remove(self.address);
    }
}
