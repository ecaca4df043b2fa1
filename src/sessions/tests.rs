//! The order of things in the read path and the revoke path, on stores that the tests hold up and let fail.
//! What the real stores guarantee is proven where they are, and for the whole package by Jest on real servers.

use super::*;
use crate::resilience::breaker::Policy;
use crate::session::{Session, SessionWithUser, UserSessionStats};
use crate::stores::{Found, Named, Which};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub const ID: &str = "11111111-1111-4111-8111-111111111111";

/// The activity of a row that is so old that the row may be deleted.
pub const IDLE: &str = "idle";

/// Rows, copies and leases in memory. `gate` holds up `find` and `find_all` after they have read, and `write_activity`.
///
/// A row has expired if its end is not empty, and is inactive if its activity says [`IDLE`]. The latest active is the last
/// one in the order of text.
pub struct Double {
    pub rows: Mutex<HashMap<TokenHash, SessionWithUser>>,
    pub copies: Mutex<HashMap<TokenHash, SessionWithUser>>,
    pub leases: Mutex<HashMap<TokenHash, String>>,
    /// Tokens for which there is no lease.
    pub leaseless: Mutex<HashSet<TokenHash>>,
    gate: Semaphore,
    pub finds: AtomicUsize,
    pub reads: AtomicUsize,
    pub fills: AtomicUsize,
    /// Attempts to write activity.
    pub writes: AtomicUsize,
    /// Batches of activity, as they were written.
    pub activity: Mutex<Vec<Vec<(Uuid, Duration)>>>,
    fails: Mutex<Option<(&'static str, Error)>>,
    /// Calls that succeed before they fail.
    spared: AtomicUsize,
}

impl Double {
    fn check(&self, call: &str) -> Result<()> {
        match &*self.fails.lock().unwrap() {
            Some((failing, _)) if *failing == call && self.spared.load(Relaxed) > 0 => {
                self.spared.fetch_sub(1, Relaxed);
                Ok(())
            }
            Some((failing, error)) if *failing == call => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// From now on a call fails as if its server were away.
    pub fn fail(&self, call: Option<&'static str>) {
        let away = |call| (call, Error::Connection { server: "double".into(), reason: format!("{call} fails") });
        *self.fails.lock().unwrap() = call.map(away);
    }

    pub fn fail_with(&self, call: &'static str, error: Error) {
        *self.fails.lock().unwrap() = Some((call, error));
    }

    /// The same, after so many calls that succeed.
    pub fn fail_after(&self, spared: usize, call: &'static str) {
        self.spared.store(spared, Relaxed);
        self.fail(Some(call));
    }

    fn delete_some(&self, most: u32, meant: impl Fn(&SessionWithUser) -> bool) -> Named {
        let mut rows = self.rows.lock().unwrap();
        let doomed = rows.iter().filter(|(_, row)| meant(row)).map(|(token, _)| *token);
        let tokens: Vec<_> = doomed.take(most as usize).collect();
        rows.retain(|token, _| !tokens.contains(token));
        Named { rows: tokens.len() as u64, tokens }
    }

    fn named(&self, which: Which<'_>, delete: bool) -> Named {
        let mut rows = self.rows.lock().unwrap();
        let meant = |token: &TokenHash, session: &SessionWithUser| match which {
            Which::Id(id) => session.id == id,
            Which::Token(wanted) => *token == wanted,
            Which::User(user) => session.user_id == user,
            Which::Others { user, except } => session.user_id == user && session.id != except,
        };
        let tokens: Vec<_> = rows.iter().filter(|(token, row)| meant(token, row)).map(|(token, _)| *token).collect();
        if delete {
            rows.retain(|token, _| !tokens.contains(token));
        }
        Named { rows: tokens.len() as u64, tokens }
    }
}

impl SessionCopies for Arc<Double> {
    async fn read_or_lease(&self, token: TokenHash, _: u64) -> Result<Lookup> {
        self.reads.fetch_add(1, Relaxed);
        self.check("read")?;
        if let Some(copy) = self.copies.lock().unwrap().get(&token).cloned() {
            return Ok(Lookup::Copy { session: Box::new(copy), life: Duration::from_secs(60), pushed: false });
        }
        if self.leaseless.lock().unwrap().contains(&token) {
            return Ok(Lookup::Miss { lease: None, disbelief: None });
        }
        let nonce = || self.reads.load(Relaxed).to_string();
        let nonce = self.leases.lock().unwrap().entry(token).or_insert_with(nonce).clone();
        let lease = Lease { nonce, run: "r".into(), since: 1, announced: false };
        Ok(Lookup::Miss { lease: Some(lease), disbelief: None })
    }

    async fn now(&self) -> Result<u64> {
        self.check("now")?;
        Ok(1)
    }

    async fn fill(&self, token: TokenHash, lease: &Lease, session: &str, _: Duration) -> Result<bool> {
        self.fills.fetch_add(1, Relaxed);
        self.check("fill")?;
        let mut leases = self.leases.lock().unwrap();
        if leases.get(&token) != Some(&lease.nonce) {
            return Ok(false);
        }
        leases.remove(&token);
        self.copies.lock().unwrap().insert(token, serde_json::from_str(session).unwrap());
        Ok(true)
    }

    async fn ping(&self) -> Result<()> {
        self.check("ping")
    }

    async fn forget(&self, tokens: &[TokenHash]) -> Result<()> {
        self.check("forget")?;
        self.leases.lock().unwrap().retain(|token, _| !tokens.contains(token));
        self.copies.lock().unwrap().retain(|token, _| !tokens.contains(token));
        Ok(())
    }
}

impl SessionRows for Arc<Double> {
    async fn find(&self, token: TokenHash) -> Result<Option<Found>> {
        self.finds.fetch_add(1, Relaxed);
        self.check("find")?;
        let row = self.rows.lock().unwrap().get(&token).cloned();
        let _permit = self.gate.acquire().await;
        Ok(row.map(|session| Found { session, remaining: Duration::from_secs(60) }))
    }

    async fn name(&self, which: Which<'_>) -> Result<Named> {
        self.check("name")?;
        Ok(self.named(which, false))
    }

    async fn announce(&self, which: Which<'_>) -> Result<Named> {
        Ok(self.named(which, false))
    }

    async fn delete(&self, which: Which<'_>) -> Result<Named> {
        self.check("delete")?;
        Ok(self.named(which, true))
    }

    async fn rotate(&self, token: TokenHash, new_token: TokenHash, _: SystemTime) -> Result<bool> {
        let mut rows = self.rows.lock().unwrap();
        let Some(row) = rows.remove(&token) else { return Ok(false) };
        rows.insert(new_token, SessionWithUser { token: new_token.to_hex(), ..row });
        Ok(true)
    }

    async fn find_all(&self, tokens: &[TokenHash]) -> Result<Vec<(TokenHash, Found)>> {
        self.finds.fetch_add(1, Relaxed);
        self.check("find_all")?;
        let rows = self.rows.lock().unwrap().clone();
        let _permit = self.gate.acquire().await;
        let found = |session: &SessionWithUser| Found { session: session.clone(), remaining: Duration::from_secs(60) };
        Ok(tokens.iter().filter_map(|token| Some((*token, found(rows.get(token)?)))).collect())
    }

    async fn newest(&self, limit: u32, _: Duration) -> Result<Vec<TokenHash>> {
        self.check("newest")?;
        let rows = self.rows.lock().unwrap();
        let mut rows: Vec<_> = rows.iter().filter(|(_, row)| row.expires_at.is_empty()).collect();
        rows.sort_by(|(_, one), (_, other)| other.last_activity_at.cmp(&one.last_activity_at));
        Ok(rows.into_iter().take(limit as usize).map(|(token, _)| *token).collect())
    }

    async fn of_user(&self, user: &str) -> Result<Vec<Session>> {
        self.finds.fetch_add(1, Relaxed);
        self.check("of_user")?;
        let rows = self.rows.lock().unwrap();
        let of_user = rows.values().filter(|row| row.user_id == user && row.expires_at.is_empty()).cloned();
        Ok(of_user.map(without_user).collect())
    }

    async fn stats_of_user(&self, user: &str) -> Result<UserSessionStats> {
        let sessions = self.of_user(user).await?;
        let made = || sessions.iter().map(|session| session.created_at.clone());
        Ok(UserSessionStats {
            total_active: i64::try_from(sessions.len()).unwrap(),
            oldest_session: made().min(),
            newest_session: made().max(),
            devices_count: 1,
        })
    }

    async fn delete_expired(&self, most: u32) -> Result<Named> {
        self.check("delete_expired")?;
        Ok(self.delete_some(most, |row| !row.expires_at.is_empty()))
    }

    async fn delete_inactive(&self, _: Duration, most: u32) -> Result<Named> {
        self.check("delete_inactive")?;
        Ok(self.delete_some(most, |row| row.last_activity_at == IDLE))
    }

    async fn write_activity(&self, active: &[(Uuid, Duration)]) -> Result<()> {
        self.writes.fetch_add(1, Relaxed);
        self.check("write_activity")?;
        let _permit = self.gate.acquire().await;
        self.activity.lock().unwrap().push(active.to_vec());
        Ok(())
    }
}

fn without_user(row: SessionWithUser) -> Session {
    Session {
        id: row.id,
        user_id: row.user_id,
        token: row.token,
        expires_at: row.expires_at,
        last_activity_at: row.last_activity_at,
        ip_address: row.ip_address,
        user_agent: row.user_agent,
        created_at: row.created_at,
    }
}

pub type Tested = Arc<Sessions<Arc<Double>, Arc<Double>>>;

pub fn token(text: &str) -> TokenHash {
    TokenHash::of(text.as_bytes()).unwrap()
}

/// Sessions over a double with one row, for the token `t`; `find` is not held up.
pub fn one_session() -> (Tested, Arc<Double>) {
    some_sessions(&["t"])
}

/// A row for a token, of a user whose id is [`ID`].
pub fn row(text: &str) -> SessionWithUser {
    SessionWithUser {
        id: ID.into(),
        user_id: ID.into(),
        token: token(text).to_hex(),
        expires_at: String::new(),
        last_activity_at: String::new(),
        ip_address: None,
        user_agent: None,
        created_at: String::new(),
        email: "a@b.test".into(),
        first_name: None,
        last_name: None,
        username: None,
    }
}

/// Sessions over a double with a row for each of these tokens; nothing is held up.
pub fn some_sessions(tokens: &[&str]) -> (Tested, Arc<Double>) {
    let double = Arc::new(Double {
        rows: Mutex::new(tokens.iter().map(|text| (token(text), row(text))).collect()),
        copies: Mutex::default(),
        leases: Mutex::default(),
        leaseless: Mutex::default(),
        gate: Semaphore::new(Semaphore::MAX_PERMITS),
        finds: AtomicUsize::new(0),
        reads: AtomicUsize::new(0),
        fills: AtomicUsize::new(0),
        writes: AtomicUsize::new(0),
        activity: Mutex::default(),
        fails: Mutex::default(),
        spared: AtomicUsize::new(0),
    });
    let guarded = |policy| Guarded {
        store: double.clone(),
        guard: Arc::new(Guard::new("double".into(), policy, Duration::from_secs(1), 10_000)),
    };
    let sessions = Sessions::new(
        Some(guarded(Policy::REDIS)),
        Some(Arc::new(guarded(Policy::POSTGRES))),
        Memory::new(true, 1_000),
        Arc::default(),
        Settings { enabled: true, local_enabled: true, ttl: MAX_TTL, flush: Duration::from_secs(30) },
    );
    (Arc::new(sessions), double)
}

pub fn hold_up(double: &Double) {
    double.gate.forget_permits(Semaphore::MAX_PERMITS);
}

pub fn let_go(double: &Double) {
    double.gate.add_permits(Semaphore::MAX_PERMITS);
}

/// A validation, as JavaScript calls it.
pub async fn validate(sessions: &Tested, token: Option<TokenHash>) -> Answer {
    match (sessions.immediate(token.as_ref())?, token) {
        (None, Some(token)) => sessions.validate(token).await,
        (known, _) => Ok(known.flatten()),
    }
}

/// Starts a validation and runs it until it waits.
async fn begun(sessions: &Tested) -> JoinHandle<Answer> {
    let sessions = sessions.clone();
    let validation = tokio::spawn(async move { validate(&sessions, Some(token("t"))).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    validation
}

#[tokio::test(start_paused = true)]
async fn a_thousand_simultaneous_misses_are_one_query() {
    let (sessions, double) = one_session();
    hold_up(&double);
    let mut all = Vec::new();
    for _ in 0..1000 {
        let sessions = sessions.clone();
        all.push(tokio::spawn(async move { validate(&sessions, Some(token("t"))).await }));
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let_go(&double);
    for one in all {
        assert!(one.await.unwrap().unwrap().is_some());
    }
    assert_eq!(double.finds.load(Relaxed), 1);
    let metrics = sessions.metrics();
    assert_eq!((metrics.misses, metrics.coalesced, metrics.database_reads, metrics.total), (1000, 999, 1, 1000));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_a_revocation_overtook_is_neither_joined_nor_stored() {
    let (sessions, double) = one_session();
    hold_up(&double);
    let overtaken = begun(&sessions).await;
    assert!(sessions.revoke_token(Some(token("t"))).await.unwrap());
    let later = begun(&sessions).await;
    let_go(&double);
    assert!(overtaken.await.unwrap().unwrap().is_some(), "it began before the revocation");
    assert!(later.await.unwrap().unwrap().is_none());
    assert_eq!(double.fills.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn forgetting_and_news_from_postgres_overtake_a_read_as_well() {
    for heard in [false, true] {
        let (sessions, double) = one_session();
        hold_up(&double);
        let overtaken = begun(&sessions).await;
        if heard {
            sessions.heard_of(&[token("t")]);
        } else {
            sessions.forget(Some(token("t"))).await;
        }
        let_go(&double);
        overtaken.await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(double.fills.load(Relaxed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn redis_is_not_read_until_it_has_forgotten() {
    let (sessions, double) = one_session();
    validate(&sessions, Some(token("t"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(double.copies.lock().unwrap().len(), 1);
    let delivery = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.run().await }
    });

    double.fail(Some("forget"));
    assert!(sessions.revoke(ID, None).await.unwrap());
    let reads = double.reads.load(Relaxed);
    assert!(validate(&sessions, Some(token("t"))).await.unwrap().is_none(), "the copy is still there");
    assert_eq!(double.reads.load(Relaxed), reads);

    double.fail(None);
    while !sessions.memory.undelivered().none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(double.copies.lock().unwrap().is_empty());
    // The first one is remembered as nobody's.
    validate(&sessions, Some(token("u"))).await.unwrap();
    assert_eq!(double.reads.load(Relaxed), reads + 1);
    delivery.abort();
}

#[tokio::test(start_paused = true)]
async fn what_an_engine_left_undelivered_the_next_one_delivers() {
    let (sessions, double) = one_session();
    validate(&sessions, Some(token("t"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    double.fail(Some("forget"));
    let begun = |sessions: &Tested| {
        let sessions = sessions.clone();
        tokio::spawn(async move { sessions.run().await })
    };
    let first = begun(&sessions);
    assert!(sessions.revoke(ID, None).await.unwrap());
    tokio::time::sleep(Duration::from_secs(5)).await;
    first.abort();
    double.fail(None);
    let second = begun(&sessions);
    // Longer than the breaker stays open.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(sessions.memory.undelivered().none() && double.copies.lock().unwrap().is_empty());
    second.abort();
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_in_the_news_no_copy_is_read_until_its_end_is_known() {
    let (sessions, double) = one_session();
    let running = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.run().await }
    });
    double.fail(Some("now"));
    sessions.memory.doubt();
    validate(&sessions, Some(token("t"))).await.unwrap();
    assert_eq!(double.reads.load(Relaxed), 0);
    double.fail(None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    validate(&sessions, Some(token("t"))).await.unwrap();
    assert_eq!(double.reads.load(Relaxed), 1);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn news_from_postgres_remove_the_copy() {
    let (sessions, double) = one_session();
    validate(&sessions, Some(token("t"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let running = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.run().await }
    });
    sessions.heard_of(&[token("t")]);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(double.copies.lock().unwrap().is_empty());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_failed_rejects_and_has_forgotten_what_it_could_name() {
    for failing in ["name", "delete"] {
        let (sessions, double) = one_session();
        validate(&sessions, Some(token("t"))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        double.fail(Some(failing));
        let error = sessions.revoke(ID, Some(token("t"))).await.unwrap_err();
        assert_eq!(error.code(), "ERR_SESSION_STORE");
        assert!(double.copies.lock().unwrap().is_empty(), "{failing}");
        double.fail(None);
        assert!(sessions.revoke(ID, None).await.unwrap(), "it can be repeated");
    }
}

#[tokio::test(start_paused = true)]
async fn no_store_is_never_nobody() {
    let (sessions, double) = one_session();
    double.fail(Some("find"));
    let error = validate(&sessions, Some(token("t"))).await.err().unwrap();
    assert_eq!(error.code(), "ERR_SESSION_STORE");
    double.fail(Some("read"));
    assert!(validate(&sessions, Some(token("t"))).await.unwrap().is_some(), "Redis away: Postgres answers");
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_neither_reads_nor_fills_but_forgets() {
    let (sessions, double) = one_session();
    validate(&sessions, Some(token("t"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    sessions.configure(Switches { enabled: Some(false), ..Switches::default() }).unwrap();
    let reads = double.reads.load(Relaxed);
    assert!(validate(&sessions, Some(token("t"))).await.unwrap().is_some());
    assert_eq!(double.reads.load(Relaxed), reads);
    sessions.forget(Some(token("t"))).await;
    assert!(double.copies.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rotated_session_answers_to_its_new_token_alone() {
    let (sessions, _) = one_session();
    let soon = SystemTime::now();
    assert!(sessions.rotate(Some(token("t")), token("u"), soon).await.unwrap());
    assert!(validate(&sessions, Some(token("t"))).await.unwrap().is_none());
    assert!(validate(&sessions, Some(token("u"))).await.unwrap().is_some());
    assert!(!sessions.rotate(Some(token("t")), token("v"), soon).await.unwrap());
    let error = sessions.rotate(Some(token("u")), token("u"), soon).await.unwrap_err();
    assert_eq!(error.code(), "ERR_INVALID_ARG");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_anybody_is_answered_without_a_query() {
    let (sessions, double) = one_session();
    assert!(validate(&sessions, None).await.unwrap().is_none());
    assert!(!sessions.revoke("no uuid", None).await.unwrap());
    assert!(!sessions.revoke_token(None).await.unwrap());
    assert_eq!(sessions.revoke_user("").await.unwrap(), 0);
    assert_eq!(sessions.forget_user("'; DROP TABLE").await.unwrap(), 0);
    assert_eq!(sessions.revoke_others(ID, "").await.unwrap(), 0);
    assert_eq!(double.finds.load(Relaxed), 0);
    assert_eq!((sessions.metrics().refused, sessions.metrics().total), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_setting_changes_nothing() {
    let (sessions, _) = one_session();
    for ttl in [0.0, 300.5, 301.0, -1.0, f64::NAN, f64::INFINITY] {
        let wrong = Switches { ttl_seconds: Some(ttl), enabled: Some(false), ..Switches::default() };
        assert_eq!(sessions.configure(wrong).unwrap_err().code(), "ERR_INVALID_ARG");
    }
    assert!(sessions.metrics().enabled);
    sessions.configure(Switches { ttl_seconds: Some(10.0), ..Switches::default() }).unwrap();
    assert_eq!(sessions.metrics().ttl, 10);
}
