//! What is wrong with this database, asked before its first answer is believed, and said once with the cure.

use super::errors::translate;
use super::pool::{Kind, Pool, STATEMENT_LIMIT};
use super::triggers::{self, Triggers};
use crate::error::{Error, Result};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Findings that refuse service are asked again after this, so that a cure is noticed without a restart.
const RECHECK: Duration = Duration::from_secs(30);

/// Findings by which policies apply and hide nothing are believed for this long. Nothing else says when a policy is
/// replaced by one that hides: `row_security = off` would, but makes such a role's every statement fail.
const RECENT: Duration = Duration::from_secs(1);

/// How often each of two connections is asked for its server process, unless it is plain before. A busy pooler with two
/// server connections looks like none by chance in one of two rounds: after three it did in 3 looks of 60.
const ROUNDS: usize = 12;

/// What was found, as of now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The role that asked, which the cures name.
    pub role: String,
    /// Tables and columns that are not there, such as `platform.users.email`.
    pub missing: Vec<String>,
    /// Tables of which row-level security hides rows from this role's reads.
    pub hidden: Vec<String>,
    /// Row-level security hides sessions from this role's updates or deletes, though perhaps not from its reads.
    pub hidden_from_writes: bool,
    /// Policies apply to this role, whether or not they hide anything.
    pub policies_apply: bool,
    /// A trigger that makes every update of a session fail, and the column that it sets though there is none.
    pub broken_trigger: Option<(String, String)>,
    /// Connections do not keep their server process, so that neither named statements nor LISTEN can work.
    pub transaction_pooler: bool,
    /// Whether writes of others are announced.
    pub triggers: Triggers,
}

impl Findings {
    /// True if rows may be hidden, so that "nobody" cannot be believed.
    fn hidden_by_rls(&self) -> bool {
        !self.hidden.is_empty() || self.hidden_from_writes
    }

    /// Why a statement of this kind must not be asked, with the cure.
    pub(super) fn refusal(&self, kind: Kind) -> Option<Error> {
        let reason = if !self.missing.is_empty() {
            self.says_missing()
        } else if !self.hidden.is_empty() || (kind == Kind::Write && self.hidden_from_writes) {
            self.says_hidden()
        } else {
            return None;
        };
        Some(Error::SessionStore { reason, source: None })
    }

    /// Why no session can be updated, with the cure.
    pub(super) fn refuses_updates(&self) -> Option<Error> {
        Some(Error::SessionStore { reason: self.says_broken()?, source: None })
    }

    fn refuses(&self) -> bool {
        self.refusal(Kind::Write).is_some()
    }

    fn says_missing(&self) -> String {
        format!(
            "The database lacks {}. Let DATABASE_URL name the database of Studio's platform, and run its migrations.",
            self.missing.join(", ")
        )
    }

    fn says_hidden(&self) -> String {
        let role = quoted(&self.role);
        let (tables, from) = match self.hidden.is_empty() {
            true => ("platform.user_sessions".to_owned(), "updates and deletes of the role"),
            false => (self.hidden.join(" and "), "the role"),
        };
        format!(
            "Row-level security hides rows of {tables} from {from} {role}. Connect as the owner of the tables, or run \
             ALTER ROLE {role} BYPASSRLS, or create a policy TO {role} USING (true)."
        )
    }

    fn says_broken(&self) -> Option<String> {
        let (trigger, column) = self.broken_trigger.as_ref()?;
        let trigger = quoted(trigger);
        Some(format!(
            "The trigger {trigger} sets the column {column}, which platform.user_sessions does not have, so that every \
             update of a session fails. Run sql/fix_activity_trigger.sql of this package, which does DROP TRIGGER \
             {trigger} ON platform.user_sessions."
        ))
    }

    /// Says of each finding what `before` did not hold already.
    fn log(&self, server: &str, before: &Findings) {
        if self.missing != before.missing && !self.missing.is_empty() {
            tracing::error!(server, "{}", self.says_missing());
        }
        if (&self.hidden, self.hidden_from_writes) != (&before.hidden, before.hidden_from_writes)
            && self.hidden_by_rls()
        {
            tracing::error!(server, "{}", self.says_hidden());
        }
        if before.refuses() && !self.refuses() {
            tracing::warn!(server, "The session store answers again.");
        }
        if self.broken_trigger != before.broken_trigger
            && let Some(text) = self.says_broken()
        {
            tracing::warn!(server, "{text}");
        }
        if self.triggers != before.triggers
            && let Some(text) = self.triggers.complaint()
        {
            tracing::warn!(server, "{text}");
        }
        if self.transaction_pooler && !before.transaction_pooler {
            tracing::warn!(
                server,
                "A transaction pooler answers: statements are sent without names, and revocations by other processes \
                 are not heard from Postgres (LISTEN). Let DATABASE_URL name Postgres itself."
            );
        }
    }
}

