import type { IncomingMessage } from 'node:http';
import type { NextApiRequest, NextApiResponse } from 'next';
import { validateSessionWithCache, type RedisNativeError, type SessionWithUser } from '@studio/redis-native';

export const COOKIE = 'studio_session';

/** The bearer token of a request, or else that of its cookie; without one it is the empty token, which is nobody's. */
export function tokenOf({ headers, cookies }: IncomingMessage & { cookies: Partial<Record<string, string>> }) {
  return /^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1] ?? cookies[COOKIE] ?? '';
}

type Handler = (request: NextApiRequest, response: NextApiResponse, session: SessionWithUser) => unknown;

/** Answers an error of the package. */
export function answerError(response: NextApiResponse, error: unknown) {
  const { code, statusCode, retryAfter } = error as RedisNativeError & { statusCode?: number; retryAfter?: number };
  if (code === 'ERR_RATE_LIMITED') return response.status(statusCode!).json({ error: 'Too many requests.', retryAfter });
  // `ERR_SESSION_STORE` means "could not find out", never "not signed in": a 401 would sign people out.
  return response.status(503).json({ error: 'Please try again.', code });
}

/** An API route that only those who are signed in may use. */
export const signedIn = (handler: Handler) => async (request: NextApiRequest, response: NextApiResponse) => {
  try {
    const session = await validateSessionWithCache(tokenOf(request));
    if (!session) return response.status(401).json({ error: 'Not signed in.' });
    return await handler(request, response, session);
  } catch (error) {
    return answerError(response, error);
  }
};
