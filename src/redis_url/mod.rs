//! Where Redis is and who we are there, as one URL says it.

mod parse;

use crate::error::Result;
use std::fmt;

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

/// The two ways to reach one server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix { path: String },
}

impl Address {
    /// Of a server that nobody has named.
    pub fn unknown() -> Self {
        Self::Tcp { host: String::new(), port: 0 }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}

/// As whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Login {
    pub username: Option<String>,
    pub password: Option<Secret>,
}

/// What has one breaker: a server, or servers that stand in for each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Single(Address),
    /// Whichever server is the primary of that name, as these sentinels know.
    Sentinel {
        sentinels: Vec<Address>,
        /// Empty if the environment names it.
        master: String,
    },
    /// The cluster that these servers are part of.
    Cluster(Vec<Address>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(address) => write!(f, "{address}"),
            Self::Sentinel { sentinels, master } => write!(f, "{master} by sentinels {}", list(sentinels)),
            Self::Cluster(seeds) => write!(f, "cluster {}", list(seeds)),
        }
    }
}

fn list(addresses: &[Address]) -> String {
    addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(",")
}

/// Redis, with credentials and database. `Display` shows the place alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RedisUrl {
    pub place: Place,
    pub login: Login,
    /// Of the sentinels themselves.
    pub sentinel_login: Login,
    pub database: u32,
    /// The connections are encrypted, those to sentinels too.
    pub tls: bool,
}

/// What the environment says about every URL that leaves it open.
#[derive(Debug, Clone)]
pub struct UrlDefaults {
    pub tls: bool,
    pub master: String,
    pub sentinel_password: Option<Secret>,
}

impl RedisUrl {
    /// Reads `redis:`, `valkey:`, `redis-sentinel:`, `redis-cluster:` and `unix:` URLs, and with `rediss` or `valkeys` the
    /// encrypted ones; credentials are percent-decoded. Several hosts have commas between them.
    ///
    /// # Errors
    /// [`crate::error::Error::InvalidConfig`], which names `variable` and the fault, and never shows the URL.
    pub fn parse(variable: &str, text: &str) -> Result<Self> {
        parse::parse(variable, text)
    }

    /// Fills in what it leaves open.
    pub fn completed(mut self, defaults: &UrlDefaults) -> Self {
        self.tls |= defaults.tls && !matches!(self.place, Place::Single(Address::Unix { .. }));
        if let Place::Sentinel { master, .. } = &mut self.place {
            if master.is_empty() {
                master.clone_from(&defaults.master);
            }
            if self.sentinel_login.password.is_none() {
                self.sentinel_login.password.clone_from(&defaults.sentinel_password);
            }
        }
        self
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)
    }
}
