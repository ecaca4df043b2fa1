// Compiled with `tsc --strict` and the types of Node, never run: limiters take what `node:http` and what goes by its shape gives them.

import * as http from 'node:http';
import { createRateLimiter, rateLimitMiddleware, strictRateLimiter } from '../index.js';
import type { RateLimitedError, RateLimitedRequest, RateLimitedResponse } from '../index.js';

const limiter = createRateLimiter({ requests: 100, window: 60 });

export const server = http.createServer(async (req, res) => {
  try {
    await rateLimitMiddleware(req, res, async () => limiter(req, res, () => res.end('ok')));
  } catch (error) {
    const { statusCode, retryAfter }: RateLimitedError = error as RateLimitedError;
    res.writeHead(statusCode).end(`Wait ${retryAfter} s.`);
  }
});

/** As Next.js and Express have them: with more than Node's, and a user that somebody found. */
interface ApiRequest extends http.IncomingMessage {
  query: Partial<Record<string, string | string[]>>;
  user?: { sub?: string; id?: string; email: string; user_metadata?: { tier?: string; theme: string } };
}
interface ApiResponse extends http.ServerResponse {
  status(code: number): this;
}

export async function handle(req: ApiRequest, res: ApiResponse): Promise<void> {
  await strictRateLimiter(req, res, () => Promise.resolve(res.status(200).end()));
}

export const asRequest = (req: http.IncomingMessage): RateLimitedRequest => req;
export const asResponse = (res: http.ServerResponse): RateLimitedResponse => res;

// @ts-expect-error A response is no request.
export const wrong = (res: http.ServerResponse): RateLimitedRequest => res;
// @ts-expect-error A socket is no response.
export const socket = (req: http.IncomingMessage): RateLimitedResponse => req.socket;
