//! A database for each test, on the server that DATABASE_URL names.

use super::listener::CHANNEL;
use super::{Postgres, PostgresOptions};
use crate::keys::TokenHash;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use url::Url;

const SCHEMA: &str = include_str!("../../../__test__/schema/platform.sql");
const DEFECTS: &str = include_str!("../../../__test__/schema/studio-defects.sql");

pub fn token(text: &str) -> TokenHash {
    TokenHash::of(text.as_bytes()).unwrap()
}

fn unique() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// Removed with its roles when the test is over.
pub struct TestDatabase {
    pub url: String,
    name: String,
    connection: tokio::sync::Mutex<PgConnection>,
}

pub struct Role {
    pub name: String,
    pub url: String,
}

fn server_url() -> Url {
    let url = std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| panic!("DATABASE_URL is not set, and this test needs a Postgres server; run `make test`."));
    Url::parse(&url).expect("DATABASE_URL is no URL")
}

async fn connect(url: &Url) -> PgConnection {
    PgConnectOptions::from_url(url).unwrap().disable_statement_logging().connect().await.unwrap()
}

async fn execute(connection: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql.clone()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

impl TestDatabase {
    /// With Studio's schema, and its two defects where wanted.
    pub async fn create(defects: bool) -> Self {
        let mut url = server_url();
        let name = format!("native_{}", unique());
        let mut server = connect(&url).await;
        execute(&mut server, format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        url.set_path(&name);
        let mut connection = connect(&url).await;
        execute(&mut connection, SCHEMA.to_owned()).await;
        if defects {
            execute(&mut connection, DEFECTS.to_owned()).await;
        }
        Self { url: url.into(), name, connection: connection.into() }
    }

    pub fn open(&self, pool_size: u32) -> Postgres {
        self.open_with(PostgresOptions { url: self.url.clone(), pool_size, statement_cache: true })
    }

    pub fn open_with(&self, options: PostgresOptions) -> Postgres {
        Postgres::new(options).unwrap()
    }

    pub async fn run(&self, sql: &str) {
        execute(&mut *self.connection.lock().await, sql.to_owned()).await;
    }

    /// Runs SQL in which `{role}` stands for a name.
    pub async fn run_named(&self, sql: &str, name: &str) {
        self.run(&sql.replace("{role}", name)).await;
    }

    /// The first column of the one row of an answer.
    pub async fn text(&self, sql: &str) -> String {
        let mut connection = self.connection.lock().await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_one(&mut *connection).await.unwrap().get(0)
    }

    /// Waits until a query answers `expected`.
    pub async fn until(&self, sql: &str, expected: &str) {
        for _ in 0..200 {
            if self.text(sql).await == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{sql} never was {expected}");
    }

    /// A new user's id.
    pub async fn user(&self, email: &str) -> String {
        self.text(&format!("INSERT INTO platform.users (email) VALUES ('{email}') RETURNING id::text")).await
    }

    /// A new session's id. It was created before everything, so that it may have any end.
    pub async fn session(&self, user: &str, text: &str, expires_at: &str) -> String {
        let token = token(text).to_hex();
        self.text(&format!(
            "INSERT INTO platform.user_sessions (user_id, token, expires_at, created_at) \
             VALUES ('{user}', '{token}', {expires_at}, '2000-01-01') RETURNING id::text"
        ))
        .await
    }

    /// A role that may use the tables, but owns nothing.
    pub async fn role(&self) -> Role {
        let name = format!("{}_role_{}", self.name, unique());
        self.run_named(
            "CREATE ROLE {role} LOGIN PASSWORD 'test'; GRANT USAGE ON SCHEMA platform TO {role}; \
             GRANT SELECT, UPDATE, DELETE ON ALL TABLES IN SCHEMA platform TO {role}",
            &name,
        )
        .await;
        let mut url = Url::parse(&self.url).unwrap();
        url.set_username(&name).unwrap();
        url.set_password(Some("test")).unwrap();
        Role { name, url: url.into() }
    }

    /// Ends all connections but the test's own, as a restart of the server does.
    pub async fn disconnect_all(&self) {
        self.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
        self.until("SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database()", "1").await;
    }

    /// A connection of a test's own.
    pub async fn connect(&self, url: &str) -> PgConnection {
        connect(&Url::parse(url).unwrap()).await
    }

    /// What is said on the channel from now on.
    pub async fn announced(&self) -> Announced {
        let mut listener = PgListener::connect(&self.url).await.unwrap();
        listener.listen(CHANNEL).await.unwrap();
        Announced { listener }
    }

    pub async fn proxy(&self) -> Proxy {
        Proxy::start(&self.url).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let name = self.name.clone();
        // A runtime of its own, because a drop cannot wait in the test's, and the test may have failed.
        let cleaning = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let mut server = connect(&server_url()).await;
                execute(&mut server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
                execute(
                    &mut server,
                    format!(
                        "DO $$ DECLARE role text; BEGIN FOR role IN SELECT rolname FROM pg_roles \
                         WHERE rolname LIKE '{name}\\_role\\_%' LOOP EXECUTE 'DROP ROLE ' || role; END LOOP; END $$"
                    ),
                )
                .await;
            });
        });
        if cleaning.join().is_err() && !std::thread::panicking() {
            panic!("the database {} could not be removed", self.name);
        }
    }
}

