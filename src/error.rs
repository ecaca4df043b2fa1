//! The one error of the crate: what failed, with the number that matters, and a stable code for JavaScript.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Which JavaScript class a misuse becomes: `TypeError` for a wrong type, `RangeError` for a wrong value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misuse {
    Type,
    Range,
}

/// How much may wait for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    Calls(usize),
    Megabytes(usize),
}

impl fmt::Display for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calls(calls) => write!(f, "{calls} calls"),
            Self::Megabytes(megabytes) => write!(f, "{megabytes} MB of commands"),
        }
    }
}

/// Every way in which a call can fail. Cloneable, because one failed query answers all who joined it.
///
/// Messages are whole sentences and hold no secret. `Display` does not repeat the source.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller passed something that cannot be meant. The message names the argument.
    #[error("{message}")]
    InvalidArgument { misuse: Misuse, message: String },
    /// An option, URL or environment variable is wrong. The message says which, and what is allowed.
    #[error("{0}")]
    InvalidConfig(String),
    /// The environment variable named here is needed for this call.
    #[error("{0} is not set; set it to the URL of the server.")]
    NotConfigured(&'static str),
    /// The breaker is open: the server was not asked.
    #[error("{server} is not asked for another {} ms, because too many of its recent calls failed.", retry_after.as_millis())]
    CircuitOpen { server: Arc<str>, retry_after: Duration },
    /// No answer within the deadline.
    #[error("There was no answer from {server} within {} ms.", after.as_millis())]
    Timeout { server: Arc<str>, after: Duration },
    /// The bounded queue in front of a server is full: of this many calls or bytes.
    #[error("{server} has {limit} unanswered, which is the limit; this call was not sent.")]
    Overloaded { server: Arc<str>, limit: Backlog },
    /// The connection was refused or lost. A command that was under way may or may not have been executed.
    #[error("The connection to {server} failed: {}.", reason.trim_end_matches('.'))]
    Connection { server: Arc<str>, reason: String },
    /// The server answered with an error; `text` is its own text.
    #[error("{server} answered: {text}")]
    Reply { server: Arc<str>, text: String },
    /// The caller's client is no more; the text says why.
    #[error("{0}")]
    Closed(&'static str),
    /// Neither cache nor Postgres could say who this is. Never the same as "nobody".
    #[error("The session store cannot answer: {reason}")]
    SessionStore { reason: String, source: Option<Arc<Error>> },
    /// A request was denied by a limit.
    #[error("The limit of {quota} in {} s is reached; try again in {retry_after} s.", seconds(*window))]
    RateLimited { quota: u32, window: Duration, retry_after: u32 },
    /// A bug in this package; the process goes on.
    #[error("A bug in @studio/redis-native: {0}. Please report it.")]
    Internal(String),
}

/// Seconds as people write them.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

impl Error {
    /// A wrong type of argument.
    pub fn type_error(message: impl Into<String>) -> Self {
        Self::InvalidArgument { misuse: Misuse::Type, message: message.into() }
    }

    /// A value out of its range.
    pub fn range_error(message: impl Into<String>) -> Self {
        Self::InvalidArgument { misuse: Misuse::Range, message: message.into() }
    }

    /// The session store failed because of `source`.
    pub fn session_store(source: Error) -> Self {
        match source {
            already @ Self::SessionStore { .. } => already,
            source => Self::SessionStore { reason: source.to_string(), source: Some(Arc::new(source)) },
        }
    }

    /// The stable code that JavaScript sees as `error.code`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidArgument { .. } => "ERR_INVALID_ARG",
            Self::InvalidConfig(_) => "ERR_INVALID_CONFIG",
            Self::NotConfigured(_) => "ERR_NOT_CONFIGURED",
            Self::CircuitOpen { .. } => "ERR_CIRCUIT_OPEN",
            Self::Timeout { .. } => "ERR_TIMEOUT",
            Self::Overloaded { .. } => "ERR_OVERLOADED",
            Self::Connection { .. } => "ERR_CONNECTION",
            Self::Reply { .. } => "ERR_REPLY",
            Self::Closed(_) => "ERR_CLOSED",
            Self::SessionStore { .. } => "ERR_SESSION_STORE",
            Self::RateLimited { .. } => "ERR_RATE_LIMITED",
            Self::Internal(_) => "ERR_INTERNAL",
        }
    }

    /// The first word of a server's error reply, such as `WRONGTYPE`.
    pub fn reply_kind(&self) -> Option<&str> {
        match self {
            Self::Reply { text, .. } => text.split_ascii_whitespace().next(),
            _ => None,
        }
    }

    /// True if Redis does not know a script that was named by its digest, so that it did not run. A script may have an error of
    /// its own that begins like that.
    pub fn is_unknown_script(&self) -> bool {
        matches!(self, Self::Reply { text, .. } if text.starts_with("NOSCRIPT No matching script"))
    }

    /// True if the server failed, as opposed to having refused this one call. Only this opens a breaker.
    ///
    /// A Redis that loads, lost its primary or became a replica answers, but serves nobody.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Connection { .. } => true,
            Self::Reply { .. } => {
                matches!(self.reply_kind(), Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY"))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Error {
        Error::Reply { server: "Redis".into(), text: text.into() }
    }

    #[test]
    fn a_reply_proves_that_the_server_lives_unless_it_serves_nobody() {
        assert!(!reply("WRONGTYPE Operation against a key").is_outage());
        assert!(!reply("OOM command not allowed").is_outage());
        assert!(reply("LOADING Redis is loading").is_outage());
        assert!(reply("READONLY You can't write against a read only replica.").is_outage());
        assert_eq!(reply("NOPERM no").reply_kind(), Some("NOPERM"));
        assert!(reply("NOSCRIPT No matching script. Please use EVAL.").is_unknown_script());
        assert!(!reply("NOSCRIPT of a script's own").is_unknown_script());
    }

    #[test]
    fn a_store_error_is_wrapped_once() {
        let once = Error::session_store(Error::NotConfigured("DATABASE_URL"));
        let twice = Error::session_store(once.clone());
        assert_eq!(once.to_string(), twice.to_string());
        assert_eq!(twice.code(), "ERR_SESSION_STORE");
    }
}
