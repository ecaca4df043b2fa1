//! The SQL of what is done to sessions beside their use: activity is written, and what is of no use any more is deleted.
//!
//! All that locks several sessions locks them in the order of their ids, or passes over what is locked. So two
//! processes with the same sessions never wait for each other in a circle.

use super::Postgres;
use super::errors::updates_fail;
use super::listed_rows::{array, milliseconds};
use super::pool::{Kind, Statement};
use crate::error::{Error, Result};
use crate::stores::Named;
use std::time::Duration;
use uuid::Uuid;

/// The lock is taken on the newest version of a row, of which both conditions are asked again.
const WRITE_ACTIVITY: Statement = Statement {
    kind: Kind::Write,
    sql: concat!(
        "WITH given AS MATERIALIZED (",
        "SELECT g.id, statement_timestamp() - min(g.age) * interval '1 millisecond' AS active_at ",
        "FROM unnest($1::text::uuid[], $2::text::int8[]) AS g (id, age) GROUP BY g.id), ",
        "due AS MATERIALIZED (",
        "SELECT s.id, g.active_at FROM platform.user_sessions s JOIN given g ON g.id = s.id ",
        "WHERE (s.last_activity_at < g.active_at) IS NOT FALSE ORDER BY s.id FOR NO KEY UPDATE OF s), ",
        "written AS (",
        "UPDATE platform.user_sessions s SET last_activity_at = due.active_at FROM due ",
        "WHERE s.id = due.id AND (s.last_activity_at < due.active_at) IS NOT FALSE RETURNING s.id) ",
        "SELECT count(*) AS rows FROM written"
    ),
};

const DELETE_EXPIRED: Statement = Statement {
    kind: Kind::Write,
    sql: delete_those!(
        "s.expires_at <= statement_timestamp() ORDER BY s.expires_at, s.id LIMIT $1::text::int8 FOR UPDATE SKIP LOCKED"
    ),
};

/// A session without any time is not known to have been inactive.
const DELETE_INACTIVE: Statement = Statement {
    kind: Kind::Write,
    sql: delete_those!(
        "(s.last_activity_at < statement_timestamp() - $2::text::int8 * interval '1 millisecond' ",
        "OR s.last_activity_at IS NULL AND s.created_at < statement_timestamp() - $2::text::int8 * interval '1 millisecond') ",
        "ORDER BY s.last_activity_at, s.id LIMIT $1::text::int8 FOR UPDATE SKIP LOCKED"
    ),
};

/// Updates one session as `WRITE_ACTIVITY` would, and takes it back.
const TRY_ACTIVITY: Statement = Statement {
    kind: Kind::Write,
    sql: "DO $$ BEGIN \
          UPDATE platform.user_sessions SET last_activity_at = last_activity_at \
          WHERE id = (SELECT id FROM platform.user_sessions LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED); \
          RAISE SQLSTATE 'UNDO0'; \
          EXCEPTION WHEN SQLSTATE 'UNDO0' THEN NULL; END $$",
};

