//! The sessions themselves, in Postgres. Nothing outside this folder names sqlx.
//!
//! - `pool`: a few connections; a connection whose statement was given up is closed, never reused.
//! - `checks`: what is wrong with this database, asked before its first answer is believed.
//! - `session_rows`, `listed_rows`, `upkeep_rows`: the SQL of sessions, made of the pieces in `sql`.
//! - `triggers`: the optional triggers by which writes of others are heard.
//! - `notifications`: what other processes, and the triggers, tell this one to forget; `listener` is its connection.
//! - `errors`: what a failure means to the caller.
//!
//! Nothing here has a deadline of its own: the caller drops a future that takes too long, and that frees everything
//! it held. Only the server is told a limit (`STATEMENT_LIMIT`), so that it does not work on for nobody.

#[macro_use]
mod sql;

mod checks;
mod errors;
mod listed_rows;
mod listener;
mod notifications;
mod pool;
mod session_rows;
#[cfg(test)]
mod testing;
mod triggers;
mod upkeep_rows;

pub use notifications::Event;
pub use triggers::{INSTALL_TRIGGERS, UNINSTALL_TRIGGERS};

use crate::error::{Error, Result};
use checks::{Checks, Findings};
use pool::{Kind, Mode, Pool, Statement};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgRow, PgSslMode};
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;
use url::Url;

/// Parameters of a URL that mean something to the driver. Others belong to other programs and are not passed on,
/// because the driver would log them with their values.
const KNOWN_PARAMETERS: [&str; 16] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
];

/// The spellings of two of them.
const SSL_MODE: &[&str] = &["sslmode", "ssl-mode"];
const SSL_ROOT_CERT: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca"];

/// How to reach Postgres.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=...`
    pub url: String,
    /// The most connections that are open for statements; a listener has one more.
    pub pool_size: u32,
    /// `false` behind a transaction pooler: every statement is then unnamed and has a transaction of its own.
    pub statement_cache: bool,
}

/// `Debug` leaves the URL out, because it holds the password.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("pool_size", &self.pool_size)
            .field("statement_cache", &self.statement_cache)
            .finish_non_exhaustive()
    }
}

/// The store of sessions. Connects when it is first asked; `listen` and the methods of `SessionRows` are its use.
/// Cheap to clone: clones share their connections.
#[derive(Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    options: PgConnectOptions,
    statement_cache: bool,
    pool: Pool,
    checks: Checks,
}

