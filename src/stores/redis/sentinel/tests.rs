//! Against sentinels that say what a test wants. Real ones are asked in `__test__/sentinel*.test.js`.

use super::*;
use crate::redis_url::{Place, Secret};
use crate::stores::redis::testing::{nowhere, soon, until};
use std::fmt::Write as _;
use std::sync::atomic::AtomicUsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// How a sentinel behaves.
#[derive(Clone)]
enum Mood {
    Says(Report),
    Silent,
    WrongPassword,
    UnknownName,
    /// It is a Redis like any other.
    Plain,
}

/// A sentinel that does as it is told.
struct Sentinel {
    address: Address,
    mood: Arc<Mutex<Mood>>,
    /// Sent to whoever is subscribed to anything.
    messages: broadcast::Sender<String>,
    open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    questions: Arc<AtomicUsize>,
    serving: AbortHandle,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Sentinel {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let mood = Arc::new(Mutex::new(mood));
        let (open, accepted, questions) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let messages = broadcast::Sender::new(10);
        let shared = (mood.clone(), messages.clone(), open.clone(), accepted.clone(), questions.clone());
        let serving = tokio::spawn(async move {
            let (mood, messages, open, accepted, questions) = shared;
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, SeqCst);
                let serve = Self::serve(stream, mood.clone(), messages.subscribe(), questions.clone());
                let open = open.clone();
                connections.spawn(async move {
                    open.fetch_add(1, SeqCst);
                    let _ = serve.await;
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { address, mood, messages, open, accepted, questions, serving: serving.abort_handle() }
    }

    async fn says(primary: &str, epoch: u64) -> Self {
        Self::start(Mood::Says(report(primary, epoch))).await
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    async fn serve(
        mut stream: TcpStream,
        mood: Arc<Mutex<Mood>>,
        mut messages: broadcast::Receiver<String>,
        questions: Arc<AtomicUsize>,
    ) -> std::io::Result<()> {
        let (mut unread, mut bytes, mut subscribed) = (String::new(), [0; 4096], false);
        loop {
            tokio::select! {
                read = stream.read(&mut bytes) => match read? {
                    0 => return Ok(()),
                    count => unread.push_str(std::str::from_utf8(&bytes[..count]).unwrap()),
                },
                message = messages.recv() => {
                    let message = message.unwrap();
                    if subscribed {
                        let push = format!(">3\r\n+message\r\n+any\r\n${}\r\n{message}\r\n", message.len());
                        stream.write_all(push.as_bytes()).await?;
                    }
                }
            }
            while let Some(words) = take_command(&mut unread) {
                let mood = mood.lock().unwrap().clone();
                subscribed |= words[0] == "SUBSCRIBE";
                if words[0] == "SENTINEL" && words[1] == "MASTER" {
                    questions.fetch_add(1, SeqCst);
                }
                stream.write_all(answer(&mood, &words).as_bytes()).await?;
            }
        }
    }
}

fn take_command(unread: &mut String) -> Option<Vec<String>> {
    let mut lines = unread.split_inclusive("\r\n");
    let count: usize = lines.next()?.trim().strip_prefix('*')?.parse().ok()?;
    let lines: Vec<_> = lines.take(2 * count).collect();
    if lines.len() < 2 * count || !lines.last()?.ends_with("\r\n") {
        return None;
    }
    let words = lines.chunks(2).map(|pair| pair[1].trim().to_owned()).collect();
    let length = unread.find("\r\n")? + 2 + lines.iter().map(|line| line.len()).sum::<usize>();
    unread.drain(..length);
    Some(words)
}

fn answer(mood: &Mood, words: &[String]) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match (mood, &words[..]) {
        (Mood::Silent, _) => String::new(),
        (Mood::WrongPassword, ["HELLO", ..]) => {
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n".to_owned()
        }
        (_, ["HELLO", ..]) => "%1\r\n+proto\r\n:3\r\n".to_owned(),
        (_, ["INFO", ..]) => "$0\r\n\r\n".to_owned(),
        (_, ["PING"]) => "+PONG\r\n".to_owned(),
        (_, ["SUBSCRIBE", channel]) => format!(">3\r\n+subscribe\r\n+{channel}\r\n:1\r\n"),
        (Mood::Plain, _) => format!("-ERR unknown command '{}', with args beginning with:\r\n", words[0]),
        (Mood::UnknownName, ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _]) => "_\r\n".to_owned(),
        (Mood::Says(says), ["SENTINEL", what, "mine"]) => match (*what, &says.primary) {
            ("MASTER", _) => format!("%1\r\n+config-epoch\r\n+{}\r\n", says.epoch),
            ("GET-MASTER-ADDR-BY-NAME", Address::Tcp { host, port }) => format!("*2\r\n+{host}\r\n+{port}\r\n"),
            ("SENTINELS", _) => instances(&says.others, ""),
            ("REPLICAS", _) => instances(
                &says.replicas,
                "+flags\r\n+slave\r\n+role-reported\r\n+slave\r\n+master-link-status\r\n+ok\r\n",
            ),
            _ => "-ERR\r\n".to_owned(),
        },
        (_, ["SENTINEL", ..]) => "-ERR No such master with that name\r\n".to_owned(),
        (_, words) => format!("-ERR unknown command '{}'\r\n", words[0]),
    }
}

fn instances(addresses: &[Address], more: &str) -> String {
    let mut text = format!("*{}\r\n", addresses.len());
    for address in addresses {
        let Address::Tcp { host, port } = address else { panic!("TCP") };
        let fields = 2 + more.matches('+').count() / 2;
        write!(text, "%{fields}\r\n+ip\r\n+{host}\r\n+port\r\n+{port}\r\n{more}").unwrap();
    }
    text
}

fn at(host: &str) -> Address {
    Address::Tcp { host: host.to_owned(), port: 6379 }
}

fn seat(primary: &str, term: u64) -> Seat {
    Seat { address: at(primary), term }
}

fn report(primary: &str, epoch: u64) -> Report {
    Report { primary: at(primary), epoch, others: Vec::new(), replicas: Vec::new() }
}

fn of(addresses: &[&Address]) -> Sentinels {
    let login = Login { username: None, password: Some(Secret::new("hunter2")) };
    Sentinels::new(addresses.iter().copied().cloned().collect(), "mine".to_owned(), login, None)
}

fn all_of(sentinels: &[Sentinel]) -> Sentinels {
    of(&sentinels.iter().map(|sentinel| &sentinel.address).collect::<Vec<_>>())
}

async fn three(primary: &str, epoch: u64) -> [Sentinel; 3] {
    [Sentinel::says(primary, epoch).await, Sentinel::says(primary, epoch).await, Sentinel::says(primary, epoch).await]
}

async fn nowhere_at() -> Address {
    let Place::Single(address) = nowhere().await.place else { panic!("one server") };
    address
}

#[tokio::test]
async fn they_are_asked_for_the_primary_and_its_replicas_and_nothing_is_left_open() {
    let mut says = report("a", 1);
    says.replicas = vec![at("b"), at("c")];
    let sentinel = Sentinel::start(Mood::Says(says)).await;
    let sentinels = of(&[&sentinel.address]);
    assert_eq!(sentinel.accepted.load(SeqCst), 0, "making it connects nothing");
    assert_eq!(soon(sentinels.primary()).await.unwrap().address, at("a"));
    assert_eq!(soon(sentinels.replicas()).await.unwrap(), [at("b"), at("c")]);
    until!(sentinel.open.load(SeqCst) == 0);
}

#[tokio::test]
async fn callers_at_one_time_share_a_question() {
    let sentinel = Sentinel::says("a", 1).await;
    let sentinels = Arc::new(of(&[&sentinel.address]));
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let sentinels = sentinels.clone();
            tokio::spawn(async move { sentinels.primary().await })
        })
        .collect();
    for caller in callers {
        assert_eq!(soon(caller).await.unwrap().unwrap(), seat("a", 1));
    }
    assert!(sentinel.questions.load(SeqCst) <= 2, "{}", sentinel.questions.load(SeqCst));
}

