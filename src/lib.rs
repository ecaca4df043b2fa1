//! `@studio/redis-native`: sessions, limits and Redis for Studio, inside its Node.js process.
//!
//! # The levels
//! A module uses only levels below its own (within a level: only its own folder, and level 0 freely). `make test` checks it.
//!
//! | level | modules | what |
//! |---|---|---|
//! | 5 JavaScript | [`bindings`] | conversions and one call each; the only level that says `napi` |
//! | 4 composition | [`process`], [`engine`], [`listeners`], [`logging`] | builds the engine, keeps the one that is open |
//! | 3 features | [`sessions`], [`rate_limit`], [`client`] | what Studio asks for |
//! | 2 resilience | [`resilience`] | deadline, breaker, bounded queue: the one place that degrades |
//! | 1 stores | [`stores`] | where data lives; the only rooms that say `sqlx` or RESP |
//! | 0 values | [`error`], [`config`], [`clock`], [`redis_url`], [`redis_request`], [`redis_value`], [`keys`], [`limit`], [`random`], [`session`], [`metrics`], [`tls`] | no I/O |
//!
//! # The way of a request
//! `validateSessionWithCache(token)` in JavaScript
//! 1. `bindings::sessions` hashes the token, which goes no further, and asks the tier in the process (`sessions::Memory`). A
//!    hit is answered inside the call, by a promise of this environment that is resolved already; no thread is crossed.
//! 2. Otherwise the call goes to the runtime ([`process`]), and joins a read of the same token that is under way, if that may
//!    be joined.
//! 3. Redis, for at most 250 ms: one script on one key. A copy that is believed is the answer, and from now on in the
//!    process; otherwise the script leaves a **lease**.
//! 4. Postgres, behind a guard of its own that also caps how many queries run at once.
//! 5. Found: the answer, and a copy under the lease that nobody waits for. Not found: remembered for a few seconds.
//! 6. The answer joins the next batch of completions: one wake-up of JavaScript for many of them.
//!
//! # The way of a rate check
//! `checkLimit(key, limit, window)` in JavaScript
//! 1. `bindings::limits` reads the arguments. What Redis denied less than a second ago is answered inside the call
//!    (`rate_limit::denied`), by a promise that is resolved already.
//! 2. `bindings::checks` joins it with equal checks of this tick. Together they are one call of the guard, and one script on one
//!    key, which leaves with the commands of the tick.
//! 3. Redis decides by its clock (`stores::redis::limits`, a Lua script an algorithm), for at most 100 ms. What it has admitted is counted
//!    along in the process (`rate_limit::Limits`), by the same algorithm in Rust.
//! 4. Without an answer the process decides, by what it has counted. For one window after that both have to allow.
//! 5. Each of the joined calls gets its own answer, in the next batch of completions.
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
//! A server is wherever its origin says: at an address, where the sentinels know the primary, or in a cluster, where a batch is
//! split by slots and its answers are joined ([`stores::redis`]).
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
//! - A copy carries the life of the server that its lease was given in (its run, its history of writes, and where sentinels count
//!   them the failover) and the absolute end of its own, and is believed only by a connection whose server introduced itself
//!   with that life. A restart, a failover, a failover back and a restored snapshot thereby make all copies misses. The life
//!   belongs to a connection ([`stores::redis`]): what was sent on one is never sent
//!   on another.
//! - What a process knows of sessions, of reads under way and of unconfirmed invalidations (`sessions::Memory`) belongs to the
//!   process, not to the engine: it holds across `shutdown()`.
//! - The proof in the process is the flight: forgetting makes reads that are under way unjoinable and unstorable, before
//!   the row is deleted, after it, and again after Redis has answered.
//! - The tier in the process takes entries only from copies that were read on the session lane, where Redis pushes every write
//!   to a session's key, in one order with the replies (CLIENT TRACKING BCAST). A copy whose key was pushed since it was asked
//!   for is read again. In a cluster there is a lane to each primary. The tier is emptied when one is lost, or there are others, and serves only while a probe that was sent less than 3 s ago
//!   has been answered, by a clock that goes on while the process is stopped.
//! - A new lease is a write and so is pushed to its own reader, which cannot tell it from a revocation that was pushed together
//!   with it. So Postgres is asked after that push: then the revocation came before the question. From then on a push ends the
//!   flight like a forgetting.
//! - What Redis did not confirm is kept and retried, and meanwhile nothing that came from Redis is used. Other processes hear
//!   of each revocation from Postgres, in the statement that deletes the row; with the triggers of `sql/` also of what anybody
//!   else writes. Where nobody was listening, copies from before the listener's return are not believed; until that time is
//!   known, and while the breaker of Postgres is not closed, Postgres is asked first and a copy is used only where it does not
//!   answer: nobody is logged out because a server is away.

#![cfg_attr(not(feature = "node"), expect(dead_code, reason = "without its JavaScript face nobody opens the engine"))]

#[cfg(feature = "node")]
mod bindings;
mod client;
mod clock;
mod config;
mod engine;
mod error;
mod keys;
mod limit;
mod listeners;
mod logging;
mod metrics;
mod process;
mod random;
mod rate_limit;
mod redis_request;
mod redis_url;
mod redis_value;
mod resilience;
mod session;
mod sessions;
mod stores;
mod tls;