impl Postgres {
    /// Reads the options. Does no I/O and needs no runtime.
    pub fn new(options: PostgresOptions) -> Result<Self> {
        let connect = connect_options(&options.url)?;
        let shared = Shared {
            pool: Pool::new(connect.clone(), server_name(&connect), options.pool_size),
            options: connect,
            statement_cache: options.statement_cache,
            checks: Checks::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// `Postgres at host:port`, as messages call it.
    pub fn server(&self) -> &Arc<str> {
        self.shared.pool.server()
    }

    /// What is wrong with this database, asked at the first call. Fails if Postgres cannot be asked; that is not kept.
    pub async fn findings(&self) -> Result<Arc<Findings>> {
        self.shared.checks.findings(&self.shared.pool).await
    }

    /// Closes the connections, after the statements under way. Calls from now on fail with `ERR_CLOSED`.
    ///
    /// Waits for as long as those statements take: the caller bounds it.
    pub async fn close(&self) {
        self.shared.pool.close().await;
    }

    /// Runs one statement: the one way by which all of them pass.
    ///
    /// A statement that only reads is sent a second time, on a new connection, if the first one was lost and had
    /// been idle before: it was then most likely dead since the server's restart, and so are its siblings. One that
    /// writes is never sent twice; instead its connection is pinged before.
    async fn fetch(&self, statement: &Statement, values: &[&str]) -> Result<Vec<PgRow>> {
        let findings = self.findings().await?;
        if let Some(refusal) = findings.refusal(statement.kind) {
            return Err(refusal);
        }
        let mode = Mode {
            unnamed: !self.shared.statement_cache || findings.transaction_pooler,
            policies_apply: findings.policies_apply,
        };
        let mut lease = self.shared.pool.lease(statement.kind, mode).await?;
        let mut answer = lease.execute(statement, values).await;
        if matches!(answer, Err(Error::Connection { .. })) && statement.kind == Kind::Read && lease.was_idle() {
            lease = lease.replace().await?;
            answer = lease.execute(statement, values).await;
        }
        match answer {
            Ok(rows) => {
                lease.finish();
                // Where policies apply, they may have come to hide what was asked for since the findings were made.
                // Only what was found after the answer can tell "nobody" from "hidden".
                if rows.is_empty() && findings.policies_apply {
                    let since = self.shared.checks.findings_after(&self.shared.pool, Instant::now()).await?;
                    return since.refusal(statement.kind).map_or(Ok(rows), Err);
                }
                Ok(rows)
            }
            Err(error) => {
                drop(lease);
                Err(self.explain(error, statement.kind).await)
            }
        }
    }

    /// An answer such as "no such column" contradicts the findings: they are asked anew, and say it better if they can.
    async fn explain(&self, error: Error, kind: Kind) -> Error {
        if !errors::contradicts_findings(&error) {
            return error;
        }
        match self.shared.checks.doubt(&self.shared.pool).await {
            Ok(findings) => findings.refusal(kind).unwrap_or(error),
            Err(_) => error,
        }
    }
}

/// Messages never contain the URL, nor any part of it that could be a piece of the password.
fn connect_options(url: &str) -> Result<PgConnectOptions> {
    let invalid = |what: String| Error::InvalidConfig(format!("DATABASE_URL {what}."));
    let mut url = Url::parse(url).map_err(|reason| {
        invalid(format!(
            "is no valid URL ({reason}); characters such as @ : / # in the password must be percent-encoded"
        ))
    })?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(invalid("must begin with postgres:// or postgresql://".into()));
    }
    let known: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| KNOWN_PARAMETERS.contains(&&**name) || name.starts_with("options["))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    url.set_query(None);
    if !known.is_empty() {
        url.query_pairs_mut().extend_pairs(&known);
    }
    let named = |names: &[&str]| known.iter().rfind(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value);
    if let Some(fault) = named(SSL_MODE).and_then(|mode| unknown_ssl_mode(mode)) {
        return Err(invalid(fault.into()));
    }
    let mut options = PgConnectOptions::from_url(&url).map_err(|_| {
        invalid("has a value of port or hostaddr, or a percent-encoding, that cannot be understood".into())
    })?;
    if matches!(options.get_ssl_mode(), PgSslMode::Require) && named(SSL_ROOT_CERT).is_some() {
        // As libpq does: who names an authority wants it to be asked. The driver would not look at the certificate.
        options = options.ssl_mode(PgSslMode::VerifyCa);
    }
    Ok(options
        .application_name(&format!("studio-redis-native:{}", std::process::id()))
        // Poolers refuse connections that set this at the start.
        .extra_float_digits(None)
        .disable_statement_logging())
}

/// What is wrong with a value of sslmode that Postgres does not have; without repeating it.
fn unknown_ssl_mode(mode: &str) -> Option<&'static str> {
    match mode.to_ascii_lowercase().as_str() {
        "disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full" => None,
        "no-verify" => Some(
            "has sslmode=no-verify, which node-postgres alone knows; sslmode=require encrypts without verifying, and \
             verify-full with sslrootcert verifies",
        ),
        _ => Some("has an unknown sslmode; use disable, prefer, require, verify-ca or verify-full"),
    }
}

