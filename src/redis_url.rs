//! Where a Redis server is and who we are there, as one URL says it.

use crate::error::{Error, Result};
use std::fmt;
use url::Url;

/// Text that no log and no message shows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// The two ways to reach a single server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix { path: String },
}

/// A single Redis server with credentials and database. `Display` shows the address alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RedisUrl {
    pub address: Address,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub database: u32,
}

impl RedisUrl {
    /// Reads `redis://`, `valkey://` and `unix:` URLs; credentials are percent-decoded.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], which names `variable` and the fault, and never shows the URL.
    pub fn parse(variable: &str, text: &str) -> Result<Self> {
        let wrong = |fault: &str| Error::InvalidConfig(format!("{variable} {fault}"));
        let url = Url::parse(text).map_err(|fault| wrong(&format!("is not a URL ({fault}).")))?;
        let address = match url.scheme() {
            "redis" | "valkey" => {
                let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("has no host."))?;
                // Lower case, so that a server has one name and with it one pool and one breaker.
                let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
                Address::Tcp { host, port: url.port().unwrap_or(6379) }
            }
            "unix" if !url.path().is_empty() && url.path() != "/" => {
                Address::Unix { path: decoded(url.path()).ok_or_else(|| wrong("has a path that is not UTF-8."))? }
            }
            "unix" => return Err(wrong("has no path to a socket, as in unix:/run/redis.sock.")),
            "rediss" | "valkeys" | "redis-sentinel" | "redis-cluster" => {
                return Err(wrong(&format!(
                    "has the scheme {}:, which this version does not support; use redis: to a single server.",
                    url.scheme()
                )));
            }
            other => return Err(wrong(&format!("has the scheme {other}:; use redis:, valkey: or unix:."))),
        };
        let credential = |part: &str| decoded(part).ok_or_else(|| wrong("has credentials that are not UTF-8."));
        let username = Some(credential(url.username())?).filter(|name| !name.is_empty());
        let password = url.password().map(credential).transpose()?.filter(|text| !text.is_empty()).map(Secret::new);
        if username.is_some() && password.is_none() {
            return Err(wrong("has a user but no password."));
        }
        let path = match address {
            Address::Tcp { .. } => url.path().trim_matches('/'),
            Address::Unix { .. } => "",
        };
        let query = url.query_pairs().find(|(name, _)| name == "db").map(|(_, value)| value.into_owned());
        let number = match query {
            Some(query) if path.is_empty() || path == query => query,
            Some(_) => return Err(wrong("names two databases.")),
            None => path.to_owned(),
        };
        let database = match number.as_str() {
            "" => 0,
            number => number.parse().map_err(|_| wrong("names a database that is not a whole number from 0."))?,
        };
        Ok(Self { address, username, password, database })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix { path } => f.write_str(path),
        }
    }
}

fn decoded(part: &str) -> Option<String> {
    percent_encoding::percent_decode_str(part).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RedisUrl> {
        RedisUrl::parse("REDIS_URL", text)
    }

    #[test]
    fn reads_address_credentials_and_database() {
        let url = parse("redis://us%40er:p%2Fss@example.test:7000/3").unwrap();
        assert_eq!(url.to_string(), "example.test:7000");
        assert_eq!(url.username.as_deref(), Some("us@er"));
        assert_eq!(url.password.as_ref().unwrap().reveal(), "p/ss");
        assert_eq!(url.database, 3);
        assert_eq!(parse("valkey://[::1]").unwrap().to_string(), "[::1]:6379");
        assert_eq!(parse("redis://:only@h").unwrap().username, None);
        assert_eq!(parse("redis://h?db=3").unwrap().database, 3);
        let unix = parse("unix:///run/redis.sock?db=2").unwrap();
        assert_eq!((unix.to_string().as_str(), unix.database), ("/run/redis.sock", 2));
    }

    #[test]
    fn says_what_is_wrong_without_the_url() {
        for (text, fault) in [
            ("nonsense", "is not a URL"),
            ("http://:hunter2@h", "scheme http:"),
            ("rediss://:hunter2@h", "does not support"),
            ("redis://:hunter2@h/one", "database"),
            ("redis://:hunter2@h/1?db=2", "two databases"),
            ("redis://:hunter2@h:99999", "is not a URL"),
            ("redis://user@h", "no password"),
            ("unix:", "no path"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with("REDIS_URL ") && message.contains(fault), "{text}: {message}");
            assert!(!message.contains("hunter2"));
        }
        assert!(!format!("{:?}", parse("redis://:hunter2@h").unwrap()).contains("hunter2"));
    }
}
