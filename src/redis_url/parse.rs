//! The text of a URL becomes a [`RedisUrl`], or one clear sentence.

use super::{Address, Login, Place, RedisUrl, Secret};
use crate::error::{Error, Result};
use url::Url;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// What a scheme stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Sentinel,
    Cluster,
    Unix,
}

/// Kind, and whether it is encrypted.
fn kind(scheme: &str) -> Option<(Kind, bool)> {
    Some(match scheme {
        "redis" | "valkey" => (Kind::Single, false),
        "rediss" | "valkeys" => (Kind::Single, true),
        "redis-sentinel" | "valkey-sentinel" => (Kind::Sentinel, false),
        "rediss-sentinel" | "valkeys-sentinel" => (Kind::Sentinel, true),
        "redis-cluster" | "valkey-cluster" => (Kind::Cluster, false),
        "rediss-cluster" | "valkeys-cluster" => (Kind::Cluster, true),
        "unix" => (Kind::Unix, false),
        _ => return None,
    })
}

/// Faults of the URL of one variable or option.
struct Wrong<'a>(&'a str);

impl Wrong<'_> {
    fn is(&self, fault: impl std::fmt::Display) -> Error {
        Error::InvalidConfig(format!("{} {fault}", self.0))
    }
}

pub fn parse(variable: &str, text: &str) -> Result<RedisUrl> {
    let wrong = Wrong(variable);
    let (first, others) = split_hosts(text);
    let url = Url::parse(&first).map_err(|fault| wrong.is(format_args!("is not a URL ({fault}).")))?;
    let (kind, tls) = kind(url.scheme()).ok_or_else(|| {
        wrong.is(format_args!(
            "has the scheme {}:; use redis:, rediss: (encrypted), redis-sentinel:, redis-cluster: or unix:.",
            url.scheme()
        ))
    })?;
    if !others.is_empty() && !matches!(kind, Kind::Sentinel | Kind::Cluster) {
        return Err(wrong.is("names several hosts; use redis-sentinel: or redis-cluster:."));
    }
    let addresses = || {
        let port = if kind == Kind::Sentinel { SENTINEL_PORT } else { PORT };
        let mut all = vec![tcp(&wrong, &url, port)?];
        for other in &others {
            let other = Url::parse(&format!("redis://{other}"))
                .map_err(|fault| wrong.is(format_args!("names a host that is none ({fault}).")))?;
            all.push(tcp(&wrong, &other, port)?);
        }
        // In one order, so that whoever names the same servers shares what belongs to them.
        all.sort();
        all.dedup();
        Ok::<_, Error>(all)
    };
    let parameter = |name: &str| {
        url.query_pairs().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.into_owned())
    };
    let place = match kind {
        Kind::Single => Place::Single(tcp(&wrong, &url, PORT)?),
        Kind::Sentinel => Place::Sentinel { sentinels: addresses()?, master: parameter("master").unwrap_or_default() },
        Kind::Cluster => Place::Cluster(addresses()?),
        Kind::Unix if !url.path().is_empty() && url.path() != "/" => {
            let path = decoded(url.path()).ok_or_else(|| wrong.is("has a path that is not UTF-8."))?;
            Place::Single(Address::Unix { path })
        }
        Kind::Unix => return Err(wrong.is("has no path to a socket, as in unix:/run/redis.sock.")),
    };
    let database = database(&wrong, &url, kind)?;
    if kind == Kind::Cluster && database != 0 {
        return Err(wrong.is(format_args!("names database {database}, but a cluster has only database 0.")));
    }
    let sentinel_login =
        Login { username: parameter("sentinelUsername"), password: parameter("sentinelPassword").map(Secret::new) };
    Ok(RedisUrl { place, login: login(&wrong, &url)?, sentinel_login, database, tls })
}