impl Postgres {
    pub(super) async fn update_activity(&self, active: &[(Uuid, Duration)]) -> Result<()> {
        if active.is_empty() {
            return Ok(());
        }
        self.refuse_where_updates_fail().await?;
        let ids = array(active.iter().map(|(id, _)| id.to_string()));
        let ages = array(active.iter().map(|(_, age)| milliseconds(*age)));
        match self.fetch(&WRITE_ACTIVITY, &[&ids, &ages]).await {
            Ok(_) => Ok(()),
            // All columns that the statement names were found to exist, so a trigger names another one.
            Err(error) if error.reply_kind() == Some("42703") => Err(updates_fail(error)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn delete_expired_rows(&self, most: u32) -> Result<Named> {
        self.told(&self.fetch(&DELETE_EXPIRED, &[&most.to_string()]).await?)
    }

    pub(super) async fn delete_inactive_rows(&self, idle: Duration, most: u32) -> Result<Named> {
        self.refuse_where_updates_fail().await?;
        // Not every trigger or missing right that forbids updates is found by looking: only trying is certain.
        self.fetch(&TRY_ACTIVITY, &[]).await.map_err(why_inactive)?;
        self.told(&self.fetch(&DELETE_INACTIVE, &[&most.to_string(), &milliseconds(idle)]).await?)
    }

    /// Fails where a trigger is known to make every update fail; asked again now and then, so that its end is noticed.
    async fn refuse_where_updates_fail(&self) -> Result<()> {
        if self.findings().await?.refuses_updates().is_none() {
            return Ok(());
        }
        let findings = self.shared.checks.doubt(&self.shared.pool).await?;
        findings.refuses_updates().map_or(Ok(()), Err)
    }
}

/// Why nothing was deleted, if the attempt to write activity was answered with a refusal.
fn why_inactive(error: Error) -> Error {
    match error.reply_kind() {
        Some("42703") => updates_fail(error),
        Some(_) => Error::SessionStore {
            reason: format!(
                "Activity cannot be written, so that sessions in use would be deleted as inactive. {error} Let this role \
                 update platform.user_sessions."
            ),
            source: Some(error.into()),
        },
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::postgres::PostgresOptions;
    use crate::stores::postgres::testing::{TestDatabase, token};
    use crate::stores::{SessionRows, Which};
    use std::sync::Arc;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const IN_AN_HOUR: &str = "now() + interval '1 hour'";
    const FIX: &str = include_str!("../../../sql/fix_activity_trigger.sql");

    async fn session(database: &TestDatabase, user: &str, name: &str, active: &str) -> Uuid {
        let id = database.session(user, name, IN_AN_HOUR).await;
        database.run(&format!("UPDATE platform.user_sessions SET last_activity_at = {active} WHERE id = '{id}'")).await;
        id.parse().unwrap()
    }

    /// How many seconds ago a session was active.
    async fn age(database: &TestDatabase, id: Uuid) -> i64 {
        let sql = format!(
            "SELECT coalesce(extract(epoch FROM now() - last_activity_at)::int8, -1)::text FROM platform.user_sessions \
             WHERE id = '{id}'"
        );
        database.text(&sql).await.parse().unwrap()
    }

    #[tokio::test]
    async fn activity_is_written_and_no_time_moves_backwards() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        for statement_cache in [true, false] {
            let options = PostgresOptions { url: database.url.clone(), pool_size: 1, statement_cache };
            let postgres = database.open_with(options);
            let old = session(&database, &user, "old", "now() - interval '1 day'").await;
            let open = session(&database, &user, "open", "NULL").await;
            let newer = session(&database, &user, "newer", "now() - interval '1 minute'").await;
            let ever = session(&database, &user, "ever", "'infinity'").await;
            let untouched = "SELECT string_agg(xmin::text, ' ' ORDER BY id) FROM platform.user_sessions \
                             WHERE last_activity_at > now() - interval '2 minutes'";
            let before = database.text(untouched).await;
            let nobody = Uuid::from_u128(7);
            let batch = [(old, HOUR), (open, HOUR), (newer, HOUR), (ever, HOUR), (nobody, HOUR), (old, HOUR * 2)];
            postgres.write_activity(&batch).await.unwrap();
            for (id, expected) in [(old, 3600), (open, 3600), (newer, 60)] {
                assert!((expected..expected + 60).contains(&age(&database, id).await));
            }
            assert_eq!(database.text(untouched).await, before, "a row that does not move is not written");

            postgres.write_activity(&[(old, Duration::MAX), (newer, Duration::ZERO)]).await.unwrap();
            assert!((3600..3660).contains(&age(&database, old).await));
            assert!((0..30).contains(&age(&database, newer).await));
            postgres.write_activity(&[]).await.unwrap();
            database.run("DELETE FROM platform.user_sessions").await;
        }
    }

    #[tokio::test]
    async fn a_large_batch_is_one_statement() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        database
            .run(&format!(
                "INSERT INTO platform.user_sessions (id, user_id, token, expires_at, created_at, last_activity_at) \
                 SELECT lpad(to_hex(n), 32, '0')::uuid, '{user}', encode(sha256(n::text::bytea), 'hex'), {IN_AN_HOUR}, \
                 '2000-01-01', '2000-01-01' FROM generate_series(1, 5000) AS n"
            ))
            .await;
        let postgres = database.open(1);
        postgres.install_triggers().await.unwrap();
        let mut announced = database.announced().await;
        let batch: Vec<_> = (1..=5000).rev().map(|n| (Uuid::from_u128(n), HOUR)).collect();
        postgres.write_activity(&batch).await.unwrap();
        let written =
            "SELECT count(*)::text FROM platform.user_sessions WHERE last_activity_at > now() - interval '2 hours'";
        assert_eq!(database.text(written).await, "5000");
        assert_eq!(announced.payloads(&database).await, [""; 0], "activity is no news");
    }

    /// Every row takes a while, so that statements with the same rows certainly meet.
    async fn slow(database: &TestDatabase) {
        database
            .run(
                "CREATE FUNCTION platform.slow() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN PERFORM pg_sleep(0.02); RETURN coalesce(NEW, OLD); END $$; \
                 CREATE TRIGGER slow BEFORE UPDATE OR DELETE ON platform.user_sessions \
                 FOR EACH ROW EXECUTE FUNCTION platform.slow()",
            )
            .await;
    }

    async fn deadlocks(database: &TestDatabase) -> String {
        database.text("SELECT deadlocks::text FROM pg_stat_database WHERE datname = current_database()").await
    }

    /// Ten sessions that stand in the table against the order of their ids.
    async fn against_their_order(database: &TestDatabase, user: &str) -> Vec<Uuid> {
        let mut ids = Vec::new();
        for n in (1..=10).rev() {
            let id = session(database, user, &format!("t{n}"), "'2000-01-01'").await;
            let new = Uuid::from_u128(n);
            database.run(&format!("UPDATE platform.user_sessions SET id = '{new}' WHERE id = '{id}'")).await;
            ids.push(new);
        }
        ids
    }

    #[tokio::test]
    async fn a_revocation_of_all_sessions_and_their_activity_do_not_wait_for_each_other_in_a_circle() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        let ids = against_their_order(&database, &user).await;
        slow(&database).await;
        let (one, two) = (database.open(1), database.open(1));
        one.findings().await.unwrap();
        two.findings().await.unwrap();
        let active: Vec<_> = ids.iter().map(|id| (*id, Duration::ZERO)).collect();
        let (written, deleted) = tokio::join!(one.write_activity(&active), two.delete(Which::User(&user)));
        written.unwrap();
        assert_eq!(deleted.unwrap().rows, 10);
        assert_eq!(deadlocks(&database).await, "0");
    }

    #[tokio::test]
    async fn instances_with_the_same_sessions_do_not_wait_for_each_other_in_a_circle() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        let ids = against_their_order(&database, &user).await;
        slow(&database).await;
        let (one, two) = (database.open(1), database.open(1));
        for round in (1..=5).rev() {
            let ages = |ids: &[Uuid], extra| -> Vec<_> {
                ids.iter().map(|id| (*id, HOUR * round * 2 - Duration::from_secs(extra))).collect()
            };
            let forwards = ages(&ids, 0);
            let backwards: Vec<_> = ages(&ids, 60).into_iter().rev().collect();
            let (one, two) = tokio::join!(one.write_activity(&forwards), two.write_activity(&backwards));
            one.unwrap();
            two.unwrap();
        }
        for id in &ids {
            assert!((7140..7200).contains(&age(&database, *id).await), "the newer one stays, whoever was first");
        }
        assert_eq!(deadlocks(&database).await, "0");
    }

