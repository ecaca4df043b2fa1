// People who are signed in, and some who no longer are.

import { createHash, randomBytes } from 'node:crypto';
import pg from 'pg';

const FIRST_NAMES = ['Ada', 'Grace', 'Edsger', 'Barbara', 'Donald', 'Radia', 'Alan', 'Hedy', 'Ken', 'Margaret'];
const LAST_NAMES = ['Okafor', 'Lindqvist', 'Tanaka', 'Moreau', 'Silva', 'Haddad', 'Novak', 'Iyer', 'Brandt'];
const USER_AGENTS = [
  'Mozilla/5.0 (Macintosh; Intel Mac OS X 14_6) AppleWebKit/605.1.15 Version/17.6 Safari/605.1.15',
  'Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:131.0) Gecko/20100101 Firefox/131.0',
  'Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/129.0.0.0 Mobile Safari/537.36',
];

// The last two are banned and deleted.
const INSERT_USERS = `
  INSERT INTO platform.users (email, username, first_name, last_name, banned_until, deleted_at)
  SELECT lower(first || '.' || last) || n || '@example.com', lower(first) || n, first, last,
         CASE n WHEN $1 - 1 THEN timestamptz 'infinity' END, CASE n WHEN $1 THEN now() END
  FROM generate_series(1, $1::int) n,
       LATERAL (SELECT ($2::text[])[1 + n % cardinality($2)] AS first, ($3::text[])[1 + n % cardinality($3)] AS last) names`;

// The sessions are dealt out to the users in turn.
const INSERT_SESSIONS = `
  WITH people AS (SELECT id, row_number() OVER (ORDER BY regexp_replace(email, '\\D', '', 'g')::int) - 1 AS place FROM platform.users)
  INSERT INTO platform.user_sessions (user_id, token, ip_address, user_agent, created_at, last_activity_at, expires_at)
  SELECT people.id, hash, inet '198.51.100.0' + n % 250, ($2::text[])[1 + n % cardinality($2)],
         now() - interval '1 day' - random() * interval '5 days', now() - random() * interval '1 day',
         now() + interval '1 day' + random() * interval '6 days'
  FROM unnest($1::text[]) WITH ORDINALITY AS sessions (hash, n)
  JOIN people ON people.place = (n - 1) % (SELECT count(*) FROM people)`;

const EXPIRE = `UPDATE platform.user_sessions SET expires_at = now() - interval '1 minute' WHERE token = $1`;

/** Inserts `users` people with `each` sessions each. Resolves with the raw bearer tokens, by what becomes of them. */
export async function insertPeople(databaseUrl, { users, each }) {
  const tokens = Array.from({ length: users * each }, () => randomBytes(32).toString('base64url'));
  // As in Studio, the table has the SHA-256 of a token and never the token.
  const hashes = tokens.map((token) => createHash('sha256').update(token).digest('hex'));
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    await client.query(INSERT_USERS, [users, FIRST_NAMES, LAST_NAMES]);
    await client.query(INSERT_SESSIONS, [hashes, USER_AGENTS]);
    await client.query(EXPIRE, [hashes[0]]);
  } finally {
    await client.end();
  }
  const owner = (index) => index % users;
  return {
    valid: tokens.filter((_, index) => index > 0 && owner(index) < users - 2),
    refused: {
      'unknown token': randomBytes(32).toString('base64url'),
      'expired session': tokens[0],
      'banned user': tokens[users - 2],
      'deleted user': tokens[users - 1],
    },
  };
}
