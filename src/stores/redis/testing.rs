//! The server that REDIS_URL names, seen from outside, and a bad road to it.

use super::lane::{Lane, Plan};
use super::origin::{Access, Origin, Role};
use crate::redis_url::{Address, Place, RedisUrl};
use crate::redis_value::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Waits for `$condition` with a deadline that is generous to a busy machine.
macro_rules! until {
    ($condition:expr) => {{
        let mut left = 600;
        while !$condition {
            left -= 1;
            assert!(left > 0, "it never was: {}", stringify!($condition));
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
    }};
}
pub(super) use until;

/// A connection that watches, and does what another process would.
pub struct Server {
    pub url: RedisUrl,
    lane: Lane,
}

impl Server {
    pub fn new() -> Self {
        let url = std::env::var("REDIS_URL").expect("REDIS_URL names a Redis for tests; `make test` starts one");
        let url = RedisUrl::parse("REDIS_URL", &url).unwrap();
        let lane = Lane::new(Plan::new(origin(&url), "test:watcher".to_owned(), 100_000));
        Self { url, lane }
    }

    pub async fn run(&self, command: &[&str]) -> Value {
        self.lane.link().await.unwrap().send(command).await.unwrap()
    }

    /// Sends many commands at once.
    pub async fn run_all<A: AsRef<[u8]>>(&self, commands: &[Vec<A>]) {
        let link = self.lane.link().await.unwrap();
        let replies: Vec<_> = commands.iter().map(|command| link.submit(command).unwrap()).collect();
        for reply in replies {
            link.answer(reply).await.unwrap();
        }
    }

    /// The lines of CLIENT LIST for connections of this name.
    pub async fn clients(&self, name: &str) -> Vec<String> {
        let list = self.run(&["CLIENT", "LIST"]).await;
        let named = format!(" name={name} ");
        list.as_str().unwrap().lines().filter(|line| line.contains(&named)).map(str::to_owned).collect()
    }

    pub async fn kill(&self, name: &str) {
        for client in self.clients(name).await {
            self.run(&["CLIENT", "KILL", "ID", field(&client, "id")]).await;
        }
    }

    pub async fn proxy(&self) -> Proxy {
        Proxy::start(&self.url).await
    }
}

/// A field of a line of CLIENT LIST.
pub fn field<'a>(client: &'a str, name: &str) -> &'a str {
    client.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap()
}

/// A way to the server that can be frozen as by a lost network, or closed like a server that is away.
pub struct Proxy {
    pub url: RedisUrl,
    state: Arc<watch::Sender<State>>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Connections up to this one carry nothing.
    frozen: usize,
    /// All are closed at once.
    refusing: bool,
}

impl Proxy {
    async fn start(server: &RedisUrl) -> Self {
        let Place::Single(Address::Tcp { host, port }) = server.place.clone() else { panic!("a TCP server") };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let state = Arc::new(watch::Sender::new(State::default()));
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            let mut number = 0;
            while let Ok((client, _)) = listener.accept().await {
                number += 1;
                let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                tokio::spawn(Self::carry(client, server, number, shared.subscribe()));
            }
        });
        Self { url: RedisUrl { place: Place::Single(address), ..server.clone() }, state, accepting }
    }

    async fn carry(mut client: TcpStream, mut server: TcpStream, number: usize, mut state: watch::Receiver<State>) {
        loop {
            let now = *state.borrow_and_update();
            if now.refusing {
                return;
            }
            if now.frozen >= number {
                if state.changed().await.is_err() {
                    return;
                }
                continue;
            }
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Freezes the first `connections`, and thaws others.
    pub fn freeze(&self, connections: usize) {
        self.state.send_modify(|state| state.frozen = connections);
    }

    pub fn refuse(&self, refuse: bool) {
        self.state.send_modify(|state| state.refusing = refuse);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Where a URL of one server points.
pub fn origin(url: &RedisUrl) -> Origin {
    let Place::Single(address) = url.place.clone() else { panic!("one server") };
    let access = Access { login: url.login.clone(), database: url.database, tls: None };
    Origin::at(address, Role::Any, access, "Redis".into())
}

/// An address at which nobody is.
pub async fn nowhere() -> RedisUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    RedisUrl::parse("URL", &format!("redis://{}", listener.local_addr().unwrap())).unwrap()
}

/// Fails a test that hangs.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(15), future).await.expect("it takes too long")
}