#[tokio::test]
async fn a_caller_who_gives_up_leaves_the_others_an_answer() {
    let sentinel = Sentinel::start(Mood::Silent).await;
    let sentinels = Arc::new(of(&[&sentinel.address]));
    let ask = || {
        let sentinels = sentinels.clone();
        tokio::spawn(async move { sentinels.primary().await })
    };
    let first = ask();
    until!(sentinel.accepted.load(SeqCst) == 1);
    let second = ask();
    sentinel.becomes(Mood::Says(report("a", 1)));
    first.abort();
    assert_eq!(soon(second).await.unwrap().unwrap(), seat("a", 1));
}

#[tokio::test]
async fn one_that_answers_is_enough_and_a_silent_one_is_waited_for_once() {
    let [silent, answering] = [Sentinel::start(Mood::Silent).await, Sentinel::says("a", 1).await];
    let away = nowhere_at().await;
    let sentinels = of(&[&away, &silent.address, &answering.address]);
    let begun = Instant::now();
    assert_eq!(soon(sentinels.primary()).await.unwrap().address, at("a"));
    assert!(begun.elapsed() >= GRACE, "another might have known better");
    let before = silent.accepted.load(SeqCst);
    assert_eq!(soon(sentinels.primary()).await.unwrap().address, at("a"));
    assert!(sentinels.0.state().silent.contains(&silent.address));
    silent.becomes(Mood::Says(report("b", 2)));
    // It is asked all the same, and heard when it answers with the others.
    until!(silent.accepted.load(SeqCst) > before);
    let watched = soon(sentinels.moved_from(&seat("a", 1))).await;
    assert_eq!(watched, seat("b", 2));
}

