//! The optional triggers by which writes of others are heard: whether they are there, and how they come and go.

use super::Postgres;
use super::errors::translate;
use crate::error::{Error, Result};
use sqlx::Row;
use sqlx::postgres::PgRow;
use tokio::time::Instant;

/// What [`Postgres::install_triggers`] executes.
pub const INSTALL_TRIGGERS: &str = include_str!("../../../sql/session_events.sql");

/// What [`Postgres::uninstall_triggers`] executes.
pub const UNINSTALL_TRIGGERS: &str = include_str!("../../../sql/drop_session_events.sql");

/// Asks for the triggers; one row, with the columns that [`State::read`] wants.
pub(super) const QUESTION: &str = include_str!("triggers.sql");

/// Whether writes of others are announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Triggers {
    /// They were not installed, or were removed.
    #[default]
    Absent,
    /// Some are there, but not all of them are as they should be: what is wrong, in words.
    Faulty(String),
    /// All are there and enabled.
    Working,
}

/// The triggers at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub triggers: Triggers,
    /// Another one than before if a trigger was touched meanwhile, even if everything is as it was.
    pub mark: String,
}

impl State {
    pub(super) fn read(row: &PgRow) -> sqlx::Result<Self> {
        let faults: String = row.try_get("faults")?;
        let triggers = match (row.try_get("installed")?, faults.is_empty()) {
            (false, _) => Triggers::Absent,
            (true, true) => Triggers::Working,
            (true, false) => Triggers::Faulty(faults),
        };
        Ok(Self { triggers, mark: row.try_get("mark")? })
    }
}

impl Triggers {
    /// The warning, with the cure.
    pub(super) fn complaint(&self) -> Option<String> {
        let Self::Faulty(faults) = self else { return None };
        Some(format!(
            "The triggers by which writes of others are heard do not work: {faults}. Call installTriggers() again, or \
             run sql/session_events.sql of this package."
        ))
    }
}

impl Postgres {
    /// Installs the triggers, in one transaction; may be called again. Fails if a table stays locked for half a second.
    pub async fn install_triggers(&self) -> Result<()> {
        self.run_whole(INSTALL_TRIGGERS, "sql/session_events.sql").await
    }

    /// Removes the triggers, in one transaction; may be called again. Fails as `install_triggers` does.
    pub async fn uninstall_triggers(&self) -> Result<()> {
        self.run_whole(UNINSTALL_TRIGGERS, "sql/drop_session_events.sql").await
    }

    /// Runs a file on a connection of its own. If anything fails, its end undoes all of it.
    async fn run_whole(&self, sql: &'static str, file: &str) -> Result<()> {
        let pool = &self.shared.pool;
        let mut connection = pool.connect().await?;
        let done = sqlx::raw_sql(sql).execute(&mut connection).await;
        drop(sqlx::Connection::close(connection).await);
        done.map_err(|error| refused(translate(pool.server(), error), file))?;
        // It is done, whether or not they can be asked just now.
        let _ = self.shared.checks.findings_after(pool, Instant::now()).await;
        Ok(())
    }
}

