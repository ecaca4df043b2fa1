import { cookies, headers } from 'next/headers';
import { checkLimit, validateSessionWithCache } from '@studio/redis-native';
import { release } from '../../../lib/release';
import { COOKIE } from '../../../lib/session';

/** The App Router has no `req` and `res`: what is limited is named. */
export async function GET() {
  const bearer = /^Bearer (.+)$/.exec((await headers()).get('authorization') ?? '')?.[1];
  const session = await validateSessionWithCache(bearer ?? (await cookies()).get(COOKIE)?.value ?? '');
  if (!session) return Response.json({ error: 'Not signed in.' }, { status: 401 });
  const { allowed, info } = await checkLimit(`me:${session.userId}`, 100_000, 60, { algorithm: 'token-bucket' });
  if (!allowed) return Response.json({ error: 'Too many requests.' }, { status: 429, headers: { 'Retry-After': `${info.retryAfter}` } });
  return Response.json({ id: session.userId, email: session.email, release });
}