/// A name as SQL wants it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The findings, and when the question began: they describe the database as it was then or later.
#[derive(Clone)]
struct Known {
    findings: Arc<Findings>,
    asked_at: Instant,
}

/// Asks when needed, once for all who wait, and keeps the answer.
pub(super) struct Checks {
    known: Mutex<Option<Known>>,
    asking: tokio::sync::Mutex<()>,
    recheck: Duration,
    recent: Duration,
}

impl Default for Checks {
    fn default() -> Self {
        Self { known: Mutex::default(), asking: tokio::sync::Mutex::default(), recheck: RECHECK, recent: RECENT }
    }
}

impl Checks {
    /// The findings; asked if there are none, or if they are of a kind that ages and are old enough to be doubted.
    pub(super) async fn findings(&self, pool: &Pool) -> Result<Arc<Findings>> {
        let still_good = |known: &Known| match (known.findings.refuses(), known.findings.policies_apply) {
            (true, _) => known.asked_at.elapsed() < self.recheck,
            (false, true) => known.asked_at.elapsed() < self.recent,
            (false, false) => true,
        };
        self.ask_unless(pool, still_good).await
    }

    /// The findings of a question that began after `moment`.
    pub(super) async fn findings_after(&self, pool: &Pool, moment: Instant) -> Result<Arc<Findings>> {
        self.ask_unless(pool, |known| known.asked_at > moment).await
    }

    /// The findings after something that contradicts them; asked if they are old enough to be doubted.
    pub(super) async fn doubt(&self, pool: &Pool) -> Result<Arc<Findings>> {
        self.ask_unless(pool, |known| known.asked_at.elapsed() < self.recheck).await
    }

    /// What a listener found of the triggers just now.
    pub(super) fn saw(&self, server: &str, triggers: &Triggers) {
        let before = match &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(known) if known.findings.triggers != *triggers => {
                let now = Findings { triggers: triggers.clone(), ..Findings::clone(&known.findings) };
                std::mem::replace(&mut known.findings, Arc::new(now))
            }
            _ => return,
        };
        Findings { triggers: triggers.clone(), ..Findings::clone(&before) }.log(server, &before);
    }

    #[cfg(test)]
    pub(super) fn recheck_at_once(&mut self) {
        self.recheck = Duration::ZERO;
    }

    async fn ask_unless(&self, pool: &Pool, still_good: impl Fn(&Known) -> bool) -> Result<Arc<Findings>> {
        let good = || self.known().filter(|known| still_good(known)).map(|known| known.findings);
        if let Some(findings) = good() {
            return Ok(findings);
        }
        let _asking = self.asking.lock().await;
        if let Some(findings) = good() {
            return Ok(findings);
        }
        let asked_at = Instant::now();
        // The listener has no deadline above it, and whoever asks here keeps all others waiting.
        let answer = tokio::time::timeout(STATEMENT_LIMIT, ask(pool)).await;
        let late = |_| Error::Timeout { server: Arc::clone(pool.server()), after: STATEMENT_LIMIT };
        let findings = Arc::new(answer.map_err(late)??);
        let known = Known { findings: Arc::clone(&findings), asked_at };
        let before = self.known.lock().unwrap_or_else(PoisonError::into_inner).replace(known);
        let before = before.map(|known| known.findings).unwrap_or_default();
        findings.log(pool.server(), &before);
        Ok(findings)
    }

    fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Asks on two connections of its own: what they may be used for is known only afterwards.
