//! Level 2: what keeps a slow or absent server from slowing down its callers.
//!
//! - [`window`] and [`breaker`] are pure deciders: they take `now` and hold no clock, no lock and no I/O.
//! - [`guard`] is the one place that degrades: breaker, bounded queue, deadline and counters of one server.
//! - [`single_flight`] lets concurrent reads of one key share one run, and fences off reads that a forgetting overtook.

pub mod breaker;
pub mod guard;
pub mod single_flight;
pub mod window;
