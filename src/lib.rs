//! `@studio/redis-native`: sessions, limits and Redis for Studio, inside its Node.js process.
//!
//! # The levels
//! A module uses only levels below its own (within a level: only its own folder, and level 0 freely). `make test` checks it.
//!
//! | level | modules | what |
//! |---|---|---|
//! | 5 JavaScript | [`bindings`] | conversions and one call each; the only level that says `napi` |
//! | 4 composition | [`process`], [`engine`], [`listeners`], [`logging`] | builds the engine, keeps the one that is open |
//! | 3 features | [`sessions`], [`client`] | what Studio asks for |
//! | 2 resilience | [`resilience`] | deadline, breaker, bounded queue: the one place that degrades |
//! | 1 stores | [`stores`] | where data lives; the only rooms that say `sqlx` or RESP |
//! | 0 values | [`error`], [`config`], [`redis_url`], [`redis_request`], [`redis_value`], [`keys`], [`random`], [`session`], [`metrics`] | no I/O, no clock |
//!
//! # The way of a request
//! `validateSessionWithCache(token)` in JavaScript
//! 1. `bindings::sessions` hashes the token, which goes no further, and puts the call on the runtime ([`process`]).
//! 2. [`sessions`] joins a read of the same token that is under way, if that may be joined.
//! 3. Redis, for at most 250 ms: one script on one key. A copy that is believed is the answer; otherwise it leaves a
//!    **lease**.
//! 4. Postgres, behind a guard of its own that also caps how many queries run at once.
//! 5. Found: the answer, and a copy under the lease that nobody waits for.
//! 6. The answer joins the next batch of completions: one wake-up of JavaScript for many of them.
//!
//! # The way of a Redis command
//! `client.get(key)` in JavaScript
//! 1. `bindings::client` finds the method in the table of [`client::methods`], and encodes its arguments as it reads them.
//!    All commands take this one way.
//! 2. The guard of the server lets the call in, or says at once why not: breaker, bound on calls in flight.
//! 3. It joins what this tick of JavaScript sends (`bindings::tick`). When the code that runs now is done, or when there is
//!    enough for a part, the JavaScript thread writes it to one lane itself: waking another thread would cost more.
//! 4. A lane ([`stores::redis`]) is one connection that carries any number of commands at once, and one after another when
//!    it is lost. Replies come in the order of commands. What had left and may change something is never sent again; what
//!    only reads is, once; what never left is sent on another connection.
//! 5. The reply, in the shape that ioredis gives it ([`client::shape`]), joins the next batch of completions. Arrays and
//!    objects travel as JSON text, which is written on the runtime and parsed by JavaScript in one go.
//!
//! Pools belong to a server, a database and credentials; the breaker to the server. What blocks, and what subscribes, has
//! connections of its own. They are ours as well, because what fits none of the libraries at hand is what matters here: a
//! hostile reply must not abort the process, and no message may be lost without a word.
//!
//! # Why a revoked session cannot come back
//! Caches resurrect what is dead by a write that was computed before the death and lands after it. So a write needs proof
//! that nothing happened since its read began, and the proof must vanish by itself when in doubt.
//! - The proof in Redis is the lease: a nonce in the key, for 6 s. A copy is accepted only where its nonce still stands.
//!   Forgetting and revoking are `DEL`, which removes copy and lease alike; so do eviction, a flush and a restart.
//! - A copy carries the run id that its lease was given in and the absolute end of its life, and is believed only by a
//!   connection whose server introduced itself with that run id. A restart, a failover and a restored snapshot thereby
//!   make all copies misses. The run id belongs to a connection ([`stores::redis`]): what was sent on one is never sent
//!   on another.
//! - What a process knows of reads under way and of unconfirmed invalidations (`sessions::Memory`) belongs to the process,
//!   not to the engine: it holds across `shutdown()`.
//! - The proof in the process is the flight: forgetting makes reads that are under way unjoinable and unstorable, before
//!   the row is deleted, after it, and again after Redis has answered.
//! - What Redis did not confirm is kept and retried, and meanwhile no session is read from Redis. Other processes hear of
//!   each revocation from Postgres, in the statement that deletes the row. Where the listener was not listening, copies
//!   from before its return are not believed.

#![cfg_attr(not(feature = "node"), expect(dead_code, reason = "without its JavaScript face nobody opens the engine"))]

#[cfg(feature = "node")]
mod bindings;
mod client;
mod config;
mod engine;
mod error;
mod keys;
mod listeners;
mod logging;
mod metrics;
mod process;
mod random;
mod redis_request;
mod redis_url;
mod redis_value;
mod resilience;
mod session;
mod sessions;
mod stores;