/// Why a file was not executed, with the cure.
fn refused(error: Error, file: &str) -> Error {
    let reason = match error.reply_kind() {
        Some("42501") => format!(
            "{error}. Connect as the role that owns platform.users and platform.user_sessions and may create functions in \
             the schema platform, or let it run {file} of this package."
        ),
        Some("55P03" | "40P01") => {
            "Another transaction holds platform.users or platform.user_sessions. Nothing was changed, and nobody is kept \
             waiting. Repeat it when that transaction has ended."
                .into()
        }
        Some("42P01" | "3F000" | "42703") => format!(
            "{error}. Let DATABASE_URL name the database of Studio's platform, and run its migrations."
        ),
        Some("42601") => format!("{error}. Postgres 14 or later is needed."),
        Some(_) => error.to_string(),
        None => return error,
    };
    Error::SessionStore { reason, source: Some(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::postgres::PostgresOptions;
    use crate::stores::postgres::testing::{Announced, TestDatabase, token};
    use sqlx::AssertSqlSafe;
    use sqlx::postgres::PgConnection;
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    const IN_AN_HOUR: &str = "now() + interval '1 hour'";

    async fn found(database: &TestDatabase) -> Triggers {
        database.open(1).findings().await.unwrap().triggers.clone()
    }

    async fn installed() -> (TestDatabase, Announced) {
        let database = TestDatabase::create(false).await;
        database.open(1).install_triggers().await.unwrap();
        let announced = database.announced().await;
        (database, announced)
    }

    async fn run(connection: &mut PgConnection, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    fn hashes<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(|name| if name == "*" { name.to_owned() } else { token(name).to_hex() }).into()
    }

    #[tokio::test]
    async fn they_come_and_go_and_either_may_be_repeated() {
        let database = TestDatabase::create(false).await;
        let postgres = database.open(1);
        assert_eq!(postgres.findings().await.unwrap().triggers, Triggers::Absent);
        for _ in 0..2 {
            for _ in 0..2 {
                postgres.install_triggers().await.unwrap();
                assert_eq!(postgres.findings().await.unwrap().triggers, Triggers::Working);
                assert_eq!(found(&database).await, Triggers::Working);
            }
            for _ in 0..2 {
                postgres.uninstall_triggers().await.unwrap();
                assert_eq!(postgres.findings().await.unwrap().triggers, Triggers::Absent);
            }
        }
        let left = "SELECT count(*)::text FROM pg_trigger t, pg_proc p WHERE NOT tgisinternal OR proname ~ '^studio'";
        assert_eq!(database.text(left).await, "0");
    }

    #[tokio::test]
    async fn what_is_not_whole_is_found_and_mended() {
        let database = TestDatabase::create(false).await;
        let postgres = database.open(1);
        let older =
            INSTALL_TRIGGERS.replace("-- studio_session_events version 1\n", "-- studio_session_events version 0\n");
        for (change, fault) in [
            (
                "ALTER TABLE platform.users DISABLE TRIGGER studio_session_events_update",
                "studio_session_events_update of platform.users is not always enabled",
            ),
            (
                "ALTER TABLE platform.user_sessions ENABLE TRIGGER studio_session_events_delete",
                "studio_session_events_delete of platform.user_sessions is not always enabled",
            ),
            (
                "DROP TRIGGER studio_session_events_truncate ON platform.user_sessions",
                "studio_session_events_truncate of platform.user_sessions is missing",
            ),
            (older.as_str(), "studio_session_events_update of platform.users is of another version"),
            (
                "CREATE FUNCTION platform.other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
                 CREATE OR REPLACE TRIGGER studio_session_events_update AFTER UPDATE ON platform.users \
                 FOR EACH STATEMENT EXECUTE FUNCTION platform.other(); \
                 ALTER TABLE platform.users ENABLE ALWAYS TRIGGER studio_session_events_update",
                "studio_session_events_update of platform.users is of another version",
            ),
        ] {
            postgres.install_triggers().await.unwrap();
            database.run(change).await;
            let Triggers::Faulty(faults) = found(&database).await else { panic!("{change}: no fault") };
            assert!(faults.contains(fault), "{faults}");
            assert_eq!(faults.contains(", "), change.contains("version 0"), "{faults}");
        }
        postgres.install_triggers().await.unwrap();
        assert_eq!(found(&database).await, Triggers::Working);
    }

    #[tokio::test]
    async fn who_does_not_own_the_tables_is_told_so() {
        let database = TestDatabase::create(false).await;
        let role = database.role().await;
        let postgres = database.open_with(PostgresOptions { url: role.url, pool_size: 1, statement_cache: true });
        let refused = postgres.install_triggers().await.unwrap_err();
        assert_eq!(refused.code(), "ERR_SESSION_STORE");
        let text = refused.to_string();
        assert!(
            text.contains("42501") && text.contains("the role that owns") && text.contains("sql/session_events.sql")
        );
        assert_eq!(found(&database).await, Triggers::Absent);

        database.open(1).install_triggers().await.unwrap();
        let refused = postgres.uninstall_triggers().await.unwrap_err();
        assert!(refused.to_string().contains("sql/drop_session_events.sql"), "{refused}");
        assert_eq!(found(&database).await, Triggers::Working);

        // The owner of the tables need be no more than that.
        database.open(1).uninstall_triggers().await.unwrap();
        database
            .run_named(
                "ALTER TABLE platform.users OWNER TO {role}; ALTER TABLE platform.user_sessions OWNER TO {role}; \
                 GRANT CREATE ON SCHEMA platform TO {role}",
                &role.name,
            )
            .await;
        postgres.install_triggers().await.unwrap();
        let mut announced = database.announced().await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", IN_AN_HOUR).await;
        database.run("UPDATE platform.users SET username = 'x'").await;
        assert_eq!(announced.words(&database).await, hashes(["t"]));
        postgres.uninstall_triggers().await.unwrap();
        database.run_named("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}", &role.name).await;
    }

    #[tokio::test]
    async fn a_database_without_the_tables_is_no_database_of_studio() {
        let database = TestDatabase::create(false).await;
        database.run("DROP SCHEMA platform CASCADE").await;
        let postgres = database.open(1);
        let refused = postgres.install_triggers().await.unwrap_err();
        assert_eq!(refused.code(), "ERR_SESSION_STORE");
        assert!(refused.to_string().contains("run its migrations"), "{refused}");
        postgres.uninstall_triggers().await.unwrap();
        assert_eq!(postgres.findings().await.unwrap().triggers, Triggers::Absent);
    }

    #[tokio::test]
    async fn a_long_transaction_makes_it_fail_soon_and_a_repetition_succeed() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        let postgres = database.open(1);
        let mut other = database.connect(&database.url).await;
        for change in ["UPDATE platform.users SET username = 'x'", "DELETE FROM platform.user_sessions"] {
            database.session(&user, "t", IN_AN_HOUR).await;
            run(&mut other, &format!("BEGIN; {change}")).await;
            let refused = postgres.install_triggers().await.unwrap_err();
            assert_eq!(refused.code(), "ERR_SESSION_STORE");
            assert!(refused.to_string().contains("Repeat it"), "{refused}");
            let waiting = "SELECT count(*)::text FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                           WHERE NOT l.granted AND a.datname = current_database()";
            database.until(waiting, "0").await;
            run(&mut other, "ROLLBACK").await;
            postgres.install_triggers().await.unwrap();
            run(&mut other, &format!("BEGIN; {change}")).await;
            let refused = postgres.uninstall_triggers().await.unwrap_err();
            assert!(refused.to_string().contains("Repeat it"), "{refused}");
            assert_eq!(found(&database).await, Triggers::Working);
            run(&mut other, "COMMIT").await;
            postgres.uninstall_triggers().await.unwrap();
            database.run("DELETE FROM platform.user_sessions").await;
        }
    }

    #[tokio::test]
    async fn each_write_announces_the_sessions_that_it_changes_and_no_others() {
        let (database, mut announced) = installed().await;
        let (ann, bob) = (database.user("a@x.io").await, database.user("b@x.io").await);
        for (user, name) in [(&ann, "a1"), (&ann, "a2"), (&bob, "b1"), (&bob, "b2")] {
            database.session(user, name, IN_AN_HOUR).await;
        }
        let [a1, a2, b1, c1] = ["a1", "a2", "b1", "c1"].map(|name| token(name).to_hex());
        let sessions = "UPDATE platform.user_sessions SET";
        let users = "UPDATE platform.users SET";
        for (sql, expected) in [
            (format!("{sessions} last_activity_at = now()"), hashes([])),
            (format!("{sessions} user_agent = 'x', refresh_token = token, created_at = '2001-01-01'"), hashes([])),
            (format!("{sessions} expires_at = expires_at, token = token, user_id = user_id, id = id"), hashes([])),
            (
                format!("{users} updated_at = now(), metadata = '{{}}', password_hash = 'x', avatar_url = 'x'"),
                hashes([]),
            ),
            (format!("{users} email = email, banned_until = NULL"), hashes([])),
            (format!("{sessions} expires_at = now() + interval '2 hours' WHERE token = '{a1}'"), hashes(["a1"])),
            (format!("{sessions} token = '{c1}' WHERE token = '{a1}'"), hashes(["a1", "c1"])),
            (format!("{sessions} id = gen_random_uuid() WHERE token = '{c1}'"), hashes(["c1"])),
            (format!("{sessions} user_id = '{bob}' WHERE token = '{c1}'"), hashes(["c1"])),
            (format!("{sessions} user_id = '{ann}', token = '{a1}' WHERE token = '{c1}'"), hashes(["a1", "c1"])),
            (format!("{users} email = 'c@x.io' WHERE id = '{ann}'"), hashes(["a1", "a2"])),
            (format!("{users} first_name = 'x' WHERE id = '{bob}'"), hashes(["b1", "b2"])),
            (format!("{users} last_name = ''"), hashes(["a1", "a2", "b1", "b2"])),
            (format!("{users} username = 'x' WHERE id = '{bob}'"), hashes(["b1", "b2"])),
            (format!("{users} banned_until = 'infinity', updated_at = now() WHERE id = '{ann}'"), hashes(["a1", "a2"])),
            (format!("{users} banned_until = NULL WHERE id = '{ann}'"), hashes(["a1", "a2"])),
            (format!("{users} deleted_at = now()"), hashes(["a1", "a2", "b1", "b2"])),
            (
                format!(
                    "INSERT INTO platform.user_sessions (user_id, token, expires_at) VALUES ('{ann}', '{a2}', 'infinity'), \
                     ('{ann}', '{c1}', 'infinity') ON CONFLICT (token) DO UPDATE SET expires_at = excluded.expires_at"
                ),
                hashes(["a2"]),
            ),
            (format!("DELETE FROM platform.user_sessions WHERE token IN ('{b1}', '{c1}')"), hashes(["b1", "c1"])),
            ("BEGIN; DELETE FROM platform.user_sessions; ROLLBACK".to_owned(), hashes([])),
            // A deleted user takes the sessions along, which announces them.
            (format!("DELETE FROM platform.users WHERE id = '{ann}'"), hashes(["a1", "a2"])),
            ("TRUNCATE platform.user_sessions".to_owned(), hashes(["*"])),
            ("TRUNCATE platform.users CASCADE".to_owned(), hashes(["*"])),
        ] {
            database.run(&sql).await;
            assert_eq!(announced.words(&database).await, expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn any_writer_is_heard_whatever_else_it_may_do() {
        let (database, mut announced) = installed().await;
        let user = database.user("a@x.io").await;
        for name in ["a", "b"] {
            database.session(&user, name, IN_AN_HOUR).await;
        }
        let role = database.role().await;
        database.run_named("REVOKE ALL ON platform.user_sessions FROM {role}", &role.name).await;
        let mut other = database.connect(&role.url).await;
        // Names of the caller's own stand for nothing in the function.
        run(&mut other, "CREATE TEMPORARY TABLE user_sessions (token text); SET search_path = pg_temp, platform").await;
        run(&mut other, "UPDATE users SET username = 'x'").await;
        assert_eq!(announced.words(&database).await, hashes(["a", "b"]));

        // A table of one's own with the function on it would name sessions of others.
        run(&mut other, "CREATE TEMPORARY TABLE mine (id uuid)").await;
        let misuse = "CREATE TRIGGER t AFTER DELETE ON mine REFERENCING OLD TABLE AS old_rows \
                      FOR EACH STATEMENT EXECUTE FUNCTION platform.studio_session_events()";
        let refused = sqlx::raw_sql(misuse).execute(&mut other).await.unwrap_err();
        assert!(refused.to_string().contains("permission denied for function"), "{refused}");

        // Such a session neither keeps to foreign keys nor fires ordinary triggers.
        database
            .run("SET session_replication_role = replica; DELETE FROM platform.users; RESET session_replication_role")
            .await;
        assert_eq!(announced.words(&database).await, hashes(["a", "b"]));
        database.run("SET session_replication_role = replica; DELETE FROM platform.user_sessions; RESET session_replication_role").await;
        assert_eq!(announced.words(&database).await, hashes(["a", "b"]));
    }

    #[tokio::test]
    async fn many_are_told_in_parts_and_very_many_as_all() {
        let (database, mut announced) = installed().await;
        let user = database.user("a@x.io").await;
        let fill = |from: u32, to: u32| {
            format!(
                "INSERT INTO platform.user_sessions (user_id, token, expires_at) SELECT '{user}', \
                 encode(sha256(n::text::bytea), 'hex'), {IN_AN_HOUR} FROM generate_series({from}, {to}) AS n"
            )
        };
        database.run(&fill(1, 10_000)).await;
        // Such a row cannot take the place of one that must be told.
        database.run("UPDATE platform.user_sessions SET token = 'raw' WHERE token = (SELECT min(token) FROM platform.user_sessions)").await;
        announced.payloads(&database).await;
        for all in
            ["UPDATE platform.users SET username = 'x'", "UPDATE platform.user_sessions SET expires_at = 'infinity'"]
        {
            database.run(all).await;
            let payloads = announced.payloads(&database).await;
            assert_eq!(payloads.len(), 100);
            assert!(payloads.iter().all(|payload| payload.len() <= 6499));
            let words: BTreeSet<_> = payloads.iter().flat_map(|payload| payload.split(' ')).collect();
            assert_eq!(words.len(), 9_999);
            assert!(words.iter().all(|word| crate::keys::TokenHash::from_hex(word).is_some()));
        }
        database.run(&fill(10_001, 10_001)).await;
        for all in [
            "UPDATE platform.users SET username = 'y'",
            "UPDATE platform.user_sessions SET expires_at = '2099-01-01'",
            "DELETE FROM platform.user_sessions",
        ] {
            database.run(all).await;
            assert_eq!(announced.payloads(&database).await, ["*"], "{all}");
        }
    }

    #[tokio::test]
    async fn a_session_that_begins_or_moves_beside_a_change_of_its_user_is_not_missed() {
        let (database, mut announced) = installed().await;
        let user = database.user("a@x.io").await;
        database.session(&user, "a", IN_AN_HOUR).await;
        let mut signing_in = database.connect(&database.url).await;
        let [a, b, c] = ["a", "b", "c"].map(|name| token(name).to_hex());
        let begin = |token: &str| {
            format!(
                "INSERT INTO platform.user_sessions (user_id, token, expires_at) VALUES ('{user}', '{token}', {IN_AN_HOUR})"
            )
        };
        let ban = "UPDATE platform.users SET banned_until = 'infinity'";
        let pardon = "UPDATE platform.users SET banned_until = NULL";

        // The other one was first: its session cannot be seen yet.
        for change in [begin(&b), format!("UPDATE platform.user_sessions SET token = '{c}' WHERE token = '{a}'")] {
            run(&mut signing_in, &format!("BEGIN; {change}")).await;
            database.run(ban).await;
            assert_eq!(announced.words(&database).await, hashes(["*"]));
            run(&mut signing_in, "COMMIT").await;
            announced.payloads(&database).await;
            database.run(pardon).await;
            announced.payloads(&database).await;
        }

        // The change was first: the other one waits until it is committed.
        for change in
            [begin(&a), format!("UPDATE platform.user_sessions SET token = repeat('0', 64) WHERE token = '{b}'")]
        {
            database.run(&format!("BEGIN; {ban}")).await;
            run(&mut signing_in, "SET lock_timeout = '100ms'").await;
            let waited = sqlx::raw_sql(AssertSqlSafe(change.clone())).execute(&mut signing_in).await.unwrap_err();
            assert_eq!(waited.as_database_error().unwrap().code().unwrap(), "55P03", "{change}");
            // What does not matter to the copies does not wait.
            run(&mut signing_in, "UPDATE platform.user_sessions SET last_activity_at = now()").await;
            database.run("COMMIT").await;
            assert_eq!(announced.words(&database).await, hashes(["b", "c"]));
            database.run(pardon).await;
            announced.payloads(&database).await;
        }

        // A transaction that does not see what began after itself.
        database.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await;
        run(&mut signing_in, &begin(&a)).await;
        database.run(&format!("{ban}; COMMIT")).await;
        assert_eq!(announced.words(&database).await, hashes(["*"]));

        // One's own session is no obstacle.
        database
            .run(&format!("{pardon}; DELETE FROM platform.user_sessions; BEGIN; {}; {ban}; COMMIT", begin(&a)))
            .await;
        assert!(!announced.words(&database).await.contains("*"));
    }

    #[tokio::test]
    async fn what_goes_wrong_in_it_forgets_all_and_fails_nobody() {
        let (database, mut announced) = installed().await;
        let user = database.user("a@x.io").await;
        database.session(&user, "a", IN_AN_HOUR).await;
        let role = database.role().await;
        for (change, undo) in [
            // Its owner sees no sessions.
            (
                "ALTER FUNCTION platform.studio_session_events() OWNER TO {role}; \
                 ALTER TABLE platform.user_sessions ENABLE ROW LEVEL SECURITY",
                "ALTER TABLE platform.user_sessions DISABLE ROW LEVEL SECURITY",
            ),
            // Its owner may not read them.
            (
                "REVOKE SELECT ON platform.user_sessions FROM {role}",
                "ALTER FUNCTION platform.studio_session_events() OWNER TO CURRENT_USER",
            ),
            ("ALTER TABLE platform.users DROP first_name", "SELECT 1"),
        ] {
            database.run_named(change, &role.name).await;
            database.run("UPDATE platform.users SET username = gen_random_uuid()::text").await;
            assert_eq!(announced.words(&database).await, hashes(["*"]), "{change}");
            database.run_named(undo, &role.name).await;
        }
    }

    /// What an answer to `find` would hold, by token; what has no influence on who may come in is left out.
    async fn answers(database: &TestDatabase) -> BTreeMap<String, String> {
        let all = "SELECT coalesce(string_agg(s.token || ' ' || (s.id, s.user_id, s.expires_at, u.email, u.first_name, \
                   u.last_name, u.username)::text, E'\\n'), '') FROM platform.user_sessions s \
                   JOIN platform.users u ON u.id = s.user_id WHERE s.expires_at > now() AND u.deleted_at IS NULL \
                   AND (u.banned_until IS NULL OR u.banned_until <= now())";
        let text = database.text(all).await;
        text.lines().filter_map(|line| line.split_once(' ')).map(|(token, row)| (token.into(), row.into())).collect()
    }

    /// A statement by chance: SQL, and whether it may change answers.
    fn statement(chance: &mut impl FnMut(u64) -> u64) -> (String, bool) {
        let some = |chance: &mut dyn FnMut(u64) -> u64, column: &str| match chance(4) {
            0 => "true".to_owned(),
            _ => format!("hashtext({column}::text) % {} = 0", 1 + chance(4)),
        };
        let sessions = |set: String, chance: &mut dyn FnMut(u64) -> u64| {
            format!("UPDATE platform.user_sessions SET {set} WHERE {}", some(chance, "id"))
        };
        let users = |set: String, chance: &mut dyn FnMut(u64) -> u64| {
            format!("UPDATE platform.users SET {set} WHERE {}", some(chance, "id"))
        };
        let new = "encode(sha256(gen_random_uuid()::text::bytea), 'hex')";
        match chance(20) {
            0 => (sessions(format!("token = {new}"), chance), true),
            1 => {
                (sessions("expires_at = now() + random() * interval '9 days' + interval '1 day'".into(), chance), true)
            }
            2 => (sessions("user_id = (SELECT id FROM platform.users ORDER BY random() LIMIT 1)".into(), chance), true),
            3 => (sessions("created_at = '2000-01-01', expires_at = now() - interval '1 day'".into(), chance), true),
            4 => (sessions("id = gen_random_uuid()".into(), chance), true),
            5 => (sessions("last_activity_at = now()".into(), chance), false),
            6 => (sessions("user_agent = 'x', ip_address = '10.0.0.7', refresh_token = NULL".into(), chance), false),
            7 => (users("email = gen_random_uuid() || '@x.io'".into(), chance), true),
            8 => (users(format!("first_name = '{}', last_name = NULL", chance(2)), chance), true),
            9 => (users("username = gen_random_uuid()::text".into(), chance), true),
            10 => (users("banned_until = 'infinity'".into(), chance), true),
            11 => (users("banned_until = NULL, deleted_at = NULL".into(), chance), true),
            12 => (users("deleted_at = now()".into(), chance), true),
            13 => (users("updated_at = now(), metadata = '{}', password_hash = 'x'".into(), chance), false),
            14 => (format!("DELETE FROM platform.user_sessions WHERE {}", some(chance, "token")), true),
            15 if chance(3) == 0 => (format!("DELETE FROM platform.users WHERE {}", some(chance, "email")), true),
            16 if chance(4) == 0 => ("TRUNCATE platform.user_sessions".into(), true),
            17 if chance(6) == 0 => ("TRUNCATE platform.users CASCADE".into(), true),
            _ => (
                format!(
                    "WITH u AS (INSERT INTO platform.users (email) VALUES (gen_random_uuid() || '@x.io')) \
                     INSERT INTO platform.user_sessions (user_id, token, expires_at) SELECT id, {new}, \
                     now() + interval '1 day' FROM platform.users, generate_series(1, {})",
                    1 + chance(3)
                ),
                false,
            ),
        }
    }

    #[tokio::test]
    async fn whatever_others_write_all_changed_answers_are_announced() {
        let (database, mut announced) = installed().await;
        let role = database.role().await;
        database
            .run_named(
                "GRANT INSERT, TRUNCATE ON platform.users, platform.user_sessions TO {role}; \
                 GRANT TRUNCATE ON ALL TABLES IN SCHEMA platform TO {role}",
                &role.name,
            )
            .await;
        let mut other = database.connect(&role.url).await;
        let seed = crate::random::number();
        let mut state = seed;
        // SplitMix64.
        let mut chance = |below: u64| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % below
        };
        let mut changes = 0;
        for step in 0..300 {
            let before = answers(&database).await;
            let statements: Vec<_> = (0..1 + chance(3)).map(|_| statement(&mut chance)).collect();
            let sql: Vec<_> = statements.iter().map(|(sql, _)| sql.as_str()).collect();
            let sql = format!("BEGIN; {}; COMMIT", sql.join("; "));
            run(&mut other, &sql).await;
            let words = announced.words(&database).await;
            let after = answers(&database).await;
            // A new session is no news: nobody has a copy of it.
            let changed: BTreeSet<_> = before
                .iter()
                .filter(|(token, row)| after.get(*token) != Some(row))
                .map(|(token, _)| token.clone())
                .collect();
            changes += changed.len();
            assert!(words.contains("*") || words.is_superset(&changed), "seed {seed}, step {step}: {sql}");
            if statements.iter().all(|(_, changing)| !changing) {
                assert!(words.is_empty(), "seed {seed}, step {step}: {sql}");
            }
        }
        assert!(changes > 100, "{changes} changes are too few to show anything");
        drop(tokio::time::timeout(Duration::from_secs(1), sqlx::Connection::close(other)).await);
    }
}
