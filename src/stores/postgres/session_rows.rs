//! The SQL of sessions.
//!
//! The clock is `statement_timestamp()`: it stands still within a statement, so that what is valid also has time left,
//! and indexes can be used; `now()` would be the beginning of the transaction, which a pooler's mode opens one round
//! trip earlier.

use super::Postgres;
use super::errors::updates_fail;
use super::pool::{Kind, Statement};
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use crate::session::{Session, SessionWithUser, UserSessionStats};
use crate::stores::{Found, Named, SessionRows, Which};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// 9999-12-31T23:59:59.999Z, the last moment that ISO 8601 writes with four digits, in microseconds since 1970.
const LAST_MICROSECOND: i64 = 253_402_300_799_999_000;

const FIND: Statement = Statement { kind: Kind::Read, sql: find!("s.token = $1") };

/// The same rows, named, announced or deleted.
struct Selected {
    name: Statement,
    announce: Statement,
    delete: Statement,
}

macro_rules! selected {
    ($condition:literal, $delete:expr) => {
        Selected {
            name: Statement {
                kind: Kind::Read,
                sql: concat!("SELECT s.token::text AS token FROM platform.user_sessions s WHERE ", $condition),
            },
            announce: Statement {
                kind: Kind::Read,
                sql: concat!(
                    "WITH named AS MATERIALIZED (SELECT s.token FROM platform.user_sessions s WHERE ",
                    $condition,
                    "), ",
                    tell!("named")
                ),
            },
            delete: Statement { kind: Kind::Write, sql: $delete },
        }
    };
    (one $condition:literal) => {
        selected!(
            $condition,
            concat!(
                "WITH gone AS (DELETE FROM platform.user_sessions s WHERE ",
                $condition,
                " RETURNING s.token), ",
                tell!("gone")
            )
        )
    };
    // Locked in the order in which activity is written, so that neither can be the other's deadlock.
    (many $condition:literal) => {
        selected!($condition, delete_those!($condition, " ORDER BY s.id FOR UPDATE"))
    };
}

const BY_ID: Selected = selected!(one "s.id = $1::text::uuid");
const BY_TOKEN: Selected = selected!(one "s.token = $1");
const BY_USER: Selected = selected!(many "s.user_id = $1::text::uuid");
const OTHERS: Selected = selected!(many "s.user_id = $1::text::uuid AND s.id <> $2::text::uuid");

/// The interval is a double inside: exact until the year 2255, and to 32 us after that.
const ROTATE: Statement = Statement {
    kind: Kind::Write,
    sql: concat!(
        "WITH rotated AS (UPDATE platform.user_sessions s SET token = $2, ",
        "expires_at = '1970-01-01T00:00:00Z'::timestamptz + $3::text::int8 * interval '1 microsecond' ",
        "FROM platform.users u WHERE u.id = s.user_id AND s.token = $1 AND ",
        valid!(),
        " RETURNING $1::text AS token), ",
        tell!("rotated"),
    ),
};

impl Which<'_> {
    fn statements(&self) -> &'static Selected {
        match self {
            Self::Id(_) => &BY_ID,
            Self::Token(_) => &BY_TOKEN,
            Self::User(_) => &BY_USER,
            Self::Others { .. } => &OTHERS,
        }
    }
}

impl Postgres {
    async fn named(&self, statement: &'static Statement, which: Which<'_>) -> Result<Named> {
        let rows = match which {
            Which::Id(id) => self.fetch(statement, &[id]).await,
            Which::Token(token) => self.fetch(statement, &[&token.to_hex()]).await,
            Which::User(user) => self.fetch(statement, &[user]).await,
            Which::Others { user, except } => self.fetch(statement, &[user, except]).await,
        }?;
        self.told(&rows)
    }

    /// Rows with a column `token`.
    pub(super) fn told(&self, rows: &[PgRow]) -> Result<Named> {
        let mut named = Named { rows: rows.len() as u64, tokens: Vec::with_capacity(rows.len()) };
        for row in rows {
            let token: &str = row.try_get("token").map_err(|error| self.unreadable(error))?;
            named.tokens.extend(TokenHash::from_hex(token));
        }
        Ok(named)
    }

