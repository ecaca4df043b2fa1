//! Options and environment become one [`Config`], checked whole. Every default of the package stands here, once.

use crate::error::{Error, Result};
use crate::redis_url::{Login, RedisUrl, Secret, UrlDefaults};
use crate::tls::Tls;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// The environment as JavaScript sees it; only the names in [`VARIABLES`] are ever asked for.
pub type Environment = HashMap<String, String>;

/// Every environment variable that this package reads.
pub const VARIABLES: &[&str] = &[
    "REDIS_URL",
    "DATABASE_URL",
    "REDIS_KEY_PREFIX",
    "SESSION_CACHE_ENABLED",
    "SESSION_CACHE_TTL_SECONDS",
    "SESSION_CACHE_LOCAL_ENABLED",
    "SESSION_CACHE_LOCAL_ENTRIES",
    "SESSION_CACHE_SECRET",
    "SESSION_ACTIVITY_FLUSH_SECONDS",
    "RATE_LIMIT_TRUSTED_PROXY_HOPS",
    "RATE_LIMIT_TRUST_X_REAL_IP",
    "RATE_LIMIT_LOCAL_KEYS",
    "RATE_LIMIT_INSTANCE_SHARE",
    "DATABASE_POOL_SIZE",
    "DATABASE_STATEMENT_CACHE",
    "STUDIO_REDIS_LOG",
    "REDIS_USE_TLS",
    "REDIS_CA_CERT",
    "REDIS_CLIENT_CERT",
    "REDIS_CLIENT_KEY",
    "REDIS_ALLOW_INSECURE_TLS",
    "NODE_ENV",
    "REDIS_SENTINEL_HOSTS",
    "REDIS_MASTER_NAME",
    "REDIS_PASSWORD",
    "REDIS_SENTINEL_PASSWORD",
];

/// Longest life of a cached session. What bounds how long an undeliverable invalidation must be kept.
pub const MAX_TTL: Duration = Duration::from_secs(300);

/// Shortest secret of `SESSION_CACHE_SECRET`, in characters.
const SHORTEST_SECRET: usize = 32;

/// How long Redis may take of a validation's time, before Postgres is asked.
pub const REDIS_SHARE_OF_VALIDATION: Duration = Duration::from_millis(250);

/// How long Redis may take of a rate check's time, before this process decides.
pub const REDIS_SHARE_OF_CHECK: Duration = Duration::from_millis(100);

/// Deadline of one Redis command.
pub const REDIS_DEADLINE: Duration = Duration::from_millis(1000);

/// Commands of a pipeline or of a transaction, which is one call.
pub const MAX_BATCH: usize = 10_000;

/// Connections of Studio's own client, at least and at most.
pub const OWN_POOL: (usize, usize) = (2, 10);

/// Connections by the plan of a project, at least and at most.
pub const TIERS: [(&str, (usize, usize)); 4] =
    [("free", (2, 5)), ("starter", (5, 10)), ("pro", (10, 50)), ("enterprise", (20, 100))];

/// Connections of any pool at most.
pub const MAX_POOL: u32 = 1000;

/// Deadline of one Postgres statement, waiting for a connection included.
pub const POSTGRES_DEADLINE: Duration = Duration::from_millis(5000);

/// Calls that may be unanswered a server; beyond it a call is refused.
pub const MAX_IN_FLIGHT: usize = 10_000;

/// How to reach Postgres.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    pub url: Secret,
    /// Connections at most, which is the cap on concurrent queries. Default `10`.
    pub pool_size: u32,
    /// Named statements; `false` for a transaction pooler. Default `true`.
    pub statement_cache: bool,
}

impl DatabaseConfig {
    /// Which database this is, whoever asks it: its host and its path. Empty for a URL that cannot be read.
    pub fn place(&self) -> String {
        let url = Url::parse(self.url.reveal()).ok();
        url.map(|url| format!("{:?}:{:?}{}", url.host_str(), url.port(), url.path())).unwrap_or_default()
    }
}

