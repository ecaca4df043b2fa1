//! The clock of whatever must not outlive its time in this process. It counts the time that the machine slept, and goes on
//! while the process is stopped: who wakes up finds that everything has aged.

#[cfg(test)]
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

/// The time of day: microseconds since 1970. Only for what is shown to others: it can be set.
pub fn unix_micros() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A clock that began when it was made. Clones agree.
#[derive(Debug, Clone)]
pub struct Clock {
    begun: boot_time::Instant,
    /// The microseconds since then, where a test decides.
    #[cfg(test)]
    manual: Option<Arc<AtomicU64>>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            begun: boot_time::Instant::now(),
            #[cfg(test)]
            manual: None,
        }
    }
}

impl Clock {
    /// A clock that shows `micros` since it began.
    #[cfg(test)]
    pub fn manual(micros: Arc<AtomicU64>) -> Self {
        Self { manual: Some(micros), ..Self::default() }
    }

    pub fn now(&self) -> Moment {
        #[cfg(test)]
        if let Some(manual) = &self.manual {
            return Moment(1 + manual.load(SeqCst));
        }
        // Beginning with one, so that zero can stand for "never".
        Moment(1 + u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX - 1))
    }
}

/// A time of a [`Clock`], in microseconds. It fits an atomic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Before every time of a clock.
    pub const NEVER: Self = Self(0);

    pub fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    pub fn as_micros(self) -> u64 {
        self.0
    }

    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_after_never_and_goes_on() {
        let clock = Clock::default();
        let first = clock.now();
        assert!(first > Moment::NEVER);
        assert!(clock.now() >= first);
        assert_eq!(first.after(Duration::from_secs(3)).since(first), Duration::from_secs(3));
        assert_eq!(first.since(first.after(Duration::from_secs(3))), Duration::ZERO);
        assert!(first.after(Duration::MAX) > first);
    }
}
