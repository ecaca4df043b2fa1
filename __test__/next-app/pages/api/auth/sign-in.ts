import type { NextApiRequest, NextApiResponse } from 'next';
import { checkRateLimit, clearRateLimit } from '@studio/redis-native';
import { createSession } from '../../../lib/accounts';
import { COOKIE } from '../../../lib/session';

const ATTEMPTS = 5;
const WINDOW_MS = 15 * 60_000;

export default async function signIn(request: NextApiRequest, response: NextApiResponse) {
  if (request.method !== 'POST') return response.status(405).end();
  const { email = '', password = '' } = request.body;
  if (await checkRateLimit(email, ATTEMPTS, WINDOW_MS)) return response.redirect(303, '/sign-in?error=attempts');
  const token = await createSession(email, password, request.headers['user-agent']);
  if (!token) return response.redirect(303, '/sign-in?error=password');
  await clearRateLimit(email);
  response.setHeader('Set-Cookie', `${COOKIE}=${token}; Path=/; HttpOnly; SameSite=Lax`);
  return response.redirect(303, '/');
}