    #[tokio::test]
    async fn where_updates_fail_activity_is_refused_until_the_cure_and_nothing_counts_as_inactive() {
        let database = TestDatabase::create(true).await;
        let user = database.user("a@x.io").await;
        let id: Uuid = database.session(&user, "t", IN_AN_HOUR).await.parse().unwrap();
        let mut postgres = database.open(1);
        for _ in 0..2 {
            for refused in [
                postgres.write_activity(&[(id, HOUR)]).await.unwrap_err(),
                postgres.delete_inactive(Duration::ZERO, 10).await.unwrap_err(),
            ] {
                assert_eq!(refused.code(), "ERR_SESSION_STORE");
                let text = refused.to_string();
                assert!(
                    text.contains("update_user_sessions_activity") && text.contains("fix_activity_trigger"),
                    "{text}"
                );
                assert!(matches!(refused, Error::SessionStore { source: None, .. }), "it was not tried");
            }
        }
        database.run(FIX).await;
        postgres.write_activity(&[(id, HOUR)]).await.unwrap_err();
        Arc::get_mut(&mut postgres.shared).unwrap().checks.recheck_at_once();
        postgres.write_activity(&[(id, Duration::ZERO)]).await.unwrap();
        assert_eq!(postgres.delete_inactive(HOUR, 10).await.unwrap(), Named::default());
        assert!((0..60).contains(&age(&database, id).await));
    }