///
/// Both send simple queries only, which every pooler passes on whole.
async fn ask(pool: &Pool) -> Result<Findings> {
    let fail = |error| translate(pool.server(), error);
    let (mut one, mut two) = (pool.connect().await?, pool.connect().await?);
    let mut processes = Vec::with_capacity(2 * ROUNDS);
    for _ in 0..ROUNDS {
        processes.push(server_process(&mut one).await.map_err(fail)?);
        processes.push(server_process(&mut two).await.map_err(fail)?);
        if is_pooled(&processes) {
            break;
        }
    }
    let row = sqlx::raw_sql(include_str!("checks.sql")).fetch_one(&mut one).await.map_err(fail)?;
    let triggers = sqlx::raw_sql(triggers::QUESTION).fetch_one(&mut one).await.map_err(fail)?;
    for connection in [one, two] {
        // The answers are here; how the connection ends changes nothing.
        drop(connection.close().await);
    }
    let read = || -> sqlx::Result<Findings> {
        Ok(Findings {
            role: row.try_get("role")?,
            missing: listed(row.try_get("missing")?),
            hidden: listed(row.try_get("hidden")?),
            hidden_from_writes: row.try_get("hidden_from_writes")?,
            policies_apply: row.try_get("policies_apply")?,
            broken_trigger: Option::zip(row.try_get("broken_trigger")?, row.try_get("broken_column")?),
            transaction_pooler: is_pooled(&processes),
            triggers: triggers::State::read(&triggers)?.triggers,
        })
    };
    read().map_err(fail)
}

async fn server_process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("SELECT pg_backend_pid() AS pid").fetch_one(connection).await?.try_get("pid")
}

/// Server processes that answered two connections in turns: each connection has one to itself, and always the same,
/// unless something stands between.
fn is_pooled(processes: &[i32]) -> bool {
    match processes {
        [one, two, rest @ ..] => one == two || rest.chunks(2).any(|turn| turn != [*one, *two]),
        _ => false,
    }
}

