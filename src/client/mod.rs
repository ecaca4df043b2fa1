//! The Redis client: which commands there are, what each may do, and the shape of its reply. No I/O.
//!
//! All commands take one way; a typed method is a line of [`methods`]. What is not there goes through `call`, for which
//! [`rules`] says what a command would do to a connection that others share.

pub mod methods;
pub mod rules;
pub mod shape;
