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

impl fmt::Debug for SessionWithUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionWithUser(..)")
    }
}
