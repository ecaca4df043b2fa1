'use strict';

// Users and sessions in Postgres, as Studio would have written them.

const { createHash, randomBytes, randomUUID } = require('node:crypto');
const { Pool } = require('pg');

const hashOf = (token) => createHash('sha256').update(token).digest('hex');

class Database {
  /** `url` defaults to DATABASE_URL. */
  constructor(url = process.env.DATABASE_URL) {
    this.url = url;
    this.pool = new Pool({ connectionString: url, max: 4, allowExitOnIdle: true });
    // A server that a test stops takes idle connections with it; the next query says so if it matters.
    this.pool.on('error', () => {});
  }

  async query(text, values) {
    return (await this.pool.query(text, values)).rows;
  }

  async end() {
    await this.pool.end();
  }

  /** Inserts a user; every column can be given under its name in JavaScript. Resolves with what was inserted. */
  async createUser({
    id = randomUUID(),
    email,
    username,
    firstName = 'Ada',
    lastName = 'Lovelace',
    bannedUntil = null,
    deletedAt = null,
  } = {}) {
    const user = {
      id,
      email: email ?? `${id}@example.com`,
      username: username === undefined ? `user-${id.slice(0, 8)}` : username,
      firstName,
      lastName,
    };
    await this.query(
      `INSERT INTO platform.users (id, email, username, first_name, last_name, banned_until, deleted_at)
       VALUES ($1, $2, $3, $4, $5, $6, $7)`,
      [user.id, user.email, user.username, firstName, lastName, bannedUntil, deletedAt],
    );
    return user;
  }

  /**
   * Inserts a session of `user` (default: a new one) that ends in `expiresInSeconds`, which may be negative.
   * Resolves with `{ id, token, hash, userId, user, expiresAt }`; `token` is the raw one, the table has its `hash`.
   */
  async createSession({
    user,
    token = randomBytes(32).toString('base64url'),
    expiresInSeconds = 3600,
    ipAddress = '192.0.2.7',
    userAgent = 'test',
    lastActivityAt = null,
  } = {}) {
    const owner = user ?? (await this.createUser());
    const id = randomUUID();
    const hash = hashOf(token);
    const [{ expires_at: expiresAt }] = await this.query(
      `INSERT INTO platform.user_sessions (id, user_id, token, ip_address, user_agent, created_at, last_activity_at, expires_at)
       VALUES ($1, $2, $3, $4, $5, now() - interval '1 year', coalesce($6, now()), now() + make_interval(secs => $7))
       RETURNING expires_at`,
      [id, owner.id, hash, ipAddress, userAgent, lastActivityAt, expiresInSeconds],
    );
    return { id, token, hash, userId: owner.id, user: owner, expiresAt };
  }

  /** Inserts `count` users with one session each, in one statement; resolves with sessions as `createSession` does. */
  async createSessions(count, { expiresInSeconds = 3600 } = {}) {
    const sessions = Array.from({ length: count }, () => {
      const token = randomBytes(32).toString('base64url');
      return { id: randomUUID(), token, hash: hashOf(token), userId: randomUUID() };
    });
    const columns = ['id', 'hash', 'userId'].map((name) => sessions.map((session) => session[name]));
    await this.query(
      `WITH given AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS given (id, token, user_id)),
            users AS (INSERT INTO platform.users (id, email, username, first_name, last_name)
                      SELECT user_id, user_id || '@example.com', 'user-' || user_id, 'Ada', 'Lovelace' FROM given RETURNING id)
       INSERT INTO platform.user_sessions (id, user_id, token, ip_address, user_agent, expires_at)
       SELECT given.id, users.id, token, '192.0.2.7', 'test', now() + make_interval(secs => $4)
       FROM given JOIN users ON users.id = given.user_id`,
      [...columns, expiresInSeconds],
    );
    return sessions;
  }

  /** `until` is a Date, 'infinity', or null to lift the ban. */
  async banUser(userId, until = 'infinity') {
    await this.query('UPDATE platform.users SET banned_until = $2 WHERE id = $1', [userId, until]);
  }

  async deleteUser(userId) {
    await this.query('UPDATE platform.users SET deleted_at = now() WHERE id = $1', [userId]);
  }

  async sessionExists(sessionId) {
    return (await this.query('SELECT FROM platform.user_sessions WHERE id = $1', [sessionId])).length === 1;
  }
}

module.exports = { Database, hashOf };