/// Everything that the engine is built from.
#[derive(Debug, Clone)]
pub struct Config {
    pub redis: Option<RedisUrl>,
    /// What every URL of Redis leaves open.
    pub url_defaults: UrlDefaults,
    /// Whom encrypted connections to Redis believe, and who we are there.
    pub tls: Arc<Tls>,
    pub database: Option<DatabaseConfig>,
    /// Stands before every key of this package. Default empty.
    pub key_prefix: String,
    /// Default `true`.
    pub cache_enabled: bool,
    /// Life of a cached session, at most [`MAX_TTL`]. Default `300` seconds.
    pub cache_ttl: Duration,
    /// Sessions are kept in the process. Default `true`.
    pub local_enabled: bool,
    /// Sessions in the process at most. Default `100000`.
    pub local_entries: u32,
    /// Entries in Redis are sealed by the first, and believed if any of them has sealed them. Default none: no seals.
    pub cache_secrets: Vec<Secret>,
    /// Time between two writes of the sessions' activity. Default `30` seconds.
    pub activity_flush: Duration,
    /// Proxies in front of this process, each of which appends to `X-Forwarded-For`. Default `1`.
    pub proxy_hops: u32,
    /// `X-Real-IP` says who the client is. Default `false`.
    pub trust_real_ip: bool,
    /// Keys of rate limits that the process counts at most. Default `100000`.
    pub limit_keys: u32,
    /// How much of a limit this process allows while Redis is away. Default `1`.
    pub instance_share: f64,
    /// A tracing filter. Default `warn`.
    pub log_filter: String,
}

impl Config {
    /// Checks the environment whole.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the variable, the rule and, where it is no secret, the value.
    pub fn try_new(environment: &Environment) -> Result<Self> {
        let read = Reader(environment);
        let database = match read.text("DATABASE_URL") {
            None => None,
            Some(url) => Some(DatabaseConfig {
                url: Secret::new(url),
                pool_size: read.whole("DATABASE_POOL_SIZE", 1..=1000)?.unwrap_or(10),
                statement_cache: read.switch("DATABASE_STATEMENT_CACHE")?.unwrap_or(true),
            }),
        };
        let cache_ttl = match read.whole("SESSION_CACHE_TTL_SECONDS", 1..=MAX_TTL.as_secs())? {
            Some(seconds) => Duration::from_secs(seconds),
            None => MAX_TTL,
        };
        let url_defaults = UrlDefaults {
            tls: read.switch("REDIS_USE_TLS")?.unwrap_or(false),
            master: read.text("REDIS_MASTER_NAME").unwrap_or("mymaster").to_owned(),
            sentinel_password: read.text("REDIS_SENTINEL_PASSWORD").map(Secret::new),
        };
        Ok(Self {
            redis: read.redis()?.map(|url| url.completed(&url_defaults)),
            url_defaults,
            tls: Arc::new(read.tls()?),
            database,
            key_prefix: read.text("REDIS_KEY_PREFIX").unwrap_or_default().to_owned(),
            cache_enabled: read.switch("SESSION_CACHE_ENABLED")?.unwrap_or(true),
            cache_ttl,
            local_enabled: read.switch("SESSION_CACHE_LOCAL_ENABLED")?.unwrap_or(true),
            local_entries: read.whole("SESSION_CACHE_LOCAL_ENTRIES", 1..=10_000_000)?.unwrap_or(100_000),
            cache_secrets: read.secrets("SESSION_CACHE_SECRET")?,
            activity_flush: Duration::from_secs(read.whole("SESSION_ACTIVITY_FLUSH_SECONDS", 1..=3600)?.unwrap_or(30)),
            proxy_hops: read.whole("RATE_LIMIT_TRUSTED_PROXY_HOPS", 0..=10)?.unwrap_or(1),
            trust_real_ip: read.switch("RATE_LIMIT_TRUST_X_REAL_IP")?.unwrap_or(false),
            limit_keys: read.whole("RATE_LIMIT_LOCAL_KEYS", 1..=10_000_000)?.unwrap_or(100_000),
            instance_share: read.share("RATE_LIMIT_INSTANCE_SHARE")?.unwrap_or(1.0),
            log_filter: read.text("STUDIO_REDIS_LOG").unwrap_or("warn").to_owned(),
        })
    }
}

