//! A session as Studio sees it: the shape in JavaScript, in the Redis copy and between the levels of this crate.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A session of a user who may use it. Times are ISO 8601 with milliseconds and `Z`.
///
/// Serialises to the JSON that JavaScript gets, and back. `Debug` shows nothing: contents never reach a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionWithUser {
    pub id: String,
    pub user_id: String,
    /// SHA-256 of the bearer token, 64 lower-case hex digits, as stored.
    pub token: String,
    pub expires_at: String,
    pub last_activity_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    pub created_at: String,
    pub email: String,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub username: Option<String>,
}

impl SessionWithUser {
    /// Whether a field has a NUL, which no text of Postgres has.
    pub fn has_nul(&self) -> bool {
        let Self { id, user_id, token, expires_at, last_activity_at, created_at, email, .. } = self;
        let Self { ip_address, user_agent, first_name, last_name, username, .. } = self;
        let optional = [ip_address, user_agent, first_name, last_name, username];
        [id, user_id, token, expires_at, last_activity_at, created_at, email]
            .into_iter()
            .chain(optional.into_iter().flatten())
            .any(|field| field.contains('\0'))
    }
}

impl fmt::Debug for SessionWithUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionWithUser(..)")
    }
}

/// A session without its user. Times as above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    pub id: String,
    pub user_id: String,
    /// SHA-256 of the bearer token, 64 lower-case hex digits, as stored.
    pub token: String,
    pub expires_at: String,
    pub last_activity_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    pub created_at: String,
}

/// The sessions of a user that have not expired, counted. Times as above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserSessionStats {
    pub total_active: i64,
    pub oldest_session: Option<String>,
    pub newest_session: Option<String>,
    /// Different pairs of address and user agent.
    pub devices_count: i64,
}

/// Why an entry of Redis is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disbelief {
    /// Written in another life of the server.
    OtherLife,
    /// Its end has come.
    Ended,
    /// Of another format version.
    OtherVersion,
    /// From before news that this process may have missed.
    OlderThanNews,
    /// Sealed by no secret that is known, or not at all.
    Unsealed,
    /// No session, or another token's.
    Unreadable,
}
