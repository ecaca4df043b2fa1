// Sessions by number: hundreds of thousands that need not be sent around, because the process that asks and the
// statement that inserts them make the same ones.

import { createHash } from 'node:crypto';
import pg from 'pg';

const digest = (text) => createHash('sha256').update(text).digest();

export const hashOf = (token) => digest(token).toString('hex');

/** 43 characters, as a token of 32 random bytes has. One flat string, as it comes from a request. */
export const tokenOf = (series, number) => digest(`${series}-${number}`).toString('base64url');

/** By the same rule; the statement is handed the series. */
const HASH = `encode(sha256(rtrim(translate(encode(sha256(($1 || '-' || n)::bytea), 'base64'), '+/', '-_'), '=')::bytea), 'hex')`;

/** As md5(...)::uuid in Postgres. */
export function userOf(series, number) {
  const hex = createHash('md5').update(`${series}-user-${number}`).digest('hex');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** Inserts `users` users of `sessionsEach` sessions; the sessions of user 0 are the first ones. */
export async function insert(databaseUrl, { series, users, sessionsEach = 1 }) {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    // Without the look-up of each session's user, which is known to be there: it takes as long as all the rest.
    await client.query("SET session_replication_role = 'replica'");
    await client.query(
      `INSERT INTO platform.users (id, email, username, first_name, last_name)
       SELECT md5($1 || '-user-' || n)::uuid, $1 || '-' || n || '@example.com', $1 || '-' || n, 'Ada', 'Lovelace'
       FROM generate_series(0, $2::int - 1) AS n`,
      [series, users],
    );
    await client.query(
      `INSERT INTO platform.user_sessions (id, user_id, token, ip_address, user_agent, expires_at)
       SELECT md5($1 || '-session-' || n)::uuid, md5($1 || '-user-' || n / $3::int)::uuid, ${HASH}, '192.0.2.7', 'test', now() + interval '1 day'
       FROM generate_series(0, $2::int * $3::int - 1) AS n`,
      [series, users, sessionsEach],
    );
    await client.query('VACUUM ANALYZE platform.users, platform.user_sessions');
  } finally {
    await client.end();
  }
}

/**
 * A session as a cache in JavaScript holds it, for peers that would take minutes to read so many. Made from text, as one
 * that came from Redis: its strings are its own, and flat.
 */
export function sessionOf(series, number) {
  const now = new Date().toISOString();
  return JSON.parse(
    JSON.stringify({
      id: userOf(`${series}-session`, number),
      userId: userOf(series, number),
      token: hashOf(tokenOf(series, number)),
      expiresAt: new Date(Date.now() + 86_400_000).toISOString(),
      lastActivityAt: now,
      ipAddress: '192.0.2.7',
      userAgent: 'test',
      createdAt: now,
      email: `${series}-${number}@example.com`,
      firstName: 'Ada',
      lastName: 'Lovelace',
      username: `${series}-${number}`,
    }),
  );
}