/// A URL with the first of several hosts, and the others.
fn split_hosts(text: &str) -> (String, Vec<&str>) {
    let Some((scheme, rest)) = text.split_once("://") else { return (text.to_owned(), Vec::new()) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    let at = if user.is_empty() && !authority.starts_with('@') { "" } else { "@" };
    let mut hosts = hosts.split(',');
    let first = hosts.next().unwrap_or_default();
    (format!("{scheme}://{user}{at}{first}{path}"), hosts.collect())
}

fn tcp(wrong: &Wrong<'_>, url: &Url, port: u16) -> Result<Address> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong.is("has no host."))?;
    // Lower case, so that a server has one name and with it one pool and one breaker.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    Ok(Address::Tcp { host, port: url.port().unwrap_or(port) })
}

fn login(wrong: &Wrong<'_>, url: &Url) -> Result<Login> {
    let credential = |part: &str| decoded(part).ok_or_else(|| wrong.is("has credentials that are not UTF-8."));
    let username = Some(credential(url.username())?).filter(|name| !name.is_empty());
    let password = url.password().map(credential).transpose()?.filter(|text| !text.is_empty()).map(Secret::new);
    if username.is_some() && password.is_none() {
        return Err(wrong.is("has a user but no password."));
    }
    Ok(Login { username, password })
}

fn database(wrong: &Wrong<'_>, url: &Url, kind: Kind) -> Result<u32> {
    let path = if kind == Kind::Unix { "" } else { url.path().trim_matches('/') };
    let query = url.query_pairs().find(|(name, _)| name == "db").map(|(_, value)| value.into_owned());
    let number = match query {
        Some(query) if path.is_empty() || path == query => query,
        Some(_) => return Err(wrong.is("names two databases.")),
        None => path.to_owned(),
    };
    match number.as_str() {
        "" => Ok(0),
        number => number.parse().map_err(|_| wrong.is("names a database that is not a whole number from 0.")),
    }
}

fn decoded(part: &str) -> Option<String> {
    percent_encoding::percent_decode_str(part).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::super::UrlDefaults;
    use super::*;

    fn parse(text: &str) -> Result<RedisUrl> {
        RedisUrl::parse("REDIS_URL", text)
    }

    #[test]
    fn reads_address_credentials_and_database() {
        let url = parse("redis://us%40er:p%2Fss@example.test:7000/3").unwrap();
        assert_eq!(url.to_string(), "example.test:7000");
        assert_eq!(url.login.username.as_deref(), Some("us@er"));
        assert_eq!(url.login.password.as_ref().unwrap().reveal(), "p/ss");
        assert_eq!((url.database, url.tls), (3, false));
        assert_eq!(parse("valkey://[::1]").unwrap().to_string(), "[::1]:6379");
        assert_eq!(parse("redis://:only@h").unwrap().login.username, None);
        assert_eq!(parse("redis://h?db=3").unwrap().database, 3);
        assert!(parse("rediss://h").unwrap().tls && parse("valkeys://h").unwrap().tls);
        let unix = parse("unix:///run/redis.sock?db=2").unwrap();
        assert_eq!((unix.to_string().as_str(), unix.database), ("/run/redis.sock", 2));
    }

    #[test]
    fn several_hosts_are_one_place_in_whatever_order() {
        let url = parse("redis-sentinel://u:p,@B:1,a,[::1]:3/2?master=main&sentinelPassword=s%26t").unwrap();
        assert_eq!(url.to_string(), "main by sentinels [::1]:3,a:26379,b:1");
        assert_eq!(url.login.password.as_ref().unwrap().reveal(), "p,");
        assert_eq!((url.database, url.sentinel_login.password.as_ref().unwrap().reveal()), (2, "s&t"));
        assert_eq!(
            parse("rediss-cluster://a:1,b").unwrap().place,
            parse("redis-cluster://b:6379,a:1,b/0").unwrap().place
        );
        assert!(parse("rediss-cluster://a:1").unwrap().tls && parse("rediss-sentinel://a").unwrap().tls);
    }

    #[test]
    fn the_environment_fills_in_what_is_open() {
        let defaults =
            UrlDefaults { tls: true, master: "mymaster".to_owned(), sentinel_password: Some(Secret::new("s")) };
        let completed = |text| parse(text).unwrap().completed(&defaults);
        let url = completed("redis-sentinel://h");
        assert!(url.tls && url.to_string() == "mymaster by sentinels h:26379");
        assert_eq!(url.sentinel_login.password.unwrap().reveal(), "s");
        let url = completed("redis-sentinel://h?master=other&sentinelPassword=own");
        assert!(url.to_string().starts_with("other by") && url.sentinel_login.password.unwrap().reveal() == "own");
        assert!(completed("redis://h").tls && !completed("unix:/s").tls);
    }

    #[test]
    fn says_what_is_wrong_without_the_url() {
        for (text, fault) in [
            ("nonsense", "is not a URL"),
            ("http://:hunter2@h", "scheme http:"),
            ("redis://:hunter2@h/one", "database"),
            ("redis://:hunter2@h/1?db=2", "two databases"),
            ("redis://:hunter2@h:99999", "is not a URL"),
            ("redis://:hunter2@a,b", "several hosts"),
            ("redis-cluster://:hunter2@a/1", "only database 0"),
            ("redis-cluster://:hunter2@a,b:none", "a host that is none"),
            ("redis-cluster://:hunter2@a,,b", "host"),
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
