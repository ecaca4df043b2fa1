//! Lua scripts: sent by their SHA-1, and whole where the server does not know them yet.

use super::session_links::Way;
use crate::error::Result;
use crate::redis_value::Value;
use sha1::{Digest, Sha1};

/// A script on one key.
pub struct Script {
    source: &'static str,
    sha: String,
}

impl Script {
    pub fn new(source: &'static str) -> Self {
        Self { source, sha: hex::encode(Sha1::digest(source)) }
    }

    /// Runs the script. It is sent a second time only if the server did not know it, which means that it did not run.
    pub async fn run(&self, way: &Way, key: &str, arguments: &[&[u8]]) -> Result<Value> {
        let mut command: Vec<&[u8]> = vec![b"EVALSHA", self.sha.as_bytes(), b"1", key.as_bytes()];
        command.extend(arguments);
        match way.send(&command).await {
            Err(error) if error.is_unknown_script() => {
                command[..2].copy_from_slice(&[b"EVAL", self.source.as_bytes()]);
                way.send(&command).await
            }
            answer => answer,
        }
    }
}
