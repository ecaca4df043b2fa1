//! What a client is made with.

use super::args;
use super::values::{Js, Kind, Value};
use crate::config::{MAX_POOL, OWN_POOL, TIERS};
use crate::engine::redis::Sizes;
use crate::error::{Error, Result};
use crate::redis_url::RedisUrl;

/// Sizes of the pool of Studio's own client.
pub const OWN_SIZES: Sizes = Sizes { least: OWN_POOL.0, most: OWN_POOL.1 };

/// `ConnectionOptions`, checked.
pub struct Connection {
    pub url: RedisUrl,
    pub sizes: Sizes,
    /// Reads go to replicas where there are some.
    pub from_replicas: bool,
}

/// Reads the arguments of `createRedisClient`.
pub fn connection(js: Js<'_>, project_id: Value<'_>, options: Value<'_>) -> Result<Connection> {
    args::text(js, project_id, "projectId")?;
    let names = [c"connectionString", c"tier", c"config", c"readFrom"];
    let [url, tier, config, read_from] = args::options(js, options, "options", names)?;
    let url = RedisUrl::parse("connectionString", &args::text(js, url, "options.connectionString")?)?;
    let (least, most) = match js.kind(tier)? {
        Kind::Undefined => TIERS[0].1,
        _ => tier_sizes(&args::text(js, tier, "options.tier")?)?,
    };
    let sizes = match js.kind(config)? {
        Kind::Undefined => Sizes { least, most },
        _ => own_sizes(js, config, least, most)?,
    };
    let from_replicas = match js.kind(read_from)? {
        Kind::Undefined => false,
        _ => match &*args::text(js, read_from, "options.readFrom")? {
            "primary" => false,
            "replica" => true,
            _ => return Err(Error::range_error("options.readFrom must be 'primary' or 'replica'.")),
        },
    };
    Ok(Connection { url, sizes, from_replicas })
}

fn tier_sizes(tier: &str) -> Result<(usize, usize)> {
    TIERS.iter().find(|(name, _)| *name == tier).map(|(_, sizes)| *sizes).ok_or_else(|| {
        let names: Vec<_> = TIERS.iter().map(|(name, _)| format!("'{name}'")).collect();
        Error::range_error(format!("options.tier must be one of {}.", names.join(", ")))
    })
}

fn own_sizes(js: Js<'_>, config: Value<'_>, least: usize, most: usize) -> Result<Sizes> {
    let [min, max] = args::options(js, config, "options.config", [c"minPoolSize", c"maxPoolSize"])?;
    let size = |value, name| match args::optional_whole(js, value, name, MAX_POOL)? {
        Some(0) => Err(Error::range_error(format!("{name} must be a whole number from 1 to {MAX_POOL}, got 0."))),
        size => Ok(size.map(|size| size as usize)),
    };
    let (min, max) = (size(min, "options.config.minPoolSize")?, size(max, "options.config.maxPoolSize")?);
    // One that is left out gives way to the other.
    let sizes = match (min, max) {
        (None, None) => Sizes { least, most },
        (Some(min), None) => Sizes { least: min, most: most.max(min) },
        (None, Some(max)) => Sizes { least: least.min(max), most: max },
        (Some(min), Some(max)) => Sizes { least: min, most: max },
    };
    if sizes.least > sizes.most {
        return Err(Error::range_error(format!(
            "options.config.minPoolSize ({}) must not be more than options.config.maxPoolSize ({}).",
            sizes.least, sizes.most
        )));
    }
    Ok(sizes)
}
