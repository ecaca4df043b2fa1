//! The key of a count.

/// A whole key, as Redis has it: `ratelimit:<algorithm>:<name>:` and a part of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    whole: Vec<u8>,
    own: usize,
}

impl Key {
    /// The key of `own` among those that begin with `limiter`.
    pub fn new(limiter: &str, own: &[u8]) -> Self {
        Self { whole: [limiter.as_bytes(), own].concat(), own: limiter.len() }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.whole
    }

    /// What it has in common with all other keys of its limiter.
    pub fn limiter(&self) -> &[u8] {
        &self.whole[..self.own]
    }
}