    #[tokio::test]
    async fn a_trigger_or_a_right_that_was_not_found_to_forbid_updates_is_noticed_by_trying() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        let id = session(&database, &user, "t", "'2000-01-01'").await;
        let role = database.role().await;
        let postgres = database.open_with(PostgresOptions { url: role.url, pool_size: 1, statement_cache: true });
        postgres.write_activity(&[]).await.unwrap();
        postgres.findings().await.unwrap();
        for (code, raises) in [("42703", "NEW.updated_at = now()"), ("P0001", "RAISE EXCEPTION 'secret'")] {
            database
                .run(&format!(
                    "CREATE OR REPLACE FUNCTION platform.no() RETURNS trigger LANGUAGE plpgsql AS \
                     $$ BEGIN {raises}; RETURN NEW; END $$; \
                     CREATE OR REPLACE TRIGGER no BEFORE UPDATE ON platform.user_sessions \
                     FOR EACH ROW EXECUTE FUNCTION platform.no()"
                ))
                .await;
            let refused = postgres.delete_inactive(DAY, 10).await.unwrap_err();
            assert_eq!(refused.code(), "ERR_SESSION_STORE");
            assert!(!refused.to_string().contains("secret"), "{refused}");
            let failed = postgres.write_activity(&[(id, HOUR)]).await.unwrap_err();
            let expected = if code == "42703" { "ERR_SESSION_STORE" } else { "ERR_REPLY" };
            assert_eq!(failed.code(), expected, "{failed}");
            assert_eq!(failed.to_string().contains("sql/fix_activity_trigger.sql"), code == "42703", "{failed}");
        }
        database.run("DROP TRIGGER no ON platform.user_sessions").await;
        database.run_named("REVOKE UPDATE ON platform.user_sessions FROM {role}", &role.name).await;
        let refused = postgres.delete_inactive(DAY, 10).await.unwrap_err();
        assert!(
            refused.to_string().contains("42501") && refused.to_string().contains("Let this role update"),
            "{refused}"
        );
        database.run_named("GRANT UPDATE ON platform.user_sessions TO {role}", &role.name).await;
        assert_eq!(postgres.delete_inactive(DAY, 10).await.unwrap().rows, 1);
    }

    #[tokio::test]
    async fn trying_changes_nothing() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        let id = session(&database, &user, "t", "now() - interval '1 hour'").await;
        database
            .run(
                "CREATE FUNCTION platform.touch() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN NEW.last_activity_at = now(); RETURN NEW; END $$; \
                 CREATE TRIGGER touch BEFORE UPDATE ON platform.user_sessions \
                 FOR EACH ROW EXECUTE FUNCTION platform.touch()",
            )
            .await;
        let postgres = database.open(1);
        assert_eq!(postgres.delete_inactive(DAY, 10).await.unwrap().rows, 0);
        assert!((3600..3660).contains(&age(&database, id).await));
    }

    #[tokio::test]
    async fn the_cure_drops_what_breaks_and_nothing_else() {
        let database = TestDatabase::create(true).await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", IN_AN_HOUR).await;
        let harmless = "CREATE TRIGGER \"Knows it\" BEFORE UPDATE ON platform.user_sessions FOR EACH ROW \
                        EXECUTE FUNCTION platform.knows(); \
                        CREATE TRIGGER sets BEFORE UPDATE ON platform.user_sessions FOR EACH ROW \
                        EXECUTE FUNCTION platform.sets(); \
                        CREATE TRIGGER users BEFORE UPDATE ON platform.users FOR EACH ROW \
                        EXECUTE FUNCTION platform.update_updated_at_column()";
        database
            .run(&format!(
                "CREATE FUNCTION platform.knows() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN IF TG_TABLE_NAME = 'users' THEN NEW.updated_at = now(); END IF; RETURN NEW; END $$; \
                 CREATE FUNCTION platform.sets() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN NEW.user_agent = 'x'; -- NEW.updated_at = now()\n RETURN NEW; END $$; {harmless}; \
                 CREATE TRIGGER \"A \"\"second\"\" one\" BEFORE UPDATE ON platform.user_sessions FOR EACH ROW \
                 EXECUTE FUNCTION platform.update_updated_at_column()"
            ))
            .await;
        assert!(database.open(1).findings().await.unwrap().broken_trigger.is_some());
        for _ in 0..2 {
            database.run(FIX).await;
            assert_eq!(database.open(1).findings().await.unwrap().broken_trigger, None);
            let left = "SELECT string_agg(tgname, ', ' ORDER BY tgname) FROM pg_trigger WHERE NOT tgisinternal";
            assert_eq!(database.text(left).await, "Knows it, sets, users");
            database.run("UPDATE platform.user_sessions SET expires_at = expires_at").await;
        }
    }

    #[tokio::test]
    async fn what_has_expired_is_deleted_some_at_a_time_the_oldest_first() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        for n in 1..=5 {
            database.session(&user, &format!("old{n}"), &format!("now() - interval '{n} hours'")).await;
        }
        let left = database.session(&user, "left", IN_AN_HOUR).await;
        let raw = "UPDATE platform.user_sessions SET token = 'raw' WHERE token = (SELECT min(token) FROM \
                   platform.user_sessions WHERE expires_at < now() - interval '150 minutes')";
        database.run(raw).await;
        let mut announced = database.announced().await;
        let postgres = database.open(1);
        let mut all = Vec::new();
        for expected in [2, 2, 1, 0] {
            let named = postgres.delete_expired(2).await.unwrap();
            assert_eq!(named.rows, expected);
            all.extend(named.tokens.iter().map(|token| token.to_hex()));
        }
        assert_eq!(all.len(), 4, "one had no hash for a token");
        assert_eq!(announced.words(&database).await, all.iter().cloned().collect());
        assert!(all.iter().rev().take(2).all(|hex| ["old1", "old2"].iter().any(|name| token(name).to_hex() == *hex)));
        assert_eq!(database.text("SELECT string_agg(id::text, ' ') FROM platform.user_sessions").await, left);
    }

    #[tokio::test]
    async fn the_inactive_are_deleted_and_what_is_locked_or_has_no_time_is_passed_over() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        for (name, active) in [
            ("years", "'2000-01-01'"),
            ("days", "now() - interval '2 days'"),
            ("locked", "'2001-01-01'"),
            ("hours", "now() - interval '2 hours'"),
            ("made", "NULL"),
            ("timeless", "NULL"),
        ] {
            session(&database, &user, name, active).await;
        }
        let timeless = token("timeless").to_hex();
        database.run(&format!("UPDATE platform.user_sessions SET created_at = NULL WHERE token = '{timeless}'")).await;
        let mut other = database.connect(&database.url).await;
        let lock = format!(
            "BEGIN; UPDATE platform.user_sessions SET last_activity_at = now() WHERE token = '{}'",
            token("locked").to_hex()
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut other).await.unwrap();
        let mut announced = database.announced().await;
        let postgres = database.open(1);
        assert_eq!(postgres.delete_inactive(DAY, 1).await.unwrap().tokens, [token("years")]);
        let rest = postgres.delete_inactive(DAY, 10).await.unwrap();
        assert_eq!(
            rest.tokens.iter().copied().collect::<std::collections::BTreeSet<_>>(),
            [token("days"), token("made")].into()
        );
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
        assert_eq!(postgres.delete_inactive(DAY, 10).await.unwrap(), Named::default());
        let told = ["years", "days", "made"].map(|name| token(name).to_hex());
        assert_eq!(announced.words(&database).await, told.into());
    }
}
