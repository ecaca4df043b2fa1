// People and their passwords, which are Studio's own business: the package knows sessions only.

import { createHash, randomBytes, scryptSync, timingSafeEqual } from 'node:crypto';
import { Pool } from 'pg';

const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 2 });
// A server that goes away takes idle connections with it; the next query says so if it matters.
pool.on('error', () => {});

const FIND = 'SELECT id, password_hash FROM platform.users WHERE email = $1 AND deleted_at IS NULL';
const INSERT = `INSERT INTO platform.user_sessions (user_id, token, user_agent, expires_at)
  VALUES ($1, $2, $3, now() + interval '7 days')`;

/** `salt:hash`, both as hex digits. */
function isPassword(password: string, stored: string | null) {
  const [salt, hash] = (stored ?? '').split(':');
  return Boolean(hash) && timingSafeEqual(Buffer.from(hash, 'hex'), scryptSync(password, salt, 32));
}

/** Makes a session and resolves with its token; `null` if the password is not that of the address. */
export async function createSession(email: string, password: string, userAgent?: string) {
  const [user] = (await pool.query(FIND, [email])).rows;
  if (!user || !isPassword(password, user.password_hash)) return null;
  const token = randomBytes(32).toString('base64url');
  // The table has the hash of a token and never the token.
  await pool.query(INSERT, [user.id, createHash('sha256').update(token).digest('hex'), userAgent]);
  return token;
}