fn listed(names: &str) -> Vec<String> {
    names.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::postgres::testing::{TestDatabase, token};
    use crate::stores::postgres::{Postgres, PostgresOptions};
    use crate::stores::{SessionRows, Which};
    use std::time::SystemTime;

    /// A store that asks again at each call that was refused.
    fn open_as(database: &TestDatabase, url: String) -> Postgres {
        let mut postgres = database.open_with(PostgresOptions { url, pool_size: 2, statement_cache: true });
        recheck_after(&mut postgres, Duration::ZERO);
        postgres
    }

    fn recheck_after(postgres: &mut Postgres, age: Duration) {
        Arc::get_mut(&mut postgres.shared).unwrap().checks.recheck = age;
    }

    async fn refusals(postgres: &Postgres) -> Vec<String> {
        let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
        let user = "00000000-0000-0000-0000-000000000000";
        [
            postgres.find(token("t")).await.err(),
            postgres.name(Which::User(user)).await.err(),
            postgres.announce(Which::Token(token("t"))).await.err(),
            postgres.delete(Which::Token(token("t"))).await.err(),
            postgres.rotate(token("t"), token("u"), in_an_hour).await.err(),
        ]
        .into_iter()
        .flatten()
        .map(|error| {
            assert_eq!(error.code(), "ERR_SESSION_STORE", "{error}");
            error.to_string()
        })
        .collect()
    }

    #[test]
    fn one_server_process_behind_two_connections_is_a_pooler() {
        assert!(!is_pooled(&[1, 2, 1, 2]));
        assert!(is_pooled(&[1, 1, 1, 1]));
        assert!(is_pooled(&[1, 2, 1, 3]));
        assert!(is_pooled(&[1, 2, 2, 1]));
    }

    #[test]
    fn each_finding_is_said_once_with_its_cure() {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                std::io::Write::write(&mut *self.0.lock().unwrap(), bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let said = |findings: &Findings, before: &Findings| {
            let lines = Lines::default();
            let writer = lines.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
            tracing::subscriber::with_default(subscriber, || findings.log("Postgres", before));
            String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
        };
        let all = Findings {
            role: "app".into(),
            missing: vec!["platform.users.email".into()],
            hidden: vec!["platform.user_sessions".into()],
            broken_trigger: Some(("touch".into(), "updated_at".into())),
            transaction_pooler: true,
            triggers: Triggers::Faulty("one is missing".into()),
            ..Findings::default()
        };
        let text = said(&all, &Findings::default());
        assert_eq!(text.lines().count(), 5, "{text}");
        for cure in [
            "migrations",
            r#"ALTER ROLE "app" BYPASSRLS"#,
            r#"sql/fix_activity_trigger.sql of this package, which does DROP TRIGGER "touch""#,
            "name Postgres itself",
            "installTriggers() again, or run sql/session_events.sql",
        ] {
            assert!(text.contains(cure), "{text}");
        }
        assert_eq!(said(&all, &all), "");
        assert!(said(&Findings::default(), &all).contains("answers again"));
    }

    #[tokio::test]
    async fn a_sound_database_has_no_findings() {
        let database = TestDatabase::create(false).await;
        let findings = database.open(1).findings().await.unwrap();
        assert_eq!(*findings, Findings { role: findings.role.clone(), ..Findings::default() });
    }

    #[tokio::test]
    async fn the_broken_trigger_is_found_and_only_where_it_breaks() {
        let database = TestDatabase::create(true).await;
        let findings = database.open(1).findings().await.unwrap();
        assert_eq!(
            findings.broken_trigger,
            Some(("update_user_sessions_activity".to_owned(), "updated_at".to_owned()))
        );
        assert!(!findings.hidden_by_rls(), "a superuser sees all rows");

        for cure in [
            "ALTER TABLE platform.user_sessions DISABLE TRIGGER update_user_sessions_activity",
            "ALTER TABLE platform.user_sessions ENABLE TRIGGER update_user_sessions_activity, ADD updated_at date",
        ] {
            database.run(cure).await;
            assert_eq!(database.open(1).findings().await.unwrap().broken_trigger, None, "{cure}");
        }
    }

    #[tokio::test]
    async fn hidden_rows_are_an_error_with_the_cure_until_the_role_may_see_them() {
        let database = TestDatabase::create(true).await;
        database.run("DROP TRIGGER update_user_sessions_activity ON platform.user_sessions").await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", "now() + interval '1 hour'").await;
        let role = database.role().await;
        let postgres = open_as(&database, role.url.clone());
        let refused = refusals(&postgres).await;
        assert_eq!(refused.len(), 5, "{refused:?}");
        let cure = format!("ALTER ROLE \"{}\" BYPASSRLS", role.name);
        assert!(
            refused.iter().all(|text| text.contains("platform.user_sessions") && text.contains(&cure)),
            "{refused:?}"
        );

        database.run_named("ALTER ROLE {role} BYPASSRLS", &role.name).await;
        assert!(postgres.find(token("t")).await.unwrap().is_some());
        assert_eq!(refusals(&postgres).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_refusal_is_not_asked_again_at_once() {
        let database = TestDatabase::create(true).await;
        let role = database.role().await;
        let mut postgres = open_as(&database, role.url.clone());
        recheck_after(&mut postgres, RECHECK);
        assert!(postgres.find(token("t")).await.is_err());
        database.run_named("ALTER ROLE {role} BYPASSRLS", &role.name).await;
        assert!(postgres.find(token("t")).await.is_err());
        recheck_after(&mut postgres, Duration::ZERO);
        assert!(postgres.find(token("t")).await.is_ok());
    }

    #[tokio::test]
    async fn a_policy_that_shows_all_rows_hides_none() {
        let database = TestDatabase::create(true).await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", "now() + interval '1 hour'").await;
        let role = database.role().await;
        database
            .run_named("CREATE POLICY reads ON platform.user_sessions FOR SELECT TO {role} USING (true)", &role.name)
            .await;
        let postgres = open_as(&database, role.url.clone());
        assert!(postgres.find(token("t")).await.unwrap().is_some());
        let Err(error) = postgres.delete(Which::Token(token("t"))).await else { panic!("deleted") };
        assert!(error.to_string().contains("updates and deletes"), "{error}");

        database.run_named("CREATE POLICY all_rows ON platform.user_sessions TO {role} USING (true)", &role.name).await;
        assert_eq!(postgres.delete(Which::Token(token("t"))).await.unwrap().rows, 1);

        database.run("CREATE POLICY fence ON platform.user_sessions AS RESTRICTIVE USING (user_agent IS NULL)").await;
        let postgres = open_as(&database, role.url.clone());
        assert_eq!(refusals(&postgres).await.len(), 5);
    }

    /// A store of a role whom a policy shows all rows, and which a session of `t` and one of `u` have convinced of it.
    async fn convinced(database: &TestDatabase, recent: Duration) -> (Postgres, String) {
        let user = database.user("a@x.io").await;
        for name in ["t", "u"] {
            database.session(&user, name, "now() + interval '1 hour'").await;
        }
        let role = database.role().await;
        database.run_named("CREATE POLICY all_rows ON platform.user_sessions TO {role} USING (true)", &role.name).await;
        let mut postgres = open_as(database, role.url);
        Arc::get_mut(&mut postgres.shared).unwrap().checks.recent = recent;
        assert!(postgres.find(token("t")).await.unwrap().is_some());
        assert_eq!(postgres.delete(Which::Token(token("none"))).await.unwrap().rows, 0);
        (postgres, user)
    }

    #[tokio::test]
    async fn an_empty_answer_is_not_believed_after_a_policy_was_replaced_by_one_that_hides() {
        let database = TestDatabase::create(true).await;
        let (mut postgres, _) = convinced(&database, Duration::from_secs(3600)).await;
        for hides in ["user_agent IS NOT NULL", "false"] {
            database.run(&format!("ALTER POLICY all_rows ON platform.user_sessions USING ({hides})")).await;
            assert_eq!(refusals(&postgres).await.len(), 5, "{hides}");
            database.run("ALTER POLICY all_rows ON platform.user_sessions USING (true)").await;
            assert!(postgres.find(token("t")).await.unwrap().is_some());
        }
        recheck_after(&mut postgres, RECHECK);
        database.run("ALTER POLICY all_rows ON platform.user_sessions USING (false)").await;
        let Err(error) = postgres.delete(Which::Token(token("t"))).await else { panic!("deleted nothing") };
        assert_eq!(error.code(), "ERR_SESSION_STORE");
    }

    #[tokio::test]
    async fn findings_by_which_policies_hide_nothing_age_because_a_policy_may_come_to_hide_some_rows() {
        let database = TestDatabase::create(true).await;
        let (postgres, user) = convinced(&database, Duration::ZERO).await;
        let shown = token("t").to_hex();
        database.run(&format!("ALTER POLICY all_rows ON platform.user_sessions USING (token = '{shown}')")).await;
        let Err(error) = postgres.delete(Which::User(&user)).await else { panic!("deleted some") };
        assert_eq!(error.code(), "ERR_SESSION_STORE");
    }

    #[tokio::test]
    async fn row_level_security_that_comes_later_never_makes_a_session_nobodys() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        database.session(&user, "t", "now() + interval '1 hour'").await;
        let role = database.role().await;
        for statement_cache in [true, false] {
            database.run("ALTER TABLE platform.users DISABLE ROW LEVEL SECURITY").await;
            let options = PostgresOptions { url: role.url.clone(), pool_size: 1, statement_cache };
            let mut postgres = database.open_with(options);
            assert!(postgres.find(token("t")).await.unwrap().is_some());
            database.run("ALTER TABLE platform.users ENABLE ROW LEVEL SECURITY").await;
            let Err(error) = postgres.find(token("t")).await else { panic!("answered") };
            assert_eq!(error.reply_kind(), Some("42501"), "{error}");
            recheck_after(&mut postgres, Duration::ZERO);
            let Err(error) = postgres.find(token("t")).await else { panic!("answered") };
            assert!(error.to_string().contains("hides rows of platform.users from"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_missing_column_or_table_is_named() {
        let database = TestDatabase::create(false).await;
        database.run("ALTER TABLE platform.users DROP COLUMN banned_until, DROP COLUMN username").await;
        let postgres = open_as(&database, database.url.clone());
        let refused = refusals(&postgres).await;
        assert_eq!(refused.len(), 5);
        assert!(refused[0].contains("lacks platform.users.banned_until, platform.users.username."), "{refused:?}");
        database.run("ALTER TABLE platform.users ADD banned_until timestamptz, ADD username text").await;
        assert!(postgres.find(token("t")).await.unwrap().is_none());
        database.run("DROP TABLE platform.user_sessions").await;
        let refused = refusals(&postgres).await;
        assert!(refused[0].contains("lacks platform.user_sessions."), "{refused:?}");
    }

    #[tokio::test]
    async fn a_role_without_any_right_gets_an_answer_and_no_findings() {
        let database = TestDatabase::create(false).await;
        let role = database.role().await;
        database.run_named("REVOKE ALL ON SCHEMA platform FROM {role}", &role.name).await;
        let postgres = open_as(&database, role.url.clone());
        assert_eq!(postgres.findings().await.unwrap().missing, [""; 0]);
        let Err(error) = postgres.find(token("t")).await else { panic!("answered") };
        assert_eq!(error.reply_kind(), Some("42501"), "{error}");
    }
}