/// Hears what is said on the channel, in the order of commits.
pub struct Announced {
    listener: PgListener,
}

impl Announced {
    /// All that was said until now.
    pub async fn payloads(&mut self, database: &TestDatabase) -> Vec<String> {
        let fence = unique();
        database.run(&format!("NOTIFY {CHANNEL}, '{fence}'")).await;
        let mut payloads = Vec::new();
        loop {
            let payload = self.listener.recv().await.unwrap().payload().to_owned();
            if payload == fence {
                return payloads;
            }
            payloads.push(payload);
        }
    }

    /// The words of what was said until now, each once.
    pub async fn words(&mut self, database: &TestDatabase) -> BTreeSet<String> {
        let payloads = self.payloads(database).await;
        payloads.iter().flat_map(|payload| payload.split(' ')).map(str::to_owned).collect()
    }
}

/// A way to the server that can be frozen like a stopped process, closed like a server that is away, or lose every
/// notification.
pub struct Proxy {
    pub url: String,
    state: Arc<watch::Sender<State>>,
    clients: Arc<watch::Sender<usize>>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    Frozen,
    Refusing,
    Deaf,
}

impl Proxy {
    async fn start(url: &str) -> Self {
        let mut url = Url::parse(url).unwrap();
        let server = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let state = Arc::new(watch::Sender::new(State::Open));
        let clients = Arc::new(watch::Sender::new(0));
        let (shared, counted) = (Arc::clone(&state), Arc::clone(&clients));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let carried = Self::carry(client, server.clone(), shared.subscribe());
                let counted = Arc::clone(&counted);
                counted.send_modify(|clients| *clients += 1);
                tokio::spawn(async move {
                    carried.await;
                    counted.send_modify(|clients| *clients -= 1);
                });
            }
        });
        Self { url: url.into(), state, clients, accepting }
    }

    async fn carry(mut client: TcpStream, server: (String, u16), mut state: watch::Receiver<State>) {
        let mut server = TcpStream::connect(server).await.unwrap();
        let mut held = Vec::new();
        loop {
            let now = *state.borrow_and_update();
            match now {
                State::Refusing => return,
                // The kernel goes on for a stopped process: it takes what is sent, and sees the client's end.
                State::Frozen => tokio::select! {
                    read = client.read_buf(&mut held) => if !matches!(read, Ok(1..)) { return },
                    _ = state.changed() => {}
                },
                State::Deaf => {
                    let (mut from_client, mut to_client) = client.split();
                    let (mut from_server, mut to_server) = server.split();
                    tokio::select! {
                        _ = tokio::io::copy(&mut from_client, &mut to_server) => return,
                        _ = Self::without_notifications(&mut from_server, &mut to_client) => return,
                        _ = state.changed() => {}
                    }
                }
                State::Open => {
                    if server.write_all(&std::mem::take(&mut held)).await.is_err() {
                        return;
                    }
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                        _ = state.changed() => {}
                    }
                }
            }
        }
    }

    /// Messages are a letter and a length that counts itself.
    async fn without_notifications(
        from: &mut (impl AsyncReadExt + Unpin),
        to: &mut (impl AsyncWriteExt + Unpin),
    ) -> std::io::Result<()> {
        loop {
            let letter = from.read_u8().await?;
            let length = from.read_u32().await?;
            let mut body = vec![0; length as usize - 4];
            from.read_exact(&mut body).await?;
            if letter != b'A' {
                to.write_u8(letter).await?;
                to.write_u32(length).await?;
                to.write_all(&body).await?;
            }
        }
    }

    /// Loses every notification from now on. Nothing must be on its way just now.
    pub fn deafen(&self) {
        self.state.send_replace(State::Deaf);
    }

    pub fn freeze(&self) {
        self.state.send_replace(State::Frozen);
    }

    pub fn thaw(&self) {
        self.state.send_replace(State::Open);
    }

    /// Waits until so many connections are open, seen from the server.
    pub async fn until_clients(&self, expected: usize) {
        let mut clients = self.clients.subscribe();
        let seen = tokio::time::timeout(Duration::from_secs(1), clients.wait_for(|now| *now == expected)).await;
        assert!(seen.is_ok(), "{} connections stay open instead of {expected}", *self.clients.borrow());
    }

    pub fn refuse(&self, refuse: bool) {
        self.state.send_replace(if refuse { State::Refusing } else { State::Open });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
