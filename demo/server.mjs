// How an application uses the package: a small HTTP server that asks it who is signed in.
//
//   REDIS_URL=redis://localhost DATABASE_URL=postgres://localhost/studio PORT=3000 node demo/server.mjs
//
// There is nothing to set up: the package reads the two URLs and connects when it is first called.

import { createServer } from 'node:http';
import studio from '../index.js'; // In an application: '@studio/redis-native'.
import { health } from './health.mjs';

const { validateSessionWithCache, revokeSessionByToken, getSessionCacheMetrics, getBreakerState, shutdown } = studio;
const { createRateLimiter, getRateLimitMetrics } = studio;

// By the user, in all processes together.
const limit = createRateLimiter({ requests: 100, window: 60, name: 'search' });

const routes = {
  async 'GET /api/auth/validate'({ token, response }) {
    const began = performance.now();
    const session = await validateSessionWithCache(token);
    response.setHeader('Server-Timing', `session;dur=${(performance.now() - began).toFixed(3)}`);
    if (!session) return [401, { error: 'Not signed in.' }];
    const { userId, email, firstName, lastName, expiresAt } = session;
    return [200, { userId, email, firstName, lastName, expiresAt }];
  },

  // When this has been answered, the token is refused: here at once, in other processes after some milliseconds.
  async 'POST /api/auth/signout'({ token }) {
    return [200, { signedOut: await revokeSessionByToken(token) }];
  },

  // Denied, it throws, and the answer is a 429 with the time to wait.
  async 'GET /api/search'({ token, request, response }) {
    const session = await validateSessionWithCache(token);
    if (!session) return [401, { error: 'Not signed in.' }];
    request.user = { id: session.userId };
    await limit(request, response, () => {});
    return [200, { found: [] }];
  },

  async 'GET /api/health/redis'() {
    const report = await health();
    return [report.status === 'unhealthy' ? 503 : 200, report];
  },

  async 'GET /api/metrics'() {
    return [200, { sessions: getSessionCacheMetrics(), limits: getRateLimitMetrics(), breakers: getBreakerState() }];
  },
};

async function answer(request, response) {
  const route = routes[`${request.method} ${request.url}`];
  if (!route) return [404, { error: 'There is no such page.' }];
  // No token at all is the empty token: nobody.
  const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1] ?? '';
  try {
    return await route({ token, request, response });
  } catch (error) {
    if (error.code === 'ERR_RATE_LIMITED') return [error.statusCode, { error: 'Too many requests.', retryAfter: error.retryAfter }];
    // `ERR_SESSION_STORE` means "could not find out", never "not signed in": answering 401 would sign people out.
    console.error(error);
    return [503, { error: 'Please try again.', code: error.code }];
  }
}

const server = createServer(async (request, response) => {
  const [status, body] = await answer(request, response);
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
});
// Longer than clients and proxies keep their idle connections, so that none is closed under a new request.
server.keepAliveTimeout = 65_000;
server.listen({ port: Number(process.env.PORT ?? 3000), host: '127.0.0.1', backlog: 2048 }, () => {
  console.log(`Listening on http://127.0.0.1:${server.address().port}`);
});

// Requests under way are answered, then connections are closed; with nothing left to do, Node ends by itself.
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => server.close(() => shutdown()));
