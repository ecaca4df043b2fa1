import type { NextApiRequest, NextApiResponse } from 'next';
import { revokeSessionByToken } from '@studio/redis-native';
import { COOKIE, answerError, tokenOf } from '../../../lib/session';

export default async function signOut(request: NextApiRequest, response: NextApiResponse) {
  if (request.method !== 'POST') return response.status(405).end();
  try {
    // Once this has resolved, no validation returns the session any more.
    await revokeSessionByToken(tokenOf(request));
  } catch (error) {
    return answerError(response, error);
  }
  response.setHeader('Set-Cookie', `${COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0`);
  return response.redirect(303, '/sign-in');
}