#[tokio::test]
async fn one_that_was_cut_off_is_outvoted_by_what_happened_later() {
    let cut_off = Sentinel::says("old", 4).await;
    let [one, other] = [Sentinel::says("new", 5).await, Sentinel::says("new", 5).await];
    let sentinels = of(&[&cut_off.address, &one.address, &other.address]);
    // On a busy machine the others may answer too late for the first question.
    until!(soon(sentinels.primary()).await.unwrap().address == at("new"));
    for away in [one, other] {
        away.becomes(Mood::Silent);
        until!({
            let _ = sentinels.primary().await;
            sentinels.0.state().silent.contains(&away.address)
        });
    }
    assert_eq!(soon(sentinels.primary()).await.unwrap().address, at("new"), "it is alone, and knows less than we do");
}

#[tokio::test]
async fn others_are_learned_from_those_that_were_named_and_forgotten_with_them() {
    let learned = three("a", 1).await;
    let mut says = report("a", 1);
    says.others = learned.iter().map(|sentinel| sentinel.address.clone()).collect();
    let named = Sentinel::start(Mood::Says(says.clone())).await;
    let sentinels = of(&[&named.address]);
    soon(sentinels.primary()).await.unwrap();
    assert_eq!(sentinels.0.known().len(), 4);
    // The one that was named goes; those that it knew go on, and then know where the new primary is.
    named.becomes(Mood::Silent);
    for sentinel in &learned {
        sentinel.becomes(Mood::Says(report("b", 2)));
    }
    assert_eq!(soon(sentinels.primary()).await.unwrap().address, at("b"));
    // It comes back, and knows of one of them. The others are gone.
    says.others.truncate(1);
    named.becomes(Mood::Says(Report { epoch: 2, primary: at("b"), ..says.clone() }));
    let [_first, second, third] = learned;
    drop((second, third));
    until!({
        soon(sentinels.primary()).await.unwrap();
        sentinels.0.known().len() == 2
    });
    assert_eq!(sentinels.0.known(), [named.address.clone(), says.others[0].clone()]);
    // Whoever knows too many is not believed to the end.
    says.others = (1..=100).map(|port| Address::Tcp { host: "127.0.0.1".to_owned(), port }).collect();
    named.becomes(Mood::Says(says));
    until!({
        soon(sentinels.primary()).await.unwrap();
        sentinels.0.known().len() > 2
    });
    assert_eq!(sentinels.0.known().len(), 1 + MOST_LEARNED);
}

#[tokio::test]
async fn the_error_says_why_nobody_knows_and_shows_no_password() {
    let away = nowhere_at().await;
    for (mood, reason) in [
        (Mood::Silent, "no answer within 1500 ms"),
        (Mood::WrongPassword, "wants another password (WRONGPASS); set REDIS_SENTINEL_PASSWORD"),
        (Mood::UnknownName, "no primary named \"mine\"; set REDIS_MASTER_NAME or ?master="),
        (Mood::Plain, "is no sentinel"),
    ] {
        let sentinel = Sentinel::start(mood).await;
        let error = soon(of(&[&away, &sentinel.address]).primary()).await.unwrap_err();
        assert!(error.contains(reason) && !error.contains("hunter2"), "{error}");
    }
    let error = soon(of(&[&away]).primary()).await.unwrap_err();
    assert!(error.starts_with(&format!("no sentinel can be asked ({away}: ")), "{error}");
}