    pub(super) fn unreadable(&self, error: sqlx::Error) -> Error {
        super::errors::translate(self.server(), error)
    }
}

impl SessionRows for Postgres {
    async fn find(&self, token: TokenHash) -> Result<Option<Found>> {
        let rows = self.fetch(&FIND, &[&token.to_hex()]).await?;
        rows.first().map(found).transpose().map_err(|error| self.unreadable(error))
    }

    async fn name(&self, which: Which<'_>) -> Result<Named> {
        self.named(&which.statements().name, which).await
    }

    async fn announce(&self, which: Which<'_>) -> Result<Named> {
        self.named(&which.statements().announce, which).await
    }

    async fn delete(&self, which: Which<'_>) -> Result<Named> {
        self.named(&which.statements().delete, which).await
    }

    async fn rotate(&self, token: TokenHash, new_token: TokenHash, expires_at: SystemTime) -> Result<bool> {
        let values = [token.to_hex(), new_token.to_hex(), microseconds(expires_at).to_string()];
        match self.fetch(&ROTATE, &values.each_ref().map(String::as_str)).await {
            Ok(rows) => Ok(!rows.is_empty()),
            Err(error) => Err(why_not_rotated(error)),
        }
    }

    async fn find_all(&self, tokens: &[TokenHash]) -> Result<Vec<(TokenHash, Found)>> {
        self.rows_of_tokens(tokens).await
    }

    async fn newest(&self, limit: u32, within: Duration) -> Result<Vec<TokenHash>> {
        self.newest_tokens(limit, within).await
    }

    async fn of_user(&self, user: &str) -> Result<Vec<Session>> {
        self.rows_of_user(user).await
    }

    async fn stats_of_user(&self, user: &str) -> Result<UserSessionStats> {
        self.row_of_stats(user).await
    }

    async fn delete_expired(&self, most: u32) -> Result<Named> {
        self.delete_expired_rows(most).await
    }

    async fn delete_inactive(&self, idle: Duration, most: u32) -> Result<Named> {
        self.delete_inactive_rows(idle, most).await
    }

    async fn write_activity(&self, active: &[(Uuid, Duration)]) -> Result<()> {
        self.update_activity(active).await
    }
}

pub(super) fn found(row: &PgRow) -> sqlx::Result<Found> {
    let remaining: i64 = row.try_get("remaining")?;
    Ok(Found {
        session: SessionWithUser {
            id: row.try_get("id")?,
            user_id: row.try_get("user_id")?,
            token: row.try_get("token")?,
            expires_at: row.try_get("expires_at")?,
            last_activity_at: row.try_get("last_activity_at")?,
            ip_address: row.try_get("ip_address")?,
            user_agent: row.try_get("user_agent")?,
            created_at: row.try_get("created_at")?,
            email: row.try_get("email")?,
            first_name: row.try_get("first_name")?,
            last_name: row.try_get("last_name")?,
            username: row.try_get("username")?,
        },
        remaining: Duration::from_micros(u64::try_from(remaining).unwrap_or(0)),
    })
}

/// Microseconds since 1970, within what Postgres and ISO 8601 can hold.
fn microseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX).min(LAST_MICROSECOND)
}

