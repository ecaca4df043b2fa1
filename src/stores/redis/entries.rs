//! What is said to Redis about copies of sessions, and what its replies mean: all of the store that needs no connection.

use super::seal::{Seal, Sealed};
use crate::config::MAX_TTL;
use crate::keys::{Keys, TokenHash};
use crate::redis_value::Value;
use crate::session::{Disbelief, SessionWithUser};
use crate::stores::{Lease, Lookup};
use std::time::Duration;
use uuid::Uuid;

/// The scripts, whose heads say what they want and return.
pub const READ_OR_LEASE: &str = include_str!("read_or_lease.lua");
pub const FILL: &str = include_str!("fill.lua");

/// Of the entries in Redis. A copy of another version is a miss, so that old and new instances run side by side.
const FORMAT_VERSION: &str = "1";

/// Life of a lease: longer than Postgres may take, so that a slow read can still be filled.
const LEASE_MILLIS: &str = "6000";

/// Longest session that is copied, as JSON. What is longer was not written here, and a session that is longer is left to
/// Postgres.
const LONGEST_SESSION: usize = 512 * 1024;

/// Longest nonce or life of a lease. Ours have about 90 bytes.
const LONGEST_NAME: usize = 128;

/// The entries under their keys, and their seals.
pub struct Entries {
    keys: Keys,
    seal: Seal,
}

/// A copy that is to be left under a lease.
pub struct Fill<'a> {
    lease: &'a Lease,
    session: &'a str,
    t0: String,
    ends: String,
    seal: String,
}

impl Entries {
    pub fn new(keys: Keys, seal: Seal) -> Self {
        Self { keys, seal }
    }

    pub fn key(&self, token: &TokenHash) -> String {
        self.keys.session(token)
    }

    /// What the reply to a look means, or why it cannot be understood. The reader's connection has learned `run`, offered a
    /// lease named `nonce`, and is one on which writes are `pushed`.
    pub fn understand(
        &self,
        token: TokenHash,
        (run, nonce): (&str, &str),
        pushed: bool,
        reply: &Value,
    ) -> Result<Lookup, Disbelief> {
        match reply.as_array() {
            Some([Value::Int(1), fields @ ..]) => self.copy(token, run, fields, pushed),
            Some([Value::Int(0), fields @ ..]) => missed(fields, nonce, pushed).ok_or(Disbelief::Unreadable),
            _ => Err(Disbelief::Unreadable),
        }
    }

    /// A copy whose fields are all in order, or why it is not believed.
    fn copy(&self, token: TokenHash, run: &str, fields: &[Value], pushed: bool) -> Result<Lookup, Disbelief> {
        let [Value::Text(json), t0, ends, now, Value::Text(seal)] = fields else { return Err(Disbelief::Unreadable) };
        let text = |value: &'_ Value| value.as_str().map(str::to_owned).ok_or(Disbelief::Unreadable);
        let (t0, ends) = (text(t0)?, text(ends)?);
        let key = self.key(&token);
        let sealed = Sealed { key: &key, version: FORMAT_VERSION, run, t0: &t0, ends: &ends, session: json };
        if json.len() > LONGEST_SESSION {
            return Err(Disbelief::Unreadable);
        }
        if !self.seal.verifies(&sealed, seal) {
            return Err(Disbelief::Unsealed);
        }
        let micros = |text: &str| text.parse::<u64>().map_err(|_| Disbelief::Unreadable);
        let (t0, ends, now) = (micros(&t0)?, micros(&ends)?, micros(now.as_str().unwrap_or_default())?);
        // Nobody here writes one that lives longer, or that began later than now.
        if t0 > now || u128::from(ends.saturating_sub(t0)) > MAX_TTL.as_micros() {
            return Err(Disbelief::Unreadable);
        }
        let session = readable(json, token).ok_or(Disbelief::Unreadable)?;
        let life = Duration::from_micros(ends.saturating_sub(now));
        Ok(Lookup::Copy { session: Box::new(session), life, pushed })
    }

    /// A copy of a session that lives for `life` from the beginning of the lease. `None` if it is too long.
    pub fn fill<'a>(&self, token: TokenHash, lease: &'a Lease, session: &'a str, life: Duration) -> Option<Fill<'a>> {
        if session.len() > LONGEST_SESSION {
            return None;
        }
        let ends = lease.since.saturating_add(u64::try_from(life.as_micros()).unwrap_or(u64::MAX));
        let (t0, ends) = (lease.since.to_string(), ends.to_string());
        let key = self.key(&token);
        let (run, text) = (lease.run.as_str(), session.as_bytes());
        let seal =
            self.seal.seal(&Sealed { key: &key, version: FORMAT_VERSION, run, t0: &t0, ends: &ends, session: text });
        Some(Fill { lease, session, t0, ends, seal })
    }
}

impl Fill<'_> {
    /// The arguments of [`FILL`].
    pub fn arguments(&self) -> [&[u8]; 7] {
        let Self { lease, session, t0, ends, seal } = self;
        [&lease.nonce, FORMAT_VERSION, &lease.run, t0, ends, session, seal].map(str::as_bytes)
    }
}

/// The arguments of [`READ_OR_LEASE`].
pub fn look<'a>(run: &'a str, nonce: &'a str, after: &'a str) -> [&'a [u8]; 5] {
    [FORMAT_VERSION, run, nonce, LEASE_MILLIS, after].map(str::as_bytes)
}

/// A session of this token, as only this package writes it.
fn readable(json: &[u8], token: TokenHash) -> Option<SessionWithUser> {
    let session: SessionWithUser = serde_json::from_slice(json).ok()?;
    let whole = TokenHash::from_hex(&session.token) == Some(token) && Uuid::try_parse(&session.id).is_ok();
    (whole && !session.has_nul()).then_some(session)
}

/// The lease that a script left or found, and why it believed no copy.
fn missed(fields: &[Value], nonce: &str, pushed: bool) -> Option<Lookup> {
    let [name, run, since, why] = fields else { return None };
    let named = |value: &Value| value.as_str().filter(|name| name.len() <= LONGEST_NAME).map(str::to_owned);
    let (name, run) = (named(name)?, named(run)?);
    let announced = pushed && name == nonce;
    let since = since.as_str()?.parse().ok()?;
    let disbelief = match why.as_str()? {
        "version" => Some(Disbelief::OtherVersion),
        "life" => Some(Disbelief::OtherLife),
        "ended" => Some(Disbelief::Ended),
        "news" => Some(Disbelief::OlderThanNews),
        "unreadable" => Some(Disbelief::Unreadable),
        _ => None,
    };
    Some(Lookup::Miss { lease: Some(Lease { nonce: name, run, since, announced }), disbelief })
}