fn server_name(options: &PgConnectOptions) -> Arc<str> {
    match options.get_socket() {
        Some(path) => format!("Postgres at {}", path.display()).into(),
        None => format!("Postgres at {}:{}", options.get_host(), options.get_port()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{TestDatabase, token};
    use super::*;
    use crate::stores::{SessionRows, Which};
    use std::time::Duration;

    const SLEEP: Statement = Statement { kind: Kind::Read, sql: "SELECT pg_sleep(30)::text" };
    const PID: Statement = Statement { kind: Kind::Read, sql: "SELECT pg_backend_pid()::text AS pid" };
    const PREPARED: Statement =
        Statement { kind: Kind::Read, sql: "SELECT count(*)::text AS pid FROM pg_prepared_statements" };

    async fn text(postgres: &Postgres, statement: &Statement) -> String {
        use sqlx::Row;
        postgres.fetch(statement, &[]).await.unwrap()[0].get("pid")
    }

    fn message(url: &str) -> String {
        match Postgres::new(PostgresOptions { url: url.into(), pool_size: 1, statement_cache: true }) {
            Ok(_) => panic!("accepted"),
            Err(error) => {
                assert_eq!(error.code(), "ERR_INVALID_CONFIG");
                error.to_string()
            }
        }
    }

    #[test]
    fn a_bad_url_is_refused_without_being_repeated() {
        for url in [
            "postgres://admin:hun:ter2@h:x/db",
            "mysql://admin:hunter2@host/db",
            "hunter2",
            "postgres://u:hunter2@h/db?sslmode=hunter2",
            "postgres://u:hunter2@h/db?port=hunter2",
            "postgres://u:hunter2%ff@h/db",
        ] {
            let message = message(url);
            assert!(message.starts_with("DATABASE_URL "), "{message}");
            assert!(!message.contains("hun") && !message.contains("ter2"), "{message}");
        }
    }

    #[test]
    fn a_mode_of_tls_is_one_of_postgres_and_an_authority_that_is_named_is_asked() {
        for (query, expected) in [
            ("sslmode=no-verify", "node-postgres alone knows; sslmode=require"),
            ("ssl-mode=NO-VERIFY", "node-postgres alone knows; sslmode=require"),
            ("sslmode=hunter2", "unknown sslmode; use disable, prefer, require, verify-ca or verify-full"),
        ] {
            let message = message(&format!("postgres://u:p@h/db?{query}"));
            assert!(message.contains(expected) && !message.contains("hunter2"), "{message}");
        }
        let mode =
            |query: &str| format!("{:?}", connect_options(&format!("postgres://h/db?{query}")).unwrap().get_ssl_mode());
        assert_eq!(mode("sslmode=require"), "Require");
        assert_eq!(mode("sslmode=require&sslrootcert=/ca.crt"), "VerifyCa");
        assert_eq!(mode("sslmode=verify-full&sslrootcert=/ca.crt"), "VerifyFull");
        assert_eq!(mode("sslmode=prefer&sslrootcert=/ca.crt"), "Prefer");
    }

    #[test]
    fn the_name_shows_the_server_and_nothing_else_and_unknown_parameters_do_no_harm() {
        let named = |url: &str| server_name(&connect_options(url).unwrap()).to_string();
        assert_eq!(
            named("postgres://u:p@db.example:6543/x?pgbouncer=true&schema=public"),
            "Postgres at db.example:6543"
        );
        assert_eq!(named("postgresql://u@h/x?host=/run/pg"), "Postgres at /run/pg");
        let options = PostgresOptions { url: "postgres://u:hunter2@h/".into(), pool_size: 3, statement_cache: true };
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_refused_connection_is_an_outage_at_once_and_the_next_call_asks_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://u:hunter2@{}/x?sslmode=disable", listener.local_addr().unwrap());
        drop(listener);
        let postgres = Postgres::new(PostgresOptions { url, pool_size: 2, statement_cache: true }).unwrap();
        for _ in 0..2 {
            let Err(error) = postgres.find(token("a")).await else { panic!("connected") };
            assert_eq!(error.code(), "ERR_CONNECTION");
            assert!(error.is_outage());
            assert!(error.to_string().contains("refused") && !error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_wrong_password_or_database_is_an_outage_that_says_so() {
        let database = TestDatabase::create(false).await;
        let mut url = Url::parse(&database.url).unwrap();
        url.set_path("/there_is_no_such_database");
        let options = PostgresOptions { url: url.into(), pool_size: 1, statement_cache: true };
        let Err(error) = Postgres::new(options).unwrap().find(token("a")).await else { panic!("connected") };
        assert_eq!(error.code(), "ERR_CONNECTION");
        assert!(error.to_string().contains("3D000"), "{error}");
    }

    #[tokio::test]
    async fn a_dropped_statement_closes_its_connection_and_frees_its_place() {
        let database = TestDatabase::create(false).await;
        let postgres = database.open(1);
        let before = text(&postgres, &PID).await;
        assert_eq!(text(&postgres, &PID).await, before, "a finished statement leaves its connection to the next");
        let dropped = tokio::time::timeout(Duration::from_millis(100), postgres.fetch(&SLEEP, &[])).await;
        assert!(dropped.is_err());
        assert_ne!(text(&postgres, &PID).await, before);
    }

    #[tokio::test]
    async fn no_lookup_fails_after_all_connections_were_lost_at_once() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", "now() + interval '1 hour'").await;
        let postgres = database.open(10);
        for _ in 0..2 {
            let filled = (0..10).map(|_| postgres.fetch(&PID, &[]));
            for answer in join_all(filled).await {
                answer.unwrap();
            }
            database.disconnect_all().await;
            for answer in join_all((0..20).map(|_| postgres.find(token("t")))).await {
                assert!(answer.unwrap().is_some());
            }
            database.disconnect_all().await;
            for _ in 0..20 {
                assert!(postgres.find(token("t")).await.unwrap().is_some());
            }
            database.disconnect_all().await;
            assert_eq!(postgres.delete(Which::Token(token("none"))).await.unwrap().rows, 0);
        }
    }

    #[tokio::test]
    async fn a_server_that_freezes_takes_no_place_of_the_pool_with_it() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", "now() + interval '1 hour'").await;
        let proxy = database.proxy().await;
        let postgres =
            Postgres::new(PostgresOptions { url: proxy.url.clone(), pool_size: 2, statement_cache: true }).unwrap();
        assert!(postgres.find(token("t")).await.unwrap().is_some());
        proxy.freeze();
        for answer in join_all(
            (0..8).map(|_| async { tokio::time::timeout(Duration::from_millis(200), postgres.find(token("t"))).await }),
        )
        .await
        {
            assert!(answer.is_err());
        }
        proxy.thaw();
        for answer in join_all((0..8).map(|_| postgres.find(token("t")))).await {
            assert!(answer.unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn statements_are_named_unless_a_pooler_forbids_it() {
        let database = TestDatabase::create(false).await;
        let named = database.open(1);
        named.find(token("a")).await.unwrap();
        assert_ne!(text(&named, &PREPARED).await, "0");
        let unnamed =
            database.open_with(PostgresOptions { url: database.url.clone(), pool_size: 1, statement_cache: false });
        unnamed.find(token("a")).await.unwrap();
        unnamed.delete(Which::Token(token("a"))).await.unwrap();
        assert_eq!(text(&unnamed, &PREPARED).await, "0");
    }

    #[tokio::test]
    async fn a_closed_store_answers_nothing_and_holds_no_connection() {
        let database = TestDatabase::create(false).await;
        let postgres = database.open(3);
        postgres.find(token("a")).await.unwrap();
        postgres.close().await;
        postgres.close().await;
        let Err(error) = postgres.find(token("a")).await else { panic!("answered") };
        assert!(error.to_string().contains("closed by shutdown()"), "{error}");
        database.until("SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database()", "1").await;
    }

    async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
        let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
        std::future::poll_fn(|context| {
            for (future, result) in &mut pending {
                if result.is_none()
                    && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
                {
                    *result = Some(value);
                }
            }
            match pending.iter().all(|(_, result)| result.is_some()) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
        pending.into_iter().filter_map(|(_, result)| result).collect()
    }
}