/// The answers that mean something particular to a rotation.
fn why_not_rotated(error: Error) -> Error {
    match error.reply_kind() {
        Some("23505") => Error::range_error("newToken is already in use by another session."),
        Some("23514") => Error::range_error(format!("expiresAt is not allowed by the table of sessions: {error}")),
        // All columns that the statement names were found to exist, so a trigger names another one.
        Some("42703") => updates_fail(error),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::postgres::PostgresOptions;
    use crate::stores::postgres::listener::CHANNEL;
    use crate::stores::postgres::testing::{TestDatabase, token};

    const HOUR: Duration = Duration::from_secs(3600);
    const IN_AN_HOUR: &str = "now() + interval '1 hour'";

    async fn both_ways(database: &TestDatabase) -> [Postgres; 2] {
        [true, false].map(|statement_cache| {
            database.open_with(PostgresOptions { url: database.url.clone(), pool_size: 2, statement_cache })
        })
    }

    #[test]
    fn every_process_listens_where_the_statements_speak() {
        assert!(BY_ID.delete.sql.contains(&format!("pg_notify('{CHANNEL}'")));
    }

    #[tokio::test]
    async fn a_valid_session_is_found_whole() {
        let database = TestDatabase::create(false).await;
        let user = database.user("ann@example.org").await;
        database.run("UPDATE platform.users SET first_name = 'Ann', username = 'ann'").await;
        database.session(&user, "t", "'2099-01-02T03:04:05.678999Z'").await;
        database
            .run(
                "UPDATE platform.user_sessions SET ip_address = '10.0.0.7', user_agent = 'x', \
                 created_at = '2024-02-03 04:05:06.7+02', last_activity_at = '2024-02-03T04:05:06Z'",
            )
            .await;
        for postgres in both_ways(&database).await {
            let Found { session, remaining } = postgres.find(token("t")).await.unwrap().unwrap();
            assert_eq!(session.user_id, user);
            assert_eq!(session.token, token("t").to_hex());
            assert_eq!(session.expires_at, "2099-01-02T03:04:05.678Z");
            assert_eq!(session.created_at, "2024-02-03T02:05:06.700Z");
            assert_eq!(session.last_activity_at, "2024-02-03T04:05:06.000Z");
            assert_eq!((session.ip_address.as_deref(), session.user_agent.as_deref()), (Some("10.0.0.7"), Some("x")));
            assert_eq!((session.email.as_str(), session.first_name.as_deref()), ("ann@example.org", Some("Ann")));
            assert_eq!((session.last_name, session.username.as_deref()), (None, Some("ann")));
            let expires = Duration::from_micros(4_071_006_245_678_999);
            let ends = SystemTime::now() + remaining;
            assert!(ends.duration_since(SystemTime::UNIX_EPOCH).unwrap().abs_diff(expires) < Duration::from_secs(5));
        }
    }

    #[tokio::test]
    async fn open_and_endless_values_have_a_form() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", "'infinity'").await;
        let postgres = database.open(1);
        database.run("UPDATE platform.user_sessions SET created_at = NULL, last_activity_at = NULL").await;
        let Found { session, remaining } = postgres.find(token("t")).await.unwrap().unwrap();
        assert_eq!(session.expires_at, "9999-12-31T23:59:59.999Z");
        assert!(remaining > HOUR * 24 * 365 * 7000);
        assert_eq!(session.created_at, "1970-01-01T00:00:00.000Z");
        assert_eq!(session.last_activity_at, session.created_at);
        assert_eq!((session.ip_address, session.user_agent), (None, None));

        database.run("UPDATE platform.user_sessions SET created_at = '-infinity', expires_at = '20000-01-01Z'").await;
        let Found { session, .. } = postgres.find(token("t")).await.unwrap().unwrap();
        assert_eq!(session.expires_at, "9999-12-31T23:59:59.999Z");
        assert_eq!(
            (session.created_at.as_str(), session.last_activity_at),
            ("0001-01-01T00:00:00.000Z", session.created_at.clone())
        );

        for (stored, shown) in [
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:10.0.0.7", "::ffff:10.0.0.7"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("10.1.2.3/16", "10.1.2.3/16"),
        ] {
            database.run_named("UPDATE platform.user_sessions SET ip_address = '{role}'", stored).await;
            assert_eq!(postgres.find(token("t")).await.unwrap().unwrap().session.ip_address.as_deref(), Some(shown));
        }
    }

    #[tokio::test]
    async fn who_may_not_come_in_is_not_found() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", IN_AN_HOUR).await;
        let postgres = database.open(1);
        for (change, found) in [
            ("UPDATE platform.users SET banned_until = now() - interval '1 second'", true),
            ("UPDATE platform.users SET banned_until = now() + interval '1 hour'", false),
            ("UPDATE platform.users SET banned_until = 'infinity'", false),
            ("UPDATE platform.users SET banned_until = '-infinity'", true),
            ("UPDATE platform.users SET banned_until = NULL", true),
            ("UPDATE platform.users SET deleted_at = now()", false),
            ("UPDATE platform.users SET deleted_at = NULL", true),
            ("UPDATE platform.user_sessions SET created_at = '2000-01-01', expires_at = now()", false),
        ] {
            database.run(change).await;
            assert_eq!(postgres.find(token("t")).await.unwrap().is_some(), found, "{change}");
        }
        assert!(postgres.find(token("unknown")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn sessions_are_named_announced_and_deleted_by_each_way() {
        let database = TestDatabase::create(false).await;
        let (ann, bob) = (database.user("a@x.io").await, database.user("b@x.io").await);
        let nobody = "00000000-0000-0000-0000-000000000000";
        for postgres in both_ways(&database).await {
            for case in 0..7 {
                database.run("DELETE FROM platform.user_sessions").await;
                let id = database.session(&ann, "a1", IN_AN_HOUR).await;
                database.session(&ann, "a2", "'2001-01-01'").await;
                database.session(&ann, "a3", IN_AN_HOUR).await;
                database.session(&bob, "b1", IN_AN_HOUR).await;
                let (which, expected): (Which<'_>, &[&str]) = match case {
                    0 => (Which::Id(&id), &["a1"]),
                    1 => (Which::Id(nobody), &[]),
                    2 => (Which::Token(token("a2")), &["a2"]),
                    3 => (Which::Token(token("unknown")), &[]),
                    4 => (Which::User(&ann), &["a1", "a2", "a3"]),
                    5 => (Which::Others { user: &ann, except: &id }, &["a2", "a3"]),
                    _ => (Which::Others { user: &bob, except: &id }, &["b1"]),
                };
                let mut expected: Vec<_> = expected.iter().map(|text| token(text)).collect();
                expected.sort();
                let expected = Named { rows: expected.len() as u64, tokens: expected };
                for (step, named) in [
                    ("name", postgres.name(which).await),
                    ("announce", postgres.announce(which).await),
                    ("delete", postgres.delete(which).await),
                    ("name", postgres.name(which).await),
                ]
                .into_iter()
                .enumerate()
                {
                    let (verb, named) = named;
                    let mut named = named.unwrap();
                    named.tokens.sort();
                    let expected = if step < 3 { expected.clone() } else { Named::default() };
                    assert_eq!(named, expected, "{verb} {which:?}");
                }
                assert_eq!(
                    postgres.name(Which::User(&ann)).await.unwrap().rows
                        + postgres.name(Which::User(&bob)).await.unwrap().rows,
                    4 - expected.rows
                );
            }
        }
    }

    #[tokio::test]
    async fn many_tokens_are_told_in_few_messages() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        for installed in [false, true] {
            database
                .run(&format!(
                    "INSERT INTO platform.user_sessions (user_id, token, expires_at) SELECT '{user}', \
                     encode(sha256(n::text::bytea), 'hex'), {IN_AN_HOUR} FROM generate_series(1, 250) AS n"
                ))
                .await;
            let mut announced = database.announced().await;
            let postgres = database.open(1);
            if installed {
                postgres.install_triggers().await.unwrap();
            }
            for delete in [false, true] {
                let named = match delete {
                    false => postgres.announce(Which::User(&user)).await,
                    true => postgres.delete(Which::User(&user)).await,
                };
                let payloads = announced.payloads(&database).await;
                let counts: Vec<_> = payloads.iter().map(|payload| payload.split(' ').count()).collect();
                assert_eq!(counts, [100, 100, 50], "what the triggers say again is dropped");
                assert!(payloads.iter().all(|payload| payload.len() <= 6499));
                let mut named: Vec<_> = named.unwrap().tokens.iter().map(|token| token.to_hex()).collect();
                named.sort();
                assert_eq!(payloads.join(" "), named.join(" "));
            }
        }
    }

    #[tokio::test]
    async fn a_stored_token_that_is_no_hash_is_deleted_and_told_to_nobody() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        let id = database.session(&user, "t", IN_AN_HOUR).await;
        database.run("UPDATE platform.user_sessions SET token = repeat('raw', 2700)").await;
        let mut announced = database.announced().await;
        let postgres = database.open(1);
        postgres.install_triggers().await.unwrap();
        assert_eq!(postgres.announce(Which::User(&user)).await.unwrap(), Named { rows: 1, tokens: vec![] });
        assert_eq!(postgres.delete(Which::Id(&id)).await.unwrap(), Named { rows: 1, tokens: vec![] });
        assert_eq!(announced.payloads(&database).await, [""; 0]);
    }

    #[tokio::test]
    async fn rotation_moves_a_valid_session_to_its_new_token() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        for postgres in both_ways(&database).await {
            database.session(&user, "old", IN_AN_HOUR).await;
            let end = SystemTime::UNIX_EPOCH + Duration::from_micros(4_071_006_245_678_901);
            assert!(postgres.rotate(token("old"), token("new"), end).await.unwrap());
            assert!(postgres.find(token("old")).await.unwrap().is_none());
            let session = postgres.find(token("new")).await.unwrap().unwrap().session;
            assert_eq!(session.expires_at, "2099-01-02T03:04:05.678Z");
            assert!(!postgres.rotate(token("old"), token("new"), end).await.unwrap());

            database.run("UPDATE platform.users SET banned_until = 'infinity'").await;
            assert!(!postgres.rotate(token("new"), token("newer"), end).await.unwrap());
            database.run("UPDATE platform.users SET banned_until = NULL").await;

            database.session(&user, "other", IN_AN_HOUR).await;
            let taken = postgres.rotate(token("other"), token("new"), end).await.unwrap_err();
            assert_eq!(taken.code(), "ERR_INVALID_ARG");
            assert!(taken.to_string().starts_with("newToken is already in use"), "{taken}");
            let past = postgres.rotate(token("other"), token("newer"), SystemTime::UNIX_EPOCH).await.unwrap_err();
            assert_eq!(past.code(), "ERR_INVALID_ARG");
            assert!(past.to_string().starts_with("expiresAt "), "{past}");
            let for_ever = SystemTime::now() + HOUR * 24 * 365 * 20_000;
            assert!(postgres.rotate(token("other"), token("newer"), for_ever).await.unwrap());
            assert_eq!(postgres.delete(Which::User(&user)).await.unwrap().rows, 2);
        }
    }

    #[tokio::test]
    async fn the_broken_trigger_makes_a_rotation_say_the_cure_and_a_deletion_work() {
        let database = TestDatabase::create(true).await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", IN_AN_HOUR).await;
        let postgres = database.open(1);
        let error = postgres.rotate(token("t"), token("u"), SystemTime::now() + HOUR).await.unwrap_err();
        assert_eq!(error.code(), "ERR_SESSION_STORE");
        assert!(error.to_string().contains("sql/fix_activity_trigger.sql"), "{error}");
        assert!(postgres.find(token("t")).await.unwrap().is_some());
        assert_eq!(postgres.delete(Which::Token(token("t"))).await.unwrap().tokens, [token("t")]);
    }

    #[tokio::test]
    async fn errors_hold_no_contents_of_rows() {
        let database = TestDatabase::create(false).await;
        let user = database.user("secret@x.io").await;
        database.session(&user, "t", IN_AN_HOUR).await;
        database
            .run(
                "CREATE FUNCTION platform.no() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'no, %', (SELECT email FROM platform.users); END $$; \
                 CREATE TRIGGER no BEFORE DELETE ON platform.user_sessions FOR EACH ROW EXECUTE FUNCTION platform.no()",
            )
            .await;
        let postgres = database.open(1);
        for error in [
            postgres.delete(Which::Token(token("t"))).await.unwrap_err(),
            postgres.name(Which::Id("secret")).await.unwrap_err(),
        ] {
            assert_eq!(error.code(), "ERR_REPLY");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
