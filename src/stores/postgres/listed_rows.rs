//! The SQL of many sessions at once: what is warmed, and what a user is shown.

use super::Postgres;
use super::pool::{Kind, Statement};
use super::session_rows::found;
use crate::error::Result;
use crate::keys::TokenHash;
use crate::session::{Session, UserSessionStats};
use crate::stores::Found;
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::time::Duration;

const FIND_ALL: Statement = Statement { kind: Kind::Read, sql: find!("s.token = ANY ($1::text::text[])") };

const NEWEST: Statement = Statement {
    kind: Kind::Read,
    sql: concat!(
        "SELECT s.token::text AS token FROM platform.user_sessions s JOIN platform.users u ON u.id = s.user_id ",
        "WHERE s.last_activity_at >= statement_timestamp() - $2::text::int8 * interval '1 millisecond' ",
        "AND s.token ~ '^[0-9a-f]{64}$' AND ",
        valid!(),
        " ORDER BY s.last_activity_at DESC, s.id LIMIT $1::text::int8"
    ),
};

const OF_USER: Statement = Statement {
    kind: Kind::Read,
    sql: concat!(
        "SELECT ",
        session!(),
        " FROM platform.user_sessions s WHERE s.user_id = $1::text::uuid AND s.expires_at > statement_timestamp() ORDER BY ",
        last_activity_at!(),
        " DESC, s.id"
    ),
};

const STATS_OF_USER: Statement = Statement {
    kind: Kind::Read,
    sql: concat!(
        "SELECT count(*) AS total, CASE WHEN count(*) > 0 THEN ",
        iso!(concat!("min(", created_at!(), ")")),
        " END AS oldest, CASE WHEN count(*) > 0 THEN ",
        iso!(concat!("max(", created_at!(), ")")),
        " END AS newest, count(DISTINCT (s.ip_address, s.user_agent)) AS devices ",
        "FROM platform.user_sessions s WHERE s.user_id = $1::text::uuid AND s.expires_at > statement_timestamp()"
    ),
};

/// The longest time that is looked back over: a hundred years, well within what Postgres can subtract.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Whole milliseconds of an age, as text.
pub(super) fn milliseconds(age: Duration) -> String {
    age.min(LONGEST).as_millis().to_string()
}

/// A literal of an array, of elements that need no quotes.
pub(super) fn array(elements: impl Iterator<Item = String>) -> String {
    let mut text = String::from("{");
    for (index, element) in elements.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&element);
    }
    text.push('}');
    text
}

impl Postgres {
    pub(super) async fn rows_of_tokens(&self, tokens: &[TokenHash]) -> Result<Vec<(TokenHash, Found)>> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.fetch(&FIND_ALL, &[&array(tokens.iter().map(|token| token.to_hex()))]).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            let found = found(row).map_err(|error| self.unreadable(error))?;
            all.extend(TokenHash::from_hex(&found.session.token).map(|token| (token, found)));
        }
        Ok(all)
    }

    pub(super) async fn newest_tokens(&self, limit: u32, within: Duration) -> Result<Vec<TokenHash>> {
        let rows = self.fetch(&NEWEST, &[&limit.to_string(), &milliseconds(within)]).await?;
        Ok(self.told(&rows)?.tokens)
    }

    pub(super) async fn rows_of_user(&self, user: &str) -> Result<Vec<Session>> {
        let rows = self.fetch(&OF_USER, &[user]).await?;
        rows.iter().map(session).collect::<sqlx::Result<_>>().map_err(|error| self.unreadable(error))
    }

    pub(super) async fn row_of_stats(&self, user: &str) -> Result<UserSessionStats> {
        let rows = self.fetch(&STATS_OF_USER, &[user]).await?;
        let none = UserSessionStats { total_active: 0, oldest_session: None, newest_session: None, devices_count: 0 };
        rows.first().map_or(Ok(none), stats).map_err(|error| self.unreadable(error))
    }
}

fn session(row: &PgRow) -> sqlx::Result<Session> {
    Ok(Session {
        id: row.try_get("id")?,
        user_id: row.try_get("user_id")?,
        token: row.try_get("token")?,
        expires_at: row.try_get("expires_at")?,
        last_activity_at: row.try_get("last_activity_at")?,
        ip_address: row.try_get("ip_address")?,
        user_agent: row.try_get("user_agent")?,
        created_at: row.try_get("created_at")?,
    })
}

fn stats(row: &PgRow) -> sqlx::Result<UserSessionStats> {
    Ok(UserSessionStats {
        total_active: row.try_get("total")?,
        oldest_session: row.try_get("oldest")?,
        newest_session: row.try_get("newest")?,
        devices_count: row.try_get("devices")?,
    })
}