#[tokio::test]
async fn another_primary_is_noticed_by_a_message() {
    let sentinels_there = three("a", 1).await;
    let sentinels = Arc::new(all_of(&sentinels_there));
    assert_eq!(soon(sentinels.primary()).await.unwrap().address, at("a"));
    let waiting = {
        let sentinels = sentinels.clone();
        tokio::spawn(async move { sentinels.moved_from(&seat("a", 1)).await })
    };
    until!(sentinels.0.state().links.len() == 3);
    let [leader, others @ ..] = &sentinels_there;
    // The others have not heard of it yet.
    leader.becomes(Mood::Says(report("b", 2)));
    leader.messages.send("slave b:6379 b 6379 @ mine a 6379".to_owned()).unwrap();
    assert_eq!(soon(waiting).await.unwrap(), seat("b", 2));
    assert_eq!(soon(sentinels.moved_from(&seat("a", 1))).await, seat("b", 2), "who comes late is told at once");
    assert_eq!(soon(sentinels.primary()).await.unwrap().address, at("b"));
    assert!(others.iter().all(|other| other.open.load(SeqCst) >= 1), "each is listened to");
    // Who has one, and waits for nothing, holds no connection.
    for sentinel in &sentinels_there {
        until!(sentinel.open.load(SeqCst) == 0);
    }
    let former = seat("b", 2);
    let waiting = sentinels.moved_from(&former);
    let watched = async { until!(leader.open.load(SeqCst) > 0) };
    soon(async {
        tokio::select! { _ = waiting => panic!("nothing has changed"), () = watched => {} }
    })
    .await;
    drop(sentinels);
    for sentinel in &sentinels_there {
        until!(sentinel.open.load(SeqCst) == 0);
    }
}

#[tokio::test]
async fn another_primary_is_noticed_when_the_message_is_lost() {
    let sentinels_there = three("a", 1).await;
    let sentinels = all_of(&sentinels_there);
    soon(sentinels.primary()).await.unwrap();
    let former = seat("a", 1);
    let watching = sentinels.moved_from(&former);
    let change = async {
        until!(sentinels.0.state().links.len() == 3);
        sentinels_there[1].becomes(Mood::Says(report("b", 2)));
    };
    assert_eq!(soon(async { tokio::join!(watching, change).0 }).await, seat("b", 2));
}

#[tokio::test]
async fn a_primary_that_was_succeeded_and_succeeds_is_another_one() {
    let sentinel = Sentinel::says("a", 1).await;
    let sentinels = of(&[&sentinel.address]);
    assert_eq!(soon(sentinels.primary()).await.unwrap(), seat("a", 1));
    sentinel.becomes(Mood::Says(report("a", 3)));
    assert_eq!(soon(sentinels.moved_from(&seat("a", 1))).await, seat("a", 3));
}

#[tokio::test]
async fn what_sentinels_say_of_other_primaries_is_no_reason_to_ask() {
    let sentinel = Sentinel::says("a", 1).await;
    let sentinels = Arc::new(of(&[&sentinel.address]));
    let watching = {
        let sentinels = sentinels.clone();
        tokio::spawn(async move { sentinels.moved_from(&seat("a", 1)).await })
    };
    // Of its own accord it asks when it has connected, and then after 1.5 s at the earliest.
    until!(sentinels.0.state().links.len() == 1 && sentinel.questions.load(SeqCst) >= 1);
    let asked = sentinel.questions.load(SeqCst);
    for _ in 0..20 {
        sentinel.messages.send("yours a 6379 c 6379".to_owned()).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(sentinel.questions.load(SeqCst) <= asked + 2);
    watching.abort();
}

#[tokio::test]
async fn while_no_sentinel_can_be_asked_the_last_primary_is_believed() {
    let mut sentinels_there = Vec::from(three("a", 1).await);
    let sentinels = all_of(&sentinels_there);
    soon(sentinels.primary()).await.unwrap();
    let addresses: Vec<_> = sentinels_there.iter().map(|sentinel| sentinel.address.clone()).collect();
    sentinels_there.clear();
    assert_eq!(soon(sentinels.primary()).await.unwrap().address, at("a"));
    // Others come in their places.
    let Address::Tcp { port, .. } = &addresses[0] else { panic!("TCP") };
    let listener = TcpListener::bind(("127.0.0.1", *port)).await.unwrap();
    tokio::spawn(async move {
        let (mood, messages) = (Arc::new(Mutex::new(Mood::Says(report("b", 2)))), broadcast::Sender::new(1));
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(Sentinel::serve(stream, mood.clone(), messages.subscribe(), Arc::default()));
        }
    });
    assert_eq!(soon(sentinels.moved_from(&seat("a", 1))).await, seat("b", 2));
}