/// Reads one variable at a time; an empty one counts as not set.
struct Reader<'a>(&'a Environment);

impl<'a> Reader<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        debug_assert!(VARIABLES.contains(&name), "{name} is not handed over by JavaScript");
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Secrets with commas between them. No message shows one.
    fn secrets(&self, name: &str) -> Result<Vec<Secret>> {
        let secrets: Vec<_> = self.text(name).into_iter().flat_map(|text| text.split(',')).map(str::trim).collect();
        if let Some(short) =
            secrets.iter().map(|secret| secret.chars().count()).find(|length| *length < SHORTEST_SECRET)
        {
            return Err(Error::InvalidConfig(format!(
                "{name} must hold secrets of {SHORTEST_SECRET} characters or more, with commas between them; one has {short}."
            )));
        }
        Ok(secrets.into_iter().map(Secret::new).collect())
    }

    /// Where `REDIS_URL` points; where `REDIS_SENTINEL_HOSTS` is set, these say where its host is.
    fn redis(&self) -> Result<Option<RedisUrl>> {
        let url = self.text("REDIS_URL").map(|url| RedisUrl::parse("REDIS_URL", url)).transpose()?;
        let Some(hosts) = self.text("REDIS_SENTINEL_HOSTS") else { return Ok(url) };
        if hosts.contains(['/', '@', '?', '#']) {
            return Err(Error::InvalidConfig(
                "REDIS_SENTINEL_HOSTS must be host:port, with commas between several.".to_owned(),
            ));
        }
        let hosts: Vec<_> = hosts.split(',').map(str::trim).collect();
        let sentinel = RedisUrl::parse("REDIS_SENTINEL_HOSTS", &format!("redis-sentinel://{}", hosts.join(",")))?;
        let password = self.text("REDIS_PASSWORD").map(Secret::new);
        let mut url = match url {
            Some(url) => RedisUrl { place: sentinel.place, ..url },
            None => sentinel,
        };
        if url.login.password.is_none() {
            url.login = Login { password, ..url.login };
        }
        Ok(Some(url))
    }

    fn tls(&self) -> Result<Tls> {
        let allowed = self.switch("REDIS_ALLOW_INSECURE_TLS")?.unwrap_or(false);
        let insecure = allowed && self.text("NODE_ENV") == Some("development");
        let [ca, cert, key] = ["REDIS_CA_CERT", "REDIS_CLIENT_CERT", "REDIS_CLIENT_KEY"].map(|name| self.text(name));
        Tls::try_new(ca, cert, key, insecure)
    }

    fn switch(&self, name: &str) -> Result<Option<bool>> {
        match self.text(name) {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(Error::InvalidConfig(format!("{name} must be true or false, got {other:?}."))),
        }
    }

    fn share(&self, name: &str) -> Result<Option<f64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(share) if (0.01..=1.0).contains(&share) => Ok(Some(share)),
            _ => Err(Error::InvalidConfig(format!("{name} must be a number from 0.01 to 1, got {text:?}."))),
        }
    }

    fn whole<N>(&self, name: &str, allowed: std::ops::RangeInclusive<N>) -> Result<Option<N>>
    where
        N: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if allowed.contains(&number) => Ok(Some(number)),
            _ => Err(Error::InvalidConfig(format!(
                "{name} must be a whole number from {} to {}, got {text:?}.",
                allowed.start(),
                allowed.end()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Result<Config> {
        Config::try_new(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn an_empty_environment_gives_the_defaults() {
        let config = config(&[("REDIS_URL", "")]).unwrap();
        assert!(config.redis.is_none() && config.database.is_none() && config.cache_enabled);
        assert_eq!(config.cache_ttl, Duration::from_secs(300));
        assert_eq!(config.log_filter, "warn");
    }

    #[test]
    fn each_rule_has_its_message() {
        for (name, value) in [
            ("REDIS_URL", "ftp://h"),
            ("SESSION_CACHE_ENABLED", "maybe"),
            ("SESSION_CACHE_TTL_SECONDS", "0"),
            ("SESSION_CACHE_TTL_SECONDS", "301"),
            ("SESSION_CACHE_TTL_SECONDS", "1.5"),
            ("DATABASE_POOL_SIZE", "-1"),
            ("DATABASE_STATEMENT_CACHE", "no"),
            ("REDIS_USE_TLS", "perhaps"),
            ("REDIS_SENTINEL_HOSTS", "redis://h"),
            ("REDIS_SENTINEL_HOSTS", "h:none"),
            ("REDIS_SENTINEL_HOSTS", "h,"),
            ("SESSION_CACHE_SECRET", "too short"),
            ("SESSION_CACHE_SECRET", "12345678901234567890123456789012,"),
            ("SESSION_CACHE_LOCAL_ENTRIES", "0"),
            ("SESSION_ACTIVITY_FLUSH_SECONDS", "0"),
            ("RATE_LIMIT_TRUSTED_PROXY_HOPS", "11"),
            ("RATE_LIMIT_TRUST_X_REAL_IP", "perhaps"),
            ("RATE_LIMIT_LOCAL_KEYS", "0"),
            ("RATE_LIMIT_INSTANCE_SHARE", "0.009"),
            ("RATE_LIMIT_INSTANCE_SHARE", "1.5"),
            ("RATE_LIMIT_INSTANCE_SHARE", "NaN"),
        ] {
            let error = config(&[("DATABASE_URL", "postgres://h/d"), (name, value)]).unwrap_err();
            assert_eq!(error.code(), "ERR_INVALID_CONFIG");
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[test]
    fn sentinels_replace_the_host_of_the_url_or_stand_alone() {
        let redis = |pairs: &[(&str, &str)]| config(pairs).unwrap().redis.unwrap();
        let hosts = ("REDIS_SENTINEL_HOSTS", "b:1, a");
        let alone = redis(&[hosts, ("REDIS_PASSWORD", "p"), ("REDIS_SENTINEL_PASSWORD", "s")]);
        assert_eq!(alone.to_string(), "mymaster by sentinels a:26379,b:1");
        assert_eq!(alone.login.password.unwrap().reveal(), "p");
        assert_eq!(alone.sentinel_login.password.unwrap().reveal(), "s");
        let both = redis(&[
            hosts,
            ("REDIS_URL", "rediss://u:own@h/3"),
            ("REDIS_PASSWORD", "p"),
            ("REDIS_MASTER_NAME", "main"),
        ]);
        assert_eq!(both.to_string(), "main by sentinels a:26379,b:1");
        assert!(both.tls && both.database == 3 && both.login.password.unwrap().reveal() == "own");
    }

    #[test]
    fn a_database_is_the_same_for_whoever_asks() {
        let place = |url| config(&[("DATABASE_URL", url)]).unwrap().database.unwrap().place();
        assert_eq!(place("postgres://u:hunter2@h:5/d"), place("postgres://v:other@h:5/d?sslmode=require"));
        assert_ne!(place("postgres://u@h:5/d"), place("postgres://u@h:5/e"));
        assert!(!place("postgres://u:hunter2@h/d").contains("hunter2"));
    }

    #[test]
    fn secrets_do_not_show() {
        let secret = |text: &str| config(&[("SESSION_CACHE_SECRET", text)]);
        let config =
            config(&[("DATABASE_URL", "postgres://u:hunter2@h/d"), ("REDIS_URL", "redis://:hunter2@h")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!secret("hunter2").unwrap_err().to_string().contains("hunter2"));
        let two = secret("hunter2hunter2hunter2hunter2hunter2, 12345678901234567890123456789012").unwrap();
        assert_eq!((two.cache_secrets.len(), two.cache_secrets[1].reveal().len()), (2, 32));
        assert!(!format!("{two:?}").contains("hunter2"));
    }
}