#[cfg(test)]
mod tests {
    use crate::stores::SessionRows;
    use crate::stores::postgres::testing::{TestDatabase, token};
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);
    const IN_AN_HOUR: &str = "now() + interval '1 hour'";

    #[tokio::test]
    async fn several_tokens_find_the_valid_sessions_among_them() {
        let database = TestDatabase::create(false).await;
        let (ann, bob) = (database.user("a@x.io").await, database.user("b@x.io").await);
        for name in ["a", "b"] {
            database.session(&ann, name, IN_AN_HOUR).await;
        }
        database.session(&ann, "expired", "now()").await;
        database.session(&bob, "banned", IN_AN_HOUR).await;
        database.run("UPDATE platform.users SET banned_until = 'infinity' WHERE email = 'b@x.io'").await;
        let postgres = database.open(1);
        let asked: Vec<_> = ["expired", "b", "none", "banned", "a"].map(token).into();
        let mut all = postgres.find_all(&asked).await.unwrap();
        all.sort_by_key(|(token, _)| *token);
        let mut expected = [token("a"), token("b")];
        expected.sort();
        assert_eq!(all.iter().map(|(token, _)| *token).collect::<Vec<_>>(), expected);
        for (token, found) in all {
            let alone = postgres.find(token).await.unwrap().unwrap();
            assert_eq!(found.session, alone.session);
            assert!(found.remaining.abs_diff(alone.remaining) < Duration::from_secs(5));
        }
        assert!(postgres.find_all(&[]).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_newest_are_those_that_may_come_in_and_were_active_lately() {
        let database = TestDatabase::create(false).await;
        let (ann, bob) = (database.user("a@x.io").await, database.user("b@x.io").await);
        for (user, name, end) in [
            (&ann, "now", IN_AN_HOUR),
            (&ann, "hour", IN_AN_HOUR),
            (&ann, "day", IN_AN_HOUR),
            (&ann, "never", IN_AN_HOUR),
            (&ann, "expired", "now()"),
            (&bob, "deleted", IN_AN_HOUR),
        ] {
            database.session(user, name, end).await;
        }
        for (name, active) in
            [("hour", "now() - interval '1 hour'"), ("day", "now() - interval '1 day'"), ("never", "NULL")]
        {
            let token = token(name).to_hex();
            let sql = format!("UPDATE platform.user_sessions SET last_activity_at = {active} WHERE token = '{token}'");
            database.run(&sql).await;
        }
        database.run("UPDATE platform.users SET deleted_at = now() WHERE email = 'b@x.io'").await;
        let raw = format!(
            "INSERT INTO platform.user_sessions (user_id, token, expires_at) VALUES ('{ann}', 'raw', {IN_AN_HOUR})"
        );
        database.run(&raw).await;
        let postgres = database.open(1);
        assert_eq!(postgres.newest(10, HOUR * 23).await.unwrap(), [token("now"), token("hour")]);
        assert_eq!(postgres.newest(10, Duration::MAX).await.unwrap(), ["now", "hour", "day"].map(token));
        assert_eq!(postgres.newest(1, HOUR * 23).await.unwrap(), [token("now")]);
        assert!(postgres.newest(0, HOUR).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_user_is_shown_the_sessions_that_have_not_expired() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        let postgres = database.open(1);
        assert!(postgres.of_user(&user).await.unwrap().is_empty());
        let none = postgres.stats_of_user(&user).await.unwrap();
        assert_eq!(
            (none.total_active, none.oldest_session, none.newest_session, none.devices_count),
            (0, None, None, 0)
        );

        for (name, created, active, device) in [
            ("old", "'2020-01-01Z'", "'2020-01-02Z'", "'10.0.0.7', 'x'"),
            ("new", "'2021-01-01Z'", "'2021-01-02Z'", "'10.0.0.7', 'y'"),
            ("same", "'2020-06-01Z'", "NULL", "'10.0.0.7', 'x'"),
            ("open", "NULL", "NULL", "NULL, NULL"),
        ] {
            let token = token(name).to_hex();
            database
                .run(&format!(
                    "INSERT INTO platform.user_sessions (user_id, token, expires_at, created_at, last_activity_at, \
                     ip_address, user_agent) VALUES ('{user}', '{token}', {IN_AN_HOUR}, {created}, {active}, {device})"
                ))
                .await;
        }
        database.session(&user, "expired", "now()").await;
        let other = database.user("b@x.io").await;
        database.session(&other, "other", IN_AN_HOUR).await;

        let sessions = postgres.of_user(&user).await.unwrap();
        let tokens: Vec<_> = sessions.iter().map(|session| session.token.clone()).collect();
        assert_eq!(tokens, ["new", "same", "old", "open"].map(|name| token(name).to_hex()));
        let found = postgres.find(token("new")).await.unwrap().unwrap().session;
        assert_eq!(sessions[0].id, found.id);
        assert_eq!((&sessions[0].user_id, &sessions[0].expires_at), (&user, &found.expires_at));
        assert_eq!(sessions[0].created_at, "2021-01-01T00:00:00.000Z");
        assert_eq!(sessions[0].last_activity_at, "2021-01-02T00:00:00.000Z");
        assert_eq!(
            (sessions[0].ip_address.as_deref(), sessions[0].user_agent.as_deref()),
            (Some("10.0.0.7"), Some("y"))
        );

        let stats = postgres.stats_of_user(&user).await.unwrap();
        assert_eq!((stats.total_active, stats.devices_count), (4, 3));
        assert_eq!(stats.oldest_session.as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(stats.newest_session.as_deref(), Some("2021-01-01T00:00:00.000Z"));
    }
}
